/*
 * One request of a client from arrival to reply.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "common/log.h"

static void txn_late(void *arg);

struct rtsp_txn *rtsp_txn_new(struct rtsp_client *c, const struct rtsp_msg *m)
{
	struct rtsp_txn *t = calloc(1, sizeof(*t));
	struct span id;
	unsigned timeout;
	bool given;

	if (t == NULL)
		return NULL;
	t->c = c;
	t->method = m->kind == RTSP_REQUEST ? m->method_id : RTSP_OTHER;
	t->has_cseq = rtsp_msg_cseq(m, &t->cseq) == 0;
	buf_init(&t->raw, SIZE_MAX);
	buf_init(&t->held, SIZE_MAX);
	buf_init(&t->reply, SIZE_MAX);
	t->timer = c->e->io->timer_new(c->e->arg, txn_late, t);
	if (t->timer == NULL || buf_append_span(&t->raw, m->raw) < 0)
		goto fail;
	if (rtsp_msg_session(m, &id, &timeout, &given) == 0 && id.n < RTSP_SESSION_ID_MAX) {
		t->session_id = span_dup(id);
		if (t->session_id == NULL)
			goto fail;
	}
	return t;
fail:
	rtsp_txn_free(t);
	return NULL;
}

void rtsp_txn_free(struct rtsp_txn *t)
{
	if (t->u != NULL)
		rtsp_upstream_forget(t->u, t);
	if (t->question != NULL)
		t->c->e->io->resolve_cancel(t->question);
	rtsp_setup_abort(t);
	if (t->hold != NULL)
		t->hold->t = NULL;
	t->c->e->io->timer_free(t->timer);
	free(t->session_id);
	free(t->name);
	free(t->addrs);
	buf_fini(&t->raw);
	buf_fini(&t->held);
	buf_fini(&t->reply);
	free(t);
}

void rtsp_txn_timer(struct rtsp_txn *t, uint64_t ms)
{
	if (ms > 0)
		t->c->e->io->timer_set(t->timer, ms);
	else
		t->c->e->io->timer_clear(t->timer);
}

void rtsp_txn_request(const struct rtsp_txn *t, struct rtsp_msg *m)
{
	struct rtsp_limits none = {SIZE_MAX / 2, SIZE_MAX / 2, SIZE_MAX / 2};
	struct rtsp_parser p;
	size_t used;

	rtsp_parser_init(&p, &none);
	rtsp_msg_decode(&p, buf_span(&t->raw), m, &used);
}

bool rtsp_txn_is_barrier(const struct rtsp_txn *t)
{
	return t->method == RTSP_SETUP || t->method == RTSP_TEARDOWN;
}

static void txn_touch(struct rtsp_txn *t)
{
	struct rtsp_session *s;

	if (t->session_id == NULL)
		return;
	s = rtsp_session_find(t->c->e, &t->u->route.server, &t->c->peer.addr,
			      span_str(t->session_id));
	if (s == NULL)
		return;
	rtsp_session_attach(s, t->c, t->u);
	rtsp_session_touch(s);
}

/* Nobody is there, or policy does not want it: another address of that name may do. */
static struct rtsp_upstream *reach(struct rtsp_txn *t, struct rtsp_target *to, struct failure *f,
				   unsigned *status)
{
	struct rtsp_upstream *u = rtsp_upstream_get(t->c, to, f, status);

	while (u == NULL && rtsp_target_next(t)) {
		to->server.addr = t->addrs[t->addr];
		u = rtsp_upstream_get(t->c, to, f, status);
	}
	if (u != NULL && u->name == NULL && t->n_addrs > 0)
		u->name = span_dup(to->host);
	return u;
}

void rtsp_txn_start(struct rtsp_txn *t)
{
	struct rtsp_target to;
	struct failure f = {0};
	unsigned status = 0;
	struct rtsp_msg m;
	const struct rtsp_header *h;

	rtsp_txn_request(t, &m);
	h = rtsp_msg_find(&m, "Proxy-Require");
	if (h != NULL) { /* RFC 2326 §12.32: we have no options at all */
		rtsp_reply_unsupported(t, h->value);
		return;
	}
	if (rtsp_target_find(t, &m, &to) < 0)
		return;
	t->mount = to.mount;
	t->u = reach(t, &to, &f, &status);
	if (t->u == NULL) {
		rtsp_reply_failure(t, status, &f);
		return;
	}
	t->c->current = t->u;
	txn_touch(t);
	if (t->method == RTSP_SETUP)
		rtsp_setup_start(t);
	else
		t->state = TXN_READY;
}

void rtsp_txn_pass(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_edits *e)
{
	const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");
	struct rtsp_edits own;
	uint32_t cseq;

	rtsp_edits_init(&own);
	if (e == NULL)
		e = &own;
	if (h != NULL && rtsp_msg_cseq(m, &cseq) == 0 && cseq != t->cseq)
		rtsp_edit_printf(e, h->value_off, h->value.n, "%" PRIu32, t->cseq);
	rtsp_target_edit_reply(t, m, e);
	rtsp_txn_timer(t, 0);
	buf_reset(&t->reply);
	if (rtsp_edits_apply(e, m->raw, &t->reply) < 0) {
		t->close_after = true;
		rtsp_reply_status(t, 500, CAUSE_AGENT_FAULT, "the reply cannot be passed on");
	}
	t->state = TXN_DONE;
	rtsp_edits_fini(&own);
	rtsp_client_pump(t->c);
}

void rtsp_txn_replied(struct rtsp_txn *t, const struct rtsp_msg *m)
{
	struct rtsp_session *s = NULL;
	struct span id;
	unsigned timeout;
	bool given;

	if (t->method == RTSP_SETUP) {
		rtsp_setup_replied(t, m);
		return;
	}
	if (t->session_id != NULL)
		s = rtsp_session_find(t->c->e, &t->u->route.server, &t->c->peer.addr,
				      span_str(t->session_id));
	if (s != NULL && m->status / 100 == 2) {
		if (t->method == RTSP_TEARDOWN) {
			buf_reset(&t->held);
			if (buf_append_span(&t->held, m->raw) == 0)
				rtsp_session_closed(s, t);
		} else {
			if (rtsp_msg_session(m, &id, &timeout, &given) == 0 && given)
				rtsp_session_timeout(s, timeout);
			rtsp_session_replied(s, t);
		}
	}
	if (t->hold != NULL) {
		t->state = TXN_HELD;
		rtsp_txn_timer(t, RTSP_HOLD_MS + RTSP_HOLD_MS / 2);
		return;
	}
	rtsp_txn_pass(t, m, NULL);
}

void rtsp_txn_upstream_gone(struct rtsp_txn *t, int err)
{
	unsigned status = err == ERR_TIMEOUT ? 504 : 502;
	bool proof = t->u != NULL && t->u->route.tls && err == ERR_PERM;

	t->u = NULL;
	if (t->state == TXN_DONE)
		return;
	if ((t->state == TXN_READY || t->state == TXN_RESERVING) && rtsp_target_next(t)) {
		rtsp_txn_timer(t, 0);
		rtsp_setup_abort(t);
		t->state = TXN_WAITING;
		return;
	}
	/* Its TEARDOWN was accepted; only the pinholes are waited for. */
	if (t->state == TXN_HELD && t->hold != NULL)
		return;
	if (err == ERR_MALFORMED || err == ERR_TOOBIG)
		rtsp_reply_status(t, status, CAUSE_PEER_MALFORMED,
				  "the server sent what is not RTSP");
	else
		rtsp_reply_status(t, status, CAUSE_PEER_UNREACHABLE, "the server: %s",
				  proof ? "a certificate was not accepted" : err_str(err));
}

/* What was waited for did not come. */
static void txn_late(void *arg)
{
	struct rtsp_txn *t = arg;
	struct rtsp_engine *e = t->c->e;

	rtsp_engine_enter(e);
	if (t->method == RTSP_SETUP && (t->state == TXN_RESERVING || t->state == TXN_HELD)) {
		rtsp_setup_timeout(t);
	} else if (t->state == TXN_CLEARING) {
		t->hold->t = NULL;
		t->hold = NULL;
		t->state = TXN_WAITING;
		rtsp_client_pump(t->c);
	} else if (t->state == TXN_HELD) {
		/* release_notify() promised to be done by now; the server's answer stands. */
		struct rtsp_limits none = {SIZE_MAX / 2, SIZE_MAX / 2, SIZE_MAX / 2};
		struct rtsp_parser p;
		struct rtsp_msg m;
		size_t used;

		rtsp_parser_init(&p, &none);
		if (rtsp_msg_decode(&p, buf_span(&t->held), &m, &used) == 0)
			rtsp_txn_pass(t, &m, NULL);
	} else if (t->state == TXN_SENT) {
		rtsp_upstream_forget(t->u, t);
		rtsp_reply_status(t, 504, CAUSE_PEER_UNREACHABLE, "the server does not answer");
		rtsp_client_pump(t->c);
	}
	rtsp_engine_leave(e);
}
