/*
 * The middlebox without sockets: policy rules and bindings, their transactions
 * (RFC 4540 §8), lifetimes, the ledger, and group commit to the firewall.
 * Time comes in as a parameter; replies go out through callbacks.
 *
 * A turn: core_request() for everything readable, then core_commit() once. Each
 * request gets exactly one reply, in order, after the kernel has its effect.
 */
#ifndef SLUICE_MIDDLEBOX_CORE_H
#define SLUICE_MIDDLEBOX_CORE_H

#include "common/jsonw.h"
#include "middlebox/fw.h"
#include "proto-simco/simco.h"

struct core;

/* What an agent may do (config: agents.NAME). Filled from the policy; borrowed. */
#define AGENT_MAY_RESERVE 1u /* PRR */
#define AGENT_MAY_ENABLE 2u  /* PER, PEA */
#define AGENT_MAY_DISABLE 4u /* PDR */

struct agent_permit {
	struct addr_prefix internal, external;
	int protocol;		 /* 17, 6, 0: both */
	struct port_range ports; /* bounds both ends */
	struct port_range external_ports;
	bool has_external_ports;
};

struct agent_conf {
	const char *name;      /* the owner of its rules */
	unsigned may;	       /* AGENT_MAY_* */
	struct addr pool;      /* its one pool address; version 0 without NAT */
	uint32_t max_rules;    /* a neighbouring pair counts as one (decisions RTSP 12) */
	uint32_t max_lifetime; /* seconds, 0: the middlebox's */
	bool wildcards;	       /* may ask for wildcards */
	const struct agent_permit *permits;
	size_t n_permits;
	const char *const *owners; /* other owners whose rules it may see and change */
	size_t n_owners;
	uint32_t idle_timeout; /* seconds of media silence over a group, 0: off */
};

struct core_conf {
	const char *ledger_file;  /* NULL: anonymous memory (tests) */
	uint32_t max_rules;	  /* slots */
	uint32_t max_lifetime;	  /* seconds */
	uint32_t grace_ms;	  /* kernel timeout = lifetime + grace, default 10000 */
	uint32_t expire_every_ms; /* between two slices of expired rules; 0: at once */
	enum fw_nat_mode nat;
	const struct fw_pool *pools; /* outside (A2) */
	size_t n_pools;
	const struct fw_pool *inside_pools; /* inside (A1), twice NAT */
	size_t n_inside_pools;
	const struct agent_conf *agents;
	size_t n_agents;
	bool ipv4, ipv6;     /* carried by the firewall */
	uint8_t boot_id[16]; /* of this kernel; another one in the ledger empties it */
};

struct core_ops {
	/*
	 * The reply to one request of `session`, in order; or with reply NULL
	 * and pid set, an ARE for it. Called from core_commit(), core_tick()
	 * and core_end_rule() only.
	 */
	void (*reply)(void *arg, void *session, struct simco_msg *reply);
	void (*event)(void *arg, void *session, uint32_t pid, uint32_t lifetime,
		      uint32_t reason); /* enum simco_reason */
};

/*
 * Opens the ledger (empties it when it belongs to another boot), and hands what
 * is to live on to the firewall before it returns; where the firewall has kept
 * it, that is left to core_restore() (core_unconfirmed()). Borrows conf, fw. NULL after logging.
 */
struct core *core_new(const struct core_conf *conf, struct fw *fw, const struct core_ops *ops,
		      void *arg, uint64_t now_ms);
/* Rules stay in ledger and kernel (decisions SIMCO 8). */
void core_free(struct core *c);
/* True when the ledger holds rules of this boot: fw_open(adopt). Usable before core_new(). */
bool core_ledger_usable(const char *file, const uint8_t boot_id[16]);

/*
 * A SIMCO session in OPEN belonging to `agent` joins and leaves (AREs go to
 * members). 0, ERR_NOMEM, or ERR_NOENT (no such agent).
 */
int core_session_open(struct core *c, void *session, const char *agent);
void core_session_close(struct core *c,
			void *session); /* pending requests of it lose their reply */
/* The session's negotiated extensions (SIMCO_EXT_*); none until told. */
void core_session_extensions(struct core *c, void *session, uint32_t extensions);

/*
 * Takes a policy request (decoded, well-formed); the effect and the reply come with core_commit().
 * ERR_NOMEM, ERR_NOENT: it was not taken and never gets a reply, so the session must end, or the
 * replies after it would answer the wrong requests.
 */
int core_request(struct core *c, void *session, const struct simco_msg *m, uint64_t now_ms);
/* Firewall operations waiting; commit when it reaches CORE_BATCH or at the end of the turn. */
size_t core_pending(const struct core *c);
#define CORE_BATCH 256 /* an exact rule: two elements, a binding, conntrack */
void core_commit(struct core *c, uint64_t now_ms);

/* Absolute ms when core_tick() is due next; UINT64_MAX: never. */
uint64_t core_deadline(const struct core *c);
/* Expiry and idle detection, in slices of at most ~1 ms; true: call again in the next turn. */
bool core_tick(struct core *c, uint64_t now_ms);

/* The operator (REST DELETE) ends a rule: ARE 0 to everybody entitled. 0 or ERR_NOENT. */
int core_end_rule(struct core *c, uint32_t pid, uint64_t now_ms);
/*
 * True after a start that relied on the kernel: core_restore() confirms every element and heals
 * what somebody took away meanwhile.
 */
bool core_unconfirmed(const struct core *c);
/* After fw_reinstall(): puts every live element back, in slices; true: more to do. */
bool core_restore(struct core *c, uint64_t now_ms);
/* Agents or limits changed (reload). 0 or ERR_*. */
int core_reconfigure(struct core *c, const struct core_conf *conf);

/* The capabilities to announce to `agent` (§4.3.3). */
struct simco_capabilities core_capabilities(const struct core *c, const char *agent);

struct core_stats {
	uint64_t rules, reserved, enabled, disabled, bindings, elements, expired, requests, refused;
};
struct core_stats core_stats(const struct core *c);
/*
 * REST: a page of at most `limit` rules. `after` is what the page before
 * returned, 0 at first. Returns the last PID written, 0: none.
 */
uint32_t core_rest_rules(struct core *c, uint32_t after, unsigned limit, uint64_t now_ms,
			 struct jsonw *w);
bool core_rest_rule(struct core *c, uint32_t pid, uint64_t now_ms, struct jsonw *w);

/*
 * Compares every rule with the kernel, element by element and mapping by mapping (single GETs).
 * Number of differences; each is described through fn.
 */
size_t core_audit(struct core *c, uint64_t now_ms, void (*fn)(const char *text, void *arg),
		  void *arg);
/* The same page by page, as core_rest_rules(). Returns the last PID compared, 0: no more. */
uint32_t core_audit_page(struct core *c, uint32_t after, uint64_t now_ms,
			 void (*fn)(const char *text, void *arg), void *arg);

#endif
