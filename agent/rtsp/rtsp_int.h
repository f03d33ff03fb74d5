/*
 * Inside the RTSP engine. Who owns what: the engine owns clients, lingering
 * upstreams and sessions; a client owns its transactions and upstreams; a
 * transaction owns the stream it sets up until the session takes it.
 *
 * Objects end by being marked dead; rtsp_engine_leave() buries them when the
 * entry point is done, so nothing disappears under a caller.
 */
#ifndef SLUICE_AGENT_RTSP_INT_H
#define SLUICE_AGENT_RTSP_INT_H

#include "agent/rtsp/rtsp_edit.h"
#include "agent/rtsp/rtsp_engine.h"
#include "agent/rtsp/rtsp_fsm.h"
#include "agent/rtsp/rtsp_transport.h"
#include "common/buf.h"
#include "common/jsonw.h"
#include "common/table.h"

#define RTSP_HOLD_MS 2000	    /* longest wait for a middlebox */
#define RTSP_SETUP_REPLY_MS 30000   /* longest wait for a server's answer to SETUP, TEARDOWN */
#define RTSP_REPLY_MS 60000	    /* to anything else */
#define RTSP_MESSAGE_MS 15000	    /* from first to last octet of a client's message */
#define RTSP_FIRST_MESSAGE_MS 30000 /* from accept to the first message */
#define RTSP_STUCK_MS 120000	    /* a client whose server takes nothing more */
#define RTSP_LINGER_MS 2000	    /* an upstream waits for the replies to our TEARDOWNs */
#define RTSP_SESSION_GRACE_S 10
#define RTSP_HIGH_WATER (192u << 10) /* octets queued: the other side is paused */
#define RTSP_MAX_TXNS 32	     /* unanswered requests of one client */
#define RTSP_MAX_UPSTREAMS 16	     /* servers of one client connection */
#define RTSP_MAX_ASKED 16	     /* unanswered requests of servers to one client */
#define RTSP_MAX_STREAMS 32	     /* of one session */
#define RTSP_MAX_USES 64	     /* sessions of one connection */
#define RTSP_SESSION_ID_MAX 256
#define RTSP_CREDENTIALS_MAX 1024
#define RTSP_TIMELINE 12

struct rtsp_timeline {
	struct {
		uint64_t ms;
		const char *what; /* static */
	} v[RTSP_TIMELINE];
	unsigned n; /* ever noted */
};

/* Quota of one client address. */
struct rtsp_host {
	struct table_node node;
	struct addr addr;
	size_t clients, sessions;
};

enum rtsp_txn_state {
	TXN_WAITING, /* for those before it */
	TXN_RESOLVING,
	TXN_CLEARING, /* SETUP again: the old pinholes of its ports go first */
	TXN_RESERVING,
	TXN_READY, /* may be sent once the upstream is connected */
	TXN_SENT,
	TXN_HELD, /* the reply waits for a middlebox */
	TXN_DONE, /* the reply waits for its turn */
};

/* One request of a client. */
struct rtsp_txn {
	struct rtsp_client *c;
	struct rtsp_txn *next;
	enum rtsp_txn_state state;
	enum rtsp_method method;
	uint32_t cseq; /* the client's */
	bool has_cseq;
	bool close_after; /* the connection ends with this reply */
	uint64_t serial;  /* SETUP: of the session to be; 0: not counted in the quota */
	char *session_id; /* NULL when the request has none */
	struct buf raw;	  /* the request */
	struct buf held;  /* SETUP: the server's reply while the kernel is asked */
	struct buf reply; /* what the client gets */
	struct rtsp_upstream *u;
	struct rtsp_stream *stream; /* SETUP */
	/* SETUP: alternatives that are passed on; those over UDP to the client, to a group */
	uint32_t keep, udp, group;
	struct rtsp_hold *hold; /* TEARDOWN, TXN_CLEARING */
	struct failure failure;
	unsigned status; /* for `failure`; 0: as the failure table says */
	void *timer;
	const struct rtsp_mount *mount; /* of the client's plan */
	void *question;			/* the server's name is being resolved */
	char *name;			/* that name */
	struct addr *addrs;		/* what it stands for */
	size_t n_addrs, addr;		/* addr: the one that is tried */
};

/* Outstanding release_notify() calls of one TEARDOWN. */
struct rtsp_hold {
	struct rtsp_engine *e; /* NULL once the engine is gone */
	struct rtsp_hold *next;
	struct rtsp_txn *t; /* NULL once nobody waits */
	unsigned n;
};

/* A request that an upstream has not answered. */
struct rtsp_pending {
	struct rtsp_pending *next;
	uint32_t cseq;	    /* as sent */
	struct rtsp_txn *t; /* NULL: our own, or its client is gone */
	bool own;
	enum rtsp_method method;
	char *uri; /* SETUP: what to tear down if nobody wants the answer */
};

struct rtsp_upstream {
	struct rtsp_engine *e;
	struct rtsp_client *c; /* NULL while lingering */
	struct rtsp_upstream *prev, *next, *grave_next;
	void *wire;
	void *timer; /* lingering */
	struct rtsp_route route;
	char *name; /* as the URIs say it; NULL when they give the address */
	struct rtsp_plan *plan;
	const struct rtsp_mount *mount; /* last used */
	char *credentials;		/* the client's, where any request may carry them */
	struct rtsp_parser parser;
	struct rtsp_pending *pending, **pending_end;
	uint32_t last_cseq; /* highest sent */
	uint32_t inserted;  /* our own requests: CSeq = client's + inserted */
	bool ready, dead, paused;
	int error; /* why it died, 0 while alive */
};

/* A request of a server that the client has not answered. */
struct rtsp_asked {
	struct rtsp_upstream *u;
	uint32_t server_cseq, client_cseq;
};

struct rtsp_client {
	struct rtsp_engine *e;
	struct rtsp_client *prev, *next, *grave_next;
	uint64_t serial;
	char name[24]; /* "c17" for logs */
	void *wire;
	void *timer;
	struct rtsp_terms terms;
	struct rtsp_host *host;
	struct addr_port peer, target;
	char *front; /* reverse: "rtsp://name:port" by which the client knows us */
	struct rtsp_parser parser;
	struct rtsp_txn *txns, **txns_end;
	unsigned n_txns;
	size_t txn_octets; /* of all their requests */
	struct rtsp_upstream *upstreams, *current;
	unsigned n_upstreams;
	struct rtsp_use *uses;
	unsigned n_uses;
	struct rtsp_asked asked[RTSP_MAX_ASKED];
	unsigned n_asked;
	uint64_t began_ms;
	uint64_t seen_ms;    /* last message, or anything from a server */
	uint64_t partial_ms; /* first octet of an incomplete message or frame, 0: none */
	uint64_t paused_ms;
	bool spoke, paused;
	bool closing;	 /* reads nothing more, ends when its last reply is out */
	bool dead, lost; /* lost: the wire is broken, nothing can be sent */
	bool pumping;
};

/* "This connection used that session." */
struct rtsp_use {
	struct rtsp_client *c;
	struct rtsp_session *s;
	struct rtsp_use *c_next, *s_next;
};

struct rtsp_stream {
	struct rtsp_engine *e;
	struct rtsp_stream *next;
	struct rtsp_txn *t;	/* while its SETUP runs */
	struct rtsp_session *s; /* afterwards */
	enum rtsp_stream_state state;
	char *uri;
	char protocol[40];
	struct binding *binding;
	struct relay *relay;			/* between the two ends below; NULL: none */
	struct flow_ends ends[FLOW_COMPONENTS]; /* client and server */
	unsigned components;
	uint8_t channel_first, channel_last; /* interleaved */
	bool has_channels, record;
	bool group; /* the binding is one for a group */
	struct rtsp_timeline timeline;
};

struct rtsp_session {
	struct table_node node;
	struct rtsp_engine *e;
	struct rtsp_session *prev, *next; /* by serial */
	uint64_t serial;
	char name[24]; /* "r17": logs and REST */
	uint8_t *key;  /* server, client, id */
	size_t key_len;
	char id[RTSP_SESSION_ID_MAX];
	struct addr_port server;
	struct addr client;
	struct rtsp_host *host;
	struct rtsp_upstream *u; /* last used */
	struct rtsp_use *uses;
	struct rtsp_stream *streams;
	unsigned n_streams;
	enum rtsp_session_state state;
	enum rtsp_mode mode;
	bool rewrite, relay;
	char *control; /* URI of the last PLAY, RECORD or PAUSE */
	unsigned timeout_s;
	uint64_t started_ms, seen_ms;
	void *timer;
	struct rtsp_timeline timeline;
};

struct rtsp_engine {
	const struct rtsp_io *io;
	void *arg;
	struct policy_limits limits;
	struct table hosts, by_key;
	struct rtsp_client *clients;
	size_t n_clients;
	struct rtsp_upstream *lingering;
	struct rtsp_client *client_graves;
	struct rtsp_upstream *upstream_graves;
	struct rtsp_session *sessions, *sessions_last;
	size_t n_sessions, n_promised; /* running, and SETUPs that may become one */
	struct rtsp_hold *holds;
	uint64_t serial;
	unsigned depth;
	bool shutting;
	void (*done)(void *);
	void *done_arg;
	void *timer;
};

/* rtsp_engine.c */
void rtsp_engine_enter(struct rtsp_engine *e);
void rtsp_engine_leave(struct rtsp_engine *e);
struct rtsp_host *rtsp_host_get(struct rtsp_engine *e, const struct addr *a);
void rtsp_host_drop(struct rtsp_engine *e, struct rtsp_host *h);
void rtsp_note(struct rtsp_engine *e, struct rtsp_timeline *l, const char *what);
uint64_t rtsp_now(const struct rtsp_engine *e);

/* rtsp_client.c */
void rtsp_client_pump(struct rtsp_client *c);
void rtsp_client_destroy(struct rtsp_client *c);
/* Reads no more; the connection ends when the replies that are due are out. */
void rtsp_client_finish(struct rtsp_client *c);
/* Ends now (queued octets still go out). */
void rtsp_client_kill(struct rtsp_client *c);
void rtsp_client_write(struct rtsp_client *c, struct span out);
void rtsp_client_relax(struct rtsp_client *c);
void rtsp_client_upstream_gone(struct rtsp_client *c, struct rtsp_upstream *u);

/* rtsp_txn.c */
struct rtsp_txn *rtsp_txn_new(struct rtsp_client *c, const struct rtsp_msg *m);
void rtsp_txn_free(struct rtsp_txn *t);
/* Decodes the stored request again; it was valid once. */
void rtsp_txn_request(const struct rtsp_txn *t, struct rtsp_msg *m);
void rtsp_txn_start(struct rtsp_txn *t);
bool rtsp_txn_is_barrier(const struct rtsp_txn *t);
void rtsp_txn_timer(struct rtsp_txn *t, uint64_t ms);
/* The server's final reply arrived. */
void rtsp_txn_replied(struct rtsp_txn *t, const struct rtsp_msg *m);
/* Passes `m` on, with the client's CSeq; takes no ownership of edits. */
void rtsp_txn_pass(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_edits *e);
/* The upstream is gone before it answered. */
void rtsp_txn_upstream_gone(struct rtsp_txn *t, int err);

/* rtsp_target.c */
struct rtsp_target {
	struct addr_port server;
	bool tls;
	struct span host; /* as it is named, empty: by its address */
	const struct rtsp_mount *mount;
};
/* 0, or ERR_* when the request is answered, or waits for a name. */
int rtsp_target_find(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_target *out);
/* Sets the name of the agent for clients that do not use one: its address. 0 or ERR_NOMEM. */
int rtsp_target_front(struct rtsp_client *c);
/* Goes on to the next address of a name; false when there is none. */
bool rtsp_target_next(struct rtsp_txn *t);
/* What a mount changes in a request, in its reply, and in what a server asks. */
void rtsp_target_edit_request(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_edits *e);
void rtsp_target_edit_reply(const struct rtsp_txn *t, const struct rtsp_msg *m,
			    struct rtsp_edits *e);
void rtsp_target_edit_asked(const struct rtsp_upstream *u, const struct rtsp_msg *m, bool to_client,
			    struct rtsp_edits *e);

/* rtsp_reply.c: the agent's own replies */
void rtsp_reply_failure(struct rtsp_txn *t, unsigned status, const struct failure *f);
void rtsp_reply_status(struct rtsp_txn *t, unsigned status, enum cause cause, const char *fmt, ...)
	ATTR_PRINTF(4, 5);
void rtsp_reply_unsupported(struct rtsp_txn *t, struct span features);
void rtsp_reply_options(struct rtsp_txn *t);

/* rtsp_upstream.c */
/* The one that goes to a server by that name, NULL when there is none. */
struct rtsp_upstream *rtsp_upstream_named(struct rtsp_client *c, struct span name, uint16_t port,
					  bool tls);
struct rtsp_upstream *rtsp_upstream_get(struct rtsp_client *c, const struct rtsp_target *target,
					struct failure *f, unsigned *status);
void rtsp_upstream_destroy(struct rtsp_upstream *u);
/* Sends the request of `t` with these edits (may be NULL). 0 or ERR_*. */
int rtsp_upstream_send(struct rtsp_upstream *u, struct rtsp_txn *t, const struct rtsp_msg *m,
		       struct rtsp_edits *e);
/* Our own TEARDOWN; no answer is expected by anybody. */
void rtsp_upstream_teardown(struct rtsp_upstream *u, const char *uri, struct span session);
void rtsp_upstream_forget(struct rtsp_upstream *u, const struct rtsp_txn *t);
/* The client is gone: waits for answers to TEARDOWN and SETUP, then closes. */
void rtsp_upstream_linger(struct rtsp_upstream *u);
void rtsp_upstream_kill(struct rtsp_upstream *u, int err);
void rtsp_upstream_relax(struct rtsp_upstream *u);

/* rtsp_setup.c */
void rtsp_setup_start(struct rtsp_txn *t);
void rtsp_setup_send(struct rtsp_txn *t);
void rtsp_setup_replied(struct rtsp_txn *t, const struct rtsp_msg *m);
void rtsp_setup_abort(struct rtsp_txn *t);
void rtsp_setup_timeout(struct rtsp_txn *t);
/* rtsp_media.c: what a SETUP reply says about media; 0 or ERR_* with *f and *status */
struct rtsp_media {
	struct flow_ends ends[FLOW_COMPONENTS];
	unsigned components;
	bool interleaved, record, group;
	uint8_t channel_first, channel_last;
	bool has_channels;
	char protocol[40];
	char client_port[16]; /* what the client wrote, in its request */
};
int rtsp_media_parse(const struct rtsp_txn *t, const struct rtsp_msg *request,
		     const struct rtsp_msg *reply, struct rtsp_media *out, unsigned *status,
		     struct failure *f);
/* Does policy let media come to that group? */
bool rtsp_media_group(const struct rtsp_client *c, const struct addr *group);
void rtsp_media_restore(const struct rtsp_txn *t, const struct rtsp_media *media,
			const struct rtsp_msg *reply, struct rtsp_edits *e);

/* rtsp_relay.c: media through ports of our own */
/* Takes ports for the stream of `t` where its route relays. 0 or ERR_* with *f. */
int rtsp_relay_start(struct rtsp_txn *t, unsigned components, struct failure *f);
void rtsp_relay_end(struct rtsp_stream *st);
/* The ends of the stream as the path's middleboxes see them. */
void rtsp_relay_ends(const struct rtsp_stream *st, struct flow_ends out[FLOW_COMPONENTS]);
/* Both ends are known and the pinholes open: media may pass. 0 or ERR_*. */
int rtsp_relay_open(struct rtsp_stream *st);
/* Where the server sends component `i`; version 0: to the client's own port. */
struct addr_port rtsp_relay_seen(const struct rtsp_stream *st, unsigned i);
/* The client is told our ports and address for the server's. */
void rtsp_relay_restore(const struct rtsp_stream *st, unsigned components,
			const struct rtsp_spec *s, struct rtsp_edits *e);
/* Since the client sent the last packet of component `i`; UINT64_MAX: unknown. */
uint64_t rtsp_relay_idle_ms(const struct rtsp_stream *st, unsigned i);
void rtsp_relay_json(const struct rtsp_stream *st, unsigned i, struct jsonw *w);

/* rtsp_session.c */
struct rtsp_session *rtsp_session_find(struct rtsp_engine *e, const struct addr_port *server,
				       const struct addr *client, struct span id);
/* Any session of this client host with that id that the connection used. */
struct rtsp_session *rtsp_session_used(struct rtsp_client *c, struct span id);
/* Finds or creates, attaches the connection. NULL on failure. */
struct rtsp_session *rtsp_session_take(struct rtsp_txn *t, struct span id);
void rtsp_session_attach(struct rtsp_session *s, struct rtsp_client *c, struct rtsp_upstream *u);
void rtsp_session_detach_all(struct rtsp_client *c);
void rtsp_session_upstream_gone(struct rtsp_client *c, struct rtsp_upstream *u);
/* Takes over a stream; replaces one with the same URI. 0 or ERR_LIMIT. */
int rtsp_session_add(struct rtsp_session *s, struct rtsp_stream *st);
/* A request of an attached connection that carries the session. */
void rtsp_session_touch(struct rtsp_session *s);
void rtsp_session_timeout(struct rtsp_session *s, unsigned seconds);
/* 2xx to a request other than SETUP and TEARDOWN. */
void rtsp_session_replied(struct rtsp_session *s, const struct rtsp_txn *t);
/*
 * TEARDOWN was accepted: closes the stream that the URI names, or all. The
 * transaction waits in t->hold for the pinholes.
 */
void rtsp_session_closed(struct rtsp_session *s, struct rtsp_txn *t);
/* Releases the stream's binding; the transaction waits in t->hold. */
void rtsp_session_clear(struct rtsp_stream *st, struct rtsp_txn *t);
/* Ends the whole session: TEARDOWN upstream where possible, bindings released. */
void rtsp_session_end(struct rtsp_session *s, enum cause cause);
/* The same, and closes every connection that used it. */
void rtsp_session_end_hard(struct rtsp_session *s, const struct failure *f);
struct rtsp_stream *rtsp_stream_new(struct rtsp_txn *t, struct span uri);
void rtsp_stream_free(struct rtsp_stream *st);
enum rtsp_stream_action rtsp_stream_event(struct rtsp_stream *st, enum rtsp_stream_event ev);
void rtsp_stream_bind_event(struct binding *b, enum binding_event ev, const struct failure *f,
			    void *arg);

#endif
