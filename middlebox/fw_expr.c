#include "middlebox/fw_expr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>

#include "middlebox/fw_nft.h"

struct rule rule_start(struct fw_batch *b, const char *table, const char *chain, const char *note)
{
	struct rule r = {.b = b, .r = nftnl_rule_alloc()};
	uint8_t comment[2 + 64] = {NFTNL_UDATA_RULE_COMMENT};
	size_t len = strlen(note) + 1;

	if (!r.r) {
		b->nomem = true;
		return r;
	}
	nftnl_rule_set_u32(r.r, NFTNL_RULE_FAMILY, NFPROTO_INET);
	if (nftnl_rule_set_str(r.r, NFTNL_RULE_TABLE, table) ||
	    nftnl_rule_set_str(r.r, NFTNL_RULE_CHAIN, chain))
		b->nomem = true;
	if (len > 1 && len <= 64) {
		comment[1] = (uint8_t)len;
		memcpy(comment + 2, note, len);
		nftnl_rule_set_data(r.r, NFTNL_RULE_USERDATA, comment, (uint32_t)(2 + len));
	}
	return r;
}

void rule_end(struct rule *r)
{
	struct nlmsghdr *h;

	if (!r->r)
		return;
	h = fw_batch_room(r->b);
	if (h) {
		nftnl_nlmsg_build_hdr((char *)h, NFT_MSG_NEWRULE, NFPROTO_INET,
				      NLM_F_CREATE | NLM_F_APPEND, 0);
		nftnl_rule_nlmsg_build_payload(h, r->r);
		fw_batch_add(r->b, h->nlmsg_len);
	}
	nftnl_rule_free(r->r);
	r->r = NULL;
}

/* Setting attributes of a NULL expression must not happen: gives a dummy end to the rule. */
static struct nftnl_expr *expr(struct rule *r, const char *name)
{
	struct nftnl_expr *e = r->r ? nftnl_expr_alloc(name) : NULL;

	if (!e) {
		r->b->nomem = true;
		return NULL;
	}
	nftnl_rule_add_expr(r->r, e);
	return e;
}

void rule_meta(struct rule *r, uint32_t key, uint32_t dreg)
{
	struct nftnl_expr *e = expr(r, "meta");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, dreg);
}

void rule_meta_set(struct rule *r, uint32_t key, uint32_t sreg)
{
	struct nftnl_expr *e = expr(r, "meta");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, sreg);
}

static void payload(struct rule *r, uint32_t base, uint32_t offset, uint32_t len, uint32_t dreg)
{
	struct nftnl_expr *e = expr(r, "payload");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, len);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, dreg);
}

void rule_network(struct rule *r, uint32_t offset, uint32_t len, uint32_t dreg)
{
	payload(r, NFT_PAYLOAD_NETWORK_HEADER, offset, len, dreg);
}

void rule_transport(struct rule *r, uint32_t offset, uint32_t len, uint32_t dreg)
{
	payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, offset, len, dreg);
}

static void compare(struct rule *r, uint32_t op, uint32_t sreg, const void *data, uint32_t len)
{
	struct nftnl_expr *e = expr(r, "cmp");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, op);
	nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, sreg);
	nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data, len);
}

void rule_equal(struct rule *r, uint32_t sreg, const void *data, uint32_t len)
{
	compare(r, NFT_CMP_EQ, sreg, data, len);
}

void rule_differs(struct rule *r, uint32_t sreg, const void *data, uint32_t len)
{
	compare(r, NFT_CMP_NEQ, sreg, data, len);
}

void rule_between(struct rule *r, uint32_t sreg, const void *from, const void *to, uint32_t len)
{
	compare(r, NFT_CMP_GTE, sreg, from, len);
	compare(r, NFT_CMP_LTE, sreg, to, len);
}

static void bitwise(struct rule *r, uint32_t reg, const void *mask, const void * xor, uint32_t len)
{
	struct nftnl_expr *e = expr(r, "bitwise");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, reg);
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, reg);
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_OP, NFT_BITWISE_BOOL);
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, len);
	nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask, len);
	nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, xor, len);
}

void rule_bits(struct rule *r, uint32_t reg, uint32_t mask, uint32_t xor)
{
	bitwise(r, reg, &mask, &xor, sizeof(mask));
}

void rule_and(struct rule *r, uint32_t reg, const uint8_t *mask, uint32_t len)
{
	static const uint8_t zero[16];

	bitwise(r, reg, mask, zero, len);
}

void rule_lookup(struct rule *r, const char *set, uint32_t sreg)
{
	struct nftnl_expr *e = expr(r, "lookup");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, sreg);
	if (nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set))
		r->b->nomem = true;
}

void rule_lookup_map(struct rule *r, const char *map, uint32_t sreg, uint32_t dreg)
{
	struct nftnl_expr *e = expr(r, "lookup");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, sreg);
	nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_DREG, dreg);
	if (nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, map))
		r->b->nomem = true;
}

void rule_load(struct rule *r, uint32_t dreg, const void *data, uint32_t len)
{
	struct nftnl_expr *e = expr(r, "immediate");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, dreg);
	nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, data, len);
}

void rule_ct(struct rule *r, uint32_t key, int dir, uint32_t dreg)
{
	struct nftnl_expr *e = expr(r, "ct");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, key);
	if (dir >= 0)
		nftnl_expr_set_u8(e, NFTNL_EXPR_CT_DIR, (uint8_t)dir);
	nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, dreg);
}

void rule_ct_set(struct rule *r, uint32_t key, uint32_t sreg)
{
	struct nftnl_expr *e = expr(r, "ct");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, key);
	nftnl_expr_set_u32(e, NFTNL_EXPR_CT_SREG, sreg);
}

void rule_verdict(struct rule *r, int verdict)
{
	struct nftnl_expr *e = expr(r, "immediate");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, (uint32_t)verdict);
}

void rule_jump(struct rule *r, const char *chain)
{
	struct nftnl_expr *e = expr(r, "immediate");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, (uint32_t)NFT_JUMP);
	if (nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain))
		r->b->nomem = true;
}

void rule_nat(struct rule *r, bool source, uint32_t addr, uint32_t port_min, uint32_t port_max)
{
	struct nftnl_expr *e = expr(r, "nat");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, source ? NFT_NAT_SNAT : NFT_NAT_DNAT);
	nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, NFPROTO_IPV4);
	nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, addr);
	if (!port_min)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_PROTO_MIN, port_min);
	if (port_max)
		nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_PROTO_MAX, port_max);
	nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
}

void rule_masquerade(struct rule *r, uint32_t port_min, uint32_t port_max)
{
	struct nftnl_expr *e = expr(r, "masq");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_MASQ_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
	nftnl_expr_set_u32(e, NFTNL_EXPR_MASQ_REG_PROTO_MIN, port_min);
	nftnl_expr_set_u32(e, NFTNL_EXPR_MASQ_REG_PROTO_MAX, port_max);
}

void rule_tproxy(struct rule *r, uint8_t version, uint32_t port)
{
	struct nftnl_expr *e = expr(r, "tproxy");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_FAMILY, version == 4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
	nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_PORT, port);
}

void rule_family(struct rule *r, uint8_t version)
{
	uint8_t family = version == 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;

	rule_meta(r, NFT_META_NFPROTO, REG(0));
	rule_equal(r, REG(0), &family, 1);
}

void rule_protocol(struct rule *r, uint8_t protocol)
{
	rule_meta(r, NFT_META_L4PROTO, REG(0));
	rule_equal(r, REG(0), &protocol, 1);
}

void rule_interface(struct rule *r, bool in, const char *name)
{
	char padded[IFNAMSIZ] = {0};
	size_t len = strlen(name);

	memcpy(padded, name, len < IFNAMSIZ ? len : IFNAMSIZ - 1);
	rule_meta(r, in ? NFT_META_IIFNAME : NFT_META_OIFNAME, REG(0));
	rule_equal(r, REG(0), padded, IFNAMSIZ);
}

void rule_prefix(struct rule *r, bool source, const struct addr_prefix *p)
{
	uint32_t len = (uint32_t)addr_len(&p->addr);
	uint8_t mask[16] = {0};

	if (p->len == 0)
		return;
	if (p->addr.version == 4)
		rule_network(r, source ? 12 : 16, len, REG(0));
	else
		rule_network(r, source ? 8 : 24, len, REG(0));
	for (unsigned bit = 0; bit < p->len; bit++)
		mask[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	if (p->len < len * 8)
		rule_and(r, REG(0), mask, len);
	rule_equal(r, REG(0), p->addr.b, len);
}

void rule_ports(struct rule *r, bool source, const struct port_range *p)
{
	uint16_t first = htons(p->first), last = htons(p->last);

	if (p->first == 0 && p->last == 65535)
		return;
	rule_transport(r, source ? 0 : 2, 2, REG(0));
	if (p->first == p->last)
		rule_equal(r, REG(0), &first, 2);
	else
		rule_between(r, REG(0), &first, &last, 2);
}
