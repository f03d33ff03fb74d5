/*
 * The ports of one address that the middlebox hands out: per protocol a bitmap
 * of what is taken and one of what is set aside as the neighbour of a single
 * even port (RTP, RTCP). Next fit from a random start, so that a released port
 * rests as long as possible.
 */
#ifndef SLUICE_MIDDLEBOX_PORTPOOL_H
#define SLUICE_MIDDLEBOX_PORTPOOL_H

#include "common/addr.h"
#include "common/base.h"

/* True when a port may not be handed out now. */
typedef bool (*portpool_veto_fn)(void *arg, uint8_t protocol, const struct addr_port *at);

#define PORT_BITS (65536 / 64)

struct portpool {
	struct addr address;
	uint16_t id; /* the owner's number for the address */
	uint32_t n_ports, seed;
	uint64_t member[PORT_BITS];
	struct {
		uint64_t taken[PORT_BITS], aside[PORT_BITS];
		uint32_t n_taken;
		uint16_t cursor[3]; /* by parity */
	} proto[2];		    /* UDP, TCP */
	portpool_veto_fn veto;
	void *veto_arg;
};

void portpool_init(struct portpool *p, const struct addr *address, uint32_t seed);
/* More ports; 0 is never a member. */
void portpool_add(struct portpool *p, struct port_range ports);

/*
 * Takes `n` consecutive ports whose first has `parity` (SIMCO_PARITY_*).
 * A single even port is taken where its odd neighbour is free, which is then
 * set aside, while there is such a port. First port; 0: none left.
 */
uint16_t portpool_take(struct portpool *p, uint8_t protocol, unsigned n, unsigned parity);
/* Takes exactly these, set aside or not; false when one is taken or not a member. */
bool portpool_take_exact(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n);
/* At a restart: takes them even if they are no members any more. */
void portpool_mark(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n);
/* Sets a free neighbour aside again, or gives it up. */
void portpool_set_aside(struct portpool *p, uint8_t protocol, uint16_t port, bool aside);
void portpool_put(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n);
bool portpool_is_taken(const struct portpool *p, uint8_t protocol, uint16_t port);

#endif
