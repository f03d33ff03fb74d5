/*
 * PER and PEA (RFC 4540 §8.3, §8.4). Checks stand in the order of the text;
 * those that the text only names (version, protocol, ports, addresses) follow
 * the consistency of the tuples.
 */
#include <netinet/in.h>
#include <string.h>

#include "middlebox/authz.h"
#include "middlebox/core_int.h"

#define TWINS_MAX 256 /* rules of the same tuples; more is 0x0342 */

static bool port_given(const struct tuple *t)
{
	return !tuple_port_any(t);
}

/* §8.3.1: locations, protocol, ranges. The same for PER, PEA and PDR. */
uint16_t tuples_consistent(const struct simco_msg *m, const struct tuple *in,
			   const struct tuple *ex)
{
	if (m->tuple[SIMCO_INTERNAL].location != SIMCO_INTERNAL ||
	    m->tuple[SIMCO_EXTERNAL].location != SIMCO_EXTERNAL)
		return SIMCO_INCONSISTENT_REQUEST;
	if (in->protocol != ex->protocol)
		return SIMCO_INCONSISTENT_REQUEST;
	if (port_given(in) && port_given(ex) && in->range != 0xffff && ex->range != 0xffff &&
	    in->range != ex->range)
		return SIMCO_INCONSISTENT_REQUEST;
	return 0;
}

static bool illegal_address(const struct tuple *t)
{
	struct addr_prefix p = tuple_prefix(t);
	bool exact = tuple_addr_exact(t);

	if (t->protocols_only)
		return false;
	if (exact && addr_is_any(&p.addr))
		return true;
	if (p.addr.version == 4) {
		if (exact && memcmp(p.addr.b, "\xff\xff\xff\xff", 4) == 0)
			return true;
		return (p.len >= 8 && addr_is_loopback(&p.addr)) ||
		       (p.len >= 4 && addr_is_multicast(&p.addr));
	}
	return (exact && addr_is_loopback(&p.addr)) || (p.len >= 8 && addr_is_multicast(&p.addr));
}

static bool illegal_range(const struct tuple *t)
{
	return port_given(t) && (t->range == 0 || (unsigned)t->port + t->range - 1 > 65535);
}

/*
 * Inbound to one multicast group: whoever inside has joined it receives, nobody
 * sends from it. No unicast end, so not what 0x0353 is for; never translated.
 */
static bool to_group(const struct rule *w)
{
	const struct tuple *in = &w->in;
	struct addr a = tuple_addr(in);

	return w->direction == SIMCO_INBOUND && tuple_addr_exact(in) && addr_is_multicast(&a);
}

/* What no firewall of ours could mean. */
static uint16_t tuples_legal(const struct core *c, const struct rule *w)
{
	const struct tuple *in = &w->in, *ex = &w->ex;

	if (in->version != ex->version ||
	    !(in->version == SIMCO_IPV4 ? c->conf->ipv4 : c->conf->ipv6))
		return SIMCO_IP_VERSION_MISMATCH;
	if (in->protocol != 0 && in->protocol != IPPROTO_UDP && in->protocol != IPPROTO_TCP)
		return SIMCO_PROTOCOL_NOT_SUPPORTED;
	if (illegal_range(in) || illegal_range(ex))
		return SIMCO_ILLEGAL_NOSP;
	if (port_given(in) && port_given(ex) &&
	    (in->range != ex->range || in->range > RULE_PORTS_MAX))
		return SIMCO_ILLEGAL_NOSP;
	if ((illegal_address(in) && !to_group(w)) || illegal_address(ex))
		return SIMCO_ILLEGAL_ADDRESS;
	return 0;
}

/* Both ends the same: no flow crosses the middlebox. */
static bool same_end(const struct tuple *in, const struct tuple *ex)
{
	struct addr_prefix a = tuple_prefix(in), b = tuple_prefix(ex);
	struct port_range p = tuple_ports(in), q = tuple_ports(ex);

	if (a.len != b.len || !addr_eq(&a.addr, &b.addr))
		return false;
	return tuple_addr_exact(in) || (p.first == q.first && p.last == q.last);
}

/* One of our own addresses is no end of a flow. */
static bool ours(const struct core *c, const struct tuple *t)
{
	struct addr a = tuple_addr(t);

	return tuple_addr_exact(t) && nat_is_ours(&c->nat, &a);
}

static bool wild(const struct tuple *t)
{
	return !tuple_addr_exact(t) || tuple_port_any(t);
}

/* Wildcards that agent, NAT and direction allow (§8.3.1). */
static uint16_t check_wildcards(const struct core *c, const struct agent_conf *a,
				const struct rule *w)
{
	const struct tuple *in = &w->in, *ex = &w->ex;
	bool nat = nat_translates(&c->nat, tuple_version(in)) && !to_group(w);

	if ((wild(in) || wild(ex)) && !a->wildcards)
		return SIMCO_WILDCARDING_NOT_SUPPORTED;
	if (nat && wild(in))
		return SIMCO_WILDCARDING_NOT_SUPPORTED; /* a binding has one A0 */
	if (nat && in->range > RULE_PORTS_MAX)
		return SIMCO_ILLEGAL_NOSP;
	if (nat && c->nat.mode == FW_NAT_TWICE && w->flags != RULE_NAT && wild(ex))
		return SIMCO_WILDCARDING_NOT_SUPPORTED; /* and one A3 where the way back is mapped
							 */
	if (w->direction != SIMCO_BIDIRECTIONAL)
		return 0;
	if (!tuple_addr_exact(in) || !tuple_addr_exact(ex))
		return SIMCO_INCONSISTENT_REQUEST;
	if (in->protocol != 0 && (in->port == 0 || ex->port == 0))
		return SIMCO_INCONSISTENT_REQUEST;
	return 0;
}

static uint16_t check_tuples(struct core *c, const struct agent_conf *a, const struct simco_msg *m,
			     const struct rule *w)
{
	const struct tuple *in = &w->in, *ex = &w->ex;
	uint16_t err = tuples_consistent(m, in, ex);

	if (!err &&
	    (w->direction < SIMCO_INBOUND || w->direction > SIMCO_BIDIRECTIONAL ||
	     (w->per_parity != SIMCO_PER_PARITY_ANY && w->per_parity != SIMCO_PER_PARITY_SAME)))
		err = SIMCO_INCONSISTENT_REQUEST;
	if (!err)
		err = tuples_legal(c, w);
	if (!err && (ours(c, in) || ours(c, ex) || same_end(in, ex)))
		err = SIMCO_ILLEGAL_ADDRESS;
	if (!err)
		err = check_wildcards(c, a, w);
	if (!err)
		err = authz_tuples(a, in, ex);
	if (!err && rule_disabled_by(&c->t, w))
		err = SIMCO_CONFLICT;
	return err;
}

static struct rule wanted(struct session *s, const struct simco_msg *m)
{
	struct rule w = {
		.owner = s->owner,
		.kind = RULE_ENABLED,
		.direction = m->per.direction,
		.per_parity = m->per.parity,
	};

	w.in = tuple_from_simco(&m->tuple[SIMCO_INTERNAL]);
	w.ex = tuple_from_simco(&m->tuple[SIMCO_EXTERNAL]);
	return w;
}

/* ---- the outside of a PER on a NAT -------------------------------------------- */

/*
 * The base port that A0's present bindings dictate: 0 when there are none.
 * Another owner's binding, or bindings that no consecutive range can meet: 0x0350.
 */
static uint16_t bound_base(struct core *c, const struct rule *w, const struct addr_port *a0,
			   unsigned *base, struct portpool **pool)
{
	const struct tuple *in = &w->in;

	*base = 0;
	for (unsigned i = 0; i < in->range; i++) {
		struct addr_port at = {a0->addr, (uint16_t)(a0->port + i)};
		struct binding *b = nat_find(&c->nat, in->protocol, &at);

		if (!b)
			continue;
		if (b->owner != w->owner || b->outside_port <= i ||
		    (*base && (b->outside_port - i != *base || c->nat.pools[b->pool] != *pool)))
			return SIMCO_CONFLICT;
		*base = b->outside_port - i;
		*pool = c->nat.pools[b->pool];
	}
	return 0;
}

/* Takes the ports of the range whose A0 port is not bound yet. */
static bool take_rest(struct core *c, const struct rule *w, const struct addr_port *a0,
		      struct portpool *p, unsigned base)
{
	const struct tuple *in = &w->in;
	uint64_t taken = 0;

	for (unsigned i = 0; i < in->range; i++) {
		struct addr_port at = {a0->addr, (uint16_t)(a0->port + i)};

		if (nat_find(&c->nat, in->protocol, &at))
			continue;
		if (base + i <= 65535 &&
		    portpool_take_exact(p, in->protocol, (uint16_t)(base + i), 1)) {
			taken |= 1ull << i;
			continue;
		}
		for (unsigned k = 0; k < i; k++) {
			if (taken >> k & 1)
				portpool_put(p, in->protocol, (uint16_t)(base + k), 1);
		}
		return false;
	}
	return true;
}

/* RTCP beside RTP: A0's even neighbour is bound and its outside neighbour free. */
static unsigned beside_neighbour(struct core *c, const struct rule *w, const struct addr_port *a0,
				 struct portpool *p)
{
	const struct tuple *in = &w->in;
	struct addr_port at = {a0->addr, (uint16_t)(a0->port - 1)};
	struct binding *b = NULL;

	if (in->range == 1 && (a0->port & 1))
		b = nat_find(&c->nat, in->protocol, &at);
	if (!b || b->owner != w->owner || (b->outside_port & 1) || c->nat.pools[b->pool] != p ||
	    !portpool_take_exact(p, in->protocol, (uint16_t)(b->outside_port + 1), 1))
		return 0;
	return b->outside_port + 1u;
}

static uint16_t outside_ports(struct core *c, const struct agent_conf *a, struct rule *w)
{
	const struct tuple *in = &w->in;
	struct addr_port a0 = {tuple_addr(in), in->port};
	struct portpool *p = nat_pool(&c->nat, &a->pool);
	unsigned parity = w->per_parity == SIMCO_PER_PARITY_ANY ? SIMCO_PARITY_ANY
			  : (in->port & 1)			? SIMCO_PARITY_ODD
								: SIMCO_PARITY_EVEN;
	unsigned base;
	uint16_t err;

	if (!p || p->address.version != a0.addr.version)
		return SIMCO_LACK_OF_ADDRESSES;
	err = bound_base(c, w, &a0, &base, &p);
	if (err)
		return err;
	if (base) {
		if ((parity != SIMCO_PARITY_ANY && ((base ^ in->port) & 1)) ||
		    !take_rest(c, w, &a0, p, base))
			return SIMCO_CONFLICT;
	} else {
		base = beside_neighbour(c, w, &a0, p);
		if (!base)
			base = portpool_take(p, in->protocol, in->range, parity);
		if (!base)
			return SIMCO_LACK_OF_PORTS;
	}
	w->flags |= RULE_NAT;
	w->outside = (struct rule_ports){p->id, (uint16_t)base};
	return 0;
}

/* Gives back what outside_ports() took and no binding holds yet. */
static void put_outside(struct core *c, const struct rule *w)
{
	const struct tuple *in = &w->in;
	struct portpool *p = nat_pool_at(&c->nat, w, SIMCO_OUTSIDE);

	for (unsigned i = 0; p && i < in->range; i++) {
		struct addr_port at = {tuple_addr(in), (uint16_t)(in->port + i)};

		if (!nat_find(&c->nat, in->protocol, &at))
			portpool_put(p, in->protocol, (uint16_t)(w->outside.first + i), 1);
	}
}

struct face {
	const struct rule *w;
	const struct rule *same; /* a twin with exactly these tuples */
	bool other;		 /* a twin with others */
};

static void face_look(struct rule *twin, bool mirrored, void *arg)
{
	struct face *f = arg;

	if (mirrored)
		return;
	if (!(twin->flags & RULE_TWICE) || memcmp(&twin->in, &f->w->in, sizeof(struct tuple)) ||
	    memcmp(&twin->ex, &f->w->ex, sizeof(struct tuple)))
		f->other = true;
	else
		f->same = twin;
}

/* Twice NAT: one A1 for a pair of A0 and A3, shared by its twins. */
static uint16_t inside_ports(struct core *c, struct rule *w)
{
	const struct tuple *ex = &w->ex;
	struct face f = {.w = w};
	unsigned parity = w->per_parity == SIMCO_PER_PARITY_ANY ? SIMCO_PARITY_ANY
			  : (ex->port & 1)			? SIMCO_PARITY_ODD
								: SIMCO_PARITY_EVEN;

	for (unsigned i = 0; i < ex->range; i++)
		rule_each_twin(&c->t, w, i, face_look, &f);
	if (f.other)
		return SIMCO_CONFLICT;
	if (f.same) {
		w->inside = f.same->inside;
		w->flags |= RULE_TWICE;
		return 0;
	}
	for (size_t i = 0; i < c->nat.n_faces; i++) {
		struct portpool *p = c->nat.faces[i];
		uint16_t port = 0;

		if (p->address.version == tuple_version(ex))
			port = portpool_take(p, ex->protocol, ex->range, parity);
		if (!port)
			continue;
		w->inside = (struct rule_ports){p->id, port};
		w->flags |= RULE_TWICE;
		return 0;
	}
	return SIMCO_LACK_OF_PORTS;
}

/* Outside and inside of a PER, and its bindings. */
static uint16_t translate(struct core *c, const struct agent_conf *a, struct rule *w)
{
	bool own_face;
	uint16_t err;

	if (!nat_translates(&c->nat, tuple_version(&w->in)) || to_group(w))
		return 0;
	err = outside_ports(c, a, w);
	if (err)
		return err;
	if (c->nat.mode == FW_NAT_TWICE)
		err = inside_ports(c, w);
	if (!err && nat_bind(&c->nat, w) == 0)
		return 0;
	own_face = !err && (w->flags & RULE_TWICE) && rule_twins(c, w) == 0;
	put_outside(c, w);
	if (own_face)
		nat_put(&c->nat, w, SIMCO_INSIDE);
	return err ? err : SIMCO_NO_RESOURCES;
}

/* ---- PER ---------------------------------------------------------------------- */

/* Another rule of the group on the neighbouring A0 port: an RTP and RTCP pair. */
struct rule *core_pair_of(struct core *c, uint32_t gid, const struct rule *w)
{
	const struct tuple *in = &w->in;
	struct rule *first = gid ? rule_by_gid(&c->t, gid) : NULL, *m = first;

	if (!first || in->range != 1 || wild(in))
		return NULL;
	for (unsigned looked = 0; looked < 64; looked++) {
		const struct tuple *t;

		m = rule_group_prev(&c->t, m);
		t = &m->in;
		if (m->pair == RULE_NONE && m->owner == w->owner && m->kind == RULE_ENABLED &&
		    m->slot != SLOT_CLOSING && t->range == 1 && t->port == (in->port ^ 1) &&
		    t->protocol == in->protocol && memcmp(t->addr, in->addr, 16) == 0)
			return m;
		if (m == first)
			break;
	}
	return NULL;
}

static void per_reply(const struct core *c, struct request *q, const struct rule *r,
		      uint32_t lifetime)
{
	struct tuple outside = nat_tuple(&c->nat, r, SIMCO_OUTSIDE);
	struct tuple inside = nat_tuple(&c->nat, r, SIMCO_INSIDE);
	struct simco_msg *rep = &q->reply;

	rep->type = SIMCO_PER_REP;
	rep->pid = r->pid;
	rep->gid = r->gid;
	rep->has_gid = true;
	rep->lifetime = lifetime;
	rep->tuple[SIMCO_OUTSIDE] = tuple_to_simco(&outside, SIMCO_OUTSIDE);
	/* §8.3.2: a firewall reports the external tuple; §8.3.3: a traditional NAT none. */
	rep->has_inside = !(r->flags & RULE_NAT) || (r->flags & RULE_TWICE);
	if (rep->has_inside)
		rep->tuple[SIMCO_INSIDE] = tuple_to_simco(&inside, SIMCO_INSIDE);
	reply_event(q, r, lifetime);
}

static uint32_t granted(const struct core *c, const struct agent *a, const struct simco_msg *m)
{
	uint32_t most = core_max_lifetime(c, a);

	return m->lifetime < most ? m->lifetime : most;
}

static void discard(struct core *c, struct rule *w)
{
	bool face = (w->flags & RULE_TWICE) && rule_twins(c, w) == 0;

	nat_unbind(&c->nat, w, true);
	if (face)
		nat_put(&c->nat, w, SIMCO_INSIDE);
}

uint16_t core_per(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	struct rule w = wanted(s, m), *r, *pair;
	uint32_t lifetime = granted(c, a, m);
	uint16_t err;

	if (!(a->conf->may & AGENT_MAY_ENABLE))
		return SIMCO_TRANSACTION_NOT_AUTHORIZED;
	err = core_group(c, s, m, now_ms);
	if (!err)
		err = check_tuples(c, a->conf, m, &w);
	if (err)
		return err;
	if (lifetime == 0)
		return SIMCO_CONFIGURATION_FAILED;
	if (nat_translates(&c->nat, tuple_version(&w.in)) && !to_group(&w))
		w.flags = RULE_NAT;
	w.twin_hash = rule_hash(&c->t, &w);
	if (rule_shares_busy(c, &w))
		core_flush(c, now_ms);
	if (rule_twins(c, &w) >= TWINS_MAX)
		return SIMCO_NO_RESOURCES;
	w.flags = 0;
	pair = core_pair_of(c, m->has_gid ? m->gid : 0, &w);
	r = core_new_rule(c, s, pair != NULL, now_ms);
	if (!r)
		return SIMCO_NO_RESOURCES;
	err = translate(c, a->conf, &w);
	if (err == SIMCO_LACK_OF_PORTS && c->n_txn > 0) {
		core_flush(c, now_ms);
		err = translate(c, a->conf, &w);
	}
	if (!err && core_room(c) != 0) {
		discard(c, &w);
		err = SIMCO_NO_RESOURCES;
	}
	if (err) {
		rule_give(&c->t, r);
		return err;
	}
	r->gid = m->has_gid ? m->gid : 0;
	r->kind = RULE_ENABLED;
	r->direction = w.direction;
	r->per_parity = w.per_parity;
	r->flags = w.flags;
	r->in = w.in;
	r->ex = w.ex;
	r->outside = w.outside;
	r->inside = w.inside;
	r->expires_ms = now_ms + lifetime * 1000ull;
	ledger_set(r, SLOT_NEW);
	rule_link(&c->t, r);
	rule_link_tuples(&c->t, r);
	pair = core_pair_of(c, r->gid, r);
	if (pair)
		rule_pair(&c->t, r, pair);
	q->act = ACT_OPEN;
	q->slot = rule_slot(&c->t, r);
	rule_open_ops(c, q, r, now_ms);
	per_reply(c, q, r, lifetime);
	return 0;
}

/* ---- PEA ---------------------------------------------------------------------- */

/* Does it fit what was reserved (decisions SIMCO 5)? */
static uint16_t check_fit(const struct core *c, const struct rule *r, const struct rule *w)
{
	const struct tuple *in = &w->in;
	const struct simco_prr_params *p = &r->prr;

	if (p->protocol != 0 && in->protocol != p->protocol)
		return SIMCO_PROTOCOL_MISMATCH;
	if ((p->inside_version != SIMCO_IP_ANY && in->version != p->inside_version) ||
	    (p->outside_version != SIMCO_IP_ANY && w->ex.version != p->outside_version) ||
	    ((r->flags & RULE_NAT) && in->version != nat_tuple(&c->nat, r, SIMCO_OUTSIDE).version))
		return SIMCO_IP_VERSION_MISMATCH;
	if (p->port_range != 0xffff && port_given(in) && in->range != p->port_range)
		return SIMCO_INCONSISTENT_REQUEST;
	if ((r->flags & RULE_NAT) && w->per_parity == SIMCO_PER_PARITY_SAME &&
	    ((in->port ^ r->outside.first) & 1))
		return SIMCO_PARITY_MISMATCH;
	return 0;
}

/* A0 must be free: bound, it has another outside port than the reservation. */
static bool a0_bound(struct core *c, const struct rule *w)
{
	const struct tuple *in = &w->in;

	for (unsigned i = 0; i < in->range; i++) {
		struct addr_port at = {tuple_addr(in), (uint16_t)(in->port + i)};

		if (nat_find(&c->nat, in->protocol, &at))
			return true;
	}
	return false;
}

static uint16_t find_reservation(struct core *c, struct session *s, uint32_t pid, struct rule **out,
				 uint64_t now_ms)
{
	struct rule *r = rule_by_pid(&c->t, pid);

	if (r && core_settle(c, r->batch, now_ms))
		r = rule_by_pid(&c->t, pid);
	if (!r)
		return SIMCO_NO_SUCH_RULE;
	if (r->kind != RULE_RESERVED)
		return SIMCO_INCONSISTENT_REQUEST;
	if (!core_may_access(c, s->owner, r->owner))
		return SIMCO_RULE_NOT_AUTHORIZED;
	*out = r;
	return 0;
}

uint16_t core_pea(struct core *c, struct session *s, struct request *q, const struct simco_msg *m,
		  uint64_t now_ms)
{
	struct agent *a = core_agent(c, s->owner);
	struct rule w = wanted(s, m), *r;
	uint32_t lifetime = granted(c, a, m);
	uint16_t err;

	if (!(a->conf->may & AGENT_MAY_ENABLE))
		return SIMCO_TRANSACTION_NOT_AUTHORIZED;
	err = find_reservation(c, s, m->pid, &r, now_ms);
	if (err)
		return err;
	w.owner = r->owner;
	w.flags = r->flags;
	w.outside = r->outside;
	w.inside = r->inside;
	err = check_tuples(c, a->conf, m, &w);
	if (!err && (r->flags & RULE_NAT) && to_group(&w))
		err = SIMCO_ILLEGAL_ADDRESS; /* no group has an outside port */
	if (!err)
		err = check_fit(c, r, &w);
	if (err)
		return err;
	if (lifetime == 0)
		return SIMCO_CONFIGURATION_FAILED;
	w.twin_hash = rule_hash(&c->t, &w);
	if (rule_shares_busy(c, &w))
		core_flush(c, now_ms);
	if ((w.flags & RULE_NAT) && a0_bound(c, &w))
		return SIMCO_CONFLICT;
	if (rule_twins(c, &w) >= TWINS_MAX || core_room(c) != 0 || nat_bind(&c->nat, &w) != 0)
		return SIMCO_NO_RESOURCES;
	q->act = ACT_ENABLE;
	q->slot = rule_slot(&c->t, r);
	q->old_expires = r->expires_ms;
	ledger_set(r, SLOT_ENABLING); /* before the tuples: a restart must not trust them */
	r->in = w.in;
	r->ex = w.ex;
	r->direction = w.direction;
	r->per_parity = w.per_parity;
	rule_set_kind(&c->t, r, RULE_ENABLED);
	r->expires_ms = now_ms + lifetime * 1000ull;
	rule_moved(&c->t, r);
	rule_link_tuples(&c->t, r);
	rule_open_ops(c, q, r, now_ms);
	per_reply(c, q, r, lifetime);
	return 0;
}
