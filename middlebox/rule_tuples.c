/*
 * Rules by their tuples: those whose elements coincide, those of an address,
 * and disable rules.
 */
#include <string.h>

#include "middlebox/rule_table_int.h"
#include "middlebox/tuple.h"

/* Open elements of one rule, of rules of several pairs, and blocked ones never coincide. */
enum twin_form { TWIN_ONE, TWIN_PAIRS, TWIN_DISABLED };

static enum twin_form twin_form(const struct rule *r)
{
	return r->kind == RULE_DISABLED ? TWIN_DISABLED : rule_pairs(r) > 1 ? TWIN_PAIRS : TWIN_ONE;
}

/* Everything that makes two elements the same, without padding. */
struct twin_end {
	uint8_t addr[16];
	uint8_t len, version;
};

struct twin_key {
	struct twin_end end[2];
	uint16_t ports[4];
	uint8_t protocol, form; /* enum twin_form */
};

_Static_assert(sizeof(struct twin_key) == 46, "no padding in a hashed key");

/*
 * A folded-multiply hash under a random key: the tuples are chosen by peers,
 * who see neither hash nor key. Several times faster than SipHash on keys of
 * this size, and every rule takes three of them.
 */
static uint64_t fold(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 p = (unsigned __int128)a * b;

	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint32_t hash_of(const struct rule_table *t, const void *p, size_t n)
{
	uint64_t h = t->key[0] ^ n, w[2];

	for (size_t at = 0; at < n; at += 16) {
		w[0] = w[1] = 0;
		memcpy(w, (const uint8_t *)p + at, n - at < 16 ? n - at : 16);
		h = fold(w[0] ^ h, w[1] ^ t->key[1] ^ at);
	}
	h = fold(h ^ t->key[1], t->key[0] | 1);
	return (uint32_t)(h ^ h >> 32);
}

static struct twin_end twin_end(const struct addr_prefix *p)
{
	struct twin_end e = {.len = p->len, .version = p->addr.version};

	memcpy(e.addr, p->addr.b, 16);
	return e;
}

/*
 * Rules of one element hash that element. Rules of several parallel pairs
 * hash the distance between their ports: pairs that coincide share it. An
 * element and its mirror hash alike: what is outbound for one rule may be
 * inbound for another whose ends are the other way round.
 */
static uint32_t twin_hash(const struct rule_table *t, const struct fw_match *m, enum twin_form form)
{
	struct twin_key k = {.end = {twin_end(&m->src), twin_end(&m->dst)},
			     .protocol = m->protocol,
			     .form = (uint8_t)form};
	bool ranged = form == TWIN_PAIRS;
	uint16_t ports[4] = {m->sport.first, m->sport.last, m->dport.first, m->dport.last};
	int order = memcmp(&k.end[0], &k.end[1], sizeof(k.end[0]));
	uint16_t there = (uint16_t)(ports[2] - ports[0]), back = (uint16_t)(ports[0] - ports[2]);

	if (ranged) {
		bool single = ports[2] == ports[3];

		ports[0] = order < 0 ? there : order > 0 ? back : there < back ? there : back;
		ports[0] = single ? ports[0] : 0;
		ports[1] = single;
		ports[2] = ports[3] = 0;
	} else if (order == 0) {
		order = ports[0] != ports[2] ? ports[0] - ports[2] : ports[1] - ports[3];
	}
	if (order > 0) {
		k.end[0] = twin_end(&m->dst);
		k.end[1] = twin_end(&m->src);
	}
	memcpy(k.ports, ports, sizeof(ports));
	if (order > 0 && !ranged) {
		memcpy(k.ports, ports + 2, 4);
		memcpy(k.ports + 2, ports, 4);
	}
	return hash_of(t, &k, sizeof(k));
}

static uint32_t end_hash(const struct rule_table *t, const struct tuple *e)
{
	uint8_t k[17];

	memcpy(k, e->addr, 16);
	k[16] = e->version;
	return hash_of(t, k, sizeof(k));
}

static uint32_t *end_head(struct rule_table *t, enum simco_location at, const struct tuple *e)
{
	if (at == SIMCO_INTERNAL)
		return tuple_addr_exact(e) ? chain_head(&t->by_int, end_hash(t, e)) : &t->wild_int;
	return tuple_addr_exact(e) ? chain_head(&t->by_ext, end_hash(t, e)) : &t->wild_ext;
}

static uint32_t *disabled_head(struct rule_table *t, const struct rule *r)
{
	const struct tuple *in = &r->in, *ex = &r->ex;

	if (tuple_addr_exact(ex))
		return chain_head(&t->disabled_by, end_hash(t, ex));
	if (tuple_addr_exact(in))
		return chain_head(&t->disabled_by, ~end_hash(t, in));
	return &t->disabled_wild;
}

static unsigned element_count(const struct rule *r)
{
	return rule_pairs(r) * (r->direction == SIMCO_BIDIRECTIONAL ? 2 : 1);
}

void rule_link_tuples(struct rule_table *t, struct rule *r)
{
	r->twin_hash = rule_hash(t, r);
	t->n_ranged += rule_pairs(r) > 1;
	t->n_elements += element_count(r);
	chain_push(t, chain_head(&t->by_twin, r->twin_hash), r, LINK(twins));
	if (r->kind == RULE_DISABLED) {
		chain_push(t, disabled_head(t, r), r, LINK(external));
		chain_push(t, &t->disabled, r, LINK(internal));
		return;
	}
	chain_push(t, end_head(t, SIMCO_INTERNAL, &r->in), r, LINK(internal));
	chain_push(t, end_head(t, SIMCO_EXTERNAL, &r->ex), r, LINK(external));
}

void rule_unlink_tuples(struct rule_table *t, struct rule *r)
{
	t->n_ranged -= rule_pairs(r) > 1;
	t->n_elements -= element_count(r);
	chain_remove(t, chain_head(&t->by_twin, r->twin_hash), r, LINK(twins));
	if (r->kind == RULE_DISABLED) {
		chain_remove(t, disabled_head(t, r), r, LINK(external));
		chain_remove(t, &t->disabled, r, LINK(internal));
		return;
	}
	chain_remove(t, end_head(t, SIMCO_INTERNAL, &r->in), r, LINK(internal));
	chain_remove(t, end_head(t, SIMCO_EXTERNAL, &r->ex), r, LINK(external));
}

/* Does `r` have the element `m` (given outbound), as its outbound or its inbound one? */
static bool holds(const struct rule *r, const struct fw_match *m, bool mirrored)
{
	unsigned n = rule_pairs(r), i = 0;
	struct fw_match own;

	if (n > 1) {
		i = (unsigned)(mirrored ? m->dport.first : m->sport.first) - r->in.port;
		if (i >= n)
			return false;
	}
	rule_match(r, mirrored ? SIMCO_INBOUND : SIMCO_OUTBOUND, i, &own);
	return match_eq(&own, m);
}

uint32_t rule_hash(struct rule_table *t, const struct rule *r)
{
	struct fw_match m;

	rule_match(r, SIMCO_OUTBOUND, 0, &m);
	return twin_hash(t, &m, twin_form(r));
}

void rule_each_twin(struct rule_table *t, const struct rule *r, unsigned i, rule_twin_fn fn,
		    void *arg)
{
	bool known = r->twin_hash && rule_pairs(r) == 1;
	bool disabled = r->kind == RULE_DISABLED;
	enum twin_form form = disabled ? TWIN_DISABLED : TWIN_ONE;
	enum twin_form last = !disabled && t->n_ranged ? TWIN_PAIRS : form;
	struct fw_match m;
	bool have = false;

	for (; form <= last; form++) {
		uint32_t h = r->twin_hash, s;

		if (!known || form == TWIN_PAIRS) {
			rule_match(r, SIMCO_OUTBOUND, i, &m);
			h = twin_hash(t, &m, form);
			have = true;
		}
		for (s = *chain_head(&t->by_twin, h); s != RULE_NONE;) {
			struct rule *twin = rule_at(t, s);

			s = twin->twins.next;
			if (twin == r || twin->twin_hash != h ||
			    (twin->kind == RULE_DISABLED) != disabled)
				continue;
			if (!have)
				rule_match(r, SIMCO_OUTBOUND, i, &m);
			have = true;
			if (holds(twin, &m, false))
				fn(twin, false, arg);
			else if (holds(twin, &m, true))
				fn(twin, true, arg);
		}
	}
}

static struct rule *disabled_in(struct rule_table *t, uint32_t s, const struct rule *r, size_t at)
{
	while (s != RULE_NONE) {
		struct rule *d = rule_at(t, s);

		if (rule_conflicts(d, r))
			return d;
		s = link_of(d, at)->next;
	}
	return NULL;
}

struct rule *rule_disabled_by(struct rule_table *t, const struct rule *r)
{
	const struct tuple *in = &r->in, *ex = &r->ex;
	struct rule *d;

	if (t->n_kind[RULE_DISABLED] == 0)
		return NULL;
	if (!tuple_addr_exact(in) || !tuple_addr_exact(ex))
		return disabled_in(t, t->disabled, r, LINK(internal));
	d = disabled_in(t, *chain_head(&t->disabled_by, end_hash(t, ex)), r, LINK(external));
	if (!d)
		d = disabled_in(t, *chain_head(&t->disabled_by, ~end_hash(t, in)), r,
				LINK(external));
	return d ? d : disabled_in(t, t->disabled_wild, r, LINK(external));
}

struct rule *rule_at_end(struct rule_table *t, enum simco_location at, const struct tuple *e)
{
	return rule_at(t, *end_head(t, at, e));
}

struct rule *rule_at_wild(struct rule_table *t, enum simco_location at)
{
	return rule_at(t, at == SIMCO_INTERNAL ? t->wild_int : t->wild_ext);
}

struct rule *rule_at_next(struct rule_table *t, enum simco_location at, const struct rule *r)
{
	return rule_at(t, at == SIMCO_INTERNAL ? r->internal.next : r->external.next);
}
