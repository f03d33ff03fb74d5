/*
 * What a rule is in the kernel: elements, shared with its twins (rules of the
 * same tuples), and bindings, shared with every rule of the same A0. Those of a
 * disable rule block, in both directions.
 *
 * Open: bindings, elements, then the conntrack entries of the flow. Close:
 * elements, bindings, then the same entries (ARCHITECTURE.md, rule d).
 */
#include "common/log.h"
#include "middlebox/core_int.h"

static const uint8_t directions[] = {SIMCO_INBOUND, SIMCO_OUTBOUND};

struct twins {
	struct core *c;
	uint64_t until[3]; /* latest expiry of a holder, by direction */
	bool busy;
	unsigned n; /* with the same internal end */
};

static void twin_look(struct rule *twin, bool mirrored, void *arg)
{
	struct twins *w = arg;

	w->n += !mirrored;
	if (twin->batch == w->c->batch)
		w->busy = true;
	if (twin->slot == SLOT_CLOSING)
		return;
	for (unsigned d = SIMCO_INBOUND; d <= SIMCO_OUTBOUND; d++) {
		unsigned own = mirrored ? SIMCO_BIDIRECTIONAL - d : d;

		if ((twin->direction & d) && twin->expires_ms > w->until[own])
			w->until[own] = twin->expires_ms;
	}
}

static struct twins twins_of(struct core *c, const struct rule *r, unsigned i)
{
	struct twins w = {.c = c};

	rule_each_twin(&c->t, r, i, twin_look, &w);
	return w;
}

unsigned rule_twins(struct core *c, const struct rule *r)
{
	unsigned most = 0;

	for (unsigned i = 0; i < rule_pairs(r); i++) {
		unsigned n = twins_of(c, r, i).n;

		most = n > most ? n : most;
	}
	return most;
}

uint64_t rule_element_until(struct core *c, const struct rule *r, unsigned i, uint8_t direction)
{
	struct twins w = twins_of(c, r, i);

	return w.until[direction] > r->expires_ms ? w.until[direction] : r->expires_ms;
}

bool rule_shares_busy(struct core *c, const struct rule *r)
{
	for (unsigned i = 0; i < rule_pairs(r); i++) {
		if (twins_of(c, r, i).busy)
			return true;
	}
	for (unsigned i = 0; i < rule_bindings(r); i++) {
		struct fw_binding f;
		struct binding *b;

		nat_binding(&c->nat, r, i, &f);
		b = nat_find(&c->nat, f.protocol, &f.inside);
		if (b && b->batch == c->batch)
			return true;
	}
	return false;
}

static uint64_t kernel_ms(const struct core *c, uint64_t until, uint64_t now_ms)
{
	return (until > now_ms ? until - now_ms : 0) + c->conf->grace_ms;
}

static void bind_op(struct core *c, struct request *q, const struct fw_binding *f, uint64_t until,
		    uint64_t now_ms)
{
	struct fw_op *op = core_op(c, q, FW_BIND);

	op->binding = *f;
	op->lifetime_ms = kernel_ms(c, until, now_ms);
}

/* `force`: also where the kernel has the map long enough. */
static void bind_ops(struct core *c, struct request *q, const struct rule *r, bool force,
		     uint64_t now_ms)
{
	for (unsigned i = 0; i < rule_bindings(r); i++) {
		struct fw_binding f;
		struct binding *b;

		nat_binding(&c->nat, r, i, &f);
		b = nat_find(&c->nat, f.protocol, &f.inside);
		if (!b)
			continue;
		b->batch = c->batch;
		if (!force && !b->resend && b->until_ms >= r->expires_ms &&
		    !(r->flags & RULE_TWICE))
			continue;
		b->resend = false;
		if (b->until_ms < r->expires_ms)
			b->until_ms = r->expires_ms;
		bind_op(c, q, &f, b->until_ms, now_ms);
	}
}

static void open_op(struct core *c, struct request *q, const struct rule *r, unsigned i,
		    uint8_t direction, uint64_t until, uint64_t now_ms)
{
	struct fw_op *op = core_op(c, q, r->kind == RULE_DISABLED ? FW_BLOCK : FW_OPEN);

	rule_match(r, direction, i, &op->match);
	op->lifetime_ms = kernel_ms(c, until, now_ms);
}

static void forget_op(struct core *c, struct request *q, const struct rule *r, unsigned i)
{
	struct fw_op *op = core_op(c, q, FW_FORGET);

	rule_match(r, SIMCO_OUTBOUND, i, &op->match);
	if (rule_bindings(r))
		nat_binding(&c->nat, r, i, &op->binding);
}

/* Elements of all pairs; the pairs that nobody held before are noted in `fresh`. */
static void element_ops(struct core *c, struct request *q, const struct rule *r, uint64_t *fresh,
			uint64_t now_ms)
{
	for (unsigned i = 0; i < rule_pairs(r); i++) {
		struct twins w = twins_of(c, r, i);

		for (size_t k = 0; k < ARRAY_LEN(directions); k++) {
			uint8_t d = directions[k];

			if (!(r->direction & d))
				continue;
			if (w.until[d] == 0)
				*fresh |= 1ull << i;
			open_op(c, q, r, i, d,
				w.until[d] > r->expires_ms ? w.until[d] : r->expires_ms, now_ms);
		}
	}
}

void rule_open_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	uint64_t fresh = 0;

	r->batch = c->batch;
	r->since_ms = now_ms;
	bind_ops(c, q, r, false, now_ms);
	element_ops(c, q, r, &fresh, now_ms);
	/* What is disabled meets its elements before conntrack's word counts. */
	for (unsigned i = 0; i < rule_pairs(r) && r->kind == RULE_ENABLED; i++) {
		if (fresh >> i & 1)
			forget_op(c, q, r, i);
	}
}

void rule_refresh_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	uint64_t fresh = 0;

	r->batch = c->batch;
	bind_ops(c, q, r, false, now_ms);
	element_ops(c, q, r, &fresh, now_ms);
}

void rule_restore_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	uint64_t fresh = 0;

	bind_ops(c, q, r, true, now_ms);
	element_ops(c, q, r, &fresh, now_ms);
}

/* Another rule whose kernel binding holds the outside half of this one's (twice NAT). */
static struct rule *sibling(struct core *c, const struct rule *r, const struct fw_binding *f,
			    unsigned *index)
{
	struct rule *s = rule_at_end(&c->t, SIMCO_INTERNAL, &r->in);

	for (; s; s = rule_at_next(&c->t, SIMCO_INTERNAL, s)) {
		const struct tuple *in = &s->in;
		struct fw_binding g;

		if (s == r || !rule_bindings(s) || s->slot == SLOT_CLOSING ||
		    f->inside.port < in->port || f->inside.port - in->port >= in->range)
			continue;
		*index = (unsigned)(f->inside.port - in->port);
		nat_binding(&c->nat, s, *index, &g);
		if (g.protocol == f->protocol && addr_port_eq(&g.inside, &f->inside))
			return s;
	}
	return NULL;
}

static void unbind_op(struct core *c, struct request *q, const struct rule *r, unsigned i,
		      bool has_twin, uint64_t now_ms)
{
	struct fw_binding f, g;
	struct binding *b;
	unsigned index = 0;
	struct rule *other;

	nat_binding(&c->nat, r, i, &f);
	b = nat_find(&c->nat, f.protocol, &f.inside);
	if (b)
		b->batch = c->batch;
	if (b && b->refs > 1) {
		/* The outside half stays; a pair's inside half goes unless a twin has it. */
		if (!(r->flags & RULE_TWICE) || has_twin)
			return;
		other = sibling(c, r, &f, &index);
		core_op(c, q, FW_UNBIND)->binding = f;
		if (!other)
			return;
		nat_binding(&c->nat, other, index, &g);
		bind_op(c, q, &g, b->until_ms, now_ms);
		return;
	}
	core_op(c, q, FW_UNBIND)->binding = f;
}

static void close_element(struct core *c, struct request *q, const struct rule *r, unsigned i,
			  const struct twins *w, uint64_t now_ms)
{
	bool disable = r->kind == RULE_DISABLED, gone = false;

	for (size_t k = 0; k < ARRAY_LEN(directions); k++) {
		uint8_t d = directions[k];

		if (!(r->direction & d))
			continue;
		if (w->until[d] == 0) {
			rule_match(r, d, i, &core_op(c, q, disable ? FW_UNBLOCK : FW_CLOSE)->match);
			gone = !disable;
		} else { /* its timeout may have been this rule's */
			open_op(c, q, r, i, d, w->until[d], now_ms);
		}
	}
	if (rule_bindings(r))
		unbind_op(c, q, r, i, w->n > 0, now_ms);
	if (gone)
		forget_op(c, q, r, i);
}

void rule_close_ops(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	r->batch = c->batch;
	for (unsigned i = 0; i < rule_pairs(r); i++) {
		struct twins w = twins_of(c, r, i);

		close_element(c, q, r, i, &w, now_ms);
	}
}
