/*
 * A client's connection: requests in order, replies in order, data both ways.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "common/log.h"

static void client_check(void *arg);

static void client_arm(struct rtsp_client *c)
{
	uint64_t now = rtsp_now(c->e), at = c->seen_ms + c->terms.idle_timeout_ms;

	if (c->paused)
		at = c->paused_ms + RTSP_STUCK_MS;
	else if (c->partial_ms != 0)
		at = c->partial_ms + RTSP_MESSAGE_MS;
	else if (!c->spoke)
		at = c->began_ms + RTSP_FIRST_MESSAGE_MS;
	c->e->io->timer_set(c->timer, at > now ? at - now : 0);
}

struct rtsp_client *rtsp_client_new(struct rtsp_engine *e, const struct rtsp_terms *terms,
				    void *wire, const struct addr_port *peer,
				    const struct addr_port *target)
{
	struct rtsp_host *h;
	struct rtsp_client *c;

	if (e->shutting || e->n_clients >= e->limits.connections)
		return NULL;
	h = rtsp_host_get(e, &peer->addr);
	if (h == NULL)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (c == NULL || h->clients >= e->limits.connections_per_client)
		goto fail;
	c->terms = *terms;
	c->target = *target;
	if (terms->mode == RTSP_REVERSE && rtsp_target_front(c) < 0)
		goto fail;
	c->timer = e->io->timer_new(e->arg, client_check, c);
	if (c->timer == NULL)
		goto fail;
	c->e = e;
	c->serial = ++e->serial;
	snprintf(c->name, sizeof(c->name), "c%" PRIu64, c->serial);
	c->wire = wire;
	rtsp_plan_ref(c->terms.plan);
	c->host = h;
	c->peer = *peer;
	rtsp_parser_init(&c->parser, &terms->limits);
	c->txns_end = &c->txns;
	c->began_ms = c->seen_ms = rtsp_now(e);
	c->next = e->clients;
	if (c->next != NULL)
		c->next->prev = c;
	e->clients = c;
	e->n_clients++;
	h->clients++;
	client_arm(c);
	return c;
fail:
	if (c != NULL)
		free(c->front);
	free(c);
	rtsp_host_drop(e, h);
	return NULL;
}

void rtsp_client_kill(struct rtsp_client *c)
{
	if (c->dead)
		return;
	c->dead = c->closing = true;
	c->grave_next = c->e->client_graves;
	c->e->client_graves = c;
}

/* Sessions end first, so that their TEARDOWNs still find the upstreams. */
void rtsp_client_destroy(struct rtsp_client *c)
{
	struct rtsp_engine *e = c->e;
	struct rtsp_upstream *u;

	rtsp_session_detach_all(c);
	while (c->txns != NULL) {
		struct rtsp_txn *t = c->txns;

		c->txns = t->next;
		rtsp_txn_free(t);
	}
	while ((u = c->upstreams) != NULL) {
		c->upstreams = u->next;
		if (u->next != NULL)
			u->next->prev = NULL;
		rtsp_upstream_linger(u);
	}
	if (c->prev != NULL)
		c->prev->next = c->next;
	else
		e->clients = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	rtsp_plan_unref(c->terms.plan);
	free(c->front);
	e->n_clients--;
	c->host->clients--;
	rtsp_host_drop(e, c->host);
	e->io->timer_free(c->timer);
	e->io->close(c->wire, c->lost ? 0 : RTSP_LINGER_MS);
	free(c);
}

void rtsp_client_finish(struct rtsp_client *c)
{
	c->closing = true;
	if (c->txns == NULL)
		rtsp_client_kill(c);
}

void rtsp_client_write(struct rtsp_client *c, struct span out)
{
	if (c->dead)
		return;
	if (c->e->io->write(c->wire, out) < 0) {
		log_info("rtsp %s: cannot send, closing", c->name);
		rtsp_client_kill(c);
	}
}

/* The octets wait in the wire until there is room again. */
static bool client_blocked(struct rtsp_client *c)
{
	struct rtsp_upstream *u;
	bool full = c->n_txns >= RTSP_MAX_TXNS ||
		    c->txn_octets > c->terms.limits.header + c->terms.limits.body;

	for (u = c->upstreams; u != NULL && !full; u = u->next)
		full = !u->dead && c->e->io->queued(u->wire) > RTSP_HIGH_WATER;
	if (full && !c->paused) {
		c->paused = true;
		c->paused_ms = rtsp_now(c->e);
		c->e->io->pause(c->wire);
		client_arm(c);
	}
	return full;
}

void rtsp_client_relax(struct rtsp_client *c)
{
	if (!c->paused || c->dead || client_blocked(c))
		return;
	c->paused = false;
	if (c->partial_ms != 0) /* it was us who did not read on */
		c->partial_ms = rtsp_now(c->e);
	client_arm(c);
	c->e->io->resume(c->wire);
}

/* Which server an interleaved frame is for: whoever set that channel up, else the last one. */
static struct rtsp_upstream *channel_owner(struct rtsp_client *c, uint8_t channel)
{
	struct rtsp_use *use;
	struct rtsp_stream *st;

	if (c->n_upstreams <= 1)
		return c->upstreams;
	for (use = c->uses; use != NULL; use = use->c_next)
		for (st = use->s->streams; st != NULL; st = st->next)
			if (st->has_channels && channel >= st->channel_first &&
			    channel <= st->channel_last && use->s->u != NULL && use->s->u->c == c)
				return use->s->u;
	return c->current;
}

static void client_data_frame(struct rtsp_client *c, const struct rtsp_msg *m)
{
	struct rtsp_upstream *u = channel_owner(c, m->channel);
	struct rtsp_use *use;

	for (use = c->uses; use != NULL; use = use->c_next)
		if (use->s->u == u)
			use->s->seen_ms = c->seen_ms; /* RTCP in the connection is a sign of life */
	if (u != NULL && u->ready && !u->dead && c->e->io->write(u->wire, m->raw) < 0)
		rtsp_upstream_kill(u, ERR_IO);
}

/* The client answers a request of a server. */
static void client_response(struct rtsp_client *c, const struct rtsp_msg *m)
{
	struct rtsp_edits e;
	struct rtsp_asked a;
	struct buf out;
	uint32_t cseq;
	unsigned i;

	if (rtsp_msg_cseq(m, &cseq) < 0)
		return;
	for (i = 0; i < c->n_asked && c->asked[i].client_cseq != cseq; i++)
		;
	if (i == c->n_asked) {
		log_debug("rtsp %s: response to nothing, CSeq %" PRIu32, c->name, cseq);
		return;
	}
	a = c->asked[i];
	if (m->status >= 200) {
		c->n_asked--;
		memmove(&c->asked[i], &c->asked[i + 1], (c->n_asked - i) * sizeof(a));
	}
	if (a.u->dead)
		return;
	rtsp_edits_init(&e);
	buf_init(&out, SIZE_MAX);
	if (a.server_cseq != cseq) {
		const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");

		rtsp_edit_printf(&e, h->value_off, h->value.n, "%" PRIu32, a.server_cseq);
	}
	rtsp_target_edit_asked(a.u, m, false, &e);
	if (rtsp_edits_apply(&e, m->raw, &out) < 0 ||
	    c->e->io->write(a.u->wire, buf_span(&out)) < 0)
		rtsp_upstream_kill(a.u, ERR_IO);
	buf_fini(&out);
	rtsp_edits_fini(&e);
}

static void client_append(struct rtsp_client *c, struct rtsp_txn *t)
{
	*c->txns_end = t;
	c->txns_end = &t->next;
	c->n_txns++;
	c->txn_octets += t->raw.len;
}

static void client_request(struct rtsp_client *c, const struct rtsp_msg *m)
{
	struct rtsp_txn *t = rtsp_txn_new(c, m);

	if (t == NULL) {
		rtsp_client_kill(c);
		return;
	}
	client_append(c, t);
	if (m->major != 1)
		rtsp_reply_status(t, 505, CAUSE_PEER_MALFORMED, "only RTSP/1.0 is spoken here");
	else if (!t->has_cseq)
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "no usable CSeq (RFC 2326 12.17)");
	else if (rtsp_msg_count(m, "Session") > 1)
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "more than one Session header");
	rtsp_client_pump(c);
}

/* Framing is lost: one last reply, then the end. */
static void client_bad(struct rtsp_client *c, const struct rtsp_msg *m, int err)
{
	struct rtsp_txn *t = rtsp_txn_new(c, m);

	log_info("rtsp %s: bad message: %s", c->name, err_str(err));
	if (t == NULL) {
		rtsp_client_kill(c);
		return;
	}
	t->close_after = true;
	client_append(c, t);
	c->closing = true;
	if (err == ERR_TOOBIG)
		rtsp_reply_status(t, 413, CAUSE_PEER_MALFORMED, "message exceeds the limits");
	else
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "cannot be understood");
	rtsp_client_pump(c);
}

static void client_message(struct rtsp_client *c, const struct rtsp_msg *m)
{
	switch (m->kind) {
	case RTSP_DATA:
		client_data_frame(c, m);
		break;
	case RTSP_RESPONSE:
		client_response(c, m);
		break;
	case RTSP_REQUEST:
		client_request(c, m);
		break;
	}
}

static size_t client_feed(struct rtsp_client *c, struct span in)
{
	struct rtsp_msg m;
	size_t at = 0, used;
	int err;

	while (!c->closing && !client_blocked(c)) {
		err = rtsp_msg_decode(&c->parser, span_of(in.p + at, in.n - at), &m, &used);
		at += used;
		if (err == ERR_MORE) { /* empty lines between messages are nothing yet */
			if (at == in.n)
				c->partial_ms = 0;
			else if (c->partial_ms == 0)
				c->partial_ms = rtsp_now(c->e);
			return at;
		}
		if (err < 0) {
			client_bad(c, &m, err);
			break;
		}
		c->spoke = true;
		c->seen_ms = rtsp_now(c->e);
		c->partial_ms = 0;
		client_message(c, &m);
	}
	return c->closing ? in.n : at;
}

size_t rtsp_client_data(struct rtsp_client *c, struct span in)
{
	struct rtsp_engine *e = c->e;
	size_t used;

	rtsp_engine_enter(e);
	used = client_feed(c, in);
	if (!c->dead)
		client_arm(c);
	rtsp_engine_leave(e);
	return used;
}

void rtsp_client_drained(struct rtsp_client *c)
{
	struct rtsp_engine *e = c->e;
	struct rtsp_upstream *u;

	rtsp_engine_enter(e);
	for (u = c->upstreams; u != NULL; u = u->next)
		rtsp_upstream_relax(u);
	rtsp_engine_leave(e);
}

void rtsp_client_closed(struct rtsp_client *c, int err)
{
	struct rtsp_engine *e = c->e;

	rtsp_engine_enter(e);
	log_debug("rtsp %s: closed by the client: %s", c->name, err_str(err));
	c->lost = true;
	rtsp_client_kill(c);
	rtsp_engine_leave(e);
}

/* Slow or silent clients (a connection with sessions lives as long as they do). */
static void client_check(void *arg)
{
	struct rtsp_client *c = arg;
	struct rtsp_engine *e = c->e;
	uint64_t now = rtsp_now(e);

	rtsp_engine_enter(e);
	if (c->closing || c->dead) {
		/* the replies that are due have timers of their own */
	} else if (c->paused) { /* while we do not read we do not see it leave, either */
		if (now >= c->paused_ms + RTSP_STUCK_MS) {
			log_info("rtsp %s: its server takes nothing more, closing", c->name);
			rtsp_client_kill(c);
		} else {
			client_arm(c);
		}
	} else if (c->partial_ms != 0 && now >= c->partial_ms + RTSP_MESSAGE_MS) {
		struct rtsp_msg none = {.kind = RTSP_REQUEST};
		struct rtsp_txn *t = rtsp_txn_new(c, &none);

		c->closing = true;
		if (t != NULL) {
			t->close_after = true;
			client_append(c, t);
			rtsp_reply_status(t, 408, CAUSE_PEER_MALFORMED,
					  "the message did not become complete");
			rtsp_client_pump(c);
		} else {
			rtsp_client_kill(c);
		}
	} else if (c->txns != NULL || c->uses != NULL) {
		c->e->io->timer_set(c->timer, RTSP_MESSAGE_MS);
	} else if (c->spoke ? now >= c->seen_ms + c->terms.idle_timeout_ms
			    : now >= c->began_ms + RTSP_FIRST_MESSAGE_MS) {
		log_debug("rtsp %s: idle", c->name);
		rtsp_client_kill(c);
	} else {
		client_arm(c);
	}
	rtsp_engine_leave(e);
}

static void deliver(struct rtsp_client *c)
{
	while (c->txns != NULL && c->txns->state == TXN_DONE && !c->dead) {
		struct rtsp_txn *t = c->txns;

		rtsp_client_write(c, buf_span(&t->reply));
		c->txns = t->next;
		if (c->txns == NULL)
			c->txns_end = &c->txns;
		c->n_txns--;
		c->txn_octets -= t->raw.len;
		if (t->close_after)
			rtsp_client_kill(c);
		rtsp_txn_free(t);
	}
}

static void send_ready(struct rtsp_txn *t)
{
	struct rtsp_msg m;

	if (t->state != TXN_READY || t->u == NULL || !t->u->ready || t->u->dead)
		return;
	if (t->method == RTSP_SETUP) {
		rtsp_setup_send(t);
		return;
	}
	rtsp_txn_request(t, &m);
	if (rtsp_upstream_send(t->u, t, &m, NULL) < 0)
		rtsp_upstream_kill(t->u, ERR_IO);
}

/*
 * Starts what may start. A request waits until the one before it has been sent;
 * behind a SETUP or TEARDOWN until that is answered.
 */
void rtsp_client_pump(struct rtsp_client *c)
{
	struct rtsp_txn *t;

	if (c->pumping)
		return;
	c->pumping = true;
	do {
		deliver(c);
		for (t = c->dead ? NULL : c->txns; t != NULL; t = t->next) {
			if (t->state == TXN_WAITING)
				rtsp_txn_start(t);
			send_ready(t);
			if (t->state < TXN_SENT)
				break;
			if (rtsp_txn_is_barrier(t) && t->state < TXN_DONE)
				break;
		}
	} while (!c->dead && c->txns != NULL && c->txns->state == TXN_DONE);
	c->pumping = false;
	if (c->closing && c->txns == NULL)
		rtsp_client_kill(c);
	rtsp_client_relax(c);
}

static void drop_asked(struct rtsp_client *c, const struct rtsp_upstream *u)
{
	unsigned i, n = 0;

	for (i = 0; i < c->n_asked; i++)
		if (c->asked[i].u != u)
			c->asked[n++] = c->asked[i];
	c->n_asked = n;
}

/*
 * An intercepted client sees its server's end as if nobody stood between; a
 * proxy's client keeps its connection while it has other servers on it.
 */
void rtsp_client_upstream_gone(struct rtsp_client *c, struct rtsp_upstream *u)
{
	bool was_up = u->ready;
	struct rtsp_txn *t;

	drop_asked(c, u);
	if (c->current == u)
		c->current = c->upstreams;
	rtsp_session_upstream_gone(c, u);
	c->pumping = true; /* replies go out when all of them are known */
	for (t = c->txns; t != NULL; t = t->next)
		if (t->u == u)
			rtsp_txn_upstream_gone(t, u->error);
	c->pumping = false;
	if (was_up && !c->dead && (c->terms.mode == RTSP_TRANSPARENT || c->upstreams == NULL))
		rtsp_client_finish(c);
	rtsp_client_pump(c);
}
