/*
 * An intrusive hash table keyed by octet strings, SipHash-2-4 with a random
 * per-table key because peers choose the keys. Entries embed a table_node and
 * stay owned by the caller.
 */
#ifndef SLUICE_COMMON_TABLE_H
#define SLUICE_COMMON_TABLE_H

#include "common/base.h"
#include "common/span.h"

struct table_node {
	struct table_node *next;
	uint64_t hash;
};

/* Returns the key of an entry, borrowed from it. */
typedef struct span (*table_key_fn)(const struct table_node *node);

struct table {
	struct table_node **buckets;
	size_t n_buckets; /* in use; grows by one per entry, see table.c */
	size_t n_alloc;	  /* slots in memory, power of two */
	size_t n;	  /* entries */
	table_key_fn key;
	uint64_t k[2];
};

/* SipHash-2-4 of `data` under the 128-bit key `k`. */
uint64_t siphash(const uint64_t k[2], struct span data);

/* 0, ERR_NOMEM, or ERR_IO when the kernel has no random octets. */
int table_init(struct table *t, table_key_fn key);
/* Frees the table only; entries must have been taken out or are abandoned. */
void table_fini(struct table *t);
/* NULL when absent. */
struct table_node *table_get(const struct table *t, struct span key);
/* 0 or ERR_EXIST. Never fails for want of memory: the table gets slower instead. */
int table_add(struct table *t, struct table_node *node);
/* The node must be in the table. */
void table_remove(struct table *t, struct table_node *node);
/*
 * Walks all entries; the callback may remove the entry it is given, no other.
 * Stops when it returns false.
 */
void table_each(struct table *t, bool (*fn)(struct table_node *node, void *arg), void *arg);

#endif
