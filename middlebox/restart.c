/*
 * What the ledger says after a restart, and putting rules back into a kernel
 * that lost them. Live rules are indexed first, so that ending a dead one
 * leaves alone what they share. Where the kernel's table was replaced their
 * elements are added before anybody is served; where it has kept them, in slices
 * afterwards: that disturbs nothing (media goes on), and takes seconds for a
 * million rules.
 */
#include <netinet/in.h>
#include <string.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/core_int.h"

#define RECOVER_BATCH 512u /* rules in one batch before the daemon listens */
#define RESTORE_SLICE 24u

static bool sane_tuple(const struct tuple *t)
{
	bool port = !tuple_port_any(t);

	return (t->version == SIMCO_IPV4 || t->version == SIMCO_IPV6) &&
	       t->prefix <= (t->version == SIMCO_IPV6 ? 128 : 32) &&
	       (!port || (t->range > 0 && (unsigned)t->port + t->range <= 65536));
}

static bool sane_ports(struct core *c, const struct rule *r, enum simco_location at)
{
	const struct rule_ports *p = at == SIMCO_INSIDE ? &r->inside : &r->outside;
	struct tuple t;

	if (p->address >= LEDGER_ADDRESSES || c->t.led.addresses[p->address].version == 0)
		return false;
	t = nat_tuple(&c->nat, r, at);
	return !tuple_port_any(&t) && sane_tuple(&t) && t.range <= RULE_PORTS_MAX;
}

/* A slot whose content could not be ours is not touched in the kernel. */
static bool sane(struct core *c, const struct rule *r)
{
	const struct tuple *in = &r->in;

	if (r->pid == 0 || r->gid == 0 || r->kind < RULE_RESERVED || r->kind > RULE_DISABLED ||
	    r->owner >= LEDGER_OWNERS || !*ledger_owner_name(&c->t.led, r->owner) ||
	    rule_by_pid(&c->t, r->pid))
		return false;
	if ((r->flags & RULE_NAT) && !sane_ports(c, r, SIMCO_OUTSIDE))
		return false;
	if ((r->flags & RULE_TWICE) && !sane_ports(c, r, SIMCO_INSIDE))
		return false;
	if (r->kind == RULE_RESERVED)
		return true;
	return sane_tuple(in) && sane_tuple(&r->ex) &&
	       (r->kind == RULE_DISABLED || rule_pairs(r) <= RULE_PORTS_MAX) &&
	       (!(r->flags & RULE_NAT) || in->range == nat_tuple(&c->nat, r, SIMCO_OUTSIDE).range);
}

static void reset_links(struct rule *r, uint64_t now_ms)
{
	size_t at = offsetof(struct rule, next_pid);

	memset((uint8_t *)r + at, 0, sizeof(*r) - at);
	r->pair = RULE_NONE;
	r->heap_pos = RULE_NONE;
	r->since_ms = now_ms;
}

/* Its ports are still ours. */
static bool take_ports_again(struct core *c, struct rule *r)
{
	if ((r->flags & RULE_NAT) && !nat_mark(&c->nat, r, SIMCO_OUTSIDE))
		return false;
	if ((r->flags & RULE_TWICE) && !nat_mark(&c->nat, r, SIMCO_INSIDE))
		return false;
	return r->kind != RULE_ENABLED || nat_bind(&c->nat, r) == 0;
}

static void link_again(struct core *c, struct rule *r)
{
	rule_link(&c->t, r);
	if (r->kind != RULE_RESERVED)
		rule_link_tuples(&c->t, r);
}

/* Whatever the ledger says: nothing stays open for longer than anybody may ask for. */
static void bound_expiry(const struct core *c, struct rule *r, uint64_t now_ms)
{
	uint64_t most = now_ms + c->conf->max_lifetime * 1000ull;

	if (r->expires_ms > most)
		r->expires_ms = most;
}

static bool lives(const struct rule *r, uint64_t now_ms)
{
	return r->slot == SLOT_FINAL && r->expires_ms > now_ms;
}

/* Pairs of RTP and RTCP count once again, and a lone even port has its neighbour kept. */
static void pair_again(struct core *c, struct rule *r)
{
	struct tuple out = nat_tuple(&c->nat, r, SIMCO_OUTSIDE);
	struct portpool *p;
	struct rule *m;

	if (r->pair != RULE_NONE || r->prr.port_range != 1 || r->prr.parity != SIMCO_PARITY_ODD) {
		p = (r->flags & RULE_NAT) ? nat_pool_at(&c->nat, r, SIMCO_OUTSIDE) : NULL;
		if (p && r->prr.parity == SIMCO_PARITY_EVEN && out.range == 1 && out.port % 2 == 0)
			portpool_set_aside(p, out.protocol, (uint16_t)(out.port + 1), true);
		m = r->pair == RULE_NONE && r->kind == RULE_ENABLED && r->prr.port_range == 0
			    ? core_pair_of(c, r->gid, r)
			    : NULL;
		if (m)
			rule_pair(&c->t, r, m);
		return;
	}
	m = r;
	for (unsigned looked = 0; looked < 1024; looked++) {
		m = rule_group_next(&c->t, m);
		if (m == r)
			return;
		if (m->pair == RULE_NONE && m->owner == r->owner && m->prr.port_range == 1 &&
		    m->prr.parity == SIMCO_PARITY_EVEN && m->prr.protocol == r->prr.protocol &&
		    (!(r->flags & RULE_NAT) || m->outside.first + 1 == r->outside.first)) {
			rule_pair(&c->t, r, m);
			return;
		}
	}
}

/* Settles what is queued; nobody waits for replies yet. */
static void settle_quietly(struct core *c, uint64_t now_ms)
{
	core_flush(c, now_ms);
	c->n_q = c->settled = 0;
}

static int bury_one(struct core *c, struct rule *r, uint64_t now_ms)
{
	bool enabling = r->slot == SLOT_ENABLING && r->expires_ms > now_ms;
	struct request *q;

	reset_links(r, now_ms);
	if (c->n_q >= RECOVER_BATCH || (r->kind != RULE_RESERVED && rule_shares_busy(c, r)))
		settle_quietly(c, now_ms);
	q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;
	if (!q)
		return ERR_NOMEM;
	if (!take_ports_again(c, r)) {
		log_warn("ledger: rule %u: its outside address is not configured any more", r->pid);
		for (unsigned i = 0; r->kind == RULE_ENABLED && i < rule_bindings(r); i++)
			nat_binding(&c->nat, r, i, &core_op(c, q, FW_UNBIND)->binding);
		r->flags = 0;
	}
	link_again(c, r);
	if (!enabling) {
		rule_finish(c, q, r, now_ms);
		return 0;
	}
	if (r->kind == RULE_ENABLED) {
		rule_close_ops(c, q, r, now_ms);
		settle_quietly(c, now_ms);
		rule_undo_enable(c, r);
	} else {
		ledger_set(r, SLOT_FINAL);
	}
	return 0;
}

static int reopen(struct core *c, struct rule *r, uint64_t now_ms)
{
	struct request *q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;

	if (!q)
		return ERR_NOMEM;
	q->act = ACT_OPEN;
	q->restoring = true;
	q->slot = rule_slot(&c->t, r);
	rule_restore_ops(c, q, r, now_ms);
	return 0;
}

static int recover_live(struct core *c, uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led);
	int err = 0;

	for (uint32_t s = 0; s < high && !err; s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot != SLOT_FINAL || r->kind == RULE_RESERVED)
			continue;
		err = reopen(c, r, now_ms);
		if (c->n_q >= RECOVER_BATCH)
			settle_quietly(c, now_ms);
	}
	settle_quietly(c, now_ms);
	return err;
}

int core_recover(struct core *c, uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led), dead = 0, bad = 0;
	int err = 0;

	for (uint32_t s = high; s-- > 0;) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot != SLOT_FREE && !sane(c, r)) {
			bad++;
			ledger_set(r, SLOT_FREE);
		}
		if (r->slot == SLOT_FREE) {
			rule_free_slot(&c->t, s);
			continue;
		}
		bound_expiry(c, r, now_ms);
		if (!lives(r, now_ms))
			continue;
		reset_links(r, now_ms);
		if (take_ports_again(c, r))
			link_again(c, r);
		else
			ledger_set(r, SLOT_CLOSING);
	}
	for (uint32_t s = 0; s < high; s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot != SLOT_FREE && lives(r, now_ms))
			pair_again(c, r);
	}
	for (uint32_t s = 0; s < high && !err; s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot == SLOT_FREE || lives(r, now_ms))
			continue;
		dead++;
		err = bury_one(c, r, now_ms);
	}
	settle_quietly(c, now_ms);
	c->unconfirmed = fw_kept(c->fw) && c->t.n_elements > 0;
	if (!err && !c->unconfirmed)
		err = recover_live(c, now_ms);
	if (c->t.n_rules || dead || bad)
		log_info("ledger: %u rules live on, %u ended, %u slots unreadable", c->t.n_rules,
			 dead, bad);
	return err;
}

bool core_unconfirmed(const struct core *c)
{
	return c->unconfirmed;
}

bool core_restore(struct core *c, uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led);
	uint64_t turn = fw_stats(c->fw).reinstalls;

	if (c->restore_for != turn) { /* lost again: from the start */
		c->restore_for = turn;
		c->restore_at = 0;
	}
	core_flush(c, now_ms);
	for (unsigned n = 0; c->restore_at < high && n < RESTORE_SLICE; c->restore_at++) {
		struct rule *r = rule_at(&c->t, c->restore_at);

		if (r->slot != SLOT_FINAL || r->kind == RULE_RESERVED)
			continue;
		if (r->batch == c->batch || rule_shares_busy(c, r))
			core_flush(c, now_ms);
		if (reopen(c, r, now_ms) != 0)
			break;
		n++;
	}
	core_flush(c, now_ms);
	core_give(c);
	if (c->restore_at < high)
		return true;
	c->restore_at = 0;
	c->unconfirmed = false;
	return false;
}
