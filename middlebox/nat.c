#include "middlebox/nat.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/errcode.h"
#include "common/table.h"
#include "middlebox/tuple.h"

#define BUCKETS 65536u
#define KEPT 4096u /* bindings whose memory stays when the last one ends */

static bool quarantined(void *arg, uint8_t protocol, const struct addr_port *at)
{
	return fw_quarantined(arg, protocol, at);
}

int nat_init(struct nat *n, enum fw_nat_mode mode, struct ledger *led, struct fw *fw)
{
	memset(n, 0, sizeof(*n));
	n->mode = mode;
	n->led = led;
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

int nat_add_pool(struct nat *n, const struct fw_pool *conf, bool inside)
{
	struct portpool ***pools = inside ? &n->faces : &n->pools;
	size_t *count = inside ? &n->n_faces : &n->n_pools;
	struct portpool *p = pool_of(*pools, *count, &conf->address);
	uint32_t seed = 0;

	if (!p) {
		struct portpool **more = realloc(*pools, (*count + 1) * sizeof(**pools));
		int id = ledger_address(n->led, &conf->address);

		if (id < 0)
			return ERR_LIMIT;
		if (!more)
			return ERR_NOMEM;
		*pools = more;
		p = malloc(sizeof(*p));
		if (!p || getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
			free(p);
			return ERR_NOMEM;
		}
		portpool_init(p, &conf->address, seed);
		p->id = (uint16_t)id;
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
	n->cap_b = cap;
	return 0;
}

static struct binding *binding_add(struct nat *n, const struct rule *r, const struct fw_binding *f)
{
	uint32_t i = n->free_b, *head;

	if (i != RULE_NONE)
		n->free_b = n->b[i].next;
	else if (n->high_b < n->cap_b || more_bindings(n) == 0)
		i = n->high_b++;
	else
		return NULL;
	head = bucket(n, f->protocol, &f->inside);
	n->b[i] = (struct binding){
		.inside = f->inside,
		.outside_port = f->outside.port,
		.protocol = f->protocol,
		.owner = r->owner,
		.next = *head,
	};
	for (size_t k = 0; k < n->n_pools; k++) {
		if (n->pools[k]->id == r->outside.address)
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
	if (--n->n_bindings > 0 || n->cap_b <= KEPT)
		return;
	free(n->b);
	n->b = NULL;
	n->cap_b = n->high_b = 0;
	n->free_b = RULE_NONE;
}

static void unbind_ports(struct nat *n, const struct rule *r, unsigned count, bool put)
{
	for (unsigned i = 0; i < count; i++) {
		struct fw_binding f;
		struct binding *b;

		nat_binding(n, r, i, &f);
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

		nat_binding(n, r, i, &f);
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

/* ---- the ports of a rule ------------------------------------------------------ */

static const struct rule_ports *ports_of(const struct rule *r, enum simco_location at)
{
	return at == SIMCO_INSIDE ? &r->inside : &r->outside;
}

/* What was reserved, else what was enabled at once. */
static uint16_t port_count(const struct rule *r)
{
	return r->prr.port_range ? r->prr.port_range : r->in.range;
}

static uint8_t protocol_of(const struct rule *r)
{
	return r->prr.protocol ? r->prr.protocol : r->in.protocol;
}

struct tuple nat_tuple(const struct nat *n, const struct rule *r, enum simco_location at)
{
	const struct rule_ports *ours = ports_of(r, at);

	if (at == SIMCO_INTERNAL || at == SIMCO_EXTERNAL)
		return at == SIMCO_INTERNAL ? r->in : r->ex;
	if (r->flags & (at == SIMCO_INSIDE ? RULE_TWICE : RULE_NAT))
		return tuple_exact(&n->led->addresses[ours->address], protocol_of(r), ours->first,
				   port_count(r));
	if (r->kind == RULE_ENABLED)
		return at == SIMCO_INSIDE ? r->ex : r->in;
	if (r->kind == RULE_RESERVED && at == SIMCO_OUTSIDE)
		return tuple_protocols(r->version, r->prr.protocol);
	return (struct tuple){0};
}

static struct addr_port nth_of(const struct nat *n, const struct rule_ports *p, unsigned i)
{
	return (struct addr_port){n->led->addresses[p->address], (uint16_t)(p->first + i)};
}

static struct addr_port nth_end(const struct tuple *t, unsigned i)
{
	return (struct addr_port){tuple_addr(t), (uint16_t)(t->port + i)};
}

void nat_binding(const struct nat *n, const struct rule *r, unsigned i, struct fw_binding *b)
{
	memset(b, 0, sizeof(*b));
	b->protocol = r->in.protocol;
	b->inside = nth_end(&r->in, i);
	b->outside = nth_of(n, &r->outside, i);
	if (r->flags & RULE_TWICE) {
		b->inside_face = nth_of(n, &r->inside, i);
		b->external = nth_end(&r->ex, i);
	}
}

struct portpool *nat_pool_at(struct nat *n, const struct rule *r, enum simco_location at)
{
	struct portpool **pools = at == SIMCO_INSIDE ? n->faces : n->pools;
	size_t count = at == SIMCO_INSIDE ? n->n_faces : n->n_pools;

	for (size_t i = 0; i < count; i++) {
		if (pools[i]->id == ports_of(r, at)->address)
			return pools[i];
	}
	return NULL;
}

bool nat_mark(struct nat *n, const struct rule *r, enum simco_location at)
{
	struct portpool *p = nat_pool_at(n, r, at);

	if (p)
		portpool_mark(p, protocol_of(r), ports_of(r, at)->first, port_count(r));
	return p != NULL;
}

void nat_put(struct nat *n, const struct rule *r, enum simco_location at)
{
	struct portpool *p = nat_pool_at(n, r, at);

	if (p)
		portpool_put(p, protocol_of(r), ports_of(r, at)->first, port_count(r));
}
