/*
 * NAT state of the core: the outside (and, for twice NAT, inside) port pools,
 * and the bindings A0 <-> A2. A binding has one owner and is shared by every
 * rule of that A0: the mapping is endpoint-independent (RFC 4787 §4.1).
 * Values only: the kernel's maps are written by the caller.
 */
#ifndef SLUICE_MIDDLEBOX_NAT_H
#define SLUICE_MIDDLEBOX_NAT_H

#include "middlebox/fw.h"
#include "middlebox/portpool.h"
#include "middlebox/rule.h"

struct binding {
	struct addr_port inside; /* A0; port of one mapping */
	uint16_t outside_port;
	uint16_t pool;
	uint8_t protocol;
	uint16_t owner;
	uint32_t refs;	/* rules */
	uint32_t batch; /* the batch that touches it */
	uint32_t next;
	uint64_t until_ms; /* what the kernel was told, without grace */
	bool resend;	   /* it refused the last time */
};

struct nat {
	enum fw_nat_mode mode;
	struct portpool **pools; /* heap, one per outside address */
	size_t n_pools;
	struct portpool **faces; /* inside addresses, twice NAT */
	size_t n_faces;
	struct binding *b;
	uint32_t cap_b, free_b, n_bindings;
	uint32_t *buckets;
	uint32_t mask;
	uint64_t key[2];
	struct fw *fw;
};

/* 0 or ERR_NOMEM. */
int nat_init(struct nat *n, enum fw_nat_mode mode, struct fw *fw);
void nat_fini(struct nat *n);
/* Adds the ports of a configured pool. 0 or ERR_NOMEM. */
int nat_add_pool(struct nat *n, const struct fw_pool *p, bool inside);

/* True when addresses of that version (4, 6) are translated. */
bool nat_translates(const struct nat *n, uint8_t version);
/* Is it one of our outside or inside addresses? */
bool nat_is_ours(const struct nat *n, const struct addr *a);
struct portpool *nat_pool(struct nat *n, const struct addr *a);
struct portpool *nat_face(struct nat *n, const struct addr *a);

/* NULL when that A0 is not bound. Valid until the next nat_bind(). */
struct binding *nat_find(struct nat *n, uint8_t protocol, const struct addr_port *inside);
/*
 * Adds a reference for each port of the rule's internal and outside tuples,
 * and the bindings where they are new; the ports are taken already. 0 or ERR_NOMEM.
 */
int nat_bind(struct nat *n, const struct rule *r);
/* Takes the references back; ports of bindings that end return to the pool if `put`. */
void nat_unbind(struct nat *n, const struct rule *r, bool put);

/* Takes and gives the outside (SIMCO_OUTSIDE) or inside (SIMCO_INSIDE) ports of a tuple. */
bool nat_mark(struct nat *n, const struct tuple *t, enum simco_location at);
void nat_put(struct nat *n, const struct tuple *t, enum simco_location at);

#endif
