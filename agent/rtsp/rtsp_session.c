/*
 * Sessions: (server, client, Session id), the streams they hold and the
 * connections that used them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "agent/rtsp/rtsp_uri.h"
#include "common/log.h"

#define KEY_MAX (2 * sizeof(struct addr) + 2 + RTSP_SESSION_ID_MAX)

static void session_late(void *arg);

/*
 * The client's address is part of the key: a server's ids may be as short as
 * "1", and another host must not get at this one's pinholes by guessing.
 */
static size_t make_key(uint8_t out[KEY_MAX], const struct addr_port *server,
		       const struct addr *client, struct span id)
{
	size_t n = 0;

	memcpy(out, &server->addr, sizeof(struct addr));
	n += sizeof(struct addr);
	memcpy(out + n, client, sizeof(struct addr));
	n += sizeof(struct addr);
	out[n++] = (uint8_t)(server->port >> 8);
	out[n++] = (uint8_t)server->port;
	memcpy(out + n, id.p, id.n);
	return n + id.n;
}

struct rtsp_session *rtsp_session_find(struct rtsp_engine *e, const struct addr_port *server,
				       const struct addr *client, struct span id)
{
	uint8_t key[KEY_MAX];
	struct table_node *n;

	if (id.n >= RTSP_SESSION_ID_MAX)
		return NULL;
	n = table_get(&e->by_key, span_of(key, make_key(key, server, client, id)));
	return n != NULL ? CONTAINER_OF(n, struct rtsp_session, node) : NULL;
}

struct rtsp_session *rtsp_session_used(struct rtsp_client *c, struct span id)
{
	struct rtsp_use *use;

	for (use = c->uses; use != NULL; use = use->c_next)
		if (span_eq_str(id, use->s->id))
			return use->s;
	return NULL;
}

static struct rtsp_session *session_new(struct rtsp_txn *t, struct span id)
{
	struct rtsp_engine *e = t->c->e;
	struct rtsp_session *s = calloc(1, sizeof(*s));
	uint8_t key[KEY_MAX];

	if (s == NULL)
		return NULL;
	s->e = e;
	s->server = t->u->route.server;
	s->client = t->c->peer.addr;
	s->key_len = make_key(key, &s->server, &s->client, id);
	s->key = malloc(s->key_len);
	s->timer = e->io->timer_new(e->arg, session_late, s);
	if (s->key == NULL || s->timer == NULL)
		goto fail;
	memcpy(s->key, key, s->key_len);
	span_copy(id, s->id, sizeof(s->id));
	if (table_add(&e->by_key, &s->node) < 0)
		goto fail;
	s->serial = t->serial != 0 ? t->serial : ++e->serial;
	snprintf(s->name, sizeof(s->name), "r%" PRIu64, s->serial);
	s->host = t->c->host;
	s->host->sessions++;
	s->rewrite = t->u->route.rewrite;
	s->relay = t->u->route.relay;
	s->mode = t->c->terms.mode;
	s->timeout_s = RTSP_SESSION_TIMEOUT;
	s->started_ms = s->seen_ms = rtsp_now(e);
	return s;
fail:
	e->io->timer_free(s->timer);
	free(s->key);
	free(s);
	return NULL;
}

/* Serials are given before sessions start, so the place is near the end, not at it. */
static void session_link(struct rtsp_session *s)
{
	struct rtsp_engine *e = s->e;
	struct rtsp_session *after = e->sessions_last;

	while (after != NULL && after->serial > s->serial)
		after = after->prev;
	s->prev = after;
	s->next = after != NULL ? after->next : e->sessions;
	if (s->prev != NULL)
		s->prev->next = s;
	else
		e->sessions = s;
	if (s->next != NULL)
		s->next->prev = s;
	else
		e->sessions_last = s;
	e->n_sessions++;
}

static void session_unlink(struct rtsp_session *s)
{
	struct rtsp_engine *e = s->e;

	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		e->sessions = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	else
		e->sessions_last = s->prev;
	e->n_sessions--;
}

static struct rtsp_use *use_find(const struct rtsp_session *s, const struct rtsp_client *c)
{
	struct rtsp_use *use;

	for (use = s->uses; use != NULL && use->c != c; use = use->s_next)
		;
	return use;
}

static int use_add(struct rtsp_session *s, struct rtsp_client *c)
{
	struct rtsp_use *use;

	if (use_find(s, c) != NULL)
		return 0;
	if (c->n_uses >= RTSP_MAX_USES)
		return ERR_LIMIT;
	use = calloc(1, sizeof(*use));
	if (use == NULL)
		return ERR_NOMEM;
	use->c = c;
	use->s = s;
	use->c_next = c->uses;
	c->uses = use;
	c->n_uses++;
	use->s_next = s->uses;
	s->uses = use;
	return 0;
}

static void use_drop(struct rtsp_use *use)
{
	struct rtsp_use **at;

	for (at = &use->c->uses; *at != use; at = &(*at)->c_next)
		;
	*at = use->c_next;
	use->c->n_uses--;
	for (at = &use->s->uses; *at != use; at = &(*at)->s_next)
		;
	*at = use->s_next;
	free(use);
}

static void session_free(struct rtsp_session *s)
{
	struct rtsp_host *host = s->host;

	while (s->uses != NULL)
		use_drop(s->uses);
	while (s->streams != NULL) {
		struct rtsp_stream *st = s->streams;

		s->streams = st->next;
		rtsp_stream_event(st, STREAM_EV_END);
		rtsp_stream_free(st);
	}
	table_remove(&s->e->by_key, &s->node);
	s->e->io->timer_free(s->timer);
	host->sessions--;
	rtsp_host_drop(s->e, host);
	free(s->control);
	free(s->key);
	free(s);
}

static void session_destroy(struct rtsp_session *s)
{
	session_unlink(s);
	session_free(s);
}

struct rtsp_session *rtsp_session_take(struct rtsp_txn *t, struct span id)
{
	struct rtsp_session *s;
	char client[ADDR_STRLEN], server[ADDR_PORT_STRLEN];

	s = rtsp_session_find(t->c->e, &t->u->route.server, &t->c->peer.addr, id);
	if (s != NULL) {
		rtsp_session_attach(s, t->c, t->u);
		rtsp_session_touch(s);
		return s;
	}
	s = session_new(t, id);
	if (s == NULL)
		return NULL;
	if (use_add(s, t->c) < 0) {
		session_free(s);
		return NULL;
	}
	s->u = t->u;
	session_link(s);
	rtsp_note(s->e, &s->timeline, "started");
	log_info("rtsp %s: session of %s with %s started", s->name, addr_str(&s->client, client),
		 addr_port_str(&s->server, server));
	return s;
}

void rtsp_session_attach(struct rtsp_session *s, struct rtsp_client *c, struct rtsp_upstream *u)
{
	if (use_add(s, c) == 0)
		s->u = u;
}

void rtsp_session_touch(struct rtsp_session *s)
{
	s->seen_ms = rtsp_now(s->e);
}

static uint64_t patience_ms(const struct rtsp_session *s)
{
	return (uint64_t)(s->timeout_s + RTSP_SESSION_GRACE_S) * 1000;
}

void rtsp_session_timeout(struct rtsp_session *s, unsigned seconds)
{
	s->timeout_s = seconds;
	s->e->io->timer_set(s->timer, patience_ms(s));
}

int rtsp_session_add(struct rtsp_session *s, struct rtsp_stream *st)
{
	struct rtsp_stream **at = &s->streams;

	while (*at != NULL && !rtsp_uri_same(span_str((*at)->uri), span_str(st->uri)))
		at = &(*at)->next;
	if (*at != NULL) { /* SETUP again with other ports: the new one is up already */
		struct rtsp_stream *old = *at;

		st->next = old->next;
		*at = st;
		rtsp_stream_event(old, STREAM_EV_END);
		rtsp_stream_free(old);
	} else {
		if (s->n_streams >= RTSP_MAX_STREAMS)
			return ERR_LIMIT;
		*at = st;
		s->n_streams++;
	}
	st->s = s;
	st->t = NULL;
	rtsp_note(s->e, &s->timeline, "stream up");
	return 0;
}

void rtsp_session_replied(struct rtsp_session *s, const struct rtsp_txn *t)
{
	enum rtsp_session_state next = rtsp_session_step(s->state, t->method);
	struct rtsp_msg m;
	struct rtsp_stream *st;

	if (next != s->state) {
		s->state = next;
		rtsp_note(s->e, &s->timeline, rtsp_session_state_name(next));
	}
	if (t->method != RTSP_PLAY && t->method != RTSP_RECORD && t->method != RTSP_PAUSE)
		return;
	rtsp_txn_request(t, &m);
	for (st = s->streams; st != NULL; st = st->next)
		if (rtsp_uri_same(span_str(st->uri), m.uri))
			return; /* control of one stream tells nothing of the whole */
	free(s->control);
	s->control = span_dup(m.uri);
}

/* A connection to the server on any of the session's connections, an open one first. */
static struct rtsp_upstream *any_upstream(const struct rtsp_session *s)
{
	struct rtsp_upstream *u, *found = NULL;
	struct rtsp_use *use;

	for (use = s->uses; use != NULL; use = use->s_next)
		for (u = use->c->upstreams; u != NULL; u = u->next)
			if (!u->dead && addr_port_eq(&u->route.server, &s->server) &&
			    (found == NULL || u->ready))
				found = u;
	return found;
}

/* Tells the server. RFC 2326 §10.7: the aggregate where known, else every stream. */
static void say_teardown(struct rtsp_session *s)
{
	struct rtsp_stream *st;

	if (s->u == NULL || s->u->dead || !s->u->ready)
		s->u = any_upstream(s);
	if (s->u == NULL)
		return;
	if (s->control != NULL) {
		rtsp_upstream_teardown(s->u, s->control, span_str(s->id));
		return;
	}
	for (st = s->streams; st != NULL; st = st->next)
		rtsp_upstream_teardown(s->u, st->uri, span_str(s->id));
}

void rtsp_session_end(struct rtsp_session *s, enum cause cause)
{
	log_info("rtsp %s: session ended%s%s", s->name, cause != CAUSE_NONE ? ": " : "",
		 cause != CAUSE_NONE ? cause_info(cause)->name : "");
	say_teardown(s);
	session_destroy(s);
}

void rtsp_session_end_hard(struct rtsp_session *s, const struct failure *f)
{
	struct rtsp_use *use;

	failure_note(f, "rtsp", s->name);
	for (use = s->uses; use != NULL; use = use->s_next)
		rtsp_client_kill(use->c);
	rtsp_session_end(s, f->cause);
}

void rtsp_session_detach_all(struct rtsp_client *c)
{
	while (c->uses != NULL) {
		struct rtsp_session *s = c->uses->s;

		if (s->uses->s_next == NULL) {
			rtsp_session_end(s, CAUSE_NONE);
			continue;
		}
		use_drop(c->uses);
		if (s->u != NULL && s->u->c == c)
			s->u = any_upstream(s);
	}
}

void rtsp_session_upstream_gone(struct rtsp_client *c, struct rtsp_upstream *u)
{
	struct rtsp_use *use = c->uses;

	while (use != NULL) {
		struct rtsp_session *s = use->s;

		use = use->c_next;
		if (s->u != u)
			continue;
		s->u = any_upstream(s);
		if (s->u == NULL)
			rtsp_session_end(s, CAUSE_PEER_UNREACHABLE);
	}
}

/* No sign of life from the client: no request, and no RTCP as far as that is known. */
static void session_late(void *arg)
{
	struct rtsp_session *s = arg;
	struct rtsp_engine *e = s->e;
	uint64_t quiet = rtsp_now(e) - s->seen_ms;
	struct rtsp_stream *st;
	struct failure f;
	bool udp = false;

	for (st = s->streams; st != NULL; st = st->next) {
		unsigned i;

		if (st->binding == NULL)
			continue;
		udp = true;
		for (i = 0; i < st->components; i++) {
			uint64_t idle = rtsp_relay_idle_ms(st, i);

			if (idle < quiet)
				quiet = idle;
		}
	}
	if (!udp) /* interleaved: ends with its connection */
		quiet = 0;
	if (quiet < patience_ms(s)) {
		e->io->timer_set(s->timer, patience_ms(s) - quiet);
		return;
	}
	failure_set(&f, CAUSE_SESSION_TIMEOUT, "", 0, "no request for %u s",
		    s->timeout_s + RTSP_SESSION_GRACE_S);
	rtsp_engine_enter(e);
	rtsp_session_end_hard(s, &f);
	rtsp_engine_leave(e);
}

static void hold_done(void *arg)
{
	struct rtsp_hold *h = arg, **at;
	struct rtsp_engine *e = h->e;
	struct rtsp_txn *t = h->t;

	if (--h->n > 0)
		return;
	if (e != NULL) {
		for (at = &e->holds; *at != h; at = &(*at)->next)
			;
		*at = h->next;
	}
	free(h);
	if (t == NULL)
		return;
	t->hold = NULL;
	if (t->state == TXN_CLEARING) {
		rtsp_engine_enter(e);
		rtsp_txn_timer(t, 0);
		t->state = TXN_WAITING;
		rtsp_client_pump(t->c);
		rtsp_engine_leave(e);
	} else if (t->state == TXN_HELD) {
		struct rtsp_limits none = {SIZE_MAX / 2, SIZE_MAX / 2, SIZE_MAX / 2};
		struct rtsp_parser p;
		struct rtsp_msg m;
		size_t used;

		rtsp_engine_enter(e);
		rtsp_parser_init(&p, &none);
		if (rtsp_msg_decode(&p, buf_span(&t->held), &m, &used) == 0)
			rtsp_txn_pass(t, &m, NULL);
		rtsp_engine_leave(e);
	}
}

/* The answer to TEARDOWN waits until this binding's pinholes are closed. */
static void release_and_hold(struct rtsp_stream *st, struct rtsp_txn *t)
{
	struct rtsp_engine *e = st->e;
	struct rtsp_hold *h = t->hold;
	struct binding *b = st->binding;

	st->binding = NULL;
	rtsp_relay_end(st);
	if (b == NULL)
		return;
	if (h == NULL) {
		h = calloc(1, sizeof(*h));
		if (h == NULL) {
			e->io->release(b);
			return;
		}
		h->e = e;
		h->t = t;
		h->next = e->holds;
		e->holds = h;
		t->hold = h;
	}
	h->n++;
	e->io->release_notify(b, hold_done, h);
}

void rtsp_session_clear(struct rtsp_stream *st, struct rtsp_txn *t)
{
	rtsp_note(st->e, &st->timeline, "set up again");
	release_and_hold(st, t);
}

void rtsp_session_closed(struct rtsp_session *s, struct rtsp_txn *t)
{
	struct rtsp_stream **at, *st;
	struct rtsp_msg m;

	rtsp_txn_request(t, &m);
	for (at = &s->streams; *at != NULL; at = &(*at)->next)
		if (rtsp_uri_same(span_str((*at)->uri), m.uri))
			break;
	if (*at != NULL && s->n_streams > 1) {
		st = *at;
		*at = st->next;
		s->n_streams--;
		rtsp_note(s->e, &s->timeline, "stream torn down");
		release_and_hold(st, t);
		rtsp_stream_event(st, STREAM_EV_END);
		rtsp_stream_free(st);
		return;
	}
	for (st = s->streams; st != NULL; st = st->next)
		release_and_hold(st, t);
	log_info("rtsp %s: session torn down", s->name);
	session_destroy(s);
}

struct rtsp_stream *rtsp_stream_new(struct rtsp_txn *t, struct span uri)
{
	struct rtsp_stream *st = calloc(1, sizeof(*st));

	if (st == NULL)
		return NULL;
	st->uri = span_dup(uri);
	if (st->uri == NULL) {
		free(st);
		return NULL;
	}
	st->e = t->c->e;
	st->t = t;
	return st;
}

void rtsp_stream_free(struct rtsp_stream *st)
{
	rtsp_relay_end(st);
	if (st->binding != NULL)
		st->e->io->release(st->binding);
	free(st->uri);
	free(st);
}

enum rtsp_stream_action rtsp_stream_event(struct rtsp_stream *st, enum rtsp_stream_event ev)
{
	struct rtsp_stream_step step = rtsp_stream_step(st->state, ev);

	if (step.next != st->state) {
		log_debug("rtsp %s: stream %s --%s--> %s",
			  st->t != NULL ? st->t->c->name : (st->s != NULL ? st->s->name : "-"),
			  rtsp_stream_state_name(st->state), rtsp_stream_event_name(ev),
			  rtsp_stream_state_name(step.next));
		rtsp_note(st->e, &st->timeline, rtsp_stream_state_name(step.next));
	}
	st->state = step.next;
	return step.action;
}
