/*
 * The RTSP proxy without its sockets: client connections, upstream
 * connections, sessions and streams. Everything it wants of the world goes
 * through struct rtsp_io, so that it runs the same behind real streams and
 * bindings, in a scripted test and under a fuzzer.
 */
#ifndef SLUICE_AGENT_RTSP_ENGINE_H
#define SLUICE_AGENT_RTSP_ENGINE_H

#include "agent/binding.h"
#include "agent/policy.h"
#include "agent/relay.h"
#include "agent/rtsp/rtsp_msg.h"
#include "agent/rtsp/rtsp_plan.h"

struct rtsp_engine;
struct rtsp_client;
struct rtsp_upstream;

#define RTSP_MEDIA_FROM_MAX 32
#define RTSP_MULTICAST_MAX 32

/* What a listener grants its connections; copied, so that a reload does not change them. */
struct rtsp_terms {
	enum rtsp_mode mode;
	enum rtsp_out out;
	bool tls;		/* clients come with TLS */
	struct rtsp_plan *plan; /* each client takes a reference; NULL: nothing special */
	char zone[64];
	struct rtsp_limits limits;
	uint64_t connect_timeout_ms, idle_timeout_ms;
	bool interleaved_hint; /* 461 instead of 503 when the middlebox is down */
	struct addr_prefix media_from[RTSP_MEDIA_FROM_MAX];
	size_t n_media_from;
	struct addr_prefix multicast[RTSP_MULTICAST_MAX];
	size_t n_multicast;
};

/* How one server is reached. */
struct rtsp_route {
	struct addr_port server;
	bool rewrite;	       /* from our own address, outside ports into Transport */
	struct addr_port from; /* the client's address; relay: our own on the far side */
	bool relay;	       /* media through our own ports; `rewrite` is true then */
	struct addr relay_local[RELAY_SIDES];
	bool automatic; /* out=auto chose */
	bool tls;
	struct tls_ctx *tls_ctx; /* borrowed from the plan */
	char tls_name[256];	 /* that the server must prove; empty: its address */
	uint64_t connect_timeout_ms;
	size_t buffer; /* octets that one message may need */
};

/*
 * The world. None of these calls back into the engine before it returned.
 * `wire` and `timer` are whatever the implementation likes.
 */
struct rtsp_io {
	uint64_t (*now_ms)(void *arg);
	/* NULL on failure. One-shot; `set` re-arms. */
	void *(*timer_new)(void *arg, void (*fn)(void *), void *fn_arg);
	void (*timer_set)(void *timer, uint64_t ms);
	void (*timer_clear)(void *timer);
	void (*timer_free)(void *timer);

	/* NULL with *err; otherwise rtsp_upstream_ready() or _closed() follows. */
	void *(*connect)(void *arg, const struct rtsp_route *route, struct rtsp_upstream *u,
			 int *err);
	int (*write)(void *wire, struct span out);
	size_t (*queued)(const void *wire);
	void (*pause)(void *wire);
	void (*resume)(void *wire);
	/* Sends what is queued for at most linger_ms; the wire is gone for the engine. */
	void (*close)(void *wire, uint64_t linger_ms);

	/*
	 * Addresses of a host name; fn is called later, unless cancelled. NULL with *err.
	 */
	void *(*resolve)(void *arg, struct span host,
			 void (*fn)(int err, const struct addr *list, size_t n, void *arg),
			 void *fn_arg, int *err);
	void (*resolve_cancel)(void *question);

	/*
	 * May this client of that listener talk to that server, and how? `mount`
	 * is NULL when none leads there. 0 or ERR_* with *f.
	 */
	int (*route)(void *arg, const struct rtsp_terms *terms, const struct rtsp_mount *mount,
		     const struct addr *client, const struct addr_port *server,
		     struct rtsp_route *out, struct failure *f);
	/* May media flow? An external port of 0 asks for the internal end only. */
	bool (*permits)(void *arg, const struct addr_port *internal,
			const struct addr_port *external);

	/* agent/binding.h; the path is looked up from client to server. */
	struct binding *(*bind)(void *arg, struct flow *flow, const struct addr *client,
				const struct addr *server, binding_event_fn fn, void *fn_arg,
				struct failure *f);
	int (*enable)(struct binding *b, const struct flow_ends ends[FLOW_COMPONENTS]);
	void (*release)(struct binding *b);
	void (*release_notify)(struct binding *b, void (*done)(void *), void *done_arg);
	struct addr_port (*outside)(const struct binding *b, unsigned i);
	const char *(*binding_state)(const struct binding *b);
	uint64_t (*idle_ms)(const struct binding *b, unsigned i);

	/* agent/relay.h, for a route that relays; NULL with *f. */
	struct relay *(*relay_new)(void *arg, const struct rtsp_route *route, unsigned components,
				   struct failure *f);
	void (*relay_free)(struct relay *r);
	struct addr_port (*relay_local)(const struct relay *r, enum relay_side side, unsigned i);
	int (*relay_set_remote)(struct relay *r, enum relay_side side, unsigned i,
				const struct addr_port *remote);
	struct relay_stats (*relay_stats)(const struct relay *r, enum relay_side side, unsigned i);
};

/* `arg` goes to every rtsp_io call that takes one. NULL on failure. */
struct rtsp_engine *rtsp_engine_new(const struct rtsp_io *io, void *arg,
				    const struct policy_limits *limits);
void rtsp_engine_set_limits(struct rtsp_engine *e, const struct policy_limits *limits);
/* Drops everything without a word to anybody. */
void rtsp_engine_free(struct rtsp_engine *e);
/* TEARDOWN for every session, then done(arg) once, at the latest after 3 s. */
void rtsp_engine_shutdown(struct rtsp_engine *e, void (*done)(void *), void *arg);

/*
 * A client connected; `target` is where it wanted to go (transparent) or came
 * (reverse), version 0 otherwise. NULL when a limit is reached: the caller then closes the wire.
 */
struct rtsp_client *rtsp_client_new(struct rtsp_engine *e, const struct rtsp_terms *terms,
				    void *wire, const struct addr_port *peer,
				    const struct addr_port *target);
/*
 * What happens to a wire. After `closed` the engine calls io->close() on it.
 * `data` returns how many octets are done with.
 */
size_t rtsp_client_data(struct rtsp_client *c, struct span in);
void rtsp_client_drained(struct rtsp_client *c);
void rtsp_client_closed(struct rtsp_client *c, int err);
void rtsp_upstream_ready(struct rtsp_upstream *u);
size_t rtsp_upstream_data(struct rtsp_upstream *u, struct span in);
void rtsp_upstream_drained(struct rtsp_upstream *u);
void rtsp_upstream_closed(struct rtsp_upstream *u, int err);

size_t rtsp_engine_n_sessions(const struct rtsp_engine *e);
size_t rtsp_engine_n_clients(const struct rtsp_engine *e);
/* See rtsp.h. */
uint64_t rtsp_engine_list(struct rtsp_engine *e, uint64_t after, unsigned limit, struct jsonw *w);
bool rtsp_engine_show(struct rtsp_engine *e, const char *id, struct jsonw *w);
bool rtsp_engine_end(struct rtsp_engine *e, const char *id);

#endif
