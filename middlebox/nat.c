#include "middlebox/nat.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/errcode.h"
#include "common/table.h"
#include "middlebox/tuple.h"

#define BUCKETS 65536u

static bool quarantined(void *arg, uint8_t protocol, const struct addr_port *at)
{
	return fw_quarantined(arg, protocol, at);
}

int nat_init(struct nat *n, enum fw_nat_mode mode, struct fw *fw)
{
	memset(n, 0, sizeof(*n));
	n->mode = mode;
	n->fw = fw;
	n->free_b = RULE_NONE;
	if (mode == FW_NAT_NONE)
		return 0;
	n->buckets = malloc(BUCKETS * sizeof(*n->buckets));
	if (!n->buckets || getrandom(n->key, sizeof(n->key), 0) != (ssize_t)sizeof(n->key)) {
		nat_fini(n);
		return ERR_NOMEM;
	}
	memset(n->buckets, 0xff, BUCKETS * sizeof(*n->buckets));
	n->mask = BUCKETS - 1;
	return 0;
}

void nat_fini(struct nat *n)
{
	for (size_t i = 0; i < n->n_pools; i++)
		free(n->pools[i]);
	for (size_t i = 0; i < n->n_faces; i++)
		free(n->faces[i]);
	free(n->pools);
	free(n->faces);
	free(n->b);
	free(n->buckets);
	memset(n, 0, sizeof(*n));
}

static struct portpool *pool_of(struct portpool **pools, size_t count, const struct addr *a)
{
	for (size_t i = 0; i < count; i++) {
		if (addr_eq(&pools[i]->address, a))
			return pools[i];
	}
	return NULL;
}

struct portpool *nat_pool(struct nat *n, const struct addr *a)
{
	return pool_of(n->pools, n->n_pools, a);
}

struct portpool *nat_face(struct nat *n, const struct addr *a)
{
	return pool_of(n->faces, n->n_faces, a);
}

int nat_add_pool(struct nat *n, const struct fw_pool *conf, bool inside)
{
	struct portpool ***pools = inside ? &n->faces : &n->pools;
	size_t *count = inside ? &n->n_faces : &n->n_pools;
	struct portpool *p = pool_of(*pools, *count, &conf->address);
	uint32_t seed = 0;

	if (!p) {
		struct portpool **more = realloc(*pools, (*count + 1) * sizeof(**pools));

		if (!more)
			return ERR_NOMEM;
		*pools = more;
		p = malloc(sizeof(*p));
		if (!p || getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
			free(p);
			return ERR_NOMEM;
		}
		portpool_init(p, &conf->address, seed);
		p->veto = inside ? NULL : quarantined;
		p->veto_arg = n->fw;
		more[(*count)++] = p;
	}
	portpool_add(p, conf->ports);
	return 0;
}

bool nat_translates(const struct nat *n, uint8_t version)
{
	for (size_t i = 0; i < n->n_pools; i++) {
		if (n->pools[i]->address.version == version)
			return true;
	}
	return false;
}

bool nat_is_ours(const struct nat *n, const struct addr *a)
{
	return pool_of(n->pools, n->n_pools, a) || pool_of(n->faces, n->n_faces, a);
}

static uint32_t *bucket(struct nat *n, uint8_t protocol, const struct addr_port *inside)
{
	uint8_t k[20] = {protocol, inside->addr.version, (uint8_t)(inside->port >> 8),
			 (uint8_t)inside->port};

	memcpy(k + 4, inside->addr.b, 16);
	return &n->buckets[siphash(n->key, (struct span){k, sizeof(k)}) & n->mask];
}

struct binding *nat_find(struct nat *n, uint8_t protocol, const struct addr_port *inside)
{
	uint32_t i;

	if (n->n_bindings == 0)
		return NULL;
	for (i = *bucket(n, protocol, inside); i != RULE_NONE; i = n->b[i].next) {
		if (n->b[i].protocol == protocol && addr_port_eq(&n->b[i].inside, inside))
			return &n->b[i];
	}
	return NULL;
}

static int more_bindings(struct nat *n)
{
	uint32_t cap = n->cap_b ? n->cap_b * 2 : 256;
	struct binding *b = realloc(n->b, cap * sizeof(*b));

	if (!b)
		return ERR_NOMEM;
	n->b = b;
	for (uint32_t i = cap; i-- > n->cap_b;) {
		b[i].next = n->free_b;
		n->free_b = i;
	}
	n->cap_b = cap;
	return 0;
}

static struct binding *binding_add(struct nat *n, const struct rule *r, const struct fw_binding *f)
{
	uint32_t i, *head;

	if (n->free_b == RULE_NONE && more_bindings(n) != 0)
		return NULL;
	i = n->free_b;
	n->free_b = n->b[i].next;
	head = bucket(n, f->protocol, &f->inside);
	n->b[i] = (struct binding){
		.inside = f->inside,
		.outside_port = f->outside.port,
		.protocol = f->protocol,
		.owner = r->owner,
		.next = *head,
	};
	for (size_t k = 0; k < n->n_pools; k++) {
		if (addr_eq(&n->pools[k]->address, &f->outside.addr))
			n->b[i].pool = (uint16_t)k;
	}
	*head = i;
	n->n_bindings++;
	return &n->b[i];
}

static void binding_remove(struct nat *n, struct binding *b, bool put)
{
	uint32_t i = (uint32_t)(b - n->b);
	uint32_t *at = bucket(n, b->protocol, &b->inside);

	while (*at != i)
		at = &n->b[*at].next;
	*at = b->next;
	if (put)
		portpool_put(n->pools[b->pool], b->protocol, b->outside_port, 1);
	b->next = n->free_b;
	n->free_b = i;
	n->n_bindings--;
}

static void unbind_ports(struct nat *n, const struct rule *r, unsigned count, bool put)
{
	for (unsigned i = 0; i < count; i++) {
		struct fw_binding f;
		struct binding *b;

		rule_binding(r, i, &f);
		b = nat_find(n, f.protocol, &f.inside);
		if (b && --b->refs == 0)
			binding_remove(n, b, put);
	}
}

int nat_bind(struct nat *n, const struct rule *r)
{
	for (unsigned i = 0; i < rule_bindings(r); i++) {
		struct fw_binding f;
		struct binding *b;

		rule_binding(r, i, &f);
		b = nat_find(n, f.protocol, &f.inside);
		if (!b)
			b = binding_add(n, r, &f);
		if (!b) {
			unbind_ports(n, r, i, false);
			return ERR_NOMEM;
		}
		b->refs++;
	}
	return 0;
}

void nat_unbind(struct nat *n, const struct rule *r, bool put)
{
	unbind_ports(n, r, rule_bindings(r), put);
}

bool nat_mark(struct nat *n, const struct tuple *t, enum simco_location at)
{
	struct addr a = tuple_addr(t);
	struct portpool *p = at == SIMCO_INSIDE ? nat_face(n, &a) : nat_pool(n, &a);

	if (p)
		portpool_mark(p, t->protocol, t->port, t->range);
	return p != NULL;
}

void nat_put(struct nat *n, const struct tuple *t, enum simco_location at)
{
	struct addr a = tuple_addr(t);
	struct portpool *p = at == SIMCO_INSIDE ? nat_face(n, &a) : nat_pool(n, &a);

	if (p)
		portpool_put(p, t->protocol, t->port, t->range);
}
