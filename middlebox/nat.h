/*
 * NAT state of the core: the outside (and, for twice NAT, inside) port pools,
 * and the bindings A0 <-> A2. A binding has one owner and is shared by every
 * rule of that A0: the mapping is endpoint-independent (RFC 4787 §4.1).
 * Values only: the kernel's maps are written by the caller.
 */
#ifndef SLUICE_MIDDLEBOX_NAT_H
#define SLUICE_MIDDLEBOX_NAT_H

#include "middlebox/fw.h"
#include "middlebox/ledger.h"
#include "middlebox/portpool.h"

struct binding {
	struct addr_port inside; /* A0; port of one mapping */
	uint16_t pool;
	uint16_t outside_port;
	uint16_t owner;
	uint8_t protocol;
	bool resend;	/* the kernel refused it the last time */
	uint32_t refs;	/* rules */
	uint32_t batch; /* the batch that touches it */
	uint32_t next;
	uint64_t until_ms; /* what the kernel was told, without grace */
};

_Static_assert(sizeof(struct binding) == 48, "no padding: there is one for every bound port");

struct nat {
	enum fw_nat_mode mode;
	struct ledger *led;
	struct portpool **pools; /* heap, one per outside address */
	size_t n_pools;
	struct portpool **faces; /* inside addresses, twice NAT */
	size_t n_faces;
	struct binding *b;
	uint32_t cap_b, high_b, free_b, n_bindings; /* beyond high_b no page was touched */
	uint32_t *buckets;
	uint32_t mask;
	uint64_t key[2];
	struct fw *fw;
};

/* Borrows the ledger, in which our addresses have their numbers. 0 or ERR_NOMEM. */
int nat_init(struct nat *n, enum fw_nat_mode mode, struct ledger *led, struct fw *fw);
void nat_fini(struct nat *n);
/* Adds the ports of a configured pool. 0, ERR_NOMEM, or ERR_LIMIT (addresses in the ledger). */
int nat_add_pool(struct nat *n, const struct fw_pool *p, bool inside);

/* True when addresses of that version (4, 6) are translated. */
bool nat_translates(const struct nat *n, uint8_t version);
/* Is it one of our outside or inside addresses? */
bool nat_is_ours(const struct nat *n, const struct addr *a);
struct portpool *nat_pool(struct nat *n, const struct addr *a);

/* NULL when that A0 is not bound. Valid until the next nat_bind() or nat_unbind(). */
struct binding *nat_find(struct nat *n, uint8_t protocol, const struct addr_port *inside);
/*
 * Adds a reference for each port of the rule's internal and outside tuples,
 * and the bindings where they are new; the ports are taken already. 0 or ERR_NOMEM.
 */
int nat_bind(struct nat *n, const struct rule *r);
/* Takes the references back; ports of bindings that end return to the pool if `put`. */
void nat_unbind(struct nat *n, const struct rule *r, bool put);

/*
 * A rule's tuple. Without translation the outside one is the internal, the
 * inside one the external (RFC 4540 §8.3.2); a reservation has "protocols only" and none.
 */
struct tuple nat_tuple(const struct nat *n, const struct rule *r, enum simco_location at);
/* The i-th port of a rule that is bound, and the ends of its mapping. */
void nat_binding(const struct nat *n, const struct rule *r, unsigned i, struct fw_binding *b);

/* Where the rule's outside (SIMCO_OUTSIDE) or inside (SIMCO_INSIDE) ports are, NULL: not
 * configured. */
struct portpool *nat_pool_at(struct nat *n, const struct rule *r, enum simco_location at);
/* Takes and gives these ports. */
bool nat_mark(struct nat *n, const struct rule *r, enum simco_location at);
void nat_put(struct nat *n, const struct rule *r, enum simco_location at);

#endif
