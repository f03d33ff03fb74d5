/*
 * Shared by the binding*.c files only.
 */
#ifndef SLUICE_AGENT_BINDING_INT_H
#define SLUICE_AGENT_BINDING_INT_H

#include "agent/binding_fsm.h"
#include "agent/bindings.h"

#define BINDING_TIMELINE 12
#define BINDING_RELEASE_MS 2000 /* who waits for a release waits no longer */
#define SCHED_TICK_MS 250
#define SCHED_SLOTS 512 /* one turn of the wheel is longer than half a usual lifetime */

enum rule_state {
	RULE_NONE,	/* nothing at the middlebox */
	RULE_RESERVING, /* PRR sent, or the PER of a group: there is no PID yet */
	RULE_RESERVED,
	RULE_ENABLING, /* PEA sent */
	RULE_ENABLED,
	RULE_RELEASING, /* PLC 0 sent */
	RULE_GONE,
};

/* One component at one middlebox: one policy rule. */
struct rule {
	struct mb_rule at_mb;
	struct binding *b;
	struct mb_client *mb;
	unsigned component, hop;
	enum rule_state state;
	uint32_t gid;
	struct addr_port outside; /* version 0: not translated here */
	uint64_t expires_ms;	  /* as far as we know */
	uint64_t refresh_ms, poll_ms;
	bool refreshing, polling;
	uint64_t idle_ms, idle_at_ms; /* from the internal side, when asked last */
	uint64_t due_ms;	      /* in the wheel */
	struct rule *next, **prev;    /* slot of the wheel; prev NULL: not in it */
};

struct binding {
	struct bindings *all; /* NULL once bindings_free() has run */
	struct binding *next, *prev;
	uint64_t id;
	struct flow flow; /* flow.path is not kept: policies come and go */
	char from[64], to[64];
	struct flow_ends ends[FLOW_COMPONENTS];
	bool dropped[FLOW_COMPONENTS];
	enum binding_state state;
	bool owned; /* counts against the quotas */
	binding_event_fn fn;
	void *arg;
	void (*done)(void *arg);
	void *done_arg;
	uint64_t done_ms;	   /* latest time for it */
	struct binding *wait_next; /* those that somebody waits for, in order of done_ms */
	bool waiting;
	bool has_event; /* to be delivered at the end of this turn */
	enum binding_event event;
	struct binding *event_next;
	struct failure failure;
	struct {
		enum binding_state state;
		uint64_t at_ms;
	} timeline[BINDING_TIMELINE];
	unsigned n_timeline;
	unsigned calls; /* requests without an answer; each refers to a rule */
	unsigned n_hops, n_rules;
	struct rule rules[]; /* [component * n_hops + hop], inner middlebox first */
};

/* Bindings of one client address. */
struct quota {
	struct table_node node;
	struct addr client;
	uint64_t n;
};

struct bindings {
	struct loop *loop;
	struct mb_clients *mbs;
	const struct policy *policy;
	struct binding *first, *last;
	uint64_t next_id;
	size_t n, n_state[BINDING_STATES];
	uint64_t n_owned;
	struct table quotas;
	struct binding *events, **events_tail;
	struct binding *waiting, **waiting_tail;
	struct binding *dead;
	bool deferred;
	uint64_t random;
	struct loop_timer *timer;
	struct rule *wheel[SCHED_SLOTS];
	uint64_t wheel_tick; /* last one done */
	size_t n_scheduled;
};

/* binding.c */
void binding_dispatch(struct binding *b, enum binding_input in);
/* Looks whether the step under way is complete. */
void binding_settle(struct binding *b);
/* Events, finished releases: at the end of the turn. */
void bindings_run_deferred(struct bindings *all);
uint64_t bindings_random(struct bindings *all);

/* binding_rule.c: one rule and its requests. They may end in binding_dispatch(). */
void rule_reserve(struct rule *r);
void rule_enable(struct rule *r);
/* Without a reservation (groups). */
void rule_open(struct rule *r);
void rule_release(struct rule *r);
void rule_refresh(struct rule *r);
void rule_poll(struct rule *r);
/* The middlebox has it no more. */
void rule_gone(struct rule *r, enum cause cause, const char *detail);
const char *rule_state_name(enum rule_state s);

/* binding_sched.c: one timer for all lifetimes. */
void sched_rule(struct rule *r);
void sched_remove(struct rule *r);
int sched_init(struct bindings *all);
void sched_fini(struct bindings *all);
void sched_wake(struct bindings *all);

#endif
