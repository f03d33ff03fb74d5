/*
 * Inside the rule table: chains of slots, and what its files ask of each other.
 */
#ifndef SLUICE_MIDDLEBOX_RULE_TABLE_INT_H
#define SLUICE_MIDDLEBOX_RULE_TABLE_INT_H

#include "middlebox/rule_table.h"

/* Where a chain's link is in a slot. */
#define LINK(field) offsetof(struct rule, field)

static inline struct rule_link *link_of(struct rule *r, size_t at)
{
	return (struct rule_link *)(void *)((uint8_t *)r + at);
}

static inline uint32_t *chain_head(struct rule_heads *h, uint32_t hash)
{
	return &h->slot[hash & h->mask];
}

void chain_push(struct rule_table *t, uint32_t *first, struct rule *r, size_t at);
void chain_remove(struct rule_table *t, uint32_t *first, struct rule *r, size_t at);

/* rule_heap.c */
void heap_add(struct rule_table *t, struct rule *r);
void heap_remove(struct rule_table *t, struct rule *r);

#endif
