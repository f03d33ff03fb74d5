/*
 * A connection to a server on behalf of one client connection.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "common/log.h"

static void upstream_patience(void *arg);

static enum cause connect_cause(int err)
{
	switch (err) {
	case ERR_PERM:
	case ERR_IO:
		return CAUSE_CONFIGURATION_FAILED;
	case ERR_NOMEM:
	case ERR_LIMIT:
		return CAUSE_OVERLOADED;
	default:
		return CAUSE_PEER_UNREACHABLE;
	}
}

static struct rtsp_upstream *upstream_new(struct rtsp_client *c, const struct rtsp_route *route,
					  struct failure *f)
{
	struct rtsp_upstream *u = calloc(1, sizeof(*u));
	char to[ADDR_PORT_STRLEN];
	int err = ERR_NOMEM;

	if (u == NULL)
		goto fail;
	u->e = c->e;
	u->route = *route;
	u->plan = rtsp_plan_ref(c->terms.plan);
	u->timer = c->e->io->timer_new(c->e->arg, upstream_patience, u);
	if (u->timer == NULL)
		goto fail;
	rtsp_parser_init(&u->parser, &c->terms.limits);
	u->pending_end = &u->pending;
	u->wire = c->e->io->connect(c->e->arg, route, u, &err);
	if (u->wire == NULL)
		goto fail;
	u->c = c;
	u->next = c->upstreams;
	if (u->next != NULL)
		u->next->prev = u;
	c->upstreams = u;
	c->n_upstreams++;
	log_debug("rtsp %s: connecting to %s, %s", c->name, addr_port_str(&route->server, to),
		  route->rewrite ? "rewrite" : "transparent");
	return u;
fail:
	failure_set(f, connect_cause(err), "", 0, "cannot connect to %s: %s",
		    addr_port_str(&route->server, to), err_str(err));
	if (u != NULL) {
		c->e->io->timer_free(u->timer);
		rtsp_plan_unref(u->plan);
	}
	free(u);
	return NULL;
}

struct rtsp_upstream *rtsp_upstream_named(struct rtsp_client *c, struct span name, uint16_t port,
					  bool tls)
{
	struct rtsp_upstream *u;

	for (u = c->upstreams; u != NULL; u = u->next)
		if (!u->dead && u->name != NULL && u->route.server.port == port &&
		    u->route.tls == tls && span_eq_str_nocase(name, u->name))
			return u;
	return NULL;
}

struct rtsp_upstream *rtsp_upstream_get(struct rtsp_client *c, const struct rtsp_target *target,
					struct failure *f, unsigned *status)
{
	struct rtsp_upstream *u;
	struct rtsp_route route;

	for (u = c->upstreams; u != NULL; u = u->next)
		if (!u->dead && addr_port_eq(&u->route.server, &target->server) &&
		    u->route.tls == target->tls)
			return u;
	*status = 0;
	if (c->n_upstreams >= RTSP_MAX_UPSTREAMS) {
		failure_set(f, CAUSE_QUOTA, "", 0, "too many servers on one connection");
		return NULL;
	}
	memset(&route, 0, sizeof(route));
	if (c->e->io->route(c->e->arg, &c->terms, target->mount, &c->peer.addr, &target->server,
			    &route, f) < 0)
		return NULL;
	route.tls = target->tls;
	route.tls_ctx = target->tls ? c->terms.plan->tls : NULL;
	span_copy(target->host, route.tls_name, sizeof(route.tls_name));
	return upstream_new(c, &route, f);
}

static void unlink_upstream(struct rtsp_upstream *u)
{
	struct rtsp_upstream **head = u->c != NULL ? &u->c->upstreams : &u->e->lingering;

	if (u->prev != NULL)
		u->prev->next = u->next;
	else
		*head = u->next;
	if (u->next != NULL)
		u->next->prev = u->prev;
	u->prev = u->next = NULL;
}

void rtsp_upstream_kill(struct rtsp_upstream *u, int err)
{
	if (u->dead)
		return;
	u->dead = true;
	u->error = err;
	u->grave_next = u->e->upstream_graves;
	u->e->upstream_graves = u;
}

static void pending_free(struct rtsp_pending *p)
{
	free(p->uri);
	free(p);
}

void rtsp_upstream_destroy(struct rtsp_upstream *u)
{
	struct rtsp_client *c = u->c;

	unlink_upstream(u);
	if (c != NULL) {
		c->n_upstreams--;
		rtsp_client_upstream_gone(c, u);
	}
	while (u->pending != NULL) {
		struct rtsp_pending *p = u->pending;

		u->pending = p->next;
		pending_free(p);
	}
	u->e->io->timer_free(u->timer);
	u->e->io->close(u->wire, 0);
	free(u->name);
	rtsp_plan_unref(u->plan);
	free(u->credentials);
	free(u);
}

static int pending_add(struct rtsp_upstream *u, struct rtsp_txn *t, uint32_t cseq,
		       enum rtsp_method method, struct span uri)
{
	struct rtsp_pending *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return ERR_NOMEM;
	if (method == RTSP_SETUP) {
		p->uri = span_dup(uri);
		if (p->uri == NULL) {
			free(p);
			return ERR_NOMEM;
		}
	}
	p->cseq = cseq;
	p->t = t;
	p->own = t == NULL;
	p->method = method;
	*u->pending_end = p;
	u->pending_end = &p->next;
	if (cseq > u->last_cseq)
		u->last_cseq = cseq;
	return 0;
}

static void pending_remove(struct rtsp_upstream *u, struct rtsp_pending *p)
{
	struct rtsp_pending **at = &u->pending;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	if (p->next == NULL)
		u->pending_end = at;
	pending_free(p);
}

void rtsp_upstream_forget(struct rtsp_upstream *u, const struct rtsp_txn *t)
{
	struct rtsp_pending *p;

	for (p = u->pending; p != NULL; p = p->next)
		if (p->t == t)
			p->t = NULL;
}

/*
 * What a TEARDOWN of our own may have to show. Basic credentials fit every
 * request (RFC 7617 §2.2); those of Digest are bound to method and URI.
 */
static void remember_credentials(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	const struct rtsp_header *h = rtsp_msg_find(m, "Authorization");

	if (h == NULL || h->value.n <= 6 || h->value.n > RTSP_CREDENTIALS_MAX ||
	    !span_eq_str_nocase(span_sub(h->value, 0, 6), "Basic ") ||
	    span_find(h->value, '\r') < h->value.n || span_find(h->value, '\n') < h->value.n ||
	    (u->credentials != NULL && span_eq_str(h->value, u->credentials)))
		return;
	free(u->credentials);
	u->credentials = span_dup(h->value);
}

int rtsp_upstream_send(struct rtsp_upstream *u, struct rtsp_txn *t, const struct rtsp_msg *m,
		       struct rtsp_edits *e)
{
	uint32_t cseq = t->cseq + u->inserted;
	const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");
	struct rtsp_edits own;
	struct buf out;
	int err;

	remember_credentials(u, m);
	rtsp_edits_init(&own);
	buf_init(&out, SIZE_MAX);
	if (e == NULL)
		e = &own;
	if (u->inserted != 0)
		rtsp_edit_printf(e, h->value_off, h->value.n, "%" PRIu32, cseq);
	rtsp_target_edit_request(t, m, e);
	err = rtsp_edits_apply(e, m->raw, &out);
	if (err == 0)
		err = pending_add(u, t, cseq, t->method, m->uri);
	if (err == 0)
		err = u->e->io->write(u->wire, buf_span(&out));
	if (err == 0) {
		t->state = TXN_SENT;
		rtsp_txn_timer(t, rtsp_txn_is_barrier(t) ? RTSP_SETUP_REPLY_MS : RTSP_REPLY_MS);
	}
	buf_fini(&out);
	rtsp_edits_fini(&own);
	return err;
}

void rtsp_upstream_teardown(struct rtsp_upstream *u, const char *uri, struct span session)
{
	uint32_t cseq = u->last_cseq + 1;
	struct buf out;

	if (u->dead || !u->ready)
		return;
	buf_init(&out, SIZE_MAX);
	buf_append_str(&out, "TEARDOWN ");
	if (u->plan == NULL || rtsp_mount_url(&u->plan->mounts, span_str(uri), &out) < 0)
		buf_append_str(&out, uri);
	buf_printf(&out, " RTSP/1.0\r\nCSeq: %" PRIu32 "\r\nSession: ", cseq);
	buf_append_span(&out, session);
	if (u->credentials != NULL)
		buf_printf(&out, "\r\nAuthorization: %s", u->credentials);
	buf_append_str(&out, "\r\n\r\n");
	if (out.error < 0 || pending_add(u, NULL, cseq, RTSP_TEARDOWN, SPAN_EMPTY) < 0 ||
	    u->e->io->write(u->wire, buf_span(&out)) < 0)
		rtsp_upstream_kill(u, ERR_IO);
	else
		u->inserted++;
	buf_fini(&out);
}

static void upstream_patience(void *arg)
{
	struct rtsp_upstream *u = arg;
	struct rtsp_engine *e = u->e;

	rtsp_engine_enter(e);
	rtsp_upstream_kill(u, ERR_TIMEOUT);
	rtsp_engine_leave(e);
}

/* Does anything that is still to come concern us? */
static bool worth_waiting(const struct rtsp_upstream *u)
{
	const struct rtsp_pending *p;

	for (p = u->pending; p != NULL; p = p->next)
		if (p->own || p->method == RTSP_SETUP || p->method == RTSP_TEARDOWN)
			return true;
	return false;
}

void rtsp_upstream_linger(struct rtsp_upstream *u)
{
	struct rtsp_engine *e = u->e;

	u->c = NULL;
	u->prev = NULL;
	u->next = e->lingering;
	if (u->next != NULL)
		u->next->prev = u;
	e->lingering = u;
	if (!u->ready || !worth_waiting(u)) {
		rtsp_upstream_kill(u, ERR_CLOSED);
		return;
	}
	e->io->timer_set(u->timer, RTSP_LINGER_MS);
	rtsp_upstream_relax(u);
}

void rtsp_upstream_relax(struct rtsp_upstream *u)
{
	if (!u->paused || u->dead)
		return;
	if (u->c != NULL && u->e->io->queued(u->c->wire) > RTSP_HIGH_WATER)
		return;
	u->paused = false;
	u->e->io->resume(u->wire);
}

/* A server that leaves CSeq out answers its oldest request. */
static struct rtsp_pending *match(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	struct rtsp_pending *p;
	uint32_t cseq;

	if (rtsp_msg_find(m, "CSeq") == NULL)
		return u->pending;
	if (rtsp_msg_cseq(m, &cseq) < 0)
		return NULL;
	for (p = u->pending; p != NULL && p->cseq != cseq; p = p->next)
		;
	return p;
}

/* Nobody waits for this SETUP any more, but the server has a session now. */
static void orphaned(struct rtsp_upstream *u, const struct rtsp_pending *p,
		     const struct rtsp_msg *m)
{
	struct span id;
	unsigned timeout;
	bool given;

	if (p->own || p->method != RTSP_SETUP || m->status / 100 != 2)
		return;
	if (rtsp_msg_session(m, &id, &timeout, &given) == 0)
		rtsp_upstream_teardown(u, p->uri, id);
}

/*
 * A server that does not take our TEARDOWN (Digest: the credentials of the
 * client's requests do not fit ours) ends its session with the connection,
 * unless others live on that.
 */
static void own_refused(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	const struct rtsp_use *use;

	if (m->status / 100 == 2 || m->status == 454 || u->pending != NULL)
		return;
	for (use = u->c != NULL ? u->c->uses : NULL; use != NULL; use = use->c_next)
		if (use->s->u == u)
			return;
	log_debug("rtsp %s: the server answers our TEARDOWN with %u, closing",
		  u->c != NULL ? u->c->name : "-", m->status);
	rtsp_upstream_kill(u, ERR_CLOSED);
}

/* 1xx: "100 Continue" goes to a client whose turn it is and finishes nothing. */
static void provisional(struct rtsp_txn *t, const struct rtsp_msg *m)
{
	struct rtsp_edits e;
	struct buf out;
	const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");

	if (t == NULL || t->c->txns != t)
		return;
	rtsp_edits_init(&e);
	buf_init(&out, SIZE_MAX);
	if (h != NULL)
		rtsp_edit_printf(&e, h->value_off, h->value.n, "%" PRIu32, t->cseq);
	if (rtsp_edits_apply(&e, m->raw, &out) == 0)
		rtsp_client_write(t->c, buf_span(&out));
	buf_fini(&out);
	rtsp_edits_fini(&e);
	rtsp_txn_timer(t, rtsp_txn_is_barrier(t) ? RTSP_SETUP_REPLY_MS : RTSP_REPLY_MS);
}

static void upstream_response(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	struct rtsp_pending *p = match(u, m);
	struct rtsp_txn *t;
	bool own;

	if (p == NULL) {
		log_debug("rtsp %s: a server answers what nobody asked",
			  u->c != NULL ? u->c->name : "-");
		return;
	}
	t = p->t;
	if (m->status < 200) {
		provisional(t, m);
		return;
	}
	if (t == NULL)
		orphaned(u, p, m);
	own = p->own;
	pending_remove(u, p);
	if (t != NULL)
		rtsp_txn_replied(t, m);
	if (own)
		own_refused(u, m);
	if (u->c == NULL && !worth_waiting(u))
		rtsp_upstream_kill(u, ERR_CLOSED);
}

/* A number that no other unanswered request to this client has. */
static uint32_t free_cseq(const struct rtsp_client *c, uint32_t wish)
{
	uint32_t max = 0;
	bool taken = false;
	unsigned i;

	for (i = 0; i < c->n_asked; i++) {
		if (c->asked[i].client_cseq == wish)
			taken = true;
		if (c->asked[i].client_cseq > max)
			max = c->asked[i].client_cseq;
	}
	return taken ? max + 1 : wish;
}

/* Requests of the server (OPTIONS, ANNOUNCE, REDIRECT, SET_PARAMETER) go to the client. */
static void upstream_request(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	struct rtsp_client *c = u->c;
	struct rtsp_asked *a;
	struct rtsp_edits e;
	struct buf out;
	uint32_t cseq;

	if (c == NULL || rtsp_msg_cseq(m, &cseq) < 0)
		return;
	if (c->n_asked == RTSP_MAX_ASKED) { /* the oldest will not be answered */
		c->n_asked--;
		memmove(&c->asked[0], &c->asked[1], c->n_asked * sizeof(c->asked[0]));
	}
	rtsp_edits_init(&e);
	buf_init(&out, SIZE_MAX);
	a = &c->asked[c->n_asked];
	a->u = u;
	a->server_cseq = cseq;
	a->client_cseq = free_cseq(c, cseq);
	c->n_asked++;
	if (a->client_cseq != cseq) {
		const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");

		rtsp_edit_printf(&e, h->value_off, h->value.n, "%" PRIu32, a->client_cseq);
	}
	rtsp_target_edit_asked(u, m, true, &e);
	if (rtsp_edits_apply(&e, m->raw, &out) < 0)
		rtsp_upstream_kill(u, ERR_NOMEM);
	else
		rtsp_client_write(c, buf_span(&out));
	buf_fini(&out);
	rtsp_edits_fini(&e);
}

static void upstream_message(struct rtsp_upstream *u, const struct rtsp_msg *m)
{
	switch (m->kind) {
	case RTSP_DATA:
		if (u->c != NULL)
			rtsp_client_write(u->c, m->raw);
		break;
	case RTSP_RESPONSE:
		upstream_response(u, m);
		break;
	case RTSP_REQUEST:
		upstream_request(u, m);
		break;
	}
}

static bool upstream_blocked(struct rtsp_upstream *u)
{
	if (u->c == NULL || u->e->io->queued(u->c->wire) <= RTSP_HIGH_WATER)
		return false;
	if (!u->paused) {
		u->paused = true;
		u->e->io->pause(u->wire);
	}
	return true;
}

static size_t upstream_feed(struct rtsp_upstream *u, struct span in)
{
	struct rtsp_msg m;
	size_t at = 0, used;
	int err;

	while (!u->dead && (u->c == NULL || !u->c->dead) && !upstream_blocked(u)) {
		err = rtsp_msg_decode(&u->parser, span_of(in.p + at, in.n - at), &m, &used);
		at += used;
		if (err == ERR_MORE)
			return at;
		if (err < 0) {
			log_info("rtsp %s: the server's octets cannot be understood: %s",
				 u->c != NULL ? u->c->name : "-", err_str(err));
			rtsp_upstream_kill(u, err);
			break;
		}
		upstream_message(u, &m);
	}
	return u->dead || (u->c != NULL && u->c->dead) ? in.n : at;
}

size_t rtsp_upstream_data(struct rtsp_upstream *u, struct span in)
{
	struct rtsp_engine *e = u->e;
	size_t used;

	rtsp_engine_enter(e);
	if (u->c != NULL)
		u->c->seen_ms = rtsp_now(e);
	used = upstream_feed(u, in);
	rtsp_engine_leave(e);
	return used;
}

void rtsp_upstream_ready(struct rtsp_upstream *u)
{
	struct rtsp_engine *e = u->e;

	rtsp_engine_enter(e);
	u->ready = true;
	if (u->c != NULL)
		rtsp_client_pump(u->c);
	rtsp_engine_leave(e);
}

void rtsp_upstream_drained(struct rtsp_upstream *u)
{
	struct rtsp_engine *e = u->e;

	rtsp_engine_enter(e);
	if (u->c != NULL)
		rtsp_client_relax(u->c);
	rtsp_engine_leave(e);
}

void rtsp_upstream_closed(struct rtsp_upstream *u, int err)
{
	struct rtsp_engine *e = u->e;

	rtsp_engine_enter(e);
	rtsp_upstream_kill(u, err);
	rtsp_engine_leave(e);
}
