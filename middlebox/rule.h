/*
 * A policy rule (RFC 4540 §8) as it lies in the ledger: one slot of three cache
 * lines. The first part is what a restart needs; the second part is links and
 * notes of the running process and is rebuilt at start.
 */
#ifndef SLUICE_MIDDLEBOX_RULE_H
#define SLUICE_MIDDLEBOX_RULE_H

#include "common/addr.h"
#include "common/base.h"
#include "proto-simco/simco.h"

#define RULE_NONE UINT32_MAX /* "no slot" in links */
#define RULE_PORTS_MAX 64    /* ports of one rule; more is 0x0356 */

/*
 * Life of a slot. Everything but FINAL and FREE means that the kernel may or
 * may not have the rule's elements: a batch was on its way.
 */
enum slot_state {
	SLOT_FREE = 0,
	SLOT_NEW = 1,	   /* PER on its way: a restart destroys it */
	SLOT_ENABLING = 2, /* PEA on its way: a restart makes it a reservation again */
	SLOT_CLOSING = 3,  /* end on its way: a restart completes it */
	SLOT_FINAL = 4,
};

enum rule_kind { RULE_RESERVED = 1, RULE_ENABLED = 2, RULE_DISABLED = 3 };

#define RULE_TWICE 1u /* the inside tuple is ports of ours (twice NAT) */
#define RULE_NAT 2u   /* the outside tuple is ports of ours */

/* §4.3.8 without the location, kept as it came so that PES gives it back. */
struct tuple {
	uint8_t addr[16];
	uint8_t version; /* SIMCO_IPV4, SIMCO_IPV6; 0: no tuple */
	uint8_t prefix;
	uint16_t port; /* 0: any */
	uint16_t range;
	uint8_t protocols_only;
	uint8_t protocol;
};

/* As many ports as the rule has, of an address of ours. */
struct rule_ports {
	uint16_t address; /* index into the ledger's addresses */
	uint16_t first;
};

struct rule_link {
	uint32_t next, prev;
};

struct rule {
	/* The ledger's part. */
	uint32_t pid;
	uint32_t gid;
	uint8_t slot; /* enum slot_state, written last */
	uint8_t kind; /* enum rule_kind */
	uint8_t direction;
	uint8_t per_parity;
	uint16_t owner;	 /* index into the ledger's names */
	uint8_t flags;	 /* RULE_* */
	uint8_t version; /* of a reservation: SIMCO_IPV4, SIMCO_IPV6 */
	uint64_t expires_ms;
	uint64_t created_ms;
	struct tuple in, ex; /* internal (A0) and external (A3); zero in a reservation */
	struct rule_ports outside, inside; /* with RULE_NAT, with RULE_TWICE; see nat_tuple() */
	struct simco_prr_params prr; /* protocol and ports of a reservation; zero for PER and PDR */

	/* The process's part. */
	uint32_t next_pid;
	uint32_t next_leader;	/* hash chain of the groups' first members */
	struct rule_link group; /* ring of its group */
	struct rule_link owned; /* rules of its owner */
	uint32_t heap_pos;
	uint32_t pair;			     /* the neighbour of an RTP and RTCP pair */
	struct rule_link twins;		     /* rules whose elements may coincide */
	uint32_t twin_hash;		     /* beside the link: a walk compares it first */
	uint32_t batch;			     /* the batch that touches it; see struct core */
	struct rule_link internal, external; /* rules of the same address */
	uint32_t seen[2];		     /* packets at the last look, by direction - 1 */
	uint64_t active_ms[2];		     /* last change of seen, 0: none */
	uint64_t since_ms;		     /* when it was enabled, or this process began */
};

_Static_assert(sizeof(struct tuple) == 24, "a tuple is 24 octets");
_Static_assert(sizeof(struct rule) == 192, "a slot is three cache lines");
_Static_assert(offsetof(struct rule, twins) == 128, "a walk over twins reads one of them");

#endif
