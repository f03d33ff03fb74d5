#include "middlebox/rule_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/errcode.h"
#include "common/table.h"
#include "middlebox/tuple.h"

#define LINK(field) offsetof(struct rule, field)

struct rule *rule_at(struct rule_table *t, uint32_t slot)
{
	return slot == RULE_NONE ? NULL : &t->led.slots[slot];
}

uint32_t rule_slot(const struct rule_table *t, const struct rule *r)
{
	return r ? (uint32_t)(r - t->led.slots) : RULE_NONE;
}

static struct rule_link *link_of(struct rule *r, size_t at)
{
	return (struct rule_link *)(void *)((uint8_t *)r + at);
}

static void chain_push(struct rule_table *t, uint32_t *first, struct rule *r, size_t at)
{
	struct rule *second = rule_at(t, *first);
	struct rule_link *l = link_of(r, at);

	*l = (struct rule_link){*first, RULE_NONE};
	if (second)
		link_of(second, at)->prev = rule_slot(t, r);
	*first = rule_slot(t, r);
}

static void chain_remove(struct rule_table *t, uint32_t *first, struct rule *r, size_t at)
{
	struct rule_link *l = link_of(r, at);

	if (l->next != RULE_NONE)
		link_of(rule_at(t, l->next), at)->prev = l->prev;
	if (l->prev != RULE_NONE)
		link_of(rule_at(t, l->prev), at)->next = l->next;
	else
		*first = l->next;
	*l = (struct rule_link){RULE_NONE, RULE_NONE};
}

static bool heads_init(struct rule_heads *h, size_t want)
{
	size_t n = 64;

	while (n < want)
		n *= 2;
	h->mask = (uint32_t)(n - 1);
	h->slot = malloc(n * sizeof(*h->slot));
	if (h->slot)
		memset(h->slot, 0xff, n * sizeof(*h->slot)); /* RULE_NONE */
	return h->slot != NULL;
}

static uint32_t *head(struct rule_heads *h, uint32_t hash)
{
	return &h->slot[hash & h->mask];
}

/* Sparse where a chain costs a cache miss per member, dense where rules share addresses. */
static bool heads_open(struct rule_table *t, size_t n)
{
	return heads_init(&t->by_pid, n) && heads_init(&t->by_gid, n / 2) &&
	       heads_init(&t->by_twin, n * 2) && heads_init(&t->by_int, n / 4) &&
	       heads_init(&t->by_ext, n / 4) && heads_init(&t->disabled_by, n < 65536 ? n : 65536);
}

int table_rules_open(struct rule_table *t, const char *file, const uint8_t boot_id[16],
		     uint32_t n_slots)
{
	int err;

	memset(t, 0, sizeof(*t));
	err = ledger_open(&t->led, file, boot_id, n_slots);
	if (err)
		return err;
	t->heap = malloc(((size_t)t->led.n_slots + 1) * sizeof(*t->heap));
	t->wild_int = t->wild_ext = t->disabled_wild = t->disabled = t->free = RULE_NONE;
	for (unsigned i = 0; i < LEDGER_OWNERS; i++)
		t->owner[i].head = RULE_NONE;
	if (getrandom(t->key, sizeof(t->key), 0) != (ssize_t)sizeof(t->key) || !t->heap ||
	    !heads_open(t, t->led.n_slots)) {
		table_rules_close(t);
		return ERR_NOMEM;
	}
	return 0;
}

void table_rules_close(struct rule_table *t)
{
	ledger_close(&t->led);
	free(t->by_pid.slot);
	free(t->by_gid.slot);
	free(t->by_twin.slot);
	free(t->by_int.slot);
	free(t->by_ext.slot);
	free(t->disabled_by.slot);
	free(t->heap);
	memset(t, 0, sizeof(*t));
	t->led.fd = -1;
}

/* ---- slots and PIDs ----------------------------------------------------------- */

struct rule *rule_by_pid(struct rule_table *t, uint32_t pid)
{
	uint32_t s = pid ? *head(&t->by_pid, pid) : RULE_NONE;

	while (s != RULE_NONE && t->led.slots[s].pid != pid)
		s = t->led.slots[s].next_pid;
	return rule_at(t, s);
}

static struct rule *leader(struct rule_table *t, uint32_t gid)
{
	uint32_t s = *head(&t->by_gid, gid);

	while (s != RULE_NONE && t->led.slots[s].gid != gid)
		s = t->led.slots[s].next_leader;
	return rule_at(t, s);
}

struct rule *rule_by_gid(struct rule_table *t, uint32_t gid)
{
	return gid ? leader(t, gid) : NULL;
}

struct rule *rule_group_next(struct rule_table *t, const struct rule *r)
{
	return rule_at(t, r->group.next);
}

struct rule *rule_group_prev(struct rule_table *t, const struct rule *r)
{
	return rule_at(t, r->group.prev);
}

void rule_free_slot(struct rule_table *t, uint32_t slot)
{
	struct rule *r = rule_at(t, slot);

	r->next_pid = t->free;
	t->free = slot;
}

/* New slots enter so that the lowest is used first. */
static int more_slots(struct rule_table *t)
{
	uint32_t from = ledger_high(&t->led);
	int err = ledger_grow(&t->led);

	if (err)
		return err;
	for (uint32_t s = ledger_high(&t->led); s-- > from;)
		rule_free_slot(t, s);
	return 0;
}

struct rule *rule_take(struct rule_table *t)
{
	struct rule *r;
	uint32_t pid;

	if (t->free == RULE_NONE && more_slots(t) != 0)
		return NULL;
	r = rule_at(t, t->free);
	t->free = r->next_pid;
	memset(r, 0, sizeof(*r));
	/* A GID is the PID of its founder: the number must be free as both. */
	do {
		pid = ledger_next_pid(&t->led);
	} while (rule_by_pid(t, pid) || rule_by_gid(t, pid));
	r->pid = pid;
	r->pair = RULE_NONE;
	r->heap_pos = RULE_NONE;
	return r;
}

void rule_give(struct rule_table *t, struct rule *r)
{
	ledger_set(r, SLOT_FREE);
	rule_free_slot(t, rule_slot(t, r));
}

/* ---- expiry ------------------------------------------------------------------- */

static void heap_put(struct rule_table *t, uint32_t pos, uint32_t slot)
{
	t->heap[pos] = slot;
	t->led.slots[slot].heap_pos = pos;
}

static uint64_t heap_key(const struct rule_table *t, uint32_t pos)
{
	return t->led.slots[t->heap[pos]].expires_ms;
}

static void heap_up(struct rule_table *t, uint32_t pos, uint32_t slot)
{
	uint64_t key = t->led.slots[slot].expires_ms;

	while (pos > 0 && heap_key(t, (pos - 1) / 2) > key) {
		heap_put(t, pos, t->heap[(pos - 1) / 2]);
		pos = (pos - 1) / 2;
	}
	heap_put(t, pos, slot);
}

static void heap_down(struct rule_table *t, uint32_t pos, uint32_t slot)
{
	uint64_t key = t->led.slots[slot].expires_ms;

	for (;;) {
		uint32_t child = 2 * pos + 1;

		if (child >= t->n_heap)
			break;
		if (child + 1 < t->n_heap && heap_key(t, child + 1) < heap_key(t, child))
			child++;
		if (heap_key(t, child) >= key)
			break;
		heap_put(t, pos, t->heap[child]);
		pos = child;
	}
	heap_put(t, pos, slot);
}

static void heap_remove(struct rule_table *t, struct rule *r)
{
	uint32_t pos = r->heap_pos, last;

	r->heap_pos = RULE_NONE;
	last = t->heap[--t->n_heap];
	if (pos == t->n_heap)
		return;
	heap_up(t, pos, last);
	heap_down(t, t->led.slots[last].heap_pos, last);
}

void rule_moved(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);

	heap_up(t, r->heap_pos, s);
	heap_down(t, r->heap_pos, s);
}

struct rule *rule_first(struct rule_table *t)
{
	return t->n_heap ? rule_at(t, t->heap[0]) : NULL;
}

/* ---- groups, owners ----------------------------------------------------------- */

static void group_join(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);
	struct rule *first = rule_by_gid(t, r->gid);

	if (!first) {
		r->group = (struct rule_link){s, s};
		r->next_leader = *head(&t->by_gid, r->gid);
		*head(&t->by_gid, r->gid) = s;
		return;
	}
	r->group = (struct rule_link){rule_slot(t, first), first->group.prev};
	rule_at(t, first->group.prev)->group.next = s;
	first->group.prev = s;
}

static void group_leave(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);
	uint32_t *at = head(&t->by_gid, r->gid);

	while (*at != RULE_NONE && *at != s)
		at = &t->led.slots[*at].next_leader;
	if (*at == s) {
		*at = r->next_leader;
		if (r->group.next != s) { /* the next member leads */
			rule_at(t, r->group.next)->next_leader = *at;
			*at = r->group.next;
		}
	}
	rule_at(t, r->group.next)->group.prev = r->group.prev;
	rule_at(t, r->group.prev)->group.next = r->group.next;
}

void rule_link(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);

	r->next_pid = *head(&t->by_pid, r->pid);
	*head(&t->by_pid, r->pid) = s;
	if (r->gid == 0)
		r->gid = r->pid;
	group_join(t, r);
	chain_push(t, &t->owner[r->owner].head, r, LINK(owned));
	t->owner[r->owner].rules++;
	t->n_rules++;
	t->n_kind[r->kind]++;
	heap_up(t, t->n_heap++, s);
}

static void unpair(struct rule_table *t, struct rule *r)
{
	if (r->pair == RULE_NONE)
		return;
	rule_at(t, r->pair)->pair = RULE_NONE;
	r->pair = RULE_NONE;
	t->owner[r->owner].pairs--;
}

void rule_unlink(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);
	uint32_t *at = head(&t->by_pid, r->pid);

	unpair(t, r);
	while (*at != s)
		at = &t->led.slots[*at].next_pid;
	*at = r->next_pid;
	group_leave(t, r);
	chain_remove(t, &t->owner[r->owner].head, r, LINK(owned));
	t->owner[r->owner].rules--;
	t->n_rules--;
	t->n_kind[r->kind]--;
	heap_remove(t, r);
}

void rule_set_kind(struct rule_table *t, struct rule *r, enum rule_kind kind)
{
	t->n_kind[r->kind]--;
	t->n_kind[kind]++;
	r->kind = (uint8_t)kind;
}

void rule_pair(struct rule_table *t, struct rule *a, struct rule *b)
{
	a->pair = rule_slot(t, b);
	b->pair = rule_slot(t, a);
	t->owner[a->owner].pairs++;
}

uint32_t rule_count(const struct rule_table *t, uint16_t owner)
{
	return t->owner[owner].rules - t->owner[owner].pairs;
}

/* ---- tuples ------------------------------------------------------------------- */

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
		return tuple_addr_exact(e) ? head(&t->by_int, end_hash(t, e)) : &t->wild_int;
	return tuple_addr_exact(e) ? head(&t->by_ext, end_hash(t, e)) : &t->wild_ext;
}

static uint32_t *disabled_head(struct rule_table *t, const struct rule *r)
{
	const struct tuple *in = &r->in, *ex = &r->ex;

	if (tuple_addr_exact(ex))
		return head(&t->disabled_by, end_hash(t, ex));
	if (tuple_addr_exact(in))
		return head(&t->disabled_by, ~end_hash(t, in));
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
	chain_push(t, head(&t->by_twin, r->twin_hash), r, LINK(twins));
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
	chain_remove(t, head(&t->by_twin, r->twin_hash), r, LINK(twins));
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
		for (s = *head(&t->by_twin, h); s != RULE_NONE;) {
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
	d = disabled_in(t, *head(&t->disabled_by, end_hash(t, ex)), r, LINK(external));
	if (!d)
		d = disabled_in(t, *head(&t->disabled_by, ~end_hash(t, in)), r, LINK(external));
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
