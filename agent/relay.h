/*
 * Media relayed by the agent itself: the last resort, and the way between IPv4
 * and IPv6. A relay has a client side and a far side, each with one port (RTP)
 * or an even and odd pair of ports (RTP and RTCP, RFC 3550 §11) per side.
 *
 * A relay never learns an address: each port forwards what comes from the one
 * remote address and port that it was given, once the remotes of both sides of
 * that component are known. The kernel discards everything else on arrival and
 * answers nothing; what came too early is never delivered afterwards.
 */
#ifndef SLUICE_AGENT_RELAY_H
#define SLUICE_AGENT_RELAY_H

#include "common/addr.h"
#include "common/loop.h"

#define RELAY_MAX_COMPONENTS 2u

struct relays;
struct relay;

enum relay_side { RELAY_CLIENT, RELAY_FAR, RELAY_SIDES };

struct relay_cfg {
	struct port_range ports; /* of both sides; a relay takes two pairs of it */
	unsigned max_relays;
};

/* Of what arrived at one port of one side. */
struct relay_stats {
	uint64_t packets; /* forwarded, */
	uint64_t octets;  /* their payload */
	/* From anybody else, too early, beyond the socket buffer, or not taken by the other side.
	 */
	uint64_t dropped;
	uint64_t last_ms; /* loop_now_ms() of the last one forwarded, 0: none yet */
};

/* NULL on failure, or when the range holds no pair. */
struct relays *relays_new(struct loop *l, const struct relay_cfg *cfg);
/* For relays to come; those that live keep their ports. 0 or ERR_INVALID. */
int relays_set_cfg(struct relays *rs, const struct relay_cfg *cfg);
/* Every relay must have been freed before. NULL is fine. */
void relays_free(struct relays *rs);
unsigned relays_count(const struct relays *rs);

/*
 * Binds `components` (1 or 2) ports on each side's local address, which must
 * be exact unicast addresses of any IP version each. With one component the
 * port is even. Out-pointer written on success only.
 *   ERR_LIMIT    max_relays, or no more descriptors
 *   ERR_AGAIN    no free ports in the range
 *   ERR_INVALID  not a local address of this host
 *   ERR_NOMEM, ERR_IO, ERR_PERM
 */
int relay_new(struct relays *rs, const struct addr local[RELAY_SIDES], unsigned components,
	      struct relay **out);
void relay_free(struct relay *r); /* NULL is fine */

struct addr_port relay_local(const struct relay *r, enum relay_side side, unsigned component);

/*
 * Who this port talks to, from now on; a remote with address version 0 takes
 * the permission back. ERR_INVALID for another IP version than the side's, for
 * port 0, for addresses that are not one host's and for a relay's own port. On
 * failure the component passes nothing any more.
 */
int relay_set_remote(struct relay *r, enum relay_side side, unsigned component,
		     const struct addr_port *remote);

/* Of what arrived from that side. */
struct relay_stats relay_stats(const struct relay *r, enum relay_side side, unsigned component);

#endif
