/*
 * The recording world.
 */
#include "tests/conformance/rtsp/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct event *note(struct world *w, const char *fmt, ...) ATTR_PRINTF(2, 3);

static struct event *note(struct world *w, const char *fmt, ...)
{
	struct event *ev;
	va_list ap;

	if (w->quiet)
		return NULL;
	ev = calloc(1, sizeof(*ev));
	if (ev == NULL)
		abort();
	va_start(ap, fmt);
	vsnprintf(ev->head, sizeof(ev->head), fmt, ap);
	va_end(ap);
	buf_init(&ev->data, SIZE_MAX);
	*w->events_end = ev;
	w->events_end = &ev->next;
	return ev;
}

static const char *kind(const struct world_wire *wire)
{
	return wire->server ? "server" : "client";
}

static uint64_t io_now(void *arg)
{
	return ((struct world *)arg)->now;
}

static void *io_timer_new(void *arg, void (*fn)(void *), void *fn_arg)
{
	struct world *w = arg;
	struct world_timer *t = calloc(1, sizeof(*t));

	if (t == NULL)
		abort();
	t->w = w;
	t->fn = fn;
	t->arg = fn_arg;
	t->next = w->timers;
	w->timers = t;
	return t;
}

static void io_timer_set(void *timer, uint64_t ms)
{
	struct world_timer *t = timer;

	t->at = t->w->now + ms;
}

static void io_timer_clear(void *timer)
{
	((struct world_timer *)timer)->at = 0;
}

static void io_timer_free(void *timer)
{
	struct world_timer *t = timer, **at;

	if (t == NULL)
		return;
	for (at = &t->w->timers; *at != t; at = &(*at)->next)
		;
	*at = t->next;
	free(t);
}

static struct world_wire *wire_new(struct world *w, bool server)
{
	struct world_wire *wire;

	if (w->n_wires == WORLD_WIRES)
		return NULL;
	wire = &w->wires[w->n_wires++];
	memset(wire, 0, sizeof(*wire));
	wire->w = w;
	wire->server = server;
	wire->open = true;
	wire->id = server ? ++w->n_servers : ++w->n_clients;
	buf_init(&wire->in, SIZE_MAX);
	return wire;
}

static void *io_connect(void *arg, const struct rtsp_route *route, struct rtsp_upstream *u,
			int *err)
{
	struct world *w = arg;
	struct world_wire *wire;
	char to[ADDR_PORT_STRLEN], from[ADDR_STRLEN];

	*err = ERR_PERM;
	wire = w->connect_refused ? NULL : wire_new(w, true);
	if (wire == NULL)
		return NULL;
	wire->end = u;
	note(w, "connect %u %s %s%s%s", wire->id, addr_port_str(&route->server, to),
	     route->rewrite ? "rewrite" : addr_str(&route->from.addr, from),
	     route->tls ? " tls " : "", route->tls ? route->tls_name : "");
	return wire;
}

static int io_write(void *arg, struct span out)
{
	struct world_wire *wire = arg;
	struct event *ev;

	if (!wire->open)
		abort();
	ev = note(wire->w, "%s %u gets", kind(wire), wire->id);
	if (ev != NULL)
		buf_append_span(&ev->data, out);
	return 0;
}

static size_t io_queued(const void *wire)
{
	return ((const struct world_wire *)wire)->queued;
}

static void io_pause(void *arg)
{
	struct world_wire *wire = arg;

	wire->paused = true;
	note(wire->w, "%s %u paused", kind(wire), wire->id);
}

static void io_resume(void *arg)
{
	struct world_wire *wire = arg;

	wire->paused = false;
	note(wire->w, "%s %u resumed", kind(wire), wire->id);
}

static void io_close(void *arg, uint64_t linger_ms ATTR_UNUSED)
{
	struct world_wire *wire = arg;

	if (!wire->open)
		abort();
	wire->open = false;
	wire->end = NULL;
	note(wire->w, "%s %u closed", kind(wire), wire->id);
}

static void *io_resolve(void *arg, struct span host,
			void (*fn)(int err, const struct addr *list, size_t n, void *arg),
			void *fn_arg, int *err)
{
	struct world *w = arg;
	struct world_question *q = calloc(1, sizeof(*q));

	*err = ERR_NOMEM;
	if (q == NULL)
		return NULL;
	q->w = w;
	q->id = ++w->n_questions;
	q->fn = fn;
	q->arg = fn_arg;
	q->next = w->questions;
	w->questions = q;
	note(w, "resolve %u %.*s", q->id, (int)host.n, (const char *)host.p);
	return q;
}

static void io_resolve_cancel(void *question)
{
	struct world_question *q = question, **at = &q->w->questions;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	note(q->w, "cancel %u", q->id);
	free(q);
}

static struct addr relay_at(const struct world *w, uint8_t version)
{
	struct addr a = w->relay_at;

	if (a.version != version)
		addr_parse(version == 6 ? SPAN_LIT("fd01::9") : SPAN_LIT("10.1.0.9"), &a);
	return a;
}

static int io_route(void *arg, const struct rtsp_terms *terms, const struct rtsp_mount *mount,
		    const struct addr *client, const struct addr_port *server,
		    struct rtsp_route *out, struct failure *f)
{
	struct world *w = arg;

	if (addr_is_loopback(&server->addr)) {
		failure_set(f, CAUSE_POLICY_REFUSED, "", 0, "the proxy's own host");
		return ERR_INVALID;
	}
	memset(out, 0, sizeof(*out));
	out->server = *server;
	out->automatic = terms->out == RTSP_OUT_AUTO;
	out->rewrite = w->rewrite;
	if (mount != NULL && mount->has_out)
		out->rewrite = mount->out == RTSP_OUT_REWRITE;
	if (!out->rewrite)
		out->from.addr = *client;
	if (w->relay) {
		out->relay = true;
		out->relay_local[RELAY_CLIENT] = relay_at(w, client->version);
		out->relay_local[RELAY_FAR] = relay_at(w, server->addr.version);
		out->from.addr = out->relay_local[RELAY_FAR];
	}
	return 0;
}

static bool io_permits(void *arg, const struct addr_port *internal,
		       const struct addr_port *external ATTR_UNUSED)
{
	return internal->port >= ((struct world *)arg)->lowest_port;
}

static struct binding *io_bind(void *arg, struct flow *flow, const struct addr *client ATTR_UNUSED,
			       const struct addr *server ATTR_UNUSED, binding_event_fn fn,
			       void *fn_arg, struct failure *f)
{
	struct world *w = arg;
	struct binding *b;
	unsigned i;

	if (w->bind_refused != CAUSE_NONE || w->n_bindings == WORLD_BINDINGS) {
		failure_set(f, w->bind_refused, "edge", 0, "refused at once");
		return NULL;
	}
	b = &w->bindings[w->n_bindings++];
	memset(b, 0, sizeof(*b));
	b->w = w;
	b->id = w->n_bindings;
	b->live = true;
	b->group = flow->group;
	b->state = b->group ? BINDING_HALF_BOUND : BINDING_RESERVING;
	b->fn = fn;
	b->arg = fn_arg;
	for (i = 0; i < FLOW_COMPONENTS; i++)
		b->idle[i] = UINT64_MAX;
	for (i = 0; i < flow->components && w->outside.addr.version != 0 && !b->group; i++) {
		b->outside[i].addr = w->outside.addr;
		b->outside[i].port = (uint16_t)(w->outside.port + 2 * (b->id - 1) + i);
	}
	note(w, "bind %u %s components=%u%s", b->id, flow->id, flow->components,
	     flow->group ? " group"
	     : flow->odd ? " odd"
			 : "");
	return b;
}

static int io_enable(struct binding *b, const struct flow_ends ends[FLOW_COMPONENTS])
{
	char text[4][ADDR_PORT_STRLEN];

	if (!b->live || b->state != BINDING_HALF_BOUND)
		abort();
	b->state = BINDING_ENABLING;
	addr_port_str(&ends[0].internal, text[0]);
	addr_port_str(&ends[0].external, text[1]);
	if (ends[1].external.addr.version != 0)
		note(b->w, "enable %u %s-%s %s-%s", b->id, text[0], text[1],
		     addr_port_str(&ends[1].internal, text[2]),
		     addr_port_str(&ends[1].external, text[3]));
	else
		note(b->w, "enable %u %s-%s", b->id, text[0], text[1]);
	return 0;
}

static void io_release(struct binding *b)
{
	if (!b->live)
		abort();
	b->live = false;
	note(b->w, "release %u", b->id);
}

static void io_release_notify(struct binding *b, void (*done)(void *), void *arg)
{
	io_release(b);
	b->done = done;
	b->done_arg = arg;
}

static struct addr_port io_outside(const struct binding *b, unsigned i)
{
	return b->outside[i];
}

static const char *io_binding_state(const struct binding *b)
{
	return b->state == BINDING_BOUND ? "bound" : "unbound";
}

static uint64_t io_idle_ms(const struct binding *b, unsigned i)
{
	return b->idle[i];
}

static struct relay *io_relay_new(void *arg, const struct rtsp_route *route, unsigned components,
				  struct failure *f)
{
	struct world *w = arg;
	struct relay *r;

	if (w->relay_refused || w->n_relays == WORLD_BINDINGS) {
		failure_set(f, CAUSE_OUT_OF_PORTS, "", 0, "no ports to relay on");
		return NULL;
	}
	r = &w->relays[w->n_relays++];
	memset(r, 0, sizeof(*r));
	r->w = w;
	r->id = w->n_relays;
	r->components = components;
	r->live = true;
	memcpy(r->local, route->relay_local, sizeof(r->local));
	note(w, "relay %u components=%u", r->id, components);
	return r;
}

static void io_relay_free(struct relay *r)
{
	if (!r->live)
		abort();
	r->live = false;
	note(r->w, "relay %u ends", r->id);
}

/* 50000 and 50001 towards the first client, 51000 and 51001 towards its server. */
static struct addr_port io_relay_local(const struct relay *r, enum relay_side side, unsigned i)
{
	struct addr_port a = {.addr = r->local[side]};

	if (i >= r->components)
		return (struct addr_port){0};
	a.port = (uint16_t)((side == RELAY_FAR ? 51000 : 50000) + 2 * (r->id - 1) + i);
	return a;
}

static int io_relay_set_remote(struct relay *r, enum relay_side side, unsigned i,
			       const struct addr_port *remote)
{
	char text[ADDR_PORT_STRLEN];

	if (!r->live || i >= r->components)
		abort();
	if (remote->addr.version != r->local[side].version)
		return ERR_INVALID;
	note(r->w, "relay %u %s %u %s", r->id, side == RELAY_FAR ? "far" : "client", i,
	     addr_port_str(remote, text));
	return 0;
}

static struct relay_stats io_relay_stats(const struct relay *r, enum relay_side side,
					 unsigned i ATTR_UNUSED)
{
	struct relay_stats s = {.packets = r->id};

	if (side == RELAY_CLIENT)
		s.last_ms = r->client_ms;
	return s;
}

static const struct rtsp_io world_io = {
	.now_ms = io_now,
	.timer_new = io_timer_new,
	.timer_set = io_timer_set,
	.timer_clear = io_timer_clear,
	.timer_free = io_timer_free,
	.connect = io_connect,
	.write = io_write,
	.queued = io_queued,
	.pause = io_pause,
	.resume = io_resume,
	.close = io_close,
	.resolve = io_resolve,
	.resolve_cancel = io_resolve_cancel,
	.route = io_route,
	.permits = io_permits,
	.bind = io_bind,
	.enable = io_enable,
	.release = io_release,
	.release_notify = io_release_notify,
	.outside = io_outside,
	.binding_state = io_binding_state,
	.idle_ms = io_idle_ms,
	.relay_new = io_relay_new,
	.relay_free = io_relay_free,
	.relay_local = io_relay_local,
	.relay_set_remote = io_relay_set_remote,
	.relay_stats = io_relay_stats,
};

void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->events_end = &w->events;
	w->now = 1000000;
	w->terms.mode = RTSP_TRANSPARENT;
	w->terms.out = RTSP_OUT_REWRITE; /* or transparent, as `rewrite` says: not looked at */
	w->terms.limits.line = 1024;
	w->terms.limits.header = 4096;
	w->terms.limits.body = 4096;
	w->terms.idle_timeout_ms = 300000;
	w->limits.sessions = w->limits.connections = 100;
	w->limits.sessions_per_client = w->limits.connections_per_client = 100;
	w->lowest_port = 1024;
	w->plan.refs = 1;
	w->terms.plan = &w->plan;
}

bool world_start(struct world *w)
{
	w->engine = rtsp_engine_new(&world_io, w, &w->limits);
	return w->engine != NULL;
}

bool world_fini(struct world *w)
{
	bool clean = true;
	struct event *ev;
	unsigned i;

	rtsp_engine_free(w->engine);
	for (i = 0; i < w->n_bindings; i++) {
		clean = clean && !w->bindings[i].live;
		world_released(w, i + 1);
	}
	for (i = 0; i < w->n_relays; i++)
		clean = clean && !w->relays[i].live;
	for (i = 0; i < w->n_wires; i++) {
		clean = clean && !w->wires[i].open;
		buf_fini(&w->wires[i].in);
	}
	clean = clean && w->timers == NULL && w->questions == NULL && w->plan.refs == 1;
	rtsp_mounts_fini(&w->plan.mounts);
	while ((ev = world_event(w)) != NULL)
		event_free(ev);
	return clean;
}

void world_done(void *w)
{
	note(w, "done");
}

void world_connect(struct world *w, const struct addr_port *peer, const struct addr_port *target)
{
	struct world_wire *wire = wire_new(w, false);

	if (wire == NULL)
		return;
	wire->end = rtsp_client_new(w->engine, &w->terms, wire, peer, target);
	if (wire->end == NULL) {
		wire->open = false;
		note(w, "client %u turned away", wire->id);
	}
}

struct world_wire *world_wire(struct world *w, bool server, unsigned id)
{
	unsigned i;

	for (i = 0; i < w->n_wires; i++)
		if (w->wires[i].server == server && w->wires[i].id == id && w->wires[i].open)
			return &w->wires[i];
	return NULL;
}

void world_offer(struct world_wire *wire)
{
	struct span in = buf_span(&wire->in);
	size_t used;
	uint8_t *copy;

	if (!wire->open || wire->paused || in.n == 0)
		return;
	/* Exactly as big as the input, so that a sanitizer sees over-reads. */
	copy = malloc(in.n);
	if (copy == NULL)
		abort();
	memcpy(copy, in.p, in.n);
	used = wire->server ? rtsp_upstream_data(wire->end, span_of(copy, in.n))
			    : rtsp_client_data(wire->end, span_of(copy, in.n));
	free(copy);
	if (used > in.n)
		abort();
	buf_consume(&wire->in, used);
}

void world_feed(struct world_wire *wire, struct span in)
{
	buf_append_span(&wire->in, in);
	world_offer(wire);
}

void world_close(struct world_wire *wire, int err)
{
	if (wire->server)
		rtsp_upstream_closed(wire->end, err);
	else
		rtsp_client_closed(wire->end, err);
}

void world_ready(struct world_wire *wire)
{
	rtsp_upstream_ready(wire->end);
}

void world_binding(struct world *w, unsigned id, enum binding_event ev, enum cause cause)
{
	static const enum binding_state after[] = {BINDING_HALF_BOUND, BINDING_BOUND,
						   BINDING_FAILED, BINDING_LOST};
	struct failure f;
	struct binding *b;

	if (id == 0 || id > w->n_bindings || !w->bindings[id - 1].live)
		return;
	b = &w->bindings[id - 1];
	/* As binding.h promises: one after the other, and nothing after the end. */
	if ((ev == BINDING_EV_HALF_BOUND &&
	     b->state != (b->group ? BINDING_HALF_BOUND : BINDING_RESERVING)) ||
	    (ev == BINDING_EV_BOUND && b->state != BINDING_ENABLING) ||
	    b->state == BINDING_FAILED || b->state == BINDING_LOST)
		return;
	b->state = after[ev];
	failure_set(&f, cause, "edge", 0, "told by the script");
	b->fn(b, ev, &f, b->arg);
}

void world_released(struct world *w, unsigned id)
{
	struct binding *b;
	void (*done)(void *);

	if (id == 0 || id > w->n_bindings)
		return;
	b = &w->bindings[id - 1];
	done = b->done;
	b->done = NULL;
	if (done != NULL)
		done(b->done_arg);
}

void world_resolve(struct world *w, unsigned id, const struct addr *a, size_t n)
{
	struct world_question **at = &w->questions, *q;

	while (*at != NULL && (*at)->id != id)
		at = &(*at)->next;
	q = *at;
	if (q == NULL)
		return;
	*at = q->next;
	q->fn(n > 0 ? 0 : ERR_NOENT, a, n, q->arg);
	free(q);
}

static struct world_timer *next_due(struct world *w, uint64_t until)
{
	struct world_timer *t, *best = NULL;

	for (t = w->timers; t != NULL; t = t->next)
		if (t->at != 0 && t->at <= until && (best == NULL || t->at < best->at))
			best = t;
	return best;
}

void world_pass(struct world *w, uint64_t ms)
{
	uint64_t until = w->now + ms;
	struct world_timer *t;
	unsigned n = 0;

	while ((t = next_due(w, until)) != NULL) {
		if (t->at > w->now)
			w->now = t->at;
		t->at = 0;
		if (++n > 100000)
			abort(); /* a timer that never rests */
		t->fn(t->arg);
	}
	w->now = until;
}

struct event *world_event(struct world *w)
{
	struct event *ev = w->events;

	if (ev == NULL)
		return NULL;
	w->events = ev->next;
	if (w->events == NULL)
		w->events_end = &w->events;
	return ev;
}

void event_free(struct event *ev)
{
	if (ev != NULL)
		buf_fini(&ev->data);
	free(ev);
}
