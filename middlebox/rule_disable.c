/*
 * PDR (RFC 4540 §8.8). A disable rule takes effect at once for new requests,
 * and with the batch for what the firewall permits otherwise. Once the kernel
 * has it, the enable rules that it meets are looked up: by one address where
 * the disable rule names one, else by a scan. Long searches and many ends go on
 * in slices; the reply, and the events it causes, wait for the last of them.
 * If the kernel refuses the disable rule, nothing ends.
 */
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "middlebox/core_int.h"

#define QUICK_LOOKS 2048u /* rules looked at before a search becomes a scan in slices */

static uint16_t check_pdr(struct core *c, const struct agent *a, const struct simco_msg *m,
			  const struct tuple *in, const struct tuple *ex)
{
	uint16_t err = tuples_consistent(m, in, ex);

	if (!err && in->version != ex->version)
		err = SIMCO_IP_VERSION_MISMATCH;
	if (!err && !tuple_port_any(in) && !tuple_port_any(ex) && in->range != ex->range)
		err = SIMCO_ILLEGAL_NOSP;
	if (!err && ((!tuple_port_any(in) && (in->range == 0 || in->port + in->range > 65536)) ||
		     (!tuple_port_any(ex) && (ex->range == 0 || ex->port + ex->range > 65536))))
		err = SIMCO_ILLEGAL_NOSP;
	if (!err && !a->conf->wildcards &&
	    (!tuple_addr_exact(in) || !tuple_addr_exact(ex) || tuple_port_any(in) ||
	     tuple_port_any(ex)))
		err = SIMCO_WILDCARDING_NOT_SUPPORTED;
	(void)c;
	return err;
}

static int room_for_sweep(struct core *c)
{
	size_t cap = c->cap_sweeps ? c->cap_sweeps * 2 : 4;
	struct sweep *s;

	if (c->n_sweeps < c->cap_sweeps)
		return 0;
	s = realloc(c->sweeps, cap * sizeof(*s));
	if (!s)
		return ERR_NOMEM;
	c->sweeps = s;
	c->cap_sweeps = cap;
	return 0;
}

uint16_t core_pdr(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	struct tuple in = tuple_from_simco(&m->tuple[SIMCO_INTERNAL]);
	struct tuple ex = tuple_from_simco(&m->tuple[SIMCO_EXTERNAL]);
	uint32_t most = core_max_lifetime(c, a);
	uint32_t lifetime = m->lifetime < most ? m->lifetime : most;
	struct rule *r;
	uint16_t err;

	if (!(a->conf->may & AGENT_MAY_DISABLE))
		return SIMCO_TRANSACTION_NOT_AUTHORIZED;
	err = check_pdr(c, a, m, &in, &ex);
	if (err)
		return err;
	if (lifetime == 0)
		return SIMCO_CONFIGURATION_FAILED; /* and nothing is terminated */
	r = room_for_sweep(c) == 0 ? core_new_rule(c, s, false, now_ms) : NULL;
	if (!r)
		return SIMCO_NO_RESOURCES;
	r->kind = RULE_DISABLED;
	r->in = in;
	r->ex = ex;
	r->direction = SIMCO_BIDIRECTIONAL;
	r->expires_ms = now_ms + lifetime * 1000ull;
	rule_link(&c->t, r);
	rule_link_tuples(&c->t, r);
	if (rule_shares_busy(c, r))
		core_flush(c, now_ms);
	q->act = ACT_OPEN;
	q->slot = rule_slot(&c->t, r);
	ledger_set(r, SLOT_NEW);
	rule_open_ops(c, q, r, now_ms);
	q->reply.type = SIMCO_PDR_REP;
	q->reply.pid = r->pid;
	q->reply.lifetime = lifetime;
	q->sweep = r->pid;
	q->held = true;
	reply_event(q, r, lifetime);
	return 0;
}

/* Ends one rule for a sweep. False: no memory, try again in the next slice. */
static bool end_for(struct core *c, uint32_t pid, struct rule *r, uint64_t now_ms)
{
	struct request *q;

	if (r->batch == c->batch || rule_shares_busy(c, r))
		core_flush(c, now_ms);
	q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;
	if (!q)
		return false;
	q->sweep = pid;
	q->event_to_all = true;
	q->event_reason = SIMCO_REASON_DISABLED;
	reply_event(q, r, 0);
	rule_finish(c, q, r, now_ms);
	return true;
}

static bool meets(const struct rule *r, const struct rule *d)
{
	return r->kind == RULE_ENABLED && r->slot != SLOT_CLOSING && r->slot != SLOT_FREE &&
	       rule_conflicts(r, d);
}

/* What all sweeps together have done in this slice. */
struct slice {
	unsigned slots, ends;
};

static bool is_used_up(const struct slice *s)
{
	return s->slots >= SLICE_SLOTS || s->ends >= SLICE_ENDS;
}

/*
 * Rules with that one address: ended here when they are few. False: look at
 * all slots instead.
 */
static bool sweep_chain(struct core *c, struct rule *d, struct rule *r, enum simco_location at,
			unsigned *looked, struct slice *s, uint64_t now_ms)
{
	for (; r; r = rule_at_next(&c->t, at, r)) {
		if (++*looked > QUICK_LOOKS)
			return false;
		s->slots++;
		if (!meets(r, d))
			continue;
		if (s->ends >= SLICE_ENDS || !end_for(c, d->pid, r, now_ms))
			return false;
		s->ends++;
	}
	return true;
}

static bool sweep_quickly(struct core *c, struct rule *d, struct slice *s, uint64_t now_ms)
{
	enum simco_location at = tuple_addr_exact(&d->ex) ? SIMCO_EXTERNAL : SIMCO_INTERNAL;
	const struct tuple *end = at == SIMCO_EXTERNAL ? &d->ex : &d->in;
	unsigned looked = 0;

	if (!tuple_addr_exact(end))
		return false;
	return sweep_chain(c, d, rule_at_end(&c->t, at, end), at, &looked, s, now_ms) &&
	       sweep_chain(c, d, rule_at_wild(&c->t, at), at, &looked, s, now_ms);
}

void core_sweep_add(struct core *c, uint32_t pid)
{
	c->sweeps[c->n_sweeps++] = (struct sweep){.pid = pid, .fresh = true};
}

static void sweep_slice(struct core *c, struct sweep *w, struct rule *d, struct slice *s,
			uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led);

	if (w->fresh) {
		w->fresh = false;
		if (c->t.n_kind[RULE_ENABLED] == 0 || sweep_quickly(c, d, s, now_ms)) {
			w->at = RULE_NONE;
			return;
		}
	}
	for (; w->at < high && !is_used_up(s); w->at++, s->slots++) {
		struct rule *r = rule_at(&c->t, w->at);

		if (!meets(r, d))
			continue;
		if (!end_for(c, w->pid, r, now_ms))
			return;
		s->ends++;
	}
	if (w->at >= high)
		w->at = RULE_NONE;
}

/* A disable rule that could not end what it meets: as if it had never been. */
static void take_back(struct core *c, struct rule *d, uint64_t now_ms)
{
	struct request *q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;

	if (q) {
		rule_finish(c, q, d, now_ms);
		core_flush(c, now_ms);
	} else {
		d->expires_ms = now_ms;
		rule_moved(&c->t, d);
	}
}

/* The reply of the disable rule and what it caused may go; the kernel has it all. */
static void sweep_finish(struct core *c, const struct sweep *w, uint64_t now_ms)
{
	struct rule *d = rule_by_pid(&c->t, w->pid);

	for (size_t i = 0; i < c->n_q; i++) {
		struct request *q = &c->q[i];

		if (q->sweep != w->pid)
			continue;
		q->held = false;
		if (w->failed && q->reply.type == SIMCO_PDR_REP) {
			q->reply.type = SIMCO_CONFIGURATION_FAILED;
			q->event_pid = 0;
		}
	}
	if (w->failed && d)
		take_back(c, d, now_ms);
}

/* One slice of the sweeps, settled with the kernel. True: some go on. */
bool core_sweep(struct core *c, uint64_t now_ms)
{
	struct slice s = {0};

	for (size_t i = 0; i < c->n_sweeps; i++) {
		struct sweep *w = &c->sweeps[i];
		struct rule *d = rule_by_pid(&c->t, w->pid);

		if (!d)
			w->at = RULE_NONE;
		else if (w->at != RULE_NONE && !is_used_up(&s))
			sweep_slice(c, w, d, &s, now_ms);
	}
	core_flush(c, now_ms);
	for (size_t i = 0; i < c->n_sweeps;) {
		if (c->sweeps[i].at == RULE_NONE) {
			struct sweep done = c->sweeps[i];

			c->sweeps[i] = c->sweeps[--c->n_sweeps];
			sweep_finish(c, &done, now_ms);
		} else {
			i++;
		}
	}
	return c->n_sweeps > 0;
}
