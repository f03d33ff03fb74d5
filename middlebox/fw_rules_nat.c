/*
 * Address translation, by conntrack, of first packets. Ours come before the
 * site's (rule a), and a flow is translated once: prerouting and postrouting
 * hold the maps, the static translations, nat.source (f), and everybody else
 * off the pool ports (c); guard is c's last line.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>

#include "middlebox/fw_rules.h"

static void put_map(struct fw_nft *f, const char *chain, const struct fw_set *map, bool source)
{
	struct rule r = rule_start_in(f, chain, "bindings");

	rule_family(&r, 4);
	fw_rules_load_tuple(&r, map);
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
	struct rule r = rule_start_in(f, "prerouting", "static translation");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, false, &out);
	rule_ports(&r, false, &out_port);
	load_translation(&r, &s->inside);
	rule_nat(&r, false, REG(8), REG(9), 0);
	rule_end(&r);

	r = rule_start_in(f, "postrouting", "static translation");
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

	for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++) {
		r = rule_start_in(f, "postrouting", "nat.source");
		source_conditions(&r, oif, s);
		rule_protocol(&r, fw_port_protocols[k]);
		rule_load(&r, REG(8), s->to_address.b, 4);
		rule_load(&r, REG(9), &first, sizeof(first));
		rule_load(&r, REG(10), &last, sizeof(last));
		rule_nat(&r, true, REG(8), REG(9), REG(10));
		rule_end(&r);
	}
	r = rule_start_in(f, "postrouting", "nat.source");
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
	struct rule r = rule_start_in(f, "postrouting", "off the pool ports");

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

	for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++) {
		struct rule r = rule_start_in(f, "postrouting", "off the pool ports");

		rule_family(&r, 4);
		rule_interface(&r, false, oif);
		rule_protocol(&r, fw_port_protocols[k]);
		rule_ports(&r, true, &p->ports);
		rule_jump(&r, "off_pool");
		rule_end(&r);
	}
}

static bool same_address(const struct sockaddr *sa, const struct addr *a)
{
	struct addr_port own;

	return sa && addr_from_sockaddr(sa, &own) == 0 && addr_eq(&own.addr, a);
}

/* Where no outside interface is named: the ones that have the pool's address. */
static void put_off_pool_jumps(struct fw_nft *f, const struct fw_pool *p)
{
	struct ifaddrs *list = NULL;

	if (f->cfg->n_outside_if) {
		each_outside(f, put_off_pool_jump, p);
		return;
	}
	if (getifaddrs(&list))
		return;
	for (const struct ifaddrs *i = list; i; i = i->ifa_next)
		if (same_address(i->ifa_addr, &p->address))
			put_off_pool_jump(f, i->ifa_name, p);
	freeifaddrs(list);
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
		struct rule r = rule_start_in(f, "off_pool", "private sources");

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
	struct rule r = rule_start_in(f, "guard", "pool ports are ours alone");

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
	struct rule r = rule_start_in(f, "guard", "not a first packet");

	rule_ct(&r, NFT_CT_STATUS, -1, REG(0));
	rule_bits(&r, REG(0), IPS_CONFIRMED, 0);
	rule_differs(&r, REG(0), &zero, sizeof(zero));
	rule_verdict(&r, NF_ACCEPT);
	rule_end(&r);

	r = rule_start_in(f, "guard", "ours");
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

		for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++) {
			r = rule_start_in(f, "guard", "static translation");
			rule_family(&r, 4);
			rule_protocol(&r, fw_port_protocols[k]);
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

		for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++)
			if (!s->protocol || s->protocol == fw_port_protocols[k])
				put_static(f, s, fw_port_protocols[k]);
	}
}

void fw_rules_put_nat(struct fw_nft *f)
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

		for (size_t k = 0; k < FW_PORT_PROTOCOLS && p->address.version == 4; k++) {
			put_pool_move(f, p, fw_port_protocols[k]);
			put_guard(f, p, fw_port_protocols[k]);
		}
		if (p->address.version == 4)
			put_off_pool_jumps(f, p);
	}
}
