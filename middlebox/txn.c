/*
 * Requests on their way: the queue, the batch, its outcome, and the replies
 * and events in their order.
 */
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "middlebox/core_int.h"

#define KEPT 4096u /* entries of an empty array that wait for the next turn */

struct request *core_queue(struct core *c, struct session *s)
{
	struct request *q;

	if (c->n_q == c->cap_q) {
		size_t cap = c->cap_q ? c->cap_q * 2 : 64;

		q = realloc(c->q, cap * sizeof(*q));
		if (!q)
			return NULL;
		c->q = q;
		c->cap_q = cap;
	}
	q = &c->q[c->n_q++];
	memset(q, 0, sizeof(*q));
	q->session = s;
	q->txn = NO_TXN;
	q->slot = RULE_NONE;
	return q;
}

int core_room(struct core *c)
{
	size_t need = c->n_op + OPS_PER_REQUEST, cap = c->cap_op;
	struct fw_op *op;

	if (c->n_txn + 1 >= c->cap_result) {
		size_t n = c->cap_result ? c->cap_result * 2 : 256;
		int *r = realloc(c->result, n * sizeof(*r));

		if (!r)
			return ERR_NOMEM;
		c->result = r;
		c->cap_result = n;
	}
	if (need <= cap)
		return 0;
	cap = cap * 2 > need ? cap * 2 : need;
	op = realloc(c->op, cap * sizeof(*op));
	if (!op)
		return ERR_NOMEM;
	c->op = op;
	c->cap_op = cap;
	return 0;
}

struct fw_op *core_op(struct core *c, struct request *q, enum fw_op_type type)
{
	struct fw_op *op = &c->op[c->n_op++];

	if (q->txn == NO_TXN)
		q->txn = c->n_txn++;
	memset(op, 0, sizeof(*op));
	op->type = type;
	op->txn = q->txn;
	return op;
}

bool core_settle(struct core *c, uint32_t batch, uint64_t now_ms)
{
	if (batch != c->batch || c->settled == c->n_q)
		return false;
	core_flush(c, now_ms);
	return true;
}

/* A binding whose refresh never reached the kernel is sent again next time. */
static void bind_again(struct core *c, const struct rule *r)
{
	for (unsigned i = 0; i < rule_bindings(r); i++) {
		struct fw_binding f;
		struct binding *b;

		nat_binding(&c->nat, r, i, &f);
		b = nat_find(&c->nat, f.protocol, &f.inside);
		if (b)
			b->resend = true;
	}
}

void rule_undo_enable(struct core *c, struct rule *r)
{
	rule_unlink_tuples(&c->t, r);
	nat_unbind(&c->nat, r, false);
	rule_set_kind(&c->t, r, RULE_RESERVED);
	memset(&r->in, 0, sizeof(r->in));
	memset(&r->ex, 0, sizeof(r->ex));
	r->direction = 0;
	ledger_set(r, SLOT_FINAL);
}

static void undo(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	q->failed = true;
	q->event_pid = 0;
	q->reply.type = SIMCO_CONFIGURATION_FAILED;
	c->stats.refused++;
	switch (q->act) {
	case ACT_OPEN:
		if (q->restoring) { /* some of it may be there: end it in order */
			r->expires_ms = now_ms;
			rule_moved(&c->t, r);
			break;
		}
		bind_again(c, r);
		rule_drop(c, r);
		break;
	case ACT_ENABLE:
		rule_undo_enable(c, r);
		r->expires_ms = q->old_expires;
		rule_moved(&c->t, r);
		break;
	case ACT_REFRESH:
		bind_again(c, r);
		r->expires_ms = q->old_expires;
		rule_moved(&c->t, r);
		break;
	case ACT_CLOSE:
		ledger_set(r, SLOT_FINAL);
		if (!q->session) { /* nobody asks again, so we do */
			r->expires_ms = now_ms + 1000;
			rule_moved(&c->t, r);
		}
		break;
	case ACT_NONE:
		break;
	}
}

static void complete(struct core *c, struct request *q, struct rule *r)
{
	if (q->act == ACT_OPEN || q->act == ACT_ENABLE)
		ledger_set(r, SLOT_FINAL);
	else if (q->act == ACT_CLOSE)
		rule_drop(c, r);
}

static void sweep_failed(struct core *c, uint32_t pid)
{
	for (size_t i = 0; i < c->n_sweeps; i++) {
		if (c->sweeps[i].pid == pid)
			c->sweeps[i].failed = true;
	}
}

void core_flush(struct core *c, uint64_t now_ms)
{
	size_t from = c->settled;

	if (c->n_txn > 0) {
		memset(c->result, 0, c->n_txn * sizeof(*c->result));
		fw_commit(c->fw, c->op, c->n_op, c->result, c->n_txn);
	}
	c->settled = c->n_q;
	c->batch++;
	c->n_op = 0;
	for (size_t i = from; i < c->n_q; i++) {
		struct request *q = &c->q[i];
		struct rule *r = q->act == ACT_NONE ? NULL : rule_at(&c->t, q->slot);
		int err = q->txn == NO_TXN ? 0 : c->result[q->txn];

		q->done = true;
		if (!r)
			continue;
		if (err) {
			undo(c, q, r, now_ms);
			if (q->sweep)
				sweep_failed(c, q->sweep);
		} else {
			complete(c, q, r);
		}
	}
	c->n_txn = 0;
}

/* To every session that may access the rule, except `but`. Number of events given. */
static unsigned give_event(struct core *c, const struct session *but, uint16_t owner, uint32_t pid,
			   uint32_t lifetime, uint32_t reason)
{
	struct session *s, *next;
	unsigned n = 0;

	for (s = c->sessions; s; s = next) {
		next = s->next;
		if (s->closed || s == but || !core_may_access(c, s->owner, owner))
			continue;
		c->ops.event(c->arg, s->handle, pid, lifetime, reason);
		n++;
	}
	return n;
}

/* An event without a reply waits for its slice; without memory it goes at once. */
static void give_late(struct core *c, const struct request *q)
{
	size_t cap = c->cap_late ? c->cap_late * 2 : 64;
	struct late_event *late = c->late;

	if (c->n_late == c->cap_late) {
		late = realloc(c->late, cap * sizeof(*late));
		if (!late) {
			give_event(c, NULL, q->event_owner, q->event_pid, q->event_lifetime,
				   q->event_reason);
			return;
		}
		c->late = late;
		c->cap_late = cap;
	}
	late[c->n_late++] = (struct late_event){.pid = q->event_pid,
						.lifetime = q->event_lifetime,
						.reason = q->event_reason,
						.sweep = q->sweep,
						.owner = q->event_owner};
}

static bool sweep_active(const struct core *c, uint32_t pid)
{
	for (size_t i = 0; pid && i < c->n_sweeps; i++) {
		if (c->sweeps[i].pid == pid)
			return true;
	}
	return false;
}

/* A slice of the late ones; those of an active sweep stay until its reply went. */
static void give_slice(struct core *c)
{
	size_t n = c->n_late, kept = 0;
	unsigned given = 0;

	c->late_due = false;
	for (size_t i = 0; i < n; i++) {
		struct late_event e = c->late[i];

		if (sweep_active(c, e.sweep)) {
			c->late[kept++] = e;
		} else if (given >= SLICE_EVENTS) {
			c->late[kept++] = e;
			c->late_due = true;
		} else {
			given += 1 + give_event(c, NULL, e.owner, e.pid, e.lifetime, e.reason);
		}
	}
	if (c->n_late > n)
		memmove(c->late + kept, c->late + n, (c->n_late - n) * sizeof(*c->late));
	c->n_late -= n - kept;
}

/* What a burst has made larger than the next turns need. */
static void shrink(struct core *c)
{
	if (c->n_q == 0 && c->cap_q > KEPT) {
		free(c->q);
		c->q = NULL;
		c->cap_q = 0;
	}
	if (c->n_op == 0 && c->cap_op > KEPT) {
		free(c->op);
		c->op = NULL;
		c->cap_op = 0;
	}
	if (c->n_late == 0 && c->cap_late > KEPT) {
		free(c->late);
		c->late = NULL;
		c->cap_late = 0;
	}
	c->trim_due = rule_trim(&c->t);
}

static void give_one(struct core *c, size_t i)
{
	struct request q = c->q[i]; /* a callback may queue more and move the array */

	if (q.session && !q.session->closed && q.reply.type) {
		q.reply.pid_list = q.pids;
		c->ops.reply(c->arg, q.session->handle, &q.reply);
	}
	free(q.pids);
	if (q.event_pid && q.event_to_all)
		give_late(c, &q);
	else if (q.event_pid)
		give_event(c, q.session, q.event_owner, q.event_pid, q.event_lifetime,
			   q.event_reason);
}

void core_bury_sessions(struct core *c)
{
	struct session *s, *next;

	if (c->giving)
		return;
	for (s = c->sessions; s; s = next) {
		next = s->next;
		if (!s->closed)
			continue;
		if (s->prev)
			s->prev->next = s->next;
		else
			c->sessions = s->next;
		if (s->next)
			s->next->prev = s->prev;
		for (size_t i = 0; i < c->n_q; i++) {
			if (c->q[i].session == s)
				c->q[i].session = NULL;
		}
		free(s);
	}
}

static bool must_wait(const struct request *q)
{
	return !q->done || q->held || (q->session && q->session->blocked);
}

void core_give(struct core *c)
{
	size_t n = c->settled, kept = 0;

	if (c->giving)
		return;
	c->giving = true;
	for (size_t i = 0; i < n; i++) {
		if (must_wait(&c->q[i])) {
			if (c->q[i].session)
				c->q[i].session->blocked = true;
			c->q[kept++] = c->q[i];
		} else {
			give_one(c, i);
		}
	}
	if (c->n_q > n)
		memmove(c->q + kept, c->q + n, (c->n_q - n) * sizeof(*c->q));
	c->n_q -= n - kept;
	c->settled -= n - kept; /* a callback may have settled more */
	for (struct session *s = c->sessions; s; s = s->next)
		s->blocked = false;
	give_slice(c);
	c->giving = false;
	core_bury_sessions(c);
	shrink(c);
}
