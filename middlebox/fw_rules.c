/*
 * The content of the chains. The house rules (a-f of ARCHITECTURE.md) are here:
 * each was seen to lose media, or to deliver it to a neighbour, when left out.
 *
 *   forward, input, output: the pinhole sets, on every packet; then ICMP errors
 *     about open tuples; then what disable rules block; then the static permits.
 *     Conntrack state is never asked before the sets: closing a pinhole has to
 *     stop its media, and a disable rule the flows that were permitted.
 *   block: a lookup per set of disable rules. The sets are made on demand, so
 *     without disable rules it is empty; and pinholes never come here. block_in
 *     and block_out spare what must go on.
 *   input: what arrives for a pool port and is no open tuple is dropped (b).
 *
 * Address translation is in fw_rules_nat.c.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>

#include "middlebox/fw_rules.h"

/* One bit of the conntrack mark, leaving the site's use of the others alone. */
#define PERMIT_BIT 0x00010000u
#define DEFAULT_MARK 0x51u

const uint8_t fw_port_protocols[FW_PORT_PROTOCOLS] = {IPPROTO_UDP, IPPROTO_TCP};

struct rule rule_start_in(struct fw_nft *f, const char *chain, const char *note)
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

void fw_rules_load_tuple(struct rule *r, const struct fw_set *s)
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
		struct rule r = rule_start_in(f, chain, "errors about open tuples");

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
	struct rule r = rule_start_in(f, chain, s->block ? "disabled tuples" : "open tuples");

	rule_family(&r, s->version);
	fw_rules_load_tuple(&r, s);
	rule_lookup(&r, s->name, REG(0));
	if (!s->block) {
		pass(f, &r);
		return;
	}
	rule_verdict(&r, NF_DROP);
	rule_end(&r);
}

void fw_rules_put_wild(struct fw_nft *f, const struct fw_set *s)
{
	if (s->block) {
		put_lookup(f, "block", s);
		return;
	}
	put_lookup(f, s->version == 4 ? "wild4" : "wild6", s);
	if (!(f->cfg->omit & FW_RULE_ICMP))
		put_icmp(f, s->version == 4 ? "wild4_icmp" : "wild6_icmp", s);
}

static void put_wild_jump(struct fw_nft *f, const char *chain, uint8_t version)
{
	struct rule r = rule_start_in(f, chain, "wildcards");

	rule_family(&r, version);
	rule_jump(&r, version == 4 ? "wild4" : "wild6");
	rule_end(&r);
}

static void put_wild_icmp_jump(struct fw_nft *f, const char *chain, uint8_t version)
{
	struct rule r = rule_start_in(f, chain, "errors about wildcards");

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
 * tproxy rule exists, even in a chain that no packet comes to, where it costs
 * nothing; and it would never match, since no UDP datagram is shorter than its
 * header.
 */
static void put_defrag(struct fw_nft *f, uint8_t version)
{
	static const uint8_t no_length[2];
	uint16_t port = htons(9);
	struct rule r;

	if (!(f->features & FW_FEATURE_TPROXY) || f->cfg->omit & FW_RULE_DEFRAG)
		return;
	r = rule_start_in(f, "defrag", "never matches, but turns defragmentation on");
	rule_family(&r, version);
	rule_protocol(&r, IPPROTO_UDP);
	rule_transport(&r, 4, 2, REG(0));
	rule_equal(&r, REG(0), no_length, 2);
	rule_load(&r, REG(0), &port, sizeof(port));
	rule_tproxy(&r, version, REG(0));
	rule_end(&r);
}

static void put_jump(struct fw_nft *f, const char *chain, const char *to)
{
	struct rule r = rule_start_in(f, chain, "disable rules");

	rule_jump(&r, to);
	rule_end(&r);
}

/* Never disabled: this host talking to itself. */
static void put_spared_interface(struct fw_nft *f, const char *chain, bool in)
{
	struct rule r = rule_start_in(f, chain, "loopback");

	rule_interface(&r, in, "lo");
	rule_verdict(&r, NFT_RETURN);
	rule_end(&r);
}

/* Nor the daemon's own listener: it has to hear that a disable rule is taken back. */
static void put_spared_listener(struct fw_nft *f, const char *chain, bool in,
				const struct addr_port *a)
{
	struct addr_prefix p = {.addr = a->addr, .len = (uint8_t)(addr_len(&a->addr) * 8)};
	struct port_range port = {a->port, a->port};
	struct rule r = rule_start_in(f, chain, "control");

	rule_protocol(&r, IPPROTO_TCP);
	if (!addr_is_any(&a->addr)) {
		rule_family(&r, a->addr.version);
		rule_prefix(&r, !in, &p);
	}
	rule_ports(&r, !in, &port);
	rule_verdict(&r, NFT_RETURN);
	rule_end(&r);
}

static void put_local_blocks(struct fw_nft *f, const char *chain, bool in)
{
	const struct fw_config *cfg = f->cfg;

	put_spared_interface(f, chain, in);
	for (size_t i = 0; i < cfg->n_control; i++)
		if (cfg->control[i].port)
			put_spared_listener(f, chain, in, &cfg->control[i]);
	put_jump(f, chain, "block");
}

static void put_blocks(struct fw_nft *f, const char *forward, const char *output)
{
	/* Without permits the forward chain of FW_ENFORCE drops all that comes there. */
	if (f->cfg->mode == FW_MARK || f->cfg->n_permits)
		put_jump(f, forward, "block");
	put_jump(f, "input", "block_in");
	put_jump(f, output, "block_out");
	put_local_blocks(f, "block_in", true);
	put_local_blocks(f, "block_out", false);
}

static void put_replies(struct fw_nft *f, const char *chain)
{
	static const uint32_t zero;
	struct rule r = rule_start_in(f, chain, "replies to what is permitted");

	rule_ct(&r, NFT_CT_MARK, -1, REG(0));
	rule_bits(&r, REG(0), PERMIT_BIT, 0);
	rule_differs(&r, REG(0), &zero, sizeof(zero));
	pass(f, &r);
}

static void put_permit(struct fw_nft *f, const char *chain, const struct fw_permit *p,
		       uint8_t protocol)
{
	uint8_t version = p->from.addr.version ? p->from.addr.version : p->to.addr.version;
	struct rule r = rule_start_in(f, chain, "permit");

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
	struct rule r = rule_start_in(f, chain, "replies");

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
	struct rule r = rule_start_in(f, chain, "static translation");

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
	struct rule r = rule_start_in(f, chain, "pool ports answer nothing");

	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_ct(&r, NFT_CT_DST_IP, 0, REG(0));
	rule_equal(&r, REG(0), p->address.b, 4);
	rule_ct(&r, NFT_CT_PROTO_DST, 0, REG(0));
	rule_between(&r, REG(0), &first, &last, 2);
	rule_verdict(&r, NF_DROP);
	rule_end(&r);

	r = rule_start_in(f, chain, "pool ports answer nothing");
	rule_family(&r, 4);
	rule_protocol(&r, protocol);
	rule_prefix(&r, false, &address);
	rule_ports(&r, false, &p->ports);
	rule_verdict(&r, NF_DROP);
	rule_end(&r);
}

static void put_pool_drops(struct fw_nft *f, const char *chain)
{
	const struct fw_config *cfg = f->cfg;

	if (cfg->nat == FW_NAT_NONE || cfg->omit & FW_RULE_INPUT_DROP)
		return;
	put_reply_accept(f, chain);
	for (size_t i = 0; i < cfg->n_statics; i++)
		for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++)
			if (!cfg->statics[i].protocol ||
			    cfg->statics[i].protocol == fw_port_protocols[k])
				put_static_accept(f, chain, &cfg->statics[i], fw_port_protocols[k]);
	for (size_t i = 0; i < cfg->n_pools; i++)
		for (size_t k = 0; k < FW_PORT_PROTOCOLS; k++)
			if (cfg->pools[i].address.version == 4)
				put_pool_drop(f, chain, &cfg->pools[i], fw_port_protocols[k]);
}

void fw_rules_put(struct fw_nft *f)
{
	bool mark = f->cfg->mode == FW_MARK;
	const char *forward = mark ? "forward_mark" : "forward";
	const char *output = mark ? "output_mark" : "output";

	put_defrag(f, 4);
	put_defrag(f, 6);
	put_pinholes(f, forward);
	put_pinholes(f, "input");
	put_pinholes(f, output);
	if (!(f->cfg->omit & FW_RULE_ICMP)) {
		put_icmp(f, forward, &f->fixed[FW_EXACT4]);
		put_icmp(f, forward, &f->fixed[FW_EXACT6]);
		put_wild_icmp_jump(f, forward, 4);
		put_wild_icmp_jump(f, forward, 6);
	}
	put_blocks(f, forward, output);
	put_permits(f, forward);
	if (mark)
		put_pool_drops(f, forward);
	put_pool_drops(f, "input");
	if (f->cfg->nat != FW_NAT_NONE)
		fw_rules_put_nat(f);
}
