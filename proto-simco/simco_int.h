/*
 * What the files of libsimco share with each other: the attribute table, the
 * message format table, names. Nothing of it is exported.
 */
#ifndef SIMCO_INT_H
#define SIMCO_INT_H

#include "common/base.h"
#include "common/wire.h"
#include "proto-simco/simco.h"

#pragma GCC visibility push(hidden)

#define SIMCO_ATTR_HEADER_LEN 4
#define SIMCO_MAX_SLOTS 10

/* Properties of an attribute at its place in a message. */
enum {
	SLOT_OPTIONAL = 1,
	SLOT_REPEATED = 2, /* any number, also none (PRL reply) */
	SLOT_REPLY = 4,	   /* a tuple whose location is given by the figure */
};

/* One attribute in a figure of §5. */
struct simco_slot {
	uint16_t attr;
	uint8_t tuple; /* index in simco_msg.tuple */
	uint8_t flags;
};

/* A row of the message format table: one message type of §5. */
struct simco_format {
	uint16_t type;
	const char *name;
	struct simco_slot slots[SIMCO_MAX_SLOTS]; /* in the figure's order; attr 0 ends them */
	uint16_t answers[3];			  /* requests that this positive reply may answer */
};

/* A row of the attribute table (§4.3). */
struct simco_attr_row {
	uint16_t attr;
	uint16_t min, max; /* length of the value */
	const char *name;
	/* Reads a value of `c->n` octets; false when it cannot be represented. */
	bool (*read)(struct simco_msg *m, const struct simco_slot *s, struct wire *c);
	/* Are the fields defined values (both directions)? NULL: always. */
	bool (*check)(const struct simco_msg *m, const struct simco_slot *s);
	/* Octets of the value when they vary, NULL: `min`. */
	size_t (*length)(const struct simco_msg *m, const struct simco_slot *s);
	void (*write)(const struct simco_msg *m, const struct simco_slot *s, struct wire *c);
};

/* NULL for a type that §5 does not define. */
const struct simco_format *simco_format_find(uint16_t type);
/* The i-th row of the format table, NULL past the end. */
const struct simco_format *simco_format_at(size_t i);
/* NULL for an unknown attribute. */
const struct simco_attr_row *simco_attr_find(uint16_t attr);

/* Is `reply` a reply, positive or negative, that may answer `request`? */
bool simco_reply_fits(uint16_t request, uint16_t reply);
/* A request about policy rules (§5.3), as opposed to SE, SA and ST. */
bool simco_is_policy_request(uint16_t type);
/* Longest payload (length field) that any request may have. */
size_t simco_request_max(void);

#pragma GCC visibility pop

#endif
