/*
 * SETUP: reserve, pass on with our ports, complete with the ports of the reply,
 * and only then answer the client. The order of what happens is the table in
 * rtsp_fsm.c; this file does what the table says.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "agent/rtsp/rtsp_uri.h"
#include "common/log.h"

/* What the alternatives of a SETUP ask for. */
struct wish {
	uint32_t udp, tcp, group; /* bits */
	bool pair;
	struct rtsp_ports ports; /* of the first UDP alternative */
};

static void promise(struct rtsp_txn *t)
{
	struct rtsp_engine *e = t->c->e;

	t->serial = ++e->serial;
	e->n_promised++;
	t->c->host->sessions++;
}

static void unpromise(struct rtsp_txn *t)
{
	if (t->serial == 0)
		return;
	t->serial = 0;
	t->c->e->n_promised--;
	t->c->host->sessions--;
}

/* `destination` is never passed on; one that names somebody else is an attack. */
static int check_destination(struct rtsp_txn *t, const struct rtsp_spec *s)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "destination");
	struct addr a;

	if (p == NULL || p->value.n == 0)
		return 0;
	if (addr_parse(p->value, &a) == 0) {
		a = addr_unmap(a);
		if (addr_eq(&a, &t->c->peer.addr) ||
		    (s->delivery == RTSP_MULTICAST && addr_is_multicast(&a)))
			return 0;
	}
	rtsp_reply_status(t, 403, CAUSE_POLICY_REFUSED, "destination names a third party");
	return ERR_INVALID;
}

static int check_ports(struct rtsp_txn *t, const struct rtsp_spec *s, struct wish *w)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "client_port");
	struct addr_port in = {.addr = t->c->peer.addr}, out = t->u->route.server;
	struct rtsp_ports ports;
	unsigned i;

	if (p == NULL || rtsp_ports_parse(p->value, &ports) < 0 || ports.last < ports.first ||
	    ports.last - ports.first > 1) {
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "bad client_port");
		return ERR_MALFORMED;
	}
	out.port = 0;
	for (i = ports.first; i <= ports.last; i++) {
		in.port = (uint16_t)i;
		if (!t->c->e->io->permits(t->c->e->arg, &in, &out)) {
			rtsp_reply_status(t, 403, CAUSE_POLICY_REFUSED,
					  "policy does not permit client port %u", i);
			return ERR_INVALID;
		}
	}
	if (w->udp == 0)
		w->ports = ports;
	if (ports.last != ports.first)
		w->pair = true;
	return 0;
}

/*
 * A relay serves one client, nobody joins a group of the other IP version, and
 * nobody publishes to one from inside.
 */
static bool group_passes(const struct rtsp_txn *t, const struct rtsp_spec *s)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "destination");
	struct addr wish;

	if (p != NULL && addr_parse(p->value, &wish) == 0 && addr_is_multicast(&wish) &&
	    !rtsp_media_group(t->c, &wish))
		return false;
	return !s->record && t->c->terms.n_multicast > 0 && !t->u->route.relay &&
	       t->c->peer.addr.version == t->u->route.server.addr.version;
}

/* 0, or ERR_* when the client has its answer. */
static int read_wish(struct rtsp_txn *t, const struct rtsp_msg *m, struct wish *w)
{
	struct rtsp_transport tr;
	size_t i;

	memset(w, 0, sizeof(*w));
	if (rtsp_transport_parse(m, &tr) < 0) {
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "no usable Transport header");
		return ERR_MALFORMED;
	}
	for (i = 0; i < tr.n; i++) {
		const struct rtsp_spec *s = &tr.specs[i];

		if (check_destination(t, s) < 0)
			return ERR_INVALID;
		if (s->delivery == RTSP_UDP) {
			if (check_ports(t, s, w) < 0)
				return ERR_INVALID;
			w->udp |= 1u << i;
		} else if (s->delivery == RTSP_INTERLEAVED) {
			w->tcp |= 1u << i;
		} else if (s->delivery == RTSP_MULTICAST && group_passes(t, s)) {
			w->group |= 1u << i;
		}
	}
	if ((w->udp | w->tcp | w->group) != 0)
		return 0;
	rtsp_reply_status(t, 461, CAUSE_UNSUPPORTED, "none of these transports can be passed");
	return ERR_UNSUPPORTED;
}

static struct rtsp_session *known_session(const struct rtsp_txn *t)
{
	if (t->session_id == NULL)
		return NULL;
	return rtsp_session_find(t->c->e, &t->u->route.server, &t->c->peer.addr,
				 span_str(t->session_id));
}

/* A SETUP without a session that we know may become one, and counts as such from now on. */
static int check_quota(struct rtsp_txn *t)
{
	struct rtsp_engine *e = t->c->e;

	if (known_session(t) != NULL)
		return 0;
	if (e->n_sessions + e->n_promised >= e->limits.sessions) {
		rtsp_reply_status(t, 453, CAUSE_QUOTA, "too many sessions");
		return ERR_LIMIT;
	}
	if (t->c->host->sessions >= e->limits.sessions_per_client) {
		rtsp_reply_status(t, 453, CAUSE_QUOTA, "too many sessions of this client");
		return ERR_LIMIT;
	}
	promise(t);
	return 0;
}

/*
 * The client sets a stream up again with the ports that it has. Behind a NAT
 * they are bound to outside ports already, and a second reservation would be
 * in conflict with that (RFC 4540 §8: one binding per internal end), so the old
 * one goes first. True when that has to be waited for.
 */
static bool clear_old(struct rtsp_txn *t, const struct rtsp_msg *m, const struct wish *w)
{
	struct rtsp_session *s = known_session(t);
	struct rtsp_stream *st;

	if (s == NULL || w->udp == 0 || !t->u->route.rewrite || t->u->route.relay)
		return false;
	for (st = s->streams; st != NULL; st = st->next)
		if (st->binding != NULL && rtsp_uri_same(span_str(st->uri), m->uri) &&
		    st->ends[0].internal.port == w->ports.first)
			break;
	if (st == NULL)
		return false;
	rtsp_session_clear(st, t);
	if (t->hold == NULL)
		return false;
	t->state = TXN_CLEARING;
	rtsp_txn_timer(t, RTSP_HOLD_MS + RTSP_HOLD_MS / 2);
	return true;
}

static struct binding *bind_flow(struct rtsp_txn *t, struct flow *flow, struct failure *f)
{
	struct rtsp_engine *e = t->c->e;

	if (t->serial != 0)
		snprintf(flow->id, sizeof(flow->id), "r%" PRIu64, t->serial);
	else
		snprintf(flow->id, sizeof(flow->id), "%s", known_session(t)->name);
	return e->io->bind(e->arg, flow, &t->c->peer.addr, &t->u->route.server.addr,
			   rtsp_stream_bind_event, t->stream, f);
}

/* For a group nothing is reserved; which one it is, and one port or two, the server says. */
static struct binding *reserve_group(struct rtsp_txn *t, struct failure *f)
{
	struct flow flow = {
		.module = "rtsp",
		.client = t->c->peer.addr,
		.protocol = 17, /* UDP */
		.ip_version = t->u->route.server.addr.version,
		.components = FLOW_COMPONENTS,
		.direction = FLOW_INBOUND,
		.vetted = true, /* by rtsp_media_group() */
		.group = true,
	};

	t->stream->group = true;
	return bind_flow(t, &flow, f);
}

static struct binding *reserve(struct rtsp_txn *t, const struct wish *w, struct failure *f)
{
	const struct addr *client = &t->c->peer.addr;
	struct flow flow = {
		.module = "rtsp",
		.client = *client,
		.protocol = 17, /* UDP */
		.ip_version = t->u->route.server.addr.version,
		.components = w->pair ? 2 : 1,
		.odd = !w->pair && (w->ports.first & 1) != 0,
		.direction = FLOW_BOTH,
	};

	if (t->u->route.relay) { /* our own ports are what the path sees */
		if (rtsp_relay_start(t, flow.components, f) < 0)
			return NULL;
		flow.odd = false;
		flow.vetted = true;
	} else if (client->version != t->u->route.server.addr.version) {
		failure_set(f, CAUSE_UNSUPPORTED, "", 0, "client and server differ in IP version");
		return NULL;
	}
	return bind_flow(t, &flow, f);
}

/* Without pinholes there is still interleaving, if the client offered it. */
static void reservation_failed(struct rtsp_txn *t, const struct failure *f)
{
	rtsp_relay_end(t->stream);
	if ((t->keep & ~(t->udp | t->group)) != 0) {
		t->keep &= ~(t->udp | t->group);
		rtsp_stream_event(t->stream, STREAM_EV_TCP);
		rtsp_txn_timer(t, 0);
		t->state = TXN_READY;
		return;
	}
	rtsp_stream_event(t->stream, STREAM_EV_BIND_FAILED);
	rtsp_reply_failure(t, 0, f);
}

void rtsp_setup_start(struct rtsp_txn *t)
{
	struct failure f = {0};
	struct rtsp_msg m;
	struct wish w;

	rtsp_txn_request(t, &m);
	if (read_wish(t, &m, &w) < 0 || clear_old(t, &m, &w) || check_quota(t) < 0)
		return;
	t->stream = rtsp_stream_new(t, m.uri);
	if (t->stream == NULL) {
		rtsp_reply_status(t, 500, CAUSE_AGENT_FAULT, "out of memory");
		return;
	}
	t->udp = w.udp;
	t->group = w.group;
	t->keep = w.udp | w.tcp | w.group;
	if ((w.udp | w.group) == 0) {
		rtsp_stream_event(t->stream, STREAM_EV_TCP);
		t->state = TXN_READY;
		return;
	}
	rtsp_stream_event(t->stream, STREAM_EV_UDP);
	t->stream->components = w.pair ? 2 : 1;
	t->state = TXN_RESERVING;
	t->stream->binding = w.udp != 0 ? reserve(t, &w, &f) : reserve_group(t, &f);
	if (t->stream->binding == NULL)
		reservation_failed(t, &f);
	else
		rtsp_txn_timer(t, RTSP_HOLD_MS);
}

/* Our ports for the client's, in every UDP alternative. */
static void rewrite_ports(struct rtsp_txn *t, const struct rtsp_spec *s, struct rtsp_edits *e)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "client_port");
	struct rtsp_ports own;
	struct addr_port a = rtsp_relay_seen(t->stream, 0);
	struct addr_port b = rtsp_relay_seen(t->stream, 1);

	if (a.addr.version == 0 || rtsp_ports_parse(p->value, &own) < 0)
		return;
	if (own.last != own.first && b.addr.version != 0)
		rtsp_edit_printf(e, p->value_off, p->value_len, "%u-%u", a.port, b.port);
	else
		rtsp_edit_printf(e, p->value_off, p->value_len, "%u", a.port);
}

void rtsp_setup_send(struct rtsp_txn *t)
{
	bool rewrite = t->u->route.rewrite;
	struct rtsp_transport tr;
	struct rtsp_edits e;
	struct rtsp_msg m;
	size_t i;

	rtsp_txn_request(t, &m);
	rtsp_edits_init(&e);
	if (rtsp_transport_parse(&m, &tr) < 0)
		tr.n = 0;
	rtsp_transport_keep(&e, &m, &tr, t->keep);
	for (i = 0; i < tr.n; i++) {
		const struct rtsp_spec *s = &tr.specs[i];
		const struct rtsp_param *p;

		if (!rtsp_kept(t->keep, i))
			continue;
		if (rewrite && rtsp_kept(t->udp, i) && t->stream->binding != NULL)
			rewrite_ports(t, s, &e);
		p = rtsp_spec_param(s, "destination");
		if (p != NULL)
			rtsp_param_delete(&e, p);
		p = rtsp_spec_param(s, "source"); /* would show the inside address */
		if (p != NULL && rewrite)
			rtsp_param_delete(&e, p);
	}
	if (rtsp_upstream_send(t->u, t, &m, &e) < 0)
		rtsp_upstream_kill(t->u, ERR_IO);
	rtsp_edits_fini(&e);
}

/* The server has state that the client will not learn of. */
static void undo(struct rtsp_txn *t, const struct rtsp_msg *reply, unsigned status,
		 const struct failure *f)
{
	struct span id;
	unsigned timeout;
	bool given;

	if (t->u != NULL && !t->u->dead && rtsp_msg_session(reply, &id, &timeout, &given) == 0)
		rtsp_upstream_teardown(t->u, t->stream->uri, id);
	if (f != NULL)
		rtsp_reply_failure(t, status, f);
}

static void held_reply(const struct rtsp_txn *t, struct rtsp_msg *m)
{
	struct rtsp_limits none = {SIZE_MAX / 2, SIZE_MAX / 2, SIZE_MAX / 2};
	struct rtsp_parser p;
	size_t used;

	rtsp_parser_init(&p, &none);
	rtsp_msg_decode(&p, buf_span(&t->held), m, &used);
}

static void drop_binding(struct rtsp_stream *st)
{
	struct binding *b = st->binding;

	st->binding = NULL;
	rtsp_relay_end(st);
	if (b != NULL)
		st->e->io->release(b);
}

/* The stream is up: the session takes it, the client gets its answer. */
static void pass(struct rtsp_txn *t, const struct rtsp_msg *reply, const struct rtsp_media *media)
{
	struct rtsp_session *s = NULL;
	struct failure f;
	struct rtsp_edits e;
	struct span id;
	unsigned timeout;
	bool given;

	rtsp_edits_init(&e);
	rtsp_media_restore(t, media, reply, &e);
	if (rtsp_msg_session(reply, &id, &timeout, &given) == 0)
		s = rtsp_session_take(t, id);
	if (s == NULL || rtsp_session_add(s, t->stream) < 0) {
		failure_set(&f, CAUSE_AGENT_FAULT, "", 0, "the session cannot be kept");
		undo(t, reply, 500, &f);
		rtsp_edits_fini(&e);
		return;
	}
	t->stream = NULL;
	unpromise(t);
	rtsp_session_timeout(s, timeout);
	rtsp_txn_pass(t, reply, &e);
	rtsp_edits_fini(&e);
}

static void enable(struct rtsp_txn *t, const struct rtsp_msg *reply)
{
	struct rtsp_stream *st = t->stream;
	struct flow_ends ends[FLOW_COMPONENTS];
	struct failure f;
	int err;

	rtsp_relay_ends(st, ends);
	buf_reset(&t->held);
	err = buf_append_span(&t->held, reply->raw);
	if (err == 0)
		err = t->c->e->io->enable(st->binding, ends);
	if (err == 0) {
		t->state = TXN_HELD;
		rtsp_txn_timer(t, RTSP_HOLD_MS);
		return;
	}
	failure_set(&f, CAUSE_AGENT_FAULT, "", 0, "cannot complete the binding: %s", err_str(err));
	rtsp_stream_event(st, STREAM_EV_BIND_FAILED);
	undo(t, reply, 0, &f);
}

/* The client would have taken media itself, but the server sends to a group. */
static bool go_to_group(struct rtsp_txn *t, struct failure *f)
{
	drop_binding(t->stream);
	t->stream->binding = reserve_group(t, f);
	return t->stream->binding != NULL;
}

static void accepted(struct rtsp_txn *t, const struct rtsp_msg *reply)
{
	struct rtsp_stream *st = t->stream;
	struct rtsp_msg request;
	struct rtsp_media media;
	struct failure f = {0};
	unsigned status = 0, timeout;
	struct span id;
	bool given;

	rtsp_txn_request(t, &request);
	if (rtsp_media_parse(t, &request, reply, &media, &status, &f) < 0) {
		rtsp_stream_event(st, STREAM_EV_REPLY_BAD);
		undo(t, reply, status, &f);
		return;
	}
	if (rtsp_msg_session(reply, &id, &timeout, &given) < 0 || id.n >= RTSP_SESSION_ID_MAX) {
		/* RFC 2326 §12.37: a server that accepts names the session. */
		rtsp_stream_event(st, STREAM_EV_REPLY_BAD);
		failure_set(&f, CAUSE_PEER_MALFORMED, "", 0, "the server's reply names no session");
		undo(t, reply, 502, &f);
		return;
	}
	memcpy(st->ends, media.ends, sizeof(st->ends));
	memcpy(st->protocol, media.protocol, sizeof(st->protocol));
	st->components = media.components;
	st->record = media.record;
	st->channel_first = media.channel_first;
	st->channel_last = media.channel_last;
	st->has_channels = media.has_channels;
	if (media.group && !st->group && st->binding != NULL && !go_to_group(t, &t->failure))
		rtsp_stream_event(st, STREAM_EV_BIND_FAILED);
	switch (rtsp_stream_event(st,
				  media.interleaved ? STREAM_EV_REPLY_TCP : STREAM_EV_REPLY_UDP)) {
	case STREAM_DO_PASS:
		drop_binding(st);
		pass(t, reply, &media);
		break;
	case STREAM_DO_ENABLE:
		enable(t, reply);
		break;
	default:
		undo(t, reply, t->status, &t->failure);
		break;
	}
}

void rtsp_setup_replied(struct rtsp_txn *t, const struct rtsp_msg *m)
{
	struct rtsp_client *c = t->c; /* `t` may be gone once it is answered */

	if (m->status / 100 == 2) {
		accepted(t, m);
		rtsp_client_pump(c);
		return;
	}
	rtsp_stream_event(t->stream, STREAM_EV_REFUSED);
	rtsp_setup_abort(t);
	rtsp_txn_pass(t, m, NULL);
}

static void bound(struct rtsp_txn *t)
{
	struct rtsp_msg request, reply;
	struct rtsp_media media;
	struct failure f;
	unsigned status;
	int err;

	rtsp_txn_request(t, &request);
	held_reply(t, &reply);
	if (rtsp_media_parse(t, &request, &reply, &media, &status, &f) < 0) {
		undo(t, &reply, status, &f);
		return;
	}
	err = rtsp_relay_open(t->stream);
	if (err < 0) {
		failure_set(&f, CAUSE_CONFIGURATION_FAILED, "", 0, "media cannot be relayed: %s",
			    err_str(err));
		undo(t, &reply, 0, &f);
		return;
	}
	pass(t, &reply, &media);
}

static void binding_failed(struct rtsp_txn *t, const struct failure *f)
{
	struct rtsp_msg reply;

	drop_binding(t->stream);
	if (t->stream->state == STREAM_RESERVING) {
		reservation_failed(t, f);
		return;
	}
	switch (rtsp_stream_event(t->stream, STREAM_EV_BIND_FAILED)) {
	case STREAM_DO_UNDO:
		held_reply(t, &reply);
		undo(t, &reply, 0, f);
		break;
	default: /* the SETUP is on its way: the reply decides */
		t->failure = *f;
		break;
	}
}

/*
 * out=auto has chosen the way out when the connection was made. If it turns out
 * now that the path does translate, or does not, the client has to come again.
 */
static bool way_is_wrong(const struct rtsp_txn *t)
{
	bool translated = t->c->e->io->outside(t->stream->binding, 0).addr.version != 0;

	return t->u->route.automatic && !t->stream->group && translated != t->u->route.rewrite;
}

static void half_bound(struct rtsp_txn *t)
{
	if (way_is_wrong(t)) {
		t->close_after = true;
		rtsp_reply_status(t, 503, CAUSE_MIDDLEBOX_UNREACHABLE,
				  "the middlebox has come up meanwhile, connect again");
		return;
	}
	if (rtsp_stream_event(t->stream, STREAM_EV_HALF_BOUND) == STREAM_DO_SEND) {
		rtsp_txn_timer(t, 0);
		t->state = TXN_READY;
	}
}

/* Events of a binding, while its SETUP runs and afterwards. */
void rtsp_stream_bind_event(struct binding *b, enum binding_event ev, const struct failure *f,
			    void *arg)
{
	struct rtsp_stream *st = arg;
	struct rtsp_engine *e = st->e;
	struct rtsp_txn *t = st->t;
	struct rtsp_client *c = t != NULL ? t->c : NULL;

	if (st->binding != b)
		return;
	rtsp_engine_enter(e);
	if (ev == BINDING_EV_HALF_BOUND && t != NULL) {
		half_bound(t);
	} else if (ev == BINDING_EV_BOUND && t != NULL) {
		if (rtsp_stream_event(st, STREAM_EV_BOUND) == STREAM_DO_PASS)
			bound(t);
	} else if (ev == BINDING_EV_FAILED || ev == BINDING_EV_LOST) {
		struct failure copy = *f;

		rtsp_note(e, &st->timeline, cause_info(copy.cause)->name);
		if (t != NULL) {
			binding_failed(t, &copy);
		} else if (st->s != NULL) {
			drop_binding(st);
			rtsp_stream_event(st, STREAM_EV_BIND_FAILED);
			rtsp_session_end_hard(st->s, &copy);
		}
	}
	if (c != NULL)
		rtsp_client_pump(c);
	rtsp_engine_leave(e);
}

/* A middlebox that does not answer within the time is as good as down. */
void rtsp_setup_timeout(struct rtsp_txn *t)
{
	struct failure f;

	failure_set(&f, CAUSE_MIDDLEBOX_UNREACHABLE, "", 0, "no answer within %u ms", RTSP_HOLD_MS);
	binding_failed(t, &f);
	rtsp_client_pump(t->c);
}

/* Nothing of this SETUP stays. */
void rtsp_setup_abort(struct rtsp_txn *t)
{
	struct rtsp_msg reply;

	unpromise(t);
	if (t->stream == NULL)
		return;
	if (rtsp_stream_event(t->stream, STREAM_EV_END) == STREAM_DO_RELEASE_UNDO) {
		held_reply(t, &reply);
		undo(t, &reply, 0, NULL);
	}
	rtsp_stream_free(t->stream);
	t->stream = NULL;
}
