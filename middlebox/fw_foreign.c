/*
 * Other tables at the forward hook: an accept of ours does not overrule their
 * drop, so the operator is told at start-up where media would die.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "common/log.h"
#include "middlebox/fw_nft.h"

#define CHAINS_MAX 64

struct foreign {
	uint32_t family;
	char table[64], chain[64];
	int prio;
	bool policy_drop;
	unsigned drops; /* rules that drop or reject, found while listing */
};

struct listing {
	const struct fw_config *cfg;
	struct foreign chains[CHAINS_MAX];
	size_t n;
};

static void on_chain(const struct nlmsghdr *h, void *arg)
{
	struct listing *l = arg;
	struct nftnl_chain *c = nftnl_chain_alloc();
	struct foreign *x;
	uint32_t family;

	if (!c || nftnl_chain_nlmsg_parse(h, c) < 0 || l->n == CHAINS_MAX ||
	    !nftnl_chain_is_set(c, NFTNL_CHAIN_HOOKNUM) ||
	    nftnl_chain_get_u32(c, NFTNL_CHAIN_HOOKNUM) != NF_INET_FORWARD)
		goto out;
	family = nftnl_chain_get_u32(c, NFTNL_CHAIN_FAMILY);
	if (family != NFPROTO_INET && family != NFPROTO_IPV4 && family != NFPROTO_IPV6)
		goto out;
	if (family == NFPROTO_INET &&
	    strcmp(nftnl_chain_get_str(c, NFTNL_CHAIN_TABLE), l->cfg->table) == 0)
		goto out;
	x = &l->chains[l->n++];
	x->family = family;
	snprintf(x->table, sizeof(x->table), "%s", nftnl_chain_get_str(c, NFTNL_CHAIN_TABLE));
	snprintf(x->chain, sizeof(x->chain), "%s", nftnl_chain_get_str(c, NFTNL_CHAIN_NAME));
	x->prio = nftnl_chain_get_s32(c, NFTNL_CHAIN_PRIO);
	x->policy_drop = nftnl_chain_get_u32(c, NFTNL_CHAIN_POLICY) == NF_DROP;
out:
	nftnl_chain_free(c);
}

static int drops(struct nftnl_expr *e, void *arg)
{
	const char *name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);
	bool *yes = arg;

	if (strcmp(name, "reject") == 0)
		*yes = true;
	else if (strcmp(name, "immediate") == 0 && nftnl_expr_is_set(e, NFTNL_EXPR_IMM_VERDICT))
		*yes |= nftnl_expr_get_u32(e, NFTNL_EXPR_IMM_VERDICT) == NF_DROP;
	return 0;
}

static void on_rule(const struct nlmsghdr *h, void *arg)
{
	struct listing *l = arg;
	struct nftnl_rule *r = nftnl_rule_alloc();
	bool yes = false;

	if (r && nftnl_rule_nlmsg_parse(h, r) >= 0)
		nftnl_expr_foreach(r, drops, &yes);
	for (size_t i = 0; yes && i < l->n; i++) {
		struct foreign *x = &l->chains[i];

		if (x->family == nftnl_rule_get_u32(r, NFTNL_RULE_FAMILY) &&
		    strcmp(x->table, nftnl_rule_get_str(r, NFTNL_RULE_TABLE)) == 0 &&
		    strcmp(x->chain, nftnl_rule_get_str(r, NFTNL_RULE_CHAIN)) == 0)
			x->drops++;
	}
	nftnl_rule_free(r);
}

static int list(struct fw_nft *f, struct listing *l)
{
	uint8_t mem[64] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	int err;

	h = nftnl_nlmsg_build_hdr((char *)mem, NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, 0, 0);
	err = fw_nl_dump(&f->nl, h, on_chain, l);
	if (err)
		return err;
	h = nftnl_nlmsg_build_hdr((char *)mem, NFT_MSG_GETRULE, NFPROTO_UNSPEC, 0, 0);
	return fw_nl_dump(&f->nl, h, on_rule, l);
}

void fw_nft_foreign_drops(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg)
{
	struct fw_nft *f = fw_nft_of(fw);
	struct listing *l = calloc(1, sizeof(*l));
	char text[256];
	int err = 0;

	if (!l)
		return;
	for (unsigned tries = 0; tries < 3; tries++) {
		memset(l, 0, sizeof(*l));
		l->cfg = f->cfg;
		err = list(f, l);
		if (err != -EINTR)
			break;
	}
	if (err)
		log_warn("fw: listing other tables: %s", strerror(-err));
	for (size_t i = 0; i < l->n; i++) {
		const struct foreign *x = &l->chains[i];
		const char *family = x->family == NFPROTO_INET	 ? "inet"
				     : x->family == NFPROTO_IPV4 ? "ip"
								 : "ip6";

		if (!x->policy_drop && !x->drops)
			continue;
		snprintf(text, sizeof(text), "%s %s %s, priority %d, %s", family, x->table,
			 x->chain, x->prio,
			 x->policy_drop ? "policy drop" : "rules that drop or reject");
		fn(text, arg);
	}
	free(l);
}
