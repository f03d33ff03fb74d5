/*
 * The hash table. It grows by linear hashing: each new entry splits one
 * bucket, so that a table of a million entries never stops the loop to move
 * them all. Buckets in use are numbered 0..n_buckets-1; those below the split
 * point already count one more bit of the hash.
 */
#include "common/table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/errcode.h"

#define FIRST_BUCKETS 16

static uint64_t rotl(uint64_t v, unsigned n)
{
	return v << n | v >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

/* Up to eight octets, least significant first. */
static uint64_t load_le(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	while (n-- > 0)
		v = v << 8 | p[n];
	return v;
}

static void sip_absorb(uint64_t v[4], uint64_t m)
{
	v[3] ^= m;
	sip_round(v);
	sip_round(v);
	v[0] ^= m;
}

/* Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012. */
uint64_t siphash(const uint64_t k[2], struct span data)
{
	uint64_t v[4] = {k[0] ^ 0x736f6d6570736575u, k[1] ^ 0x646f72616e646f6du,
			 k[0] ^ 0x6c7967656e657261u, k[1] ^ 0x7465646279746573u};
	size_t whole = data.n & ~(size_t)7;

	for (size_t i = 0; i < whole; i += 8)
		sip_absorb(v, load_le(data.p + i, 8));
	sip_absorb(v, (uint64_t)data.n << 56 |
			      (data.n > whole ? load_le(data.p + whole, data.n - whole) : 0));
	v[2] ^= 0xff;
	for (int i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static int random_key(uint64_t k[2])
{
	ssize_t n;

	do
		n = getrandom(k, 2 * sizeof(k[0]), 0);
	while (n < 0 && errno == EINTR);
	return n == 2 * (ssize_t)sizeof(k[0]) ? 0 : ERR_IO;
}

int table_init(struct table *t, table_key_fn key)
{
	int err;

	*t = (struct table){.key = key};
	err = random_key(t->k);
	if (err != 0)
		return err;
	t->buckets = calloc(FIRST_BUCKETS, sizeof(*t->buckets));
	if (t->buckets == NULL)
		return ERR_NOMEM;
	t->n_buckets = FIRST_BUCKETS;
	t->n_alloc = FIRST_BUCKETS;
	return 0;
}

void table_fini(struct table *t)
{
	free(t->buckets);
	*t = (struct table){0};
}

/* The biggest power of two that is not above the buckets in use. */
static size_t base_size(const struct table *t)
{
	return t->n_buckets == t->n_alloc ? t->n_alloc : t->n_alloc / 2;
}

static struct table_node **bucket_of(const struct table *t, uint64_t hash)
{
	size_t base = base_size(t);
	size_t i = (size_t)hash & (2 * base - 1);

	return &t->buckets[i < t->n_buckets ? i : i & (base - 1)];
}

static struct table_node *find(const struct table *t, uint64_t hash, struct span key)
{
	struct table_node *node;

	if (t->buckets == NULL)
		return NULL;
	for (node = *bucket_of(t, hash); node != NULL; node = node->next) {
		if (node->hash == hash && span_eq(t->key(node), key))
			return node;
	}
	return NULL;
}

struct table_node *table_get(const struct table *t, struct span key)
{
	return find(t, siphash(t->k, key), key);
}

/* Doubles the memory for buckets; large arrays are remapped, not copied. */
static bool more_slots(struct table *t)
{
	struct table_node **buckets;

	if (t->n_alloc > SIZE_MAX / 2 / sizeof(*buckets))
		return false;
	buckets = realloc(t->buckets, 2 * t->n_alloc * sizeof(*buckets));
	if (buckets == NULL)
		return false;
	t->buckets = buckets;
	t->n_alloc *= 2;
	return true;
}

/* Adds one bucket and moves to it what belongs there from its low twin. */
static void split(struct table *t)
{
	size_t base, at;
	struct table_node **from, **to, *node;

	if (t->n_buckets == t->n_alloc && !more_slots(t))
		return;
	base = t->n_alloc / 2;
	at = t->n_buckets++;
	from = &t->buckets[at - base];
	to = &t->buckets[at];
	*to = NULL;
	while ((node = *from) != NULL) {
		if (((size_t)node->hash & base) == 0) {
			from = &node->next;
			continue;
		}
		*from = node->next;
		node->next = *to;
		*to = node;
	}
}

int table_add(struct table *t, struct table_node *node)
{
	struct span key = t->key(node);
	uint64_t hash = siphash(t->k, key);
	struct table_node **bucket;

	if (find(t, hash, key) != NULL)
		return ERR_EXIST;
	if (t->n >= t->n_buckets)
		split(t);
	bucket = bucket_of(t, hash);
	node->hash = hash;
	node->next = *bucket;
	*bucket = node;
	t->n++;
	return 0;
}

void table_remove(struct table *t, struct table_node *node)
{
	struct table_node **link = bucket_of(t, node->hash);

	while (*link != NULL && *link != node)
		link = &(*link)->next;
	assert(*link == node);
	if (*link == NULL)
		return;
	*link = node->next;
	node->next = NULL;
	t->n--;
}

void table_each(struct table *t, bool (*fn)(struct table_node *node, void *arg), void *arg)
{
	struct table_node *node, *next;

	for (size_t i = 0; i < t->n_buckets; i++) {
		for (node = t->buckets[i]; node != NULL; node = next) {
			next = node->next;
			if (!fn(node, arg))
				return;
		}
	}
}
