/*
 * PRR, PLC, PRS and PRL (RFC 4540 §8.2, §8.5-8.7), and how a rule ends.
 * Checks stand in the order of the text.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "middlebox/authz.h"
#include "middlebox/core_int.h"

#define PRL_MAX 8191 /* PID attributes that fit a message of 65,536 octets */

uint32_t rule_remaining_s(const struct rule *r, uint64_t now_ms)
{
	return r->expires_ms > now_ms ? (uint32_t)((r->expires_ms - now_ms + 999) / 1000) : 0;
}

void reply_event(struct request *q, const struct rule *r, uint32_t lifetime)
{
	q->event_pid = r->pid;
	q->event_owner = r->owner;
	q->event_lifetime = lifetime;
}

static void drop_reservation(struct core *c, struct rule *r)
{
	if (r->flags & RULE_NAT)
		nat_put(&c->nat, r, SIMCO_OUTSIDE);
	if (r->flags & RULE_TWICE)
		nat_put(&c->nat, r, SIMCO_INSIDE);
}

void rule_drop(struct core *c, struct rule *r)
{
	if (r->kind != RULE_RESERVED)
		rule_unlink_tuples(&c->t, r);
	if (r->kind == RULE_RESERVED) {
		drop_reservation(c, r);
	} else if (r->kind == RULE_ENABLED && (r->flags & RULE_NAT)) {
		bool face_shared = rule_twins(c, r) > 0;

		nat_unbind(&c->nat, r, true);
		if ((r->flags & RULE_TWICE) && !face_shared)
			nat_put(&c->nat, r, SIMCO_INSIDE);
	}
	rule_unlink(&c->t, r);
	rule_give(&c->t, r);
}

void rule_finish(struct core *c, struct request *q, struct rule *r, uint64_t now_ms)
{
	q->act = ACT_CLOSE;
	q->slot = rule_slot(&c->t, r);
	r->batch = c->batch;
	if (r->kind != RULE_RESERVED) {
		ledger_set(r, SLOT_CLOSING);
		rule_close_ops(c, q, r, now_ms);
	}
}

/* ---- PRR ---------------------------------------------------------------------- */

static bool carried(const struct core *c, uint8_t version)
{
	return version == SIMCO_IP_ANY || (version == SIMCO_IPV4 && c->conf->ipv4) ||
	       (version == SIMCO_IPV6 && c->conf->ipv6);
}

uint8_t core_version(const struct core *c, const struct simco_prr_params *p)
{
	if (p->outside_version != SIMCO_IP_ANY)
		return p->outside_version;
	if (p->inside_version != SIMCO_IP_ANY)
		return p->inside_version;
	/* Any: what is translated, else what is carried. */
	if (c->nat.mode != FW_NAT_NONE && !nat_translates(&c->nat, 4) && nat_translates(&c->nat, 6))
		return SIMCO_IPV6;
	return c->conf->ipv4 ? SIMCO_IPV4 : SIMCO_IPV6;
}

static uint16_t check_prr(const struct core *c, const struct agent_conf *a,
			  const struct simco_prr_params *p)
{
	uint8_t version;

	if (!carried(c, p->inside_version) || !carried(c, p->outside_version))
		return SIMCO_IP_VERSION_MISMATCH;
	if (p->inside_version != SIMCO_IP_ANY && p->outside_version != SIMCO_IP_ANY &&
	    p->inside_version != p->outside_version)
		return SIMCO_IP_VERSION_MISMATCH; /* no protocol translation */
	if (p->protocol != 0 && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_TCP)
		return SIMCO_PROTOCOL_NOT_SUPPORTED;
	if (p->port_range == 0 || (p->port_range > RULE_PORTS_MAX && p->port_range != 0xffff))
		return SIMCO_ILLEGAL_NOSP;
	version = p->inside_version == SIMCO_IP_ANY ? p->outside_version : p->inside_version;
	return authz_reserve(a, p->protocol,
			     version == SIMCO_IPV4   ? 4
			     : version == SIMCO_IPV6 ? 6
						     : 0);
}

static uint16_t check_nat_mode(const struct core *c, const struct simco_prr_params *p)
{
	if (p->nat_mode == SIMCO_NAT_TRADITIONAL)
		return 0;
	if (p->nat_mode == SIMCO_NAT_TWICE && c->nat.mode == FW_NAT_TWICE)
		return 0;
	return SIMCO_NAT_MODE_NOT_SUPPORTED;
}

/* The group's latest single reservation of an even port that has no neighbour (decisions 15). */
static struct rule *unpaired_even(struct core *c, const struct rule *r)
{
	struct rule *first = rule_by_gid(&c->t, r->gid), *m = first;

	if (!first || r->prr.parity != SIMCO_PARITY_ODD || r->prr.port_range != 1)
		return NULL;
	for (unsigned looked = 0; looked < 1024; looked++) {
		m = rule_group_prev(&c->t, m);
		if (m->pair == RULE_NONE && m->owner == r->owner &&
		    m->prr.parity == SIMCO_PARITY_EVEN && m->prr.port_range == 1 &&
		    m->prr.protocol == r->prr.protocol && m->slot != SLOT_CLOSING)
			return m;
		if (m == first)
			break;
	}
	return NULL;
}

/* Ports of one side; next to `neighbour` where that is free. */
static uint16_t take_ports(struct portpool *p, const struct simco_prr_params *w,
			   const struct rule_ports *neighbour, struct rule_ports *out)
{
	uint16_t port = 0;

	if (neighbour && neighbour->first && (neighbour->first & 1) == 0 &&
	    neighbour->address == p->id &&
	    portpool_take_exact(p, w->protocol, (uint16_t)(neighbour->first + 1), 1))
		port = (uint16_t)(neighbour->first + 1);
	if (!port)
		port = portpool_take(p, w->protocol, w->port_range, w->parity);
	if (!port)
		return SIMCO_LACK_OF_PORTS;
	*out = (struct rule_ports){p->id, port};
	return 0;
}

static uint16_t take_face(struct core *c, const struct simco_prr_params *w, uint8_t version,
			  const struct rule_ports *neighbour, struct rule_ports *out)
{
	uint16_t err = SIMCO_LACK_OF_ADDRESSES;

	for (size_t i = 0; i < c->nat.n_faces && err; i++) {
		if (c->nat.faces[i]->address.version == version)
			err = take_ports(c->nat.faces[i], w, neighbour, out);
	}
	return err;
}

static uint16_t reserve(struct core *c, const struct agent_conf *a, struct rule *r,
			const struct rule *neighbour)
{
	struct portpool *p = nat_pool(&c->nat, &a->pool);
	uint16_t err;

	if (r->prr.protocol == 0)
		return SIMCO_PROTOCOL_NOT_SUPPORTED; /* an address without ports cannot be had */
	if (!p)
		return SIMCO_LACK_OF_ADDRESSES;
	if (r->prr.port_range > RULE_PORTS_MAX)
		return SIMCO_LACK_OF_PORTS; /* "any" */
	err = take_ports(p, &r->prr, neighbour ? &neighbour->outside : NULL, &r->outside);
	if (err)
		return err;
	r->flags |= RULE_NAT;
	if (r->prr.nat_mode != SIMCO_NAT_TWICE)
		return 0;
	err = take_face(c, &r->prr, p->address.version, neighbour ? &neighbour->inside : NULL,
			&r->inside);
	if (err) {
		nat_put(&c->nat, r, SIMCO_OUTSIDE);
		return err;
	}
	r->flags |= RULE_TWICE;
	return 0;
}

static void prr_reply(const struct core *c, struct simco_msg *rep, uint16_t type,
		      const struct rule *r, uint32_t lifetime)
{
	struct tuple outside = nat_tuple(&c->nat, r, SIMCO_OUTSIDE);
	struct tuple inside = nat_tuple(&c->nat, r, SIMCO_INSIDE);

	rep->type = type;
	rep->pid = r->pid;
	rep->gid = r->gid;
	rep->has_gid = true;
	rep->lifetime = lifetime;
	rep->tuple[SIMCO_OUTSIDE] = tuple_to_simco(&outside, SIMCO_OUTSIDE);
	rep->has_inside = r->flags & RULE_TWICE;
	if (rep->has_inside)
		rep->tuple[SIMCO_INSIDE] = tuple_to_simco(&inside, SIMCO_INSIDE);
}

uint16_t core_group(struct core *c, struct session *s, const struct simco_msg *m, uint64_t now_ms)
{
	struct rule *first;

	if (!m->has_gid)
		return 0;
	first = rule_by_gid(&c->t, m->gid);
	if (first && core_settle(c, first->batch, now_ms))
		first = rule_by_gid(&c->t, m->gid);
	if (!first)
		return SIMCO_NO_SUCH_GROUP;
	return core_may_access(c, s->owner, first->owner) ? 0 : SIMCO_GROUP_NOT_AUTHORIZED;
}

/* Quota and a slot; what an open batch is about to free counts as free. */
struct rule *core_new_rule(struct core *c, struct session *s, bool paired, uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	struct rule *r = NULL;

	for (int again = 0; again < 2 && !r; again++) {
		if (paired || rule_count(&c->t, s->owner) < a->conf->max_rules)
			r = rule_take(&c->t);
		if (!r && (c->n_txn == 0 || again))
			break;
		if (!r)
			core_flush(c, now_ms);
	}
	if (!r)
		return NULL;
	r->owner = s->owner;
	r->created_ms = now_ms;
	return r;
}

uint16_t core_prr(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	struct rule want = {.owner = s->owner, .gid = m->has_gid ? m->gid : 0, .prr = m->prr};
	struct rule *r, *even;
	uint32_t lifetime = m->lifetime, most = core_max_lifetime(c, a);
	uint8_t version = core_version(c, &m->prr);
	bool nat = nat_translates(&c->nat, version == SIMCO_IPV4 ? 4 : 6);
	uint16_t err;

	if (!(a->conf->may & AGENT_MAY_RESERVE))
		return SIMCO_TRANSACTION_NOT_AUTHORIZED;
	err = core_group(c, s, m, now_ms);
	if (!err)
		err = check_prr(c, a->conf, &m->prr);
	if (err)
		return err;
	lifetime = lifetime < most ? lifetime : most;
	if (lifetime == 0)
		return SIMCO_CONFIGURATION_FAILED;
	if (nat)
		err = check_nat_mode(c, &m->prr);
	if (err)
		return err;
	even = m->has_gid ? unpaired_even(c, &want) : NULL;
	r = core_new_rule(c, s, even != NULL, now_ms);
	if (!r)
		return SIMCO_NO_RESOURCES;
	r->gid = want.gid;
	r->prr = m->prr;
	r->kind = RULE_RESERVED;
	r->expires_ms = now_ms + lifetime * 1000ull;
	r->version = version;
	even = m->has_gid ? unpaired_even(c, &want) : NULL; /* it may have gone meanwhile */
	if (nat)
		err = reserve(c, a->conf, r, even);
	if (err == SIMCO_LACK_OF_PORTS && c->n_txn > 0) {
		core_flush(c, now_ms); /* ports that are just being released */
		even = m->has_gid ? unpaired_even(c, &want) : NULL;
		err = reserve(c, a->conf, r, even);
	}
	if (err) {
		rule_give(&c->t, r);
		return err;
	}
	rule_link(&c->t, r);
	if (even)
		rule_pair(&c->t, r, even);
	ledger_set(r, SLOT_FINAL);
	prr_reply(c, &q->reply, SIMCO_PRR_REP, r, lifetime);
	reply_event(q, r, lifetime);
	return 0;
}

/* ---- PLC ---------------------------------------------------------------------- */

static uint16_t find_rule(struct core *c, struct session *s, uint32_t pid, struct rule **out,
			  uint64_t now_ms)
{
	struct rule *r = rule_by_pid(&c->t, pid);

	if (r && core_settle(c, r->batch, now_ms))
		r = rule_by_pid(&c->t, pid);
	if (!r)
		return SIMCO_NO_SUCH_RULE;
	if (!core_may_access(c, s->owner, r->owner))
		return SIMCO_RULE_NOT_AUTHORIZED;
	*out = r;
	return 0;
}

/* What an agent may not create it may not prolong either; it may end it. */
static bool may_prolong(const struct agent *a, const struct rule *r)
{
	unsigned need = r->kind == RULE_RESERVED  ? AGENT_MAY_RESERVE
			: r->kind == RULE_ENABLED ? AGENT_MAY_ENABLE
						  : AGENT_MAY_DISABLE;

	return a->conf->may & need;
}

uint16_t core_plc(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	uint32_t most = core_max_lifetime(c, a);
	uint32_t lifetime = m->lifetime < most ? m->lifetime : most;
	struct rule *r;
	uint16_t err;

	if (a->conf->may == 0)
		return SIMCO_TRANSACTION_NOT_AUTHORIZED;
	err = find_rule(c, s, m->pid, &r, now_ms);
	if (err)
		return err;
	if (lifetime > 0 && !may_prolong(a, r))
		return SIMCO_LIFETIME_NOT_AUTHORIZED;
	/* A disable rule is about to end it (§8.8.2). */
	if (lifetime > 0 && r->kind == RULE_ENABLED && c->n_sweeps && rule_disabled_by(&c->t, r))
		return SIMCO_LIFETIME_NOT_EXTENDED;
	if (r->kind != RULE_RESERVED && rule_shares_busy(c, r))
		core_flush(c, now_ms);
	q->slot = rule_slot(&c->t, r);
	reply_event(q, r, lifetime);
	if (lifetime == 0) {
		q->reply.type = SIMCO_PRD_REP;
		rule_finish(c, q, r, now_ms);
		return 0;
	}
	q->act = ACT_REFRESH;
	q->old_expires = r->expires_ms;
	r->expires_ms = now_ms + lifetime * 1000ull;
	rule_moved(&c->t, r);
	if (r->kind != RULE_RESERVED)
		rule_refresh_ops(c, q, r, now_ms);
	q->reply.type = SIMCO_PLC_REP;
	q->reply.lifetime = lifetime;
	return 0;
}

/* ---- PRS, PRL ----------------------------------------------------------------- */

static void add_owner(struct core *c, struct simco_msg *rep, const struct rule *r)
{
	rep->owner = (const uint8_t *)ledger_owner_name(&c->t.led, r->owner);
	rep->owner_len = strlen((const char *)rep->owner);
}

static void pes_reply(const struct core *c, struct simco_msg *rep, const struct rule *r,
		      uint32_t lifetime)
{
	rep->type = SIMCO_PES_REP;
	rep->pid = r->pid;
	rep->gid = r->gid;
	rep->has_gid = true;
	rep->lifetime = lifetime;
	rep->per = (struct simco_per_params){.parity = r->per_parity, .direction = r->direction};
	for (unsigned at = SIMCO_INTERNAL; at <= SIMCO_EXTERNAL; at++) {
		struct tuple t = nat_tuple(&c->nat, r, at);

		rep->tuple[at] = tuple_to_simco(&t, at);
	}
	rep->has_inside = true;
}

static void pds_reply(struct simco_msg *rep, const struct rule *r, uint32_t lifetime)
{
	rep->type = SIMCO_PDS_REP;
	rep->pid = r->pid;
	rep->lifetime = lifetime;
	rep->tuple[SIMCO_INTERNAL] = tuple_to_simco(&r->in, SIMCO_INTERNAL);
	rep->tuple[SIMCO_EXTERNAL] = tuple_to_simco(&r->ex, SIMCO_EXTERNAL);
}

uint16_t core_prs(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct rule *r;
	uint16_t err = find_rule(c, s, m->pid, &r, now_ms);
	uint32_t lifetime;

	if (err)
		return err;
	lifetime = rule_remaining_s(r, now_ms);
	if (r->kind == RULE_RESERVED)
		prr_reply(c, &q->reply, SIMCO_PRS_REP, r, lifetime);
	else if (r->kind == RULE_ENABLED)
		pes_reply(c, &q->reply, r, lifetime);
	else
		pds_reply(&q->reply, r, lifetime);
	if (r->kind == RULE_ENABLED && (s->extensions & SIMCO_EXT_ACTIVITY)) {
		q->reply.has_activity = true;
		q->reply.activity = rule_activity(c, r, now_ms);
	}
	add_owner(c, &q->reply, r);
	return 0;
}

uint16_t core_prl(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	size_t total = 0, n = 0;

	(void)m;
	if (c->n_txn > 0)
		core_flush(c, now_ms); /* list what is, not what may be */
	for (uint16_t o = 0; o < LEDGER_OWNERS; o++) {
		if (c->t.owner[o].rules && core_may_access(c, s->owner, o))
			total += c->t.owner[o].rules;
	}
	if (total > PRL_MAX)
		return SIMCO_REPLY_TOO_BIG;
	q->reply.type = SIMCO_PRL_REP;
	q->pids = total ? malloc(total * sizeof(*q->pids)) : NULL;
	if (total && !q->pids)
		return SIMCO_NO_RESOURCES;
	for (uint16_t o = 0; o < LEDGER_OWNERS; o++) {
		struct rule *r = rule_at(&c->t, c->t.owner[o].head);

		for (; r && core_may_access(c, s->owner, o); r = rule_at(&c->t, r->owned.next))
			q->pids[n++] = r->pid;
	}
	q->reply.n_pids = n;
	return 0;
}
