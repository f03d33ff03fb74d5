/*
 * SIMCO sessions to the middleboxes of the policy: one per middlebox, connected
 * for as long as the agent runs. Requests are pipelined; what was written in
 * one turn of the loop leaves in one write.
 *
 * A client knows which policy rules the agent owns at its middlebox. After a
 * reconnect it lists (PRL), reports rules that vanished, deletes rules of this
 * identity that nobody here knows (`exclusive`) and what was to be released
 * meanwhile. Rules outlive sessions (RFC 4540 §8.1 with decisions 8), so a lost
 * session loses no rule.
 */
#ifndef SLUICE_AGENT_MB_CLIENT_H
#define SLUICE_AGENT_MB_CLIENT_H

#include "agent/failure.h"
#include "agent/policy.h"
#include "common/jsonw.h"
#include "common/loop.h"
#include "common/table.h"
#include "proto-simco/simco.h"

#define MB_REQUEST_TIMEOUT_MS 1800u /* a SETUP is refused within 2 s */
#define MB_RETRY_AFTER_S 5u	    /* what endpoints are told while a middlebox is away */

struct mb_clients;
struct mb_client;

enum mb_state {
	MB_DOWN,       /* waiting for the next attempt */
	MB_CONNECTING, /* TCP, TLS */
	MB_OPENING,    /* SE (and SA) under way */
	MB_OPEN,
};
const char *mb_state_name(enum mb_state s);

/*
 * A policy rule at a middlebox, embedded in its owner. `changed` is called when
 * the middlebox says so (ARE, or a PRL without it): lifetime 0 means gone, for
 * `reason` (enum simco_reason) where the middlebox tells. It is
 * never called from inside a function of this header.
 */
struct mb_rule {
	struct table_node node;
	uint32_t pid;
	uint32_t seen; /* generation of the last PRL that listed it */
	void (*changed)(struct mb_rule *r, uint32_t lifetime, uint32_t reason);
};

/*
 * The answer to a request, exactly once. f is NULL for a positive reply;
 * otherwise it says why, and m is the negative reply or NULL when none came.
 */
typedef void (*mb_reply_fn)(void *arg, const struct simco_msg *m, const struct failure *f);

/* Timers of a client, milliseconds; tests use shorter ones. */
struct mb_times {
	uint64_t request;   /* an unanswered request ends the session */
	uint64_t open;	    /* connecting and SE together */
	uint64_t keepalive; /* silence after which the middlebox is asked something */
	uint64_t retry_min, retry_max;
};
extern const struct mb_times mb_times_preset;

/* Starts to connect to every middlebox of the policy. NULL after logging. Borrows `p` until reload.
 */
struct mb_clients *mb_clients_new(struct loop *l, const struct policy *p,
				  const struct mb_times *times);
/*
 * Takes over another policy: new middleboxes are connected, those that are gone
 * or changed are let go once none of our rules is left there. 0, or ERR_*
 * after logging and without any change.
 */
int mb_clients_reload(struct mb_clients *all, const struct policy *p);
/* Rules at the middleboxes stay; every rule must have been disowned. NULL is fine. */
void mb_clients_free(struct mb_clients *all);
/* NULL when there is none of that name. */
struct mb_client *mb_clients_find(const struct mb_clients *all, const char *name);
/* All of the policy have an open session. `down`: the first that has not. */
bool mb_clients_ready(const struct mb_clients *all, const char **down);
/* Array of objects for /v1/status. */
void mb_clients_rest(const struct mb_clients *all, struct jsonw *w, const char *key);
/* Prometheus lines. */
void mb_clients_metrics(const struct mb_clients *all, struct buf *out);

const char *mb_client_name(const struct mb_client *mb);
bool mb_client_is_open(const struct mb_client *mb);
/* What the middlebox announced, NULL before its first session. */
const struct simco_capabilities *mb_client_caps(const struct mb_client *mb);
uint32_t mb_client_extensions(const struct mb_client *mb);
/*
 * Does it translate that IP version? From the capabilities until its first
 * reservation of that version told exactly (mb_client_learn).
 */
bool mb_client_translates(const struct mb_client *mb, uint8_t ip_version);
void mb_client_learn(struct mb_client *mb, uint8_t ip_version, bool translates);

/*
 * Sends a request. 0; ERR_CLOSED when there is no open session, ERR_LIMIT when
 * too many requests are unanswered, ERR_NOMEM, ERR_INVALID (cannot be encoded):
 * fn is not called then.
 */
int mb_client_request(struct mb_client *mb, struct simco_msg *m, mb_reply_fn fn, void *arg);
/* Describes an error of mb_client_request(). */
void mb_client_failure(const struct mb_client *mb, int err, struct failure *f);

/* The rule lives at this middlebox and is ours; 0, ERR_EXIST or ERR_NOMEM. */
int mb_client_own(struct mb_client *mb, struct mb_rule *r);
void mb_client_disown(struct mb_client *mb, struct mb_rule *r);
/*
 * Deletes a rule that nobody waits for: at once, or after the session is back.
 * Past a cap the oldest are left to their lifetime.
 */
void mb_client_release_later(struct mb_client *mb, uint32_t pid);

#endif
