/*
 * The RTSP engine on real sockets: listeners, streams, timers, bindings. The
 * wire of the engine is a struct stream.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/resolve.h"
#include "agent/rtsp/rtsp.h"
#include "agent/rtsp/rtsp_engine.h"
#include "agent/rtsp/rtsp_route.h"
#include "common/log.h"
#include "common/stream.h"
#include "common/tls.h"

#define WRITE_SPARE (512u << 10) /* more than the engine's high water mark */

struct rtsp_listener {
	struct rtsp *r;
	struct rtsp_listener *next;
	struct stream_listener *sl;
	struct addr_port at;
	bool tproxy, keep; /* keep: the new policy has it, too */
	struct rtsp_terms terms;
	struct tls_ctx *tls; /* RTSPS; NULL: plain TCP */
};

struct rtsp {
	struct agent *agent;
	struct rtsp_engine *engine;
	struct resolver *resolver;
	struct relays *relays; /* NULL: policy never asked for one */
	struct rtsp_listener *listeners;
	loop_fn done;
	void *done_arg;
};

/* Octets that the longest thing to pass in one piece may have. */
static size_t message_max(const struct rtsp_limits *l)
{
	size_t text = l->header + l->body;

	return (text > RTSP_DATA_MAX ? text : RTSP_DATA_MAX) + 4;
}

static void stream_sizes(struct stream_opts *o, size_t message)
{
	o->read_max = message;
	o->write_max = 2 * message + WRITE_SPARE;
}

/* --- streams --------------------------------------------------------------------------------- */

static size_t on_client_data(struct stream *s ATTR_UNUSED, struct span in, void *arg)
{
	return rtsp_client_data(arg, in);
}

static void on_client_drained(struct stream *s ATTR_UNUSED, void *arg)
{
	rtsp_client_drained(arg);
}

static void on_client_end(struct stream *s ATTR_UNUSED, int err, void *arg)
{
	rtsp_client_closed(arg, err);
}

static const struct stream_ops client_ops = {
	.data = on_client_data,
	.drained = on_client_drained,
	.end = on_client_end,
};

static void on_upstream_ready(struct stream *s ATTR_UNUSED, void *arg)
{
	rtsp_upstream_ready(arg);
}

static size_t on_upstream_data(struct stream *s ATTR_UNUSED, struct span in, void *arg)
{
	return rtsp_upstream_data(arg, in);
}

static void on_upstream_drained(struct stream *s ATTR_UNUSED, void *arg)
{
	rtsp_upstream_drained(arg);
}

static void on_upstream_end(struct stream *s ATTR_UNUSED, int err, void *arg)
{
	rtsp_upstream_closed(arg, err);
}

static const struct stream_ops upstream_ops = {
	.ready = on_upstream_ready,
	.data = on_upstream_data,
	.drained = on_upstream_drained,
	.end = on_upstream_end,
};

/* --- what the engine asks for ------------------------------------------------------------------
 */

static uint64_t io_now_ms(void *arg)
{
	struct rtsp *r = arg;

	return loop_now_ms(r->agent->loop);
}

static void *io_timer_new(void *arg, void (*fn)(void *), void *fn_arg)
{
	struct rtsp *r = arg;

	return loop_timer_new(r->agent->loop, fn, fn_arg);
}

static void io_timer_set(void *timer, uint64_t ms)
{
	loop_timer_set(timer, ms);
}

static void io_timer_clear(void *timer)
{
	loop_timer_clear(timer);
}

static void io_timer_free(void *timer)
{
	loop_timer_free(timer);
}

static void *io_connect(void *arg, const struct rtsp_route *route, struct rtsp_upstream *u,
			int *err)
{
	struct rtsp *r = arg;
	struct stream_opts o = {
		.connect_timeout_ms = route->connect_timeout_ms,
		.from = route->from,
		.transparent = !route->rewrite,
		.tls = route->tls ? route->tls_ctx : NULL,
		.tls_name = route->tls_name[0] != '\0' ? route->tls_name : NULL,
	};

	stream_sizes(&o, route->buffer);
	return stream_connect(r->agent->loop, &route->server, &o, &upstream_ops, u, err);
}

static int io_write(void *wire, struct span out)
{
	return stream_write(wire, out);
}

static size_t io_queued(const void *wire)
{
	return stream_queued(wire);
}

static void io_pause(void *wire)
{
	stream_pause(wire);
}

static void io_resume(void *wire)
{
	stream_resume(wire);
}

static void io_close(void *wire, uint64_t linger_ms)
{
	if (linger_ms > 0)
		stream_close(wire, linger_ms);
	else
		stream_free(wire);
}

static void *io_resolve(void *arg, struct span host, resolver_fn fn, void *fn_arg, int *err)
{
	struct rtsp *r = arg;
	struct resolver_query *q;
	char name[256];

	*err = ERR_INVALID;
	if (!span_copy(host, name, sizeof(name)))
		return NULL;
	q = resolver_lookup(r->resolver, name, 0, fn, fn_arg);
	if (q == NULL)
		*err = ERR_NOMEM;
	return q;
}

static void io_resolve_cancel(void *question)
{
	resolver_cancel(question);
}

static int io_route(void *arg, const struct rtsp_terms *terms, const struct rtsp_mount *mount,
		    const struct addr *client, const struct addr_port *server,
		    struct rtsp_route *out, struct failure *f)
{
	struct rtsp *r = arg;
	int err = rtsp_route_find(r->agent, terms, mount, client, server, out, f);

	if (err < 0)
		return err;
	out->connect_timeout_ms = terms->connect_timeout_ms;
	out->buffer = message_max(&terms->limits);
	return 0;
}

static bool io_permits(void *arg, const struct addr_port *internal,
		       const struct addr_port *external)
{
	struct rtsp *r = arg;

	return rtsp_route_permits(r->agent->policy, internal, external);
}

static struct binding *io_bind(void *arg, struct flow *flow, const struct addr *client,
			       const struct addr *server, binding_event_fn fn, void *fn_arg,
			       struct failure *f)
{
	struct rtsp *r = arg;

	flow->path = policy_path(r->agent->policy, client, server);
	if (flow->path == NULL) {
		failure_set(f, CAUSE_POLICY_REFUSED, "", 0, "no path leads to the server any more");
		return NULL;
	}
	return binding_new(r->agent->bindings, flow, fn, fn_arg, f);
}

static const char *io_binding_state(const struct binding *b)
{
	return binding_state_name(binding_state(b));
}

static struct relay *io_relay_new(void *arg, const struct rtsp_route *route, unsigned components,
				  struct failure *f)
{
	struct rtsp *r = arg;
	struct relay *relay = NULL;
	int err = ERR_UNSUPPORTED;

	if (r->relays != NULL)
		err = relay_new(r->relays, route->relay_local, components, &relay);
	if (err == 0)
		return relay;
	failure_set(f,
		    err == ERR_AGAIN   ? CAUSE_OUT_OF_PORTS
		    : err == ERR_LIMIT ? CAUSE_OVERLOADED
				       : CAUSE_CONFIGURATION_FAILED,
		    "", 0, "no ports to relay on: %s", err_str(err));
	return NULL;
}

static const struct rtsp_io real_io = {
	.now_ms = io_now_ms,
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
	.enable = binding_enable,
	.release = binding_release,
	.release_notify = binding_release_notify,
	.outside = binding_outside,
	.binding_state = io_binding_state,
	.idle_ms = binding_idle_ms,
	.relay_new = io_relay_new,
	.relay_free = relay_free,
	.relay_local = relay_local,
	.relay_set_remote = relay_set_remote,
	.relay_stats = relay_stats,
};

/* --- listeners ---------------------------------------------------------------------------------
 */

static void on_accept(int fd, const struct addr_port *peer, void *arg)
{
	static const struct stream_ops none = {NULL, NULL, NULL, NULL};
	struct rtsp_listener *l = arg;
	struct stream_opts o = {.tls = l->tls};
	struct addr_port target = {0}, from = *peer;
	struct rtsp_client *c;
	struct stream *s;
	char text[ADDR_PORT_STRLEN];

	stream_sizes(&o, message_max(&l->terms.limits));
	s = stream_adopt(l->r->agent->loop, fd, &o, &none, NULL);
	if (s == NULL)
		return;
	if (l->terms.mode == RTSP_TRANSPARENT && stream_original_dst(s, &l->at, &target) < 0)
		target.addr = addr_none;
	if (l->terms.mode == RTSP_REVERSE)
		target = stream_local(s);
	from.addr = addr_unmap(from.addr);
	target.addr = addr_unmap(target.addr);
	c = rtsp_client_new(l->r->engine, &l->terms, s, &from, &target);
	if (c == NULL) {
		log_info("rtsp: too many connections, %s refused", addr_port_str(&from, text));
		stream_free(s);
		return;
	}
	stream_set_ops(s, &client_ops, c);
}

static void terms_from(const struct rtsp_listener_conf *conf, struct rtsp_terms *t,
		       struct rtsp_plan *plan)
{
	const struct addr_prefix *from = conf->media_from.v, *groups = conf->multicast.v;
	size_t i;

	memset(t, 0, sizeof(*t));
	t->plan = plan;
	t->tls = conf->tls.present;
	t->mode = (enum rtsp_mode)conf->mode;
	t->out = (enum rtsp_out)conf->out;
	if (conf->zone != NULL)
		span_copy(span_str(conf->zone), t->zone, sizeof(t->zone));
	t->limits.line = conf->line_bytes;
	t->limits.header = conf->header_bytes;
	t->limits.body = conf->body_bytes;
	t->connect_timeout_ms = conf->connect_timeout_ms;
	t->idle_timeout_ms = conf->idle_timeout_s * 1000;
	t->interleaved_hint = conf->interleaved_hint;
	for (i = 0; i < conf->media_from.n && i < RTSP_MEDIA_FROM_MAX; i++)
		t->media_from[t->n_media_from++] = from[i];
	for (i = 0; i < conf->multicast.n && i < RTSP_MULTICAST_MAX; i++)
		t->multicast[t->n_multicast++] = groups[i];
	if (conf->media_from.n > RTSP_MEDIA_FROM_MAX)
		log_warn("rtsp: only the first %d entries of media_from are used",
			 RTSP_MEDIA_FROM_MAX);
}

static void listener_free(struct rtsp_listener *l)
{
	stream_listener_free(l->sl);
	rtsp_plan_unref(l->terms.plan);
	tls_ctx_unref(l->tls);
	free(l);
}

/* What the policy says now. Connections that live keep what they were given. */
static int listener_terms(struct rtsp_listener *l, const struct rtsp_listener_conf *conf)
{
	struct tls_files files = {
		.certificate = conf->tls.certificate,
		.key = conf->tls.key,
		.ca = conf->tls.ca,
	};
	struct rtsp_plan *plan = rtsp_plan_new(conf);
	struct tls_ctx *tls = NULL;
	char why[256], text[ADDR_PORT_STRLEN];
	int err = 0;

	if (plan == NULL)
		return ERR_INVALID;
	if (conf->tls.present) {
		tls = tls_ctx_server_new(&files, &err, why, sizeof(why));
		if (tls == NULL) {
			log_err("rtsp: TLS on %s: %s", addr_port_str(&l->at, text), why);
			rtsp_plan_unref(plan);
			return err;
		}
	}
	rtsp_plan_unref(l->terms.plan);
	tls_ctx_unref(l->tls);
	l->tls = tls;
	terms_from(conf, &l->terms, plan);
	return 0;
}

static int listener_open(struct rtsp *r, const struct rtsp_listener_conf *conf)
{
	struct rtsp_listener *l = calloc(1, sizeof(*l));
	char text[ADDR_PORT_STRLEN];
	int err = ERR_NOMEM;

	if (l == NULL)
		return ERR_NOMEM;
	l->r = r;
	l->at = conf->listen;
	l->tproxy = conf->tproxy;
	l->keep = true;
	err = listener_terms(l, conf);
	if (err < 0) {
		listener_free(l);
		return err;
	}
	l->sl = stream_listen(r->agent->loop, &l->at, l->tproxy, on_accept, l, &err);
	if (l->sl == NULL) {
		log_err("rtsp: cannot listen on %s: %s", addr_port_str(&l->at, text), err_str(err));
		listener_free(l);
		return err;
	}
	l->at = stream_listener_local(l->sl);
	l->next = r->listeners;
	r->listeners = l;
	log_info("rtsp: listening on %s", addr_port_str(&l->at, text));
	return 0;
}

/* Relays that live keep their ports; without "relay" in the policy no new one is asked for. */
static int apply_relay(struct rtsp *r)
{
	const struct policy_relay *conf = &r->agent->policy->relay;
	struct relay_cfg cfg = {.ports = conf->ports, .max_relays = (unsigned)conf->max};

	if (!conf->present)
		return 0;
	if (r->relays != NULL)
		return relays_set_cfg(r->relays, &cfg);
	r->relays = relays_new(r->agent->loop, &cfg);
	return r->relays != NULL ? 0 : ERR_NOMEM;
}

static struct rtsp_listener *listener_find(struct rtsp *r, const struct rtsp_listener_conf *conf)
{
	struct rtsp_listener *l;

	for (l = r->listeners; l != NULL; l = l->next)
		if (l->tproxy == conf->tproxy && addr_port_eq(&l->at, &conf->listen))
			return l;
	return NULL;
}

static void close_unkept(struct rtsp *r)
{
	struct rtsp_listener **at = &r->listeners, *l;

	while ((l = *at) != NULL) {
		if (l->keep) {
			at = &l->next;
			continue;
		}
		*at = l->next;
		listener_free(l);
	}
}

/* After an error the old listeners are still there; applying the old policy again drops the rest.
 */
static int apply(struct rtsp *r)
{
	const struct policy *p = r->agent->policy;
	const struct rtsp_listener_conf *conf = p->rtsp.v;
	struct rtsp_listener *l;
	int err = 0, one;
	size_t i;

	for (l = r->listeners; l != NULL; l = l->next)
		l->keep = false;
	for (i = 0; i < p->rtsp.n; i++) {
		l = listener_find(r, &conf[i]);
		if (l != NULL) {
			l->keep = true;
			one = listener_terms(l, &conf[i]);
		} else {
			one = listener_open(r, &conf[i]);
		}
		if (one < 0)
			err = one;
	}
	if (err == 0)
		err = apply_relay(r);
	if (err < 0)
		return err;
	close_unkept(r);
	rtsp_engine_set_limits(r->engine, &p->limits);
	return 0;
}

struct rtsp *rtsp_new(struct agent *a)
{
	struct rtsp *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->agent = a;
	r->engine = rtsp_engine_new(&real_io, r, &a->policy->limits);
	r->resolver = resolver_new(a->loop, a->policy->resolver.v, a->policy->resolver.n);
	if (r->engine == NULL || r->resolver == NULL || apply(r) < 0) {
		rtsp_free(r);
		return NULL;
	}
	return r;
}

int rtsp_reload(struct rtsp *r)
{
	return apply(r);
}

static void shut_down(void *arg)
{
	struct rtsp *r = arg;

	if (r->done != NULL)
		loop_defer(r->agent->loop, r->done, r->done_arg);
	r->done = NULL;
}

void rtsp_shutdown(struct rtsp *r, loop_fn done, void *arg)
{
	struct rtsp_listener *l;

	for (l = r->listeners; l != NULL; l = l->next)
		l->keep = false;
	close_unkept(r);
	r->done = done;
	r->done_arg = arg;
	rtsp_engine_shutdown(r->engine, shut_down, r);
}

void rtsp_free(struct rtsp *r)
{
	struct rtsp_listener *l;

	if (r == NULL)
		return;
	for (l = r->listeners; l != NULL; l = l->next)
		l->keep = false;
	close_unkept(r);
	rtsp_engine_free(r->engine);
	resolver_free(r->resolver);
	relays_free(r->relays);
	free(r);
}

size_t rtsp_n_sessions(const struct rtsp *r)
{
	return rtsp_engine_n_sessions(r->engine);
}

size_t rtsp_n_connections(const struct rtsp *r)
{
	return rtsp_engine_n_clients(r->engine);
}

uint64_t rtsp_rest_list(struct rtsp *r, uint64_t after, unsigned limit, struct jsonw *w)
{
	return rtsp_engine_list(r->engine, after, limit, w);
}

bool rtsp_rest_show(struct rtsp *r, const char *id, struct jsonw *w)
{
	return rtsp_engine_show(r->engine, id, w);
}

bool rtsp_rest_end(struct rtsp *r, const char *id)
{
	return rtsp_engine_end(r->engine, id);
}
