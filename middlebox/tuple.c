/*
 * Address tuples as values. A port range on both sides means parallel pairs
 * (one to one), never the cross product; where one side leaves the port open
 * it is a range of that side.
 */
#include "middlebox/tuple.h"

#include <netinet/in.h>
#include <string.h>

struct tuple tuple_from_simco(const struct simco_tuple *s)
{
	struct tuple t = {
		.version = s->ip_version,
		.prefix = s->prefix_len,
		.port = s->port,
		.range = s->port_range,
		.protocols_only = s->protocols_only,
		.protocol = s->protocol,
	};

	if (!s->protocols_only)
		memcpy(t.addr, s->addr, s->ip_version == SIMCO_IPV6 ? 16 : 4);
	return t;
}

struct simco_tuple tuple_to_simco(const struct tuple *t, enum simco_location location)
{
	struct simco_tuple s = {
		.protocols_only = t->protocols_only,
		.ip_version = t->version,
		.prefix_len = t->prefix,
		.protocol = t->protocol,
		.location = (uint8_t)location,
		.port = t->port,
		.port_range = t->range,
	};

	memcpy(s.addr, t->addr, 16);
	return s;
}

struct tuple tuple_exact(const struct addr *a, uint8_t protocol, uint16_t port, uint16_t range)
{
	struct tuple t = {
		.version = a->version == 6 ? SIMCO_IPV6 : SIMCO_IPV4,
		.prefix = a->version == 6 ? 128 : 32,
		.port = port,
		.range = range,
		.protocol = protocol,
	};

	memcpy(t.addr, a->b, 16);
	return t;
}

struct tuple tuple_protocols(uint8_t version, uint8_t protocol)
{
	return (struct tuple){.version = version, .protocols_only = 1, .protocol = protocol};
}

uint8_t tuple_version(const struct tuple *t)
{
	return t->version == SIMCO_IPV4 ? 4 : t->version == SIMCO_IPV6 ? 6 : 0;
}

struct addr tuple_addr(const struct tuple *t)
{
	struct addr a = {.version = tuple_version(t)};

	memcpy(a.b, t->addr, a.version == 6 ? 16 : 4);
	return a;
}

struct addr_prefix tuple_prefix(const struct tuple *t)
{
	struct addr_prefix p = {.addr = tuple_addr(t), .len = t->protocols_only ? 0 : t->prefix};
	unsigned n = p.addr.version == 6 ? 16 : 4;
	unsigned i = p.len / 8;

	if (i < n) {
		p.addr.b[i] &= (uint8_t)(0xff00u >> (p.len % 8));
		memset(p.addr.b + i + 1, 0, n - i - 1);
	}
	return p;
}

bool tuple_addr_exact(const struct tuple *t)
{
	return !t->protocols_only && t->prefix == (t->version == SIMCO_IPV6 ? 128 : 32);
}

bool tuple_port_any(const struct tuple *t)
{
	return t->protocols_only || t->protocol == 0 || t->port == 0;
}

struct port_range tuple_ports(const struct tuple *t)
{
	if (tuple_port_any(t))
		return (struct port_range){0, 65535};
	return (struct port_range){t->port, (uint16_t)(t->port + t->range - 1)};
}

static bool ports_overlap(struct port_range a, struct port_range b)
{
	return a.first <= b.last && b.first <= a.last;
}

bool tuple_overlaps(const struct tuple *a, const struct tuple *b)
{
	struct addr_prefix pa, pb;

	if (a->version != b->version)
		return false;
	if (a->protocol != 0 && b->protocol != 0 && a->protocol != b->protocol)
		return false;
	if (!ports_overlap(tuple_ports(a), tuple_ports(b)))
		return false;
	pa = tuple_prefix(a);
	pb = tuple_prefix(b);
	return addr_prefix_overlaps(&pa, &pb);
}

bool rule_conflicts(const struct rule *a, const struct rule *b)
{
	return tuple_overlaps(&a->in, &b->in) && tuple_overlaps(&a->ex, &b->ex);
}

unsigned rule_pairs(const struct rule *r)
{
	const struct tuple *in = &r->in, *ex = &r->ex;

	if (r->kind == RULE_DISABLED || tuple_port_any(in))
		return 1;
	if (!tuple_port_any(ex) || (r->flags & RULE_NAT))
		return in->range;
	return 1;
}

static struct port_range nth_port(const struct tuple *t, unsigned i, unsigned n)
{
	uint16_t p = (uint16_t)(t->port + i);

	if (tuple_port_any(t) || n != t->range)
		return tuple_ports(t);
	return (struct port_range){p, p};
}

void rule_match(const struct rule *r, uint8_t direction, unsigned i, struct fw_match *m)
{
	const struct tuple *in = &r->in, *ex = &r->ex;
	unsigned n = rule_pairs(r);
	struct addr_prefix ip = tuple_prefix(in), ep = tuple_prefix(ex);
	struct port_range iport = nth_port(in, i, n), eport = nth_port(ex, i, n);

	m->protocol = in->protocol;
	m->src = direction == SIMCO_INBOUND ? ep : ip;
	m->dst = direction == SIMCO_INBOUND ? ip : ep;
	m->sport = direction == SIMCO_INBOUND ? eport : iport;
	m->dport = direction == SIMCO_INBOUND ? iport : eport;
}

unsigned rule_bindings(const struct rule *r)
{
	return (r->flags & RULE_NAT) ? r->in.range : 0;
}

bool match_eq(const struct fw_match *a, const struct fw_match *b)
{
	return a->protocol == b->protocol && port_range_eq(a->sport, b->sport) &&
	       port_range_eq(a->dport, b->dport) && addr_prefix_eq(&a->src, &b->src) &&
	       addr_prefix_eq(&a->dst, &b->dst);
}
