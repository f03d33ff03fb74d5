/*
 * Shared by the mb_*.c files only.
 */
#ifndef SLUICE_AGENT_MB_INT_H
#define SLUICE_AGENT_MB_INT_H

#include "agent/mb_client.h"
#include "common/stream.h"

#define MB_PENDING_MAX 4096  /* unanswered requests of one session */
#define MB_LATER_MAX 65536   /* rules to be released after a reconnect */
#define MB_CLEANUP_WINDOW 64 /* clean-up requests in flight: live sessions come first */
#define MB_TOKEN_LEN 32	     /* HMAC-SHA-256 */

/* A request on its way; replies come in order, so the oldest is the first. */
struct mb_call {
	struct mb_call *next;
	struct mb_client *mb;
	mb_reply_fn fn;
	void *arg;
	uint64_t sent_us;
};

/* Rules to look at or to delete, a few at a time. */
struct mb_chore {
	uint32_t pid;
	bool check; /* ask for the owner first, delete only our own */
};

struct mb_client {
	struct mb_clients *all;
	struct mb_client *next;
	char name[64];
	struct addr_port address;
	struct policy_tls tls_conf; /* heap copies */
	char *secret_file;
	struct tls_ctx *tls;
	uint8_t *secret;
	size_t secret_len;
	uint8_t challenge[32];
	bool retired; /* not in the policy any more */

	enum mb_state state;
	uint64_t since_ms; /* of the state */
	struct stream *stream;
	struct simco_cli *cli;
	struct loop_timer *timer;
	bool flushing; /* a deferred flush is due */
	uint64_t backoff_ms;
	uint64_t heard_ms; /* last octets from the middlebox */
	uint64_t sessions; /* opened so far */
	uint64_t timeouts; /* requests that were never answered */
	char why[128];	   /* why it is not open */

	bool known_caps;
	struct simco_capabilities caps;
	uint32_t extensions;
	int8_t learned[2]; /* [v4, v6]: -1 unknown, else mb_client_translates() */
	uint64_t rtt_us;   /* smoothed */

	struct mb_call *calls, **calls_tail;
	size_t n_calls;

	struct table rules; /* struct mb_rule, by PID */
	uint32_t generation;
	struct mb_chore *chores;
	size_t n_chores, cap_chores, at_chore;
	unsigned chores_in_flight;
	uint64_t deleted, vanished; /* totals */
};

struct mb_clients {
	struct loop *loop;
	const struct policy *policy;
	struct mb_times times;
	struct mb_client *list;
};

/* mb_client.c */
uint64_t mb_now_us(void);
/* Lets retired clients go that hold nothing any more; loop_fn of struct mb_clients. */
void mb_sweep(void *arg);
bool mb_is_spent(const struct mb_client *mb);
void mb_set_state(struct mb_client *mb, enum mb_state state, const char *why);

/* mb_conn.c: the connection. */
void mb_connect(struct mb_client *mb);
/* Ends the session, fails what is unanswered, and tries again later. */
void mb_drop(struct mb_client *mb, const char *why);
/* Sends the machine's output at the end of this turn. */
void mb_flush_later(struct mb_client *mb);
void mb_arm(struct mb_client *mb);
/* Everything that has to be undone before the client is freed. */
void mb_conn_fini(struct mb_client *mb);
int mb_conn_init(struct mb_client *mb);

/* mb_sync.c: what happens with rules when a session opens. */
void mb_sync_start(struct mb_client *mb);
int mb_chore_add(struct mb_client *mb, uint32_t pid, bool check);
void mb_chores_run(struct mb_client *mb);

/* mb_secret.c: TLS, challenge and token. Both log what is wrong. */
int mb_tls_load(struct mb_client *mb);
int mb_secret_load(struct mb_client *mb);
/* Tokens differ by role, so that neither side can be used to answer for the other. */
int mb_token(const struct mb_client *mb, const char *role, const uint8_t *challenge, size_t n,
	     uint8_t token[MB_TOKEN_LEN]);

#endif
