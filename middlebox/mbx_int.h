/*
 * Shared by the mbx_*.c files only.
 */
#ifndef SLUICE_MIDDLEBOX_MBX_INT_H
#define SLUICE_MIDDLEBOX_MBX_INT_H

#include <pthread.h>

#include "common/conf.h"
#include "common/rest.h"
#include "common/stream.h"
#include "common/tls.h"
#include "middlebox/core.h"
#include "middlebox/mbx.h"
#include "proto-simco/simco.h"

#define MBX_SLICE 8192u /* octets fed to one session at a time */
/*
 * Requests taken in one turn of the loop: as many as take MBX_TURN_NS of CPU time here, with this
 * firewall, within these bounds.
 */
#define MBX_TURN_MAX 64u
#define MBX_TURN_MIN 4u
#define MBX_TURN_NS 550000u
#define MBX_TURN_ENDS 16u      /* connections that end in one turn */
#define MBX_PRL_PER_REQUEST 64 /* rules in a list that cost as much as a request */
#define MBX_SPARE 64u	       /* connections above limits.sessions that are told 0x0321 */
#define MBX_HANDSHAKES_MAX 32u /* TLS handshakes at once */

struct mbx_conn {
	struct mbx_conn *next, *prev; /* all */
	struct mbx_conn *next_dirty, *next_waiting, *next_dying;
	bool dirty, waiting; /* in that queue */
	unsigned bulk;	     /* above 0: it asked for much at a time lately */
	struct mbx *mbx;
	uint64_t id; /* for logs and REST */
	struct addr_port peer;
	int fd;		       /* until a stream took it, -1 then */
	struct loop_io *sniff; /* waits for the first octet */
	struct stream *stream;
	struct simco_srv *srv;
	struct loop_timer *timer;
	uint64_t half_open_until, due; /* ms; due: what the timer is set to, 0 nothing */
	uint64_t since_ms, requests;
	bool tls, handshaking;
	bool joined;			 /* the core knows the session */
	bool ending;			 /* to be torn down when it is its turn */
	bool draining;			 /* input waits until output shrinks */
	const char *why;		 /* of the end, for the log */
	char agent[SIMCO_OWNER_MAX + 1]; /* "" until known */
	bool challenged;
};

struct mbx_counters {
	uint64_t accepted, refused, cut, protocol_errors;
};

/* mbx_reload.c: a policy being read, or an old one being freed, by a thread. */
struct mbx_reload {
	pthread_t thread;
	bool running, again; /* again: another SIGHUP came */
	int fd;		     /* the thread says here that it ends */
	struct loop_io *io;
	const char *file;
	struct mbx_policy *policy, *old; /* read; to be freed */
	struct tls_ctx *tls, *old_tls;	 /* the same; NULL: none */
	struct conf_errors errs;
	int rc;
	char why[256]; /* rc is of the TLS files: what is wrong with them; else "" */
};

struct mbx {
	struct loop *loop;
	struct mbx_policy *policy;
	struct mbx_opts opts;
	struct fw *fw;
	struct core *core;
	struct rest *rest;
	struct tls_ctx *tls;
	struct stream_listener **listeners;
	size_t n_listeners;
	bool listening;
	struct mbx_conn *conns, *dirty;
	struct mbx_conn *waiting, **waiting_tail, **unserved_tail; /* unserved first */
	struct mbx_conn *dying, **dying_tail;
	size_t n_conns, n_dying, n_handshaking;
	struct loop_job end_job;
	uint64_t next_id;
	unsigned turn_requests; /* in this turn; a long list counts as many */
	unsigned turn_max;	/* what is taken in one, adapted to its cost */
	bool turn_had_its, fed; /* so many, before its job; in its job */
	uint64_t turn_cpu;	/* when this turn became a busy one, 0: it is not */
	bool commit_deferred, feeding;
	struct loop_io *fw_io[2];
	struct loop_timer *work; /* the core's deadline */
	struct loop_job core_job, fw_job, feed_job;
	struct loop_timer *retry; /* re-installation that failed */
	struct loop_timer *watchdog;
	struct loop_timer *ending; /* shutdown */
	unsigned ending_polls;
	loop_fn done;
	void *done_arg;
	bool adopted; /* rules of an earlier run were taken over */
	bool lost;    /* the kernel's tables are not ours at the moment */
	bool restoring;
	uint64_t started_ms;
	struct mbx_counters counters;
	struct mbx_reload reload;
};

/* mbx.c */
/* *out NULL: no TLS. 0 or ERR_* and why; logs nothing, any thread may call it. */
int mbx_open_tls(const struct mbx_policy *p, struct tls_ctx **out, char *why, size_t size);
void mbx_warn(const char *text, void *arg);
/* mbx_reload.c: waits for the thread and forgets what it made. */
void mbx_reload_stop(struct mbx *m);

/* mbx_turn.c: the end of the turn commits; the next turn goes on with sliced work. */
int mbx_turn_open(struct mbx *m); /* with firewall and core there; 0 or ERR_NOMEM */
void mbx_turn_close(struct mbx *m);
void mbx_defer_commit(struct mbx *m);
void mbx_work_soon(struct mbx *m);
/* Before a request that costs about as much as `units` ordinary ones. */
void mbx_turn_count(struct mbx *m, unsigned units);
bool mbx_turn_full(const struct mbx *m);
/* Commits now: a batch is full. */
void mbx_commit_now(struct mbx *m);

/* mbx_conn.c */
void mbx_conn_accept(int fd, const struct addr_port *peer, void *mbx);
void mbx_conn_reply(struct mbx_conn *c, struct simco_msg *reply);
void mbx_conn_event(struct mbx_conn *c, uint32_t pid, uint32_t lifetime, uint32_t reason);
/* Sends what replies and events left in the queues. */
void mbx_conn_flush_dirty(struct mbx *m);
/* Offers input again to sessions that had more than their slice, or no turn. */
void mbx_conn_feed_waiting(struct mbx *m);
/* A job: ends some of those that are to end. */
bool mbx_conn_end_some(void *mbx);
void mbx_conn_terminate(struct mbx_conn *c, const char *why); /* AST, then the end */
void mbx_conn_free(struct mbx_conn *c);
/* The connection dies after this turn or a later one; `why` is static text for the log. */
void mbx_conn_end(struct mbx_conn *c, const char *why);
/* Listeners follow the caps. */
void mbx_conn_throttle(struct mbx *m);

/* mbx_session.c: operations of struct simco_srv_ops; `conn` is a struct mbx_conn. */
void mbx_session_establish(void *conn, const struct simco_msg *msg, struct simco_admission *adm);
void mbx_session_authenticate(void *conn, const struct simco_msg *msg, struct simco_admission *adm);
void mbx_session_state(void *conn, enum simco_session_state state);

/* mbx_rest.c */
extern const struct rest_route mbx_routes[];
/* mbx_metrics.c */
void mbx_metrics(const struct mbx *m, struct buf *out);
const char *mbx_feature_name(unsigned bit); /* of FW_FEATURE_, NULL when unused */

#endif
