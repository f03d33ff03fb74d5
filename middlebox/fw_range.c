/*
 * Matches with prefixes or ranges. The kernel's interval sets refuse elements
 * that overlap, SIMCO allows rules that do. So there are up to FW_LAYERS sets
 * per bank (open or blocked, by IP version), each searched in turn, and a match
 * goes to the first one in which it overlaps nothing; a match that overlaps one
 * in every layer, or comes when FW_RANGES_MAX are live, is refused. Interval
 * sets are slow (8 us a lookup at 1,000 elements), so the caps are small.
 */
#include <errno.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

static bool ports_overlap(const struct port_range *a, const struct port_range *b)
{
	return a->first <= b->last && b->first <= a->last;
}

/* addr_prefix_overlaps() that also takes a wildcard without an IP version. */
static bool prefixes_overlap(const struct addr_prefix *a, const struct addr_prefix *b)
{
	return a->len == 0 || b->len == 0 || addr_prefix_overlaps(a, b);
}

static bool overlap(const struct fw_match *a, const struct fw_match *b)
{
	return a->protocol == b->protocol && prefixes_overlap(&a->src, &b->src) &&
	       prefixes_overlap(&a->dst, &b->dst) && ports_overlap(&a->sport, &b->sport) &&
	       ports_overlap(&a->dport, &b->dport);
}

/* The same of addr_prefix_eq(). */
static bool same_prefix(const struct addr_prefix *a, const struct addr_prefix *b)
{
	return (a->len == 0 && b->len == 0) || addr_prefix_eq(a, b);
}

static bool same(const struct fw_match *a, const struct fw_match *b)
{
	return a->protocol == b->protocol && same_prefix(&a->src, &b->src) &&
	       same_prefix(&a->dst, &b->dst) && port_range_eq(a->sport, b->sport) &&
	       port_range_eq(a->dport, b->dport);
}

struct fw_set *fw_range_find(struct fw_nft *f, bool block, const struct fw_match *m,
			     struct fw_range **slot)
{
	unsigned bank = fw_bank(block, m);

	for (unsigned i = 0; i < FW_RANGES_MAX; i++) {
		struct fw_range *r = &f->ranges[bank][i];

		if (r->expires_ms && same(&r->m, m)) {
			*slot = r;
			return &f->layers[bank][r->layer];
		}
	}
	return NULL;
}

struct fw_set *fw_range_place(struct fw_nft *f, bool block, const struct fw_match *m,
			      uint64_t expires_ms)
{
	unsigned bank = fw_bank(block, m);
	uint64_t now = fw_now_ms();
	struct fw_range *slot = NULL;
	unsigned taken = 0; /* layers, as a mask */
	struct fw_set *s;

	s = fw_range_find(f, block, m, &slot);
	if (s) {
		slot->expires_ms = expires_ms;
		return s;
	}
	for (unsigned i = 0; i < FW_RANGES_MAX; i++) {
		struct fw_range *r = &f->ranges[bank][i];

		if (r->expires_ms <= now) { /* the kernel has dropped it too */
			r->expires_ms = 0;
			slot = slot ? slot : r;
		} else if (overlap(&r->m, m)) {
			taken |= 1u << r->layer;
		}
	}
	if (!slot)
		return NULL;
	for (uint8_t layer = 0; layer < FW_LAYERS; layer++) {
		if (taken & 1u << layer)
			continue;
		*slot = (struct fw_range){.m = *m, .expires_ms = expires_ms, .layer = layer};
		return &f->layers[bank][layer];
	}
	return NULL;
}

/* Octets of an inclusive address range back to a prefix; we never write any other range. */
static struct addr_prefix prefix_from(const uint8_t *first, const uint8_t *last, uint8_t version)
{
	struct addr_prefix p = {.addr.version = version};
	unsigned bits = version == 4 ? 32 : 128;

	memcpy(p.addr.b, first, bits / 8);
	while (p.len < bits && !((first[p.len / 8] ^ last[p.len / 8]) & (0x80 >> p.len % 8)))
		p.len++;
	return p;
}

static struct port_range ports_from(const uint8_t *first, const uint8_t *last)
{
	return (struct port_range){.first = (uint16_t)(first[0] << 8 | first[1]),
				   .last = (uint16_t)(last[0] << 8 | last[1])};
}

struct load {
	struct fw_nft *f;
	struct fw_set *s;
	unsigned bank;
	uint8_t layer;
	bool full;
};

static void load_range(struct load *l, const uint8_t *k, const uint8_t *e, uint64_t ms)
{
	unsigned a = l->s->version == 6 ? 16 : 4;
	struct fw_match m = {
		.protocol = k[0],
		.src = prefix_from(k + 4, e + 4, l->s->version),
		.sport = ports_from(k + 4 + a, e + 4 + a),
		.dst = prefix_from(k + 8 + a, e + 8 + a, l->s->version),
		.dport = ports_from(k + 8 + 2 * a, e + 8 + 2 * a),
	};

	for (unsigned i = 0; i < FW_RANGES_MAX; i++) {
		struct fw_range *r = &l->f->ranges[l->bank][i];

		if (r->expires_ms)
			continue;
		*r = (struct fw_range){.m = m, .expires_ms = fw_now_ms() + ms, .layer = l->layer};
		return;
	}
	l->full = true;
}

/* The octets of a key attribute, NULL when it is absent or of another length. */
static const uint8_t *key_of(const struct load *l, const struct nlattr *elem, uint16_t type)
{
	const struct nlattr *a = fw_attrs_find(fw_attrs_in(elem), type);

	a = a ? fw_attrs_find(fw_attrs_in(a), NFTA_DATA_VALUE) : NULL;
	return fw_attr_data(a, l->s->key_len);
}

static void on_elements(const struct nlmsghdr *h, void *arg)
{
	struct load *l = arg;
	const struct nlattr *elem = fw_attrs_find(fw_attrs_of(h), NFTA_SET_ELEM_LIST_ELEMENTS);
	struct fw_attrs w;

	if (!elem)
		return;
	w = fw_attrs_in(elem);
	while ((elem = fw_attrs_next(&w))) {
		const uint8_t *key = key_of(l, elem, NFTA_SET_ELEM_KEY);
		const uint8_t *end = key_of(l, elem, NFTA_SET_ELEM_KEY_END);
		uint64_t ms =
			fw_attr_be64(fw_attrs_find(fw_attrs_in(elem), NFTA_SET_ELEM_EXPIRATION));

		if (key && ms)
			load_range(l, key, end ? end : key, ms);
	}
}

static int load_set(struct load *l)
{
	uint8_t mem[256] __attribute__((aligned(8))) = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(mem);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

	h->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM;
	g->nfgen_family = NFPROTO_INET;
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, l->f->cfg->table);
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, l->s->name);
	return fw_nl_dump(&l->f->nl, h, on_elements, l);
}

int fw_range_load(struct fw_nft *f)
{
	memset(f->ranges, 0, sizeof(f->ranges));
	for (unsigned bank = 0; bank < FW_BANKS; bank++) {
		for (uint8_t i = 0; i < FW_LAYERS; i++) {
			struct load l = {
				.f = f, .s = &f->layers[bank][i], .bank = bank, .layer = i};
			int err;

			if (l.s->state != FW_SET_PRESENT)
				continue;
			err = load_set(&l);
			if (err || l.full) {
				log_err("fw: reading %s back: %s", l.s->name,
					err ? strerror(-err) : "too many elements");
				return ERR_KERNEL;
			}
		}
	}
	return 0;
}
