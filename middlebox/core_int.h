/*
 * Inside the core. One request is validated and applied to the table at once,
 * its firewall operations are queued; core_flush() hands the batch to the
 * kernel and completes or undoes each request. What a queued batch touches is
 * marked with its number (`batch`); a request that would build on such a thing
 * flushes first, so requests within a batch never depend on each other.
 */
#ifndef SLUICE_MIDDLEBOX_CORE_INT_H
#define SLUICE_MIDDLEBOX_CORE_INT_H

#include "common/table.h"
#include "middlebox/core.h"
#include "middlebox/nat.h"
#include "middlebox/rule_table.h"
#include "middlebox/tuple.h"

struct session {
	struct table_node node;
	struct session *next, *prev;
	void *handle;
	uint16_t owner;
	uint32_t extensions;
	bool closed;  /* left while replies were being given */
	bool blocked; /* an earlier reply is still due */
};

struct agent {
	const struct agent_conf *conf;
	uint16_t owner;
	uint64_t sees[LEDGER_OWNERS / 64];
};

enum act {
	ACT_NONE,
	ACT_OPEN,    /* PER: a new rule */
	ACT_ENABLE,  /* PEA */
	ACT_REFRESH, /* PLC > 0 */
	ACT_CLOSE,   /* PLC 0, expiry, disable rule, operator */
};

/* A request (or an end of our own making) on its way to its reply. */
struct request {
	struct session *session; /* NULL: none, or it left */
	enum act act;
	bool done; /* the kernel has it; the reply may go */
	bool failed;
	bool held;	/* waits for the sweep of a disable rule */
	bool restoring; /* refused, the rule expires at once */
	uint32_t txn;	/* in the batch; RULE_NONE: no operations */
	uint32_t slot;
	uint32_t sweep; /* PID of the disable rule that causes it, 0: none */
	uint64_t old_expires;
	uint32_t event_pid; /* ARE after the reply, 0: none */
	uint32_t event_lifetime;
	uint32_t event_reason; /* enum simco_reason, of an end of our own making */
	uint16_t event_owner;
	bool event_to_all; /* also to the session that asked */
	struct simco_msg reply;
	uint32_t *pids; /* heap, PRL */
};

/* An ARE that no request waits for: given in slices, and after what caused it. */
struct late_event {
	uint32_t pid, lifetime, reason, sweep;
	uint16_t owner;
};

/* A disable rule that still looks for what it ends. */
struct sweep {
	uint32_t pid;
	uint32_t at; /* next slot to look at; RULE_NONE: all seen */
	bool fresh;  /* waits for the kernel to have the disable rule */
	bool failed; /* the kernel refused to end one */
};

/* Slots looked at and rules ended in one slice: below half a millisecond. */
#define SLICE_SLOTS 4096u
#define SLICE_ENDS 16u
#define SLICE_EVENTS 128u

/* The walk over the group at whose first member the idle scan stands. */
struct idle_walk {
	uint32_t gid, pid; /* of the next member */
	uint64_t limit_ms; /* the shortest timeout of its owners, 0: none */
	uint64_t sign_ms;  /* the latest sign of life noted */
	unsigned pass;	   /* see idle.c */
};

/* Where a REST page ended. */
struct page_end {
	uint32_t pid, slot;
};

struct core {
	const struct core_conf *conf;
	struct fw *fw;
	struct core_ops ops;
	void *arg;
	struct rule_table t;
	struct nat nat;

	struct agent *agents;
	size_t n_agents;
	uint16_t agent_of[LEDGER_OWNERS]; /* index + 1; 0: not configured */
	struct session *sessions;
	struct table by_handle;
	bool giving; /* replies and events are being given */

	struct request *q;
	size_t n_q, cap_q, settled; /* q[settled..] are in the batch */
	struct fw_op *op;
	size_t n_op, cap_op;
	int *result;
	size_t cap_result;
	uint32_t n_txn;
	uint32_t batch;

	struct late_event *late;
	size_t n_late, cap_late;
	bool late_due; /* some wait only for their slice */
	bool trim_due; /* the ledger may give back more */

	struct sweep *sweeps;
	size_t n_sweeps, cap_sweeps;
	bool unconfirmed;     /* see core_unconfirmed() */
	uint32_t restore_at;  /* next slot of core_restore() */
	uint64_t restore_for; /* the reinstallation that it answers */
	uint32_t idle_at;     /* next slot of the idle scan, RULE_NONE: between scans */
	struct idle_walk idle_walk;
	uint64_t idle_next_ms;	 /* start of the next scan */
	uint64_t expire_from_ms; /* when the next slice of expired rules is due */
	uint64_t idle_every_ms;	 /* 0: no agent has an idle timeout */
	struct page_end pages[8];
	unsigned next_page;
	struct core_stats stats;
};

#define NO_TXN UINT32_MAX
#define OPS_PER_REQUEST (RULE_PORTS_MAX * 8u)

/* core.c */
struct agent *core_agent(struct core *c, uint16_t owner);
bool core_may_access(struct core *c, uint16_t agent_owner, uint16_t rule_owner);
uint32_t core_max_lifetime(const struct core *c, const struct agent *a);
/* The IP version (SIMCO_IPV4, SIMCO_IPV6) that a reservation is answered with. */
uint8_t core_version(const struct core *c, const struct simco_prr_params *p);

/* txn.c */
/* A new entry at the end; NULL: no memory. Valid until the next one. */
struct request *core_queue(struct core *c, struct session *s);
/* Room for the operations of one request. 0 or ERR_NOMEM. */
int core_room(struct core *c);
/* An operation of request `q`; room was made. */
struct fw_op *core_op(struct core *c, struct request *q, enum fw_op_type type);
/* Settles the batch with the kernel. */
void core_flush(struct core *c, uint64_t now_ms);
/* Gives what is due. */
void core_give(struct core *c);
/* Frees sessions that left, unless callbacks are running. */
void core_bury_sessions(struct core *c);
/* Flushes when `batch` is the current one's; true: look things up again. */
bool core_settle(struct core *c, uint32_t batch, uint64_t now_ms);

/* Takes back a PEA that did not reach the kernel. */
void rule_undo_enable(struct core *c, struct rule *r);

/* rule_kernel.c */
/* True when something the rule shares is in the open batch. */
bool rule_shares_busy(struct core *c, const struct rule *r);
unsigned rule_twins(struct core *c, const struct rule *r);
void rule_open_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms);
void rule_refresh_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms);
/* Latest expiry of the holders of the i-th element in a direction, r among them. */
uint64_t rule_element_until(struct core *c, const struct rule *r, unsigned i, uint8_t direction);
void rule_close_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms);
void rule_restore_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms);

/* rule_ops.c, rule_enable.c, rule_disable.c: 0 or the negative reply's type */
uint16_t core_prr(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_per(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_pea(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_pdr(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_plc(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_prs(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
uint16_t core_prl(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms);
/* §8.2.1: 0, 0x0344 or 0x0346. */
uint16_t core_group(struct core *c, struct session *s, const struct simco_msg *m, uint64_t now_ms);
/* A slot for a rule of the session's agent; NULL: quota or table. */
struct rule *core_new_rule(struct core *c, struct session *s, bool paired, uint64_t now_ms);
/* §8.3.1, the checks that PER, PEA and PDR share: 0 or the negative reply. */
uint16_t tuples_consistent(const struct simco_msg *m, const struct tuple *in,
			   const struct tuple *ex);
/* An enable rule of the group on the neighbouring internal port, NULL: none. */
struct rule *core_pair_of(struct core *c, uint32_t gid, const struct rule *w);
struct simco_activity rule_activity(struct core *c, struct rule *r, uint64_t now_ms);
/* Queues the end of a rule: its elements, then the slot. */
void rule_finish(struct core *c, struct request *q, struct rule *r, uint64_t now_ms);
/* Takes a rule out of everything and frees its slot and ports. */
void rule_drop(struct core *c, struct rule *r);
uint32_t rule_remaining_s(const struct rule *r, uint64_t now_ms);
void reply_event(struct request *q, const struct rule *r, uint32_t lifetime);
/* A new disable rule that is in the open batch; room was made. */
void core_sweep_add(struct core *c, uint32_t pid);
/* Ends what new disable rules meet, in slices: true, call again. Not with an open batch. */
bool core_sweep(struct core *c, uint64_t now_ms);

/* expiry.c */
bool core_expire(struct core *c, uint64_t now_ms);
/* Queues an end of our own making. False: no memory. */
bool core_end_quietly(struct core *c, struct rule *r, enum simco_reason reason, uint64_t now_ms);

/* idle.c: one slice of the scan, a new one every c->idle_every_ms. True: call again. */
bool core_idle(struct core *c, uint64_t now_ms);

/* core_rest.c: pages over the slots, by PID. Slots begin at the result, PIDs above *floor. */
uint32_t core_page_start(struct core *c, uint32_t after, uint32_t *floor);
void core_page_end(struct core *c, uint32_t last);

/* restart.c */
int core_recover(struct core *c, uint64_t now_ms);

#endif
