#include "middlebox/portpool.h"

#include <netinet/in.h>
#include <string.h>

#include "proto-simco/simco.h"

#define EVEN_BITS 0x5555555555555555ull

static bool get(const uint64_t *bits, unsigned port)
{
	return port < 65536 && (bits[port >> 6] >> (port & 63) & 1);
}

static void set(uint64_t *bits, unsigned port, bool on)
{
	uint64_t bit = 1ull << (port & 63);

	if (on)
		bits[port >> 6] |= bit;
	else
		bits[port >> 6] &= ~bit;
}

static unsigned proto_index(uint8_t protocol)
{
	return protocol == IPPROTO_TCP;
}

void portpool_init(struct portpool *p, const struct addr *address, uint32_t seed)
{
	memset(p, 0, sizeof(*p));
	p->address = *address;
	p->seed = seed;
}

void portpool_add(struct portpool *p, struct port_range ports)
{
	for (unsigned port = ports.first ? ports.first : 1; port <= ports.last; port++) {
		p->n_ports += !get(p->member, port);
		set(p->member, port, true);
	}
	for (unsigned i = 0; i < 6; i++) {
		p->seed = p->seed * 1664525u + 1013904223u;
		p->proto[i / 3].cursor[i % 3] =
			(uint16_t)(ports.first +
				   (p->seed >> 8) % ((unsigned)ports.last - ports.first + 1));
	}
}

static bool vetoed(const struct portpool *p, uint8_t protocol, unsigned port)
{
	struct addr_port at = {p->address, (uint16_t)port};

	return p->veto && p->veto(p->veto_arg, protocol, &at);
}

static bool run_free(const struct portpool *p, uint8_t protocol, unsigned first, unsigned n,
		     bool keep_aside)
{
	unsigned k = proto_index(protocol);

	for (unsigned port = first; port < first + n; port++) {
		if (!get(p->member, port) || get(p->proto[k].taken, port) ||
		    (keep_aside && get(p->proto[k].aside, port)))
			return false;
	}
	for (unsigned port = first; port < first + n; port++) {
		if (vetoed(p, protocol, port))
			return false;
	}
	return true;
}

enum wish { PAIRED, KEEP_ASIDE, ANY_FREE };

/* Candidates for the first port in one word of the bitmaps. */
static uint64_t candidates(const struct portpool *p, unsigned k, unsigned word, unsigned parity,
			   enum wish wish)
{
	uint64_t bits = p->member[word] & ~p->proto[k].taken[word];

	if (wish != ANY_FREE)
		bits &= ~p->proto[k].aside[word];
	if (wish == PAIRED)
		bits &= bits >> 1;
	if (parity == SIMCO_PARITY_EVEN)
		bits &= EVEN_BITS;
	if (parity == SIMCO_PARITY_ODD)
		bits &= ~EVEN_BITS;
	return bits;
}

/* Next fit over all words, the first one in two parts. */
static unsigned find(const struct portpool *p, uint8_t protocol, unsigned n, unsigned parity,
		     enum wish wish)
{
	unsigned k = proto_index(protocol);
	unsigned start = p->proto[k].cursor[parity];

	for (unsigned step = 0; step <= PORT_BITS; step++) {
		unsigned word = (start / 64 + step) % PORT_BITS;
		uint64_t bits = candidates(p, k, word, parity, wish);

		if (step == 0)
			bits &= ~0ull << (start & 63);
		if (step == PORT_BITS)
			bits &= ~(~0ull << (start & 63));
		while (bits) {
			unsigned port = word * 64 + (unsigned)__builtin_ctzll(bits);

			if (run_free(p, protocol, port, n, wish != ANY_FREE))
				return port;
			bits &= bits - 1;
		}
	}
	return 0;
}

void portpool_mark(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n)
{
	unsigned k = proto_index(protocol);

	for (unsigned port = first; port < (unsigned)first + n && port < 65536; port++) {
		p->proto[k].n_taken += !get(p->proto[k].taken, port);
		set(p->proto[k].taken, port, true);
		set(p->proto[k].aside, port, false);
	}
}

uint16_t portpool_take(struct portpool *p, uint8_t protocol, unsigned n, unsigned parity)
{
	unsigned k = proto_index(protocol), port = 0;
	bool single_even = n == 1 && parity == SIMCO_PARITY_EVEN;

	if (n == 0 || n > p->n_ports || parity > SIMCO_PARITY_EVEN)
		return 0;
	if (single_even)
		port = find(p, protocol, n, parity, PAIRED);
	if (port)
		set(p->proto[k].aside, port + 1, true);
	if (!port)
		port = find(p, protocol, n, parity, KEEP_ASIDE);
	if (!port)
		port = find(p, protocol, n, parity, ANY_FREE);
	if (!port)
		return 0;
	portpool_mark(p, protocol, (uint16_t)port, n);
	p->proto[k].cursor[parity] = (uint16_t)(port + n);
	return (uint16_t)port;
}

bool portpool_take_exact(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n)
{
	if (first == 0 || !run_free(p, protocol, first, n, false))
		return false;
	portpool_mark(p, protocol, first, n);
	return true;
}

void portpool_set_aside(struct portpool *p, uint8_t protocol, uint16_t port, bool aside)
{
	unsigned k = proto_index(protocol);

	if (get(p->member, port) && !get(p->proto[k].taken, port))
		set(p->proto[k].aside, port, aside);
}

void portpool_put(struct portpool *p, uint8_t protocol, uint16_t first, unsigned n)
{
	unsigned k = proto_index(protocol);

	for (unsigned port = first; port < (unsigned)first + n && port < 65536; port++) {
		p->proto[k].n_taken -= get(p->proto[k].taken, port);
		set(p->proto[k].taken, port, false);
		if (port % 2 == 0) /* nobody's neighbour is kept for it any more */
			set(p->proto[k].aside, port + 1, false);
	}
}

bool portpool_is_taken(const struct portpool *p, uint8_t protocol, uint16_t port)
{
	return get(p->proto[proto_index(protocol)].taken, port);
}
