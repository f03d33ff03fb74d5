/*
 * A world for the RTSP engine without sockets and clocks: wires that record,
 * bindings that wait to be told, time that passes on demand. What the engine
 * does becomes a list of events.
 */
#ifndef SLUICE_TESTS_RTSP_WORLD_H
#define SLUICE_TESTS_RTSP_WORLD_H

#include "agent/rtsp/rtsp_engine.h"
#include "common/buf.h"

#define WORLD_WIRES 64
#define WORLD_BINDINGS 64

struct event {
	struct event *next;
	char head[300];
	struct buf data;
};

struct world_timer {
	struct world *w;
	struct world_timer *next;
	void (*fn)(void *);
	void *arg;
	uint64_t at; /* 0: not armed */
};

struct world_question {
	struct world *w;
	struct world_question *next;
	unsigned id;
	void (*fn)(int err, const struct addr *list, size_t n, void *arg);
	void *arg;
};

struct world_wire {
	struct world *w;
	unsigned id; /* from 1, per kind */
	bool server, open, paused;
	void *end;     /* struct rtsp_client or rtsp_upstream */
	struct buf in; /* sent by the peer, not yet used */
	size_t queued;
};

struct binding { /* opaque to the engine; here it is ours */
	struct world *w;
	unsigned id;
	bool live, group;
	enum binding_state state;
	binding_event_fn fn;
	void *arg;
	void (*done)(void *);
	void *done_arg;
	struct addr_port outside[FLOW_COMPONENTS];
	uint64_t idle[FLOW_COMPONENTS];
};

struct relay { /* as above */
	struct world *w;
	unsigned id, components;
	bool live;
	struct addr local[RELAY_SIDES];
	uint64_t client_ms;
};

struct world {
	struct rtsp_engine *engine;
	uint64_t now;
	struct world_timer *timers;
	struct world_wire wires[WORLD_WIRES];
	unsigned n_wires, n_clients, n_servers;
	struct binding bindings[WORLD_BINDINGS];
	unsigned n_bindings;
	struct relay relays[WORLD_BINDINGS];
	unsigned n_relays;
	struct event *events, **events_end;
	struct world_question *questions; /* names being asked for */
	unsigned n_questions;
	bool quiet; /* keeps no events (fuzzing) */
	/* settings */
	struct rtsp_terms terms;
	struct rtsp_plan plan;
	struct policy_limits limits;
	bool rewrite, connect_refused, relay, relay_refused;
	struct addr relay_at;	  /* of both sides, as far as the IP version fits */
	struct addr_port outside; /* of the first binding; later ones follow */
	enum cause bind_refused;
	uint16_t lowest_port;
};

void world_init(struct world *w);
/* Frees the engine, too. False when it left anything behind. */
bool world_fini(struct world *w);
/* Creates the engine with the settings that stand now. */
bool world_start(struct world *w);
void world_connect(struct world *w, const struct addr_port *peer, const struct addr_port *target);
/* NULL when that connection is not open. */
struct world_wire *world_wire(struct world *w, bool server, unsigned id);
/* Octets from the peer of a wire. */
void world_feed(struct world_wire *wire, struct span in);
/* Offers again what is left. */
void world_offer(struct world_wire *wire);
void world_close(struct world_wire *wire, int err);
void world_ready(struct world_wire *wire);
void world_binding(struct world *w, unsigned id, enum binding_event ev, enum cause cause);
void world_released(struct world *w, unsigned id);
/* Answers a question; without an address the name does not exist. */
void world_resolve(struct world *w, unsigned id, const struct addr *a, size_t n);
void world_pass(struct world *w, uint64_t ms);
/* Takes the first event, NULL when there is none. */
struct event *world_event(struct world *w);
void event_free(struct event *ev);
/* For rtsp_engine_shutdown(). */
void world_done(void *w);

#endif
