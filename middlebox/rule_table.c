/*
 * The table's slots: taken and given back, by PID, by group, by owner.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/errcode.h"
#include "middlebox/rule_table_int.h"

struct rule *rule_at(struct rule_table *t, uint32_t slot)
{
	return slot == RULE_NONE ? NULL : &t->led.slots[slot];
}

uint32_t rule_slot(const struct rule_table *t, const struct rule *r)
{
	return r ? (uint32_t)(r - t->led.slots) : RULE_NONE;
}

void chain_push(struct rule_table *t, uint32_t *first, struct rule *r, size_t at)
{
	struct rule *second = rule_at(t, *first);
	struct rule_link *l = link_of(r, at);

	*l = (struct rule_link){*first, RULE_NONE};
	if (second)
		link_of(second, at)->prev = rule_slot(t, r);
	*first = rule_slot(t, r);
}

void chain_remove(struct rule_table *t, uint32_t *first, struct rule *r, size_t at)
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
	t->wild_int = t->wild_ext = t->disabled_wild = t->disabled = RULE_NONE;
	for (unsigned i = 0; i < LEDGER_OWNERS; i++)
		t->owner[i].head = RULE_NONE;
	if (getrandom(t->key, sizeof(t->key), 0) != (ssize_t)sizeof(t->key) || !t->heap ||
	    room_init(&t->room, t->led.n_slots) != 0 || !heads_open(t, t->led.n_slots)) {
		table_rules_close(t);
		return ERR_NOMEM;
	}
	return 0;
}

void table_rules_close(struct rule_table *t)
{
	ledger_close(&t->led);
	room_fini(&t->room);
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
	uint32_t s = pid ? *chain_head(&t->by_pid, pid) : RULE_NONE;

	while (s != RULE_NONE && t->led.slots[s].pid != pid)
		s = t->led.slots[s].next_pid;
	return rule_at(t, s);
}

static struct rule *leader(struct rule_table *t, uint32_t gid)
{
	uint32_t s = *chain_head(&t->by_gid, gid);

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
	room_put(&t->room, slot);
}

static int more_slots(struct rule_table *t)
{
	uint32_t from = ledger_high(&t->led);
	int err = ledger_grow(&t->led);

	if (err)
		return err;
	for (uint32_t s = from; s < ledger_high(&t->led); s++)
		room_put(&t->room, s);
	return 0;
}

struct rule *rule_take(struct rule_table *t)
{
	uint32_t slot = room_take(&t->room), pid;
	struct rule *r;

	if (slot == RULE_NONE && more_slots(t) == 0)
		slot = room_take(&t->room);
	if (slot == RULE_NONE)
		return NULL;
	r = rule_at(t, slot);
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
	room_put(&t->room, rule_slot(t, r));
}

bool rule_trim(struct rule_table *t)
{
	uint32_t high = ledger_high(&t->led), left = room_cut(&t->room, high);

	if (left == high)
		return false;
	ledger_shrink(&t->led, left);
	return true;
}

/* ---- groups, owners ----------------------------------------------------------- */

static void group_join(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);
	struct rule *first = rule_by_gid(t, r->gid);

	if (!first) {
		r->group = (struct rule_link){s, s};
		r->next_leader = *chain_head(&t->by_gid, r->gid);
		*chain_head(&t->by_gid, r->gid) = s;
		return;
	}
	r->group = (struct rule_link){rule_slot(t, first), first->group.prev};
	rule_at(t, first->group.prev)->group.next = s;
	first->group.prev = s;
}

static void group_leave(struct rule_table *t, struct rule *r)
{
	uint32_t s = rule_slot(t, r);
	uint32_t *at = chain_head(&t->by_gid, r->gid);

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

	r->next_pid = *chain_head(&t->by_pid, r->pid);
	*chain_head(&t->by_pid, r->pid) = s;
	if (r->gid == 0)
		r->gid = r->pid;
	group_join(t, r);
	chain_push(t, &t->owner[r->owner].head, r, LINK(owned));
	t->owner[r->owner].rules++;
	t->n_rules++;
	t->n_kind[r->kind]++;
	heap_add(t, r);
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
	uint32_t *at = chain_head(&t->by_pid, r->pid);

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
