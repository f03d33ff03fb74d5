/*
 * The order in which rules expire: a binary heap of slot numbers; each slot
 * knows its place, so that a refresh moves it.
 */
#include "middlebox/rule_table_int.h"

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

void heap_add(struct rule_table *t, struct rule *r)
{
	heap_up(t, t->n_heap++, rule_slot(t, r));
}

void heap_remove(struct rule_table *t, struct rule *r)
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
