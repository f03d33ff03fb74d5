/*
 * The content of the chains. The house rules (a-f of ARCHITECTURE.md) are here:
 * each was seen to lose media, or to deliver it to a neighbour, when left out.
 *
 *   forward, input, output: the pinhole sets, on every packet; then ICMP errors
 *     about open tuples; then the static permits. Conntrack state is never
 *     asked before the sets: closing a pinhole has to stop its media.
 *   input: what arrives for a pool port and is no open tuple is dropped (b).
 *   prerouting, postrouting: the maps, the static translations, nat.source (f),
 *     and everybody else off the pool ports (c); guard is c's last line.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>

#include "common/log.h"
#include "middlebox/fw_expr.h"
#include "middlebox/fw_nft.h"

/* One bit of the conntrack mark, leaving the site's use of the others alone. */
#define PERMIT_BIT 0x00010000u
#define DEFAULT_MARK 0x51u

static const uint8_t port_protocols[] = {IPPROTO_UDP, IPPROTO_TCP};

static struct rule start(struct fw_nft *f, const char *chain, const char *note)
{
	return rule_start(&f->batch, f->cfg->table, chain, note);
}

/* What happens to a packet that may pass. */
static void pass(struct fw_nft *f, struct rule *r)
{
	uint32_t mark = f->cfg->mark ? f->cfg->mark : DEFAULT_MARK;

	if (f->cfg->mode == FW_MARK) {
		rule_load(r, REG(0), &mark, sizeof(mark));
		rule_meta_set(r, NFT_META_MARK, REG(0));
	}
	rule_verdict(r, NF_ACCEPT);
	rule_end(r);
}

/* Loads the fields of a set's key, in key order, into registers from REG(0) on. */
static void load_tuple(struct rule *r, const struct fw_set *s)
{
	uint32_t reg = REG(0), len = s->version == 4 ? 4 : 16;

	rule_meta(r, NFT_META_L4PROTO, reg++);
	if (s->shape & 1) {
		rule_network(r, s->version == 4 ? 12 : 8, len, reg);
		reg += len / 4;
	}
	if (s->shape & 2)
		rule_transport(r, 0, 2, reg++);
	if (s->shape & 4) {
		rule_network(r, s->version == 4 ? 16 : 24, len, reg);
		reg += len / 4;
	}
	if (s->shape & 8)
		rule_transport(r, 2, 2, reg);
}

/*
 * The same from the packet inside an ICMP error, which starts 8 octets into the
 * ICMP header: without IPv4 options, without IPv6 extension headers, and a
 * first fragment, since only those have their ports where we look.
 */
static void load_embedded(struct rule *r, const struct fw_set *s)
{
	uint32_t reg = REG(0), len = s->version == 4 ? 4 : 16, at = s->version == 4 ? 20 : 16;
	uint32_t ports = s->version == 4 ? 28 : 48;

	rule_transport(r, s->version == 4 ? 17 : 14, 1, reg++);
	if (s->shape & 1) {
		rule_transport(r, at, len, reg);
		reg += len / 4;
	}
	if (s->shape & 2)
		rule_transport(r, ports, 2, reg++);
	if (s->shape & 4) {
		rule_transport(r, at + len, len, reg);
		reg += len / 4;
	}
	if (s->shape & 8)
		rule_transport(r, ports + 2, 2, reg);
}

static void embedded_is_readable(struct rule *r, uint8_t version)
{
	static const uint8_t ihl5 = 0x45, offset_mask[] = {0x1f, 0xff}, zero[2];

	if (version != 4)
		return;
	rule_transport(r, 8, 1, REG(0));
	rule_equal(r, REG(0), &ihl5, 1);
	rule_transport(r, 14, 2, REG(0));
	rule_and(r, REG(0), offset_mask, 2);
	rule_equal(r, REG(0), zero, 2);
}

/* One rule per type of error: unreachable, (too big,) time exceeded, parameter problem. */
static void put_icmp(struct fw_nft *f, const char *chain, const struct fw_set *s)
{
	static const uint8_t types4[] = {3, 11, 12}, types6[] = {1, 2, 3, 4};
	const uint8_t *types = s->version == 4 ? types4 : types6;
	size_t n = s->version == 4 ? ARRAY_LEN(types4) : ARRAY_LEN(types6);

	for (size_t i = 0; i < n; i++) {
		struct rule r = start(f, chain, "errors about open tuples");

		rule_family(&r, s->version);
		rule_protocol(&r, s->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
		rule_transport(&r, 0, 1, REG(0));
		rule_equal(&r, REG(0), &types[i], 1);
		embedded_is_readable(&r, s->version);
		load_embedded(&r, s);
		rule_lookup(&r, s->name, REG(0));
		pass(f, &r);
	}
}

static void put_lookup(struct fw_nft *f, const char *chain, const struct fw_set *s)
{
	struct rule r = start(f, chain, "open tuples");

	rule_family(&r, s->version);
	load_tuple(&r, s);
	rule_lookup(&r, s->name, REG(0));
	pass(f, &r);
}

void fw_rules_put_wild(struct fw_nft *f, const struct fw_set *s)
{
	put_lookup(f, s->version == 4 ? "wild4" : "wild6", s);
	if (!(f->cfg->omit & FW_RULE_ICMP))
		put_icmp(f, s->version == 4 ? "wild4_icmp" : "wild6_icmp", s);
}

static void put_wild_jump(struct fw_nft *f, const char *chain, uint8_t version)
{
	struct rule r = start(f, chain, "wildcards");

	rule_family(&r, version);
	rule_jump(&r, version == 4 ? "wild4" : "wild6");
	rule_end(&r);
}

static void put_wild_icmp_jump(struct fw_nft *f, const char *chain, uint8_t version)
{
	struct rule r = start(f, chain, "errors about wildcards");

	rule_family(&r, version);
	rule_protocol(&r, version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	rule_jump(&r, version == 4 ? "wild4_icmp" : "wild6_icmp");
	rule_end(&r);
}

static void put_pinholes(struct fw_nft *f, const char *chain)
{
	put_lookup(f, chain, &f->fixed[FW_EXACT4]);
	put_lookup(f, chain, &f->fixed[FW_EXACT6]);
	put_wild_jump(f, chain, 4);
	put_wild_jump(f, chain, 6);
}

/*
 * Without conntrack fragments have no ports. The kernel defragments while a
 * tproxy rule exists; these never match, since no UDP datagram is shorter than
 * its header.
 */
static void put_defrag(struct fw_nft *f, uint8_t version)
{
	static const uint8_t no_length[2];
	uint16_t port = htons(9);
	struct rule r;

	if (!(f->features & FW_FEATURE_TPROXY) || f->cfg->omit & FW_RULE_DEFRAG)
		return;
	r = start(f, "defrag", "never matches, but turns defragmentation on");
	rule_family(&r, version);
	rule_protocol(&r, IPPROTO_UDP);
	rule_transport(&r, 4, 2, REG(0));
	rule_equal(&r, REG(0), no_length, 2);
	rule_load(&r, REG(0), &port, sizeof(port));
	rule_tproxy(&r, version, REG(0));
	rule_end(&r);
}

static void put_replies(struct fw_nft *f, const char *chain)
{
	static const uint32_t zero;
	struct rule r = start(f, chain, "replies to what is permitted");

	rule_ct(&r, NFT_CT_MARK, -1, REG(0));
	rule_bits(&r, REG(0), PERMIT_BIT, 0);
	rule_differs(&r, REG(0), &zero, sizeof(zero));
	pass(f, &r);
}

static void put_permit(struct fw_nft *f, const char *chain, const struct fw_permit *p,
		       uint8_t protocol)
{
	uint8_t version = p->from.addr.version ? p->from.addr.version : p->to.addr.version;
	struct rule r = start(f, chain, "permit");

	if (version)
		rule_family(&r, version);
	if (protocol)
		rule_protocol(&r, protocol);
	rule_prefix(&r, true, &p->from);
	rule_prefix(&r, false, &p->to);
	if (protocol == IPPROTO_UDP || protocol == IPPROTO_TCP)
		rule_ports(&r, false, &p->ports);
	rule_ct(&r, NFT_CT_MARK, -1, REG(0));
	rule_bits(&r, REG(0), ~PERMIT_BIT, PERMIT_BIT);
	rule_ct_set(&r, NFT_CT_MARK, REG(0));
	pass(f, &r);
}

/* Conntrack is asked for nothing, and so not loaded, where nothing is permitted. */
static void put_permits(struct fw_nft *f, const char *chain)
{
	const struct fw_config *cfg = f->cfg;

	for (size_t i = 0; i < cfg->n_permits; i++)
		put_permit(f, chain, &cfg->permits[i], cfg->permits[i].protocol);
	if (cfg->n_permits)
		put_replies(f, chain);
}

/* Ends the chain for packets in reply direction: what we started ourselves. */
static void put_reply_accept(struct fw_nft *f, const char *chain)
{
	static const uint8_t reply = 1;
	struct rule r = start(f, chain, "replies");

	rule_ct(&r, NFT_CT_DIRECTION, -1, REG(0));
	rule_equal(&r, REG(0), &reply, 1);
	rule_verdict(&r, NF_ACCEPT);
	rule_end(&r);
}

/* A static translation may end on this host, with its own port inside the pool's range. */
static void put_static_accept(struct fw_nft *f, const char *chain, const struct fw_static *s,
			      uint8_t protocol)
{
	uint16_t port = htons(s->outside.port);
	struct rule r = start(f, chain, "static translation");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_ct(&r, NFT_CT_DST_IP, 0, REG(0));
	rule_equal(&r, REG(0), s->outside.addr.b, 4);
	rule_ct(&r, NFT_CT_PROTO_DST, 0, REG(0));
	rule_equal(&r, REG(0), &port, 2);
	rule_verdict(&r, NF_ACCEPT);
	rule_end(&r);
}

/*
 * Rule b for one pool: silence, and no conntrack entry, since a dropped first
 * packet is never confirmed. By the address before translation, so that a
 * stranger cannot reach a bound port of a socket on this host either; and by
 * the packet's own, for sites that take packets out of connection tracking.
 */
static void put_pool_drop(struct fw_nft *f, const char *chain, const struct fw_pool *p,
			  uint8_t protocol)
{
	uint16_t first = htons(p->ports.first), last = htons(p->ports.last);
	struct addr_prefix address = {.addr = p->address, .len = 32};
	struct rule r = start(f, chain, "pool ports answer nothing");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_ct(&r, NFT_CT_DST_IP, 0, REG(0));
	rule_equal(&r, REG(0), p->address.b, 4);
	rule_ct(&r, NFT_CT_PROTO_DST, 0, REG(0));
	rule_between(&r, REG(0), &first, &last, 2);
	rule_verdict(&r, NF_DROP);
	rule_end(&r);

	r = start(f, chain, "pool ports answer nothing");
	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, false, &address);
	rule_ports(&r, false, &p->ports);
	rule_verdict(&r, NF_DROP);
	rule_end(&r);
}

static bool translated(const struct fw_pool *p)
{
	return p->address.version == 4;
}

static void put_pool_drops(struct fw_nft *f, const char *chain)
{
	const struct fw_config *cfg = f->cfg;

	if (cfg->nat == FW_NAT_NONE || cfg->omit & FW_RULE_INPUT_DROP)
		return;
	put_reply_accept(f, chain);
	for (size_t i = 0; i < cfg->n_statics; i++)
		for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++)
			if (!cfg->statics[i].protocol ||
			    cfg->statics[i].protocol == port_protocols[k])
				put_static_accept(f, chain, &cfg->statics[i], port_protocols[k]);
	for (size_t i = 0; i < cfg->n_pools; i++)
		for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++)
			if (translated(&cfg->pools[i]))
				put_pool_drop(f, chain, &cfg->pools[i], port_protocols[k]);
}

static void put_map(struct fw_nft *f, const char *chain, const struct fw_set *map, bool source)
{
	struct rule r = start(f, chain, "bindings");

	rule_family(&r, 4);
	load_tuple(&r, map);
	rule_lookup_map(&r, map->name, REG(0), REG(8));
	rule_nat(&r, source, REG(8), REG(9), 0);
	rule_end(&r);
}

static void load_translation(struct rule *r, const struct addr_port *to)
{
	uint16_t port = htons(to->port);

	rule_load(r, REG(8), to->addr.b, 4);
	rule_load(r, REG(9), &port, sizeof(port));
}

static void put_static(struct fw_nft *f, const struct fw_static *s, uint8_t protocol)
{
	struct addr_prefix in = {.addr = s->inside.addr, .len = 32};
	struct addr_prefix out = {.addr = s->outside.addr, .len = 32};
	struct port_range in_port = {s->inside.port, s->inside.port};
	struct port_range out_port = {s->outside.port, s->outside.port};
	struct rule r = start(f, "prerouting", "static translation");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, false, &out);
	rule_ports(&r, false, &out_port);
	load_translation(&r, &s->inside);
	rule_nat(&r, false, REG(8), REG(9), 0);
	rule_end(&r);

	r = start(f, "postrouting", "static translation");
	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, true, &in);
	rule_ports(&r, true, &in_port);
	load_translation(&r, &s->outside);
	rule_nat(&r, true, REG(8), REG(9), 0);
	rule_end(&r);
}

/* Calls fn for each outside interface, or once with NULL where none is named. */
static void each_outside(struct fw_nft *f,
			 void (*fn)(struct fw_nft *f, const char *oif, const void *arg),
			 const void *arg)
{
	for (size_t i = 0; i < f->cfg->n_outside_if; i++)
		fn(f, f->cfg->outside_if[i], arg);
	if (!f->cfg->n_outside_if)
		fn(f, NULL, arg);
}

static void source_conditions(struct rule *r, const char *oif, const struct fw_source *s)
{
	uint8_t mask[4] = {0}, net[4];

	rule_family(r, 4);
	if (oif)
		rule_interface(r, false, oif);
	rule_prefix(r, true, &s->from);
	if (oif || s->from.len == 0)
		return;
	/* Without interface names: whatever does not stay in the prefix leaves. */
	for (unsigned bit = 0; bit < s->from.len && bit < 32; bit++)
		mask[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	memcpy(net, s->from.addr.b, 4);
	rule_network(r, 16, 4, REG(0));
	rule_and(r, REG(0), mask, 4);
	rule_differs(r, REG(0), net, 4);
}

/* Rule f: everything else permitted from there leaves from the agent's one address. */
static void put_source(struct fw_nft *f, const char *oif, const void *arg)
{
	const struct fw_source *s = arg;
	uint16_t first = htons(s->ports.first), last = htons(s->ports.last);
	struct rule r;

	for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++) {
		r = start(f, "postrouting", "nat.source");
		source_conditions(&r, oif, s);
		rule_protocol(&r, port_protocols[k]);
		rule_load(&r, REG(8), s->to_address.b, 4);
		rule_load(&r, REG(9), &first, sizeof(first));
		rule_load(&r, REG(10), &last, sizeof(last));
		rule_nat(&r, true, REG(8), REG(9), REG(10));
		rule_end(&r);
	}
	r = start(f, "postrouting", "nat.source");
	source_conditions(&r, oif, s);
	rule_load(&r, REG(8), s->to_address.b, 4);
	rule_nat(&r, true, REG(8), 0, 0);
	rule_end(&r);
}

/* The larger side of what the pools leave free. */
static struct port_range outside_pools(const struct fw_config *cfg)
{
	uint16_t first = 65535, last = 0;

	for (size_t i = 0; i < cfg->n_pools; i++) {
		first = cfg->pools[i].ports.first < first ? cfg->pools[i].ports.first : first;
		last = cfg->pools[i].ports.last > last ? cfg->pools[i].ports.last : last;
	}
	if (65535 - last >= first - 1024)
		return (struct port_range){(uint16_t)(last + 1), 65535};
	return (struct port_range){1024, (uint16_t)(first - 1)};
}

/* Rule c, flows of the pool address itself: this host's own. */
static void put_pool_move(struct fw_nft *f, const struct fw_pool *p, uint8_t protocol)
{
	struct port_range to = outside_pools(f->cfg);
	uint16_t first = htons(to.first), last = htons(to.last);
	struct addr_prefix address = {.addr = p->address, .len = 32};
	struct rule r = start(f, "postrouting", "off the pool ports");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, true, &address);
	rule_ports(&r, true, &p->ports);
	rule_load(&r, REG(8), p->address.b, 4);
	rule_load(&r, REG(9), &first, sizeof(first));
	rule_load(&r, REG(10), &last, sizeof(last));
	rule_nat(&r, true, REG(8), REG(9), REG(10));
	rule_end(&r);
}

/* Rule c, flows that the site would masquerade behind a pool address. */
static void put_off_pool_jump(struct fw_nft *f, const char *oif, const void *arg)
{
	const struct fw_pool *p = arg;

	for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++) {
		struct rule r = start(f, "postrouting", "off the pool ports");

		rule_family(&r, 4);
		if (oif)
			rule_interface(&r, false, oif);
		rule_protocol(&r, port_protocols[k]);
		rule_ports(&r, true, &p->ports);
		rule_jump(&r, "off_pool");
		rule_end(&r);
	}
}

/*
 * The site's masquerade comes after us and keeps the source port where it can.
 * A private source (RFC 1918, RFC 6598, RFC 3927) does not leave untranslated,
 * so we masquerade in its place, elsewhere. Public sources are left alone; if
 * the site does put one behind a pool port, the guard stops it.
 */
static void put_off_pool(struct fw_nft *f)
{
	static const struct addr_prefix private[] = {
		{.addr = {.version = 4, .b = {10}}, .len = 8},
		{.addr = {.version = 4, .b = {172, 16}}, .len = 12},
		{.addr = {.version = 4, .b = {192, 168}}, .len = 16},
		{.addr = {.version = 4, .b = {100, 64}}, .len = 10},
		{.addr = {.version = 4, .b = {169, 254}}, .len = 16},
	};
	struct port_range to = outside_pools(f->cfg);
	uint16_t first = htons(to.first), last = htons(to.last);

	for (size_t i = 0; i < ARRAY_LEN(private); i++) {
		struct rule r = start(f, "off_pool", "private sources");

		rule_family(&r, 4);
		rule_prefix(&r, true, &private[i]);
		rule_load(&r, REG(9), &first, sizeof(first));
		rule_load(&r, REG(10), &last, sizeof(last));
		rule_masquerade(&r, REG(9), REG(10));
		rule_end(&r);
	}
}

/* Rule c's last line: a first packet that leaves from a pool port and is not ours goes nowhere. */
static void put_guard(struct fw_nft *f, const struct fw_pool *p, uint8_t protocol)
{
	struct addr_prefix address = {.addr = p->address, .len = 32};
	struct rule r = start(f, "guard", "pool ports are ours alone");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, true, &address);
	rule_ports(&r, true, &p->ports);
	rule_verdict(&r, NF_DROP);
	rule_end(&r);
}

static void put_guard_accepts(struct fw_nft *f)
{
	const struct fw_set *map = &f->fixed[FW_SNAT4];
	static const uint32_t zero;
	struct rule r = start(f, "guard", "not a first packet");

	rule_ct(&r, NFT_CT_STATUS, -1, REG(0));
	rule_bits(&r, REG(0), IPS_CONFIRMED, 0);
	rule_differs(&r, REG(0), &zero, sizeof(zero));
	rule_verdict(&r, NF_ACCEPT);
	rule_end(&r);

	r = start(f, "guard", "ours");
	rule_family(&r, 4);
	rule_meta(&r, NFT_META_L4PROTO, REG(0));
	rule_ct(&r, NFT_CT_SRC_IP, 0, REG(1));
	rule_ct(&r, NFT_CT_PROTO_SRC, 0, REG(2));
	rule_lookup_map(&r, map->name, REG(0), REG(8));
	rule_verdict(&r, NF_ACCEPT);
	rule_end(&r);
	for (size_t i = 0; i < f->cfg->n_statics; i++) {
		const struct fw_static *s = &f->cfg->statics[i];
		struct addr_prefix out = {.addr = s->outside.addr, .len = 32};
		struct port_range port = {s->outside.port, s->outside.port};

		for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++) {
			r = start(f, "guard", "static translation");
			rule_family(&r, 4);
			rule_protocol(&r, port_protocols[k]);
			rule_prefix(&r, true, &out);
			rule_ports(&r, true, &port);
			rule_verdict(&r, NF_ACCEPT);
			rule_end(&r);
		}
	}
}

static void put_statics(struct fw_nft *f)
{
	for (size_t i = 0; i < f->cfg->n_statics; i++) {
		const struct fw_static *s = &f->cfg->statics[i];

		for (size_t k = 0; k < ARRAY_LEN(port_protocols); k++)
			if (!s->protocol || s->protocol == port_protocols[k])
				put_static(f, s, port_protocols[k]);
	}
}

static void put_nat(struct fw_nft *f)
{
	const struct fw_config *cfg = f->cfg;
	bool guard = !(cfg->omit & FW_RULE_POOL_GUARD);

	if (cfg->nat == FW_NAT_TWICE) {
		put_map(f, "prerouting", &f->fixed[FW_PEER_DNAT4], false);
		put_map(f, "output_nat", &f->fixed[FW_PEER_DNAT4], false);
		put_map(f, "postrouting", &f->fixed[FW_PEER_SNAT4], true);
	}
	put_map(f, "prerouting", &f->fixed[FW_DNAT4], false);
	put_map(f, "postrouting", &f->fixed[FW_SNAT4], true);
	put_statics(f);
	for (size_t i = 0; i < cfg->n_sources && !(cfg->omit & FW_RULE_SOURCE); i++)
		if (cfg->sources[i].to_address.version == 4)
			each_outside(f, put_source, &cfg->sources[i]);
	if (!guard)
		return;
	put_off_pool(f);
	put_guard_accepts(f);
	for (size_t i = 0; i < cfg->n_pools; i++) {
		const struct fw_pool *p = &cfg->pools[i];

		for (size_t k = 0; k < ARRAY_LEN(port_protocols) && translated(p); k++) {
			put_pool_move(f, p, port_protocols[k]);
			put_guard(f, p, port_protocols[k]);
		}
		if (translated(p))
			each_outside(f, put_off_pool_jump, p);
	}
}

void fw_rules_put(struct fw_nft *f)
{
	bool mark = f->cfg->mode == FW_MARK;
	const char *forward = mark ? "forward_mark" : "forward";

	put_defrag(f, 4);
	put_defrag(f, 6);
	put_pinholes(f, forward);
	put_pinholes(f, "input");
	put_pinholes(f, mark ? "output_mark" : "output");
	if (!(f->cfg->omit & FW_RULE_ICMP)) {
		put_icmp(f, forward, &f->fixed[FW_EXACT4]);
		put_icmp(f, forward, &f->fixed[FW_EXACT6]);
		put_wild_icmp_jump(f, forward, 4);
		put_wild_icmp_jump(f, forward, 6);
	}
	put_permits(f, forward);
	if (mark)
		put_pool_drops(f, forward);
	put_pool_drops(f, "input");
	if (f->cfg->nat != FW_NAT_NONE)
		put_nat(f);
}
