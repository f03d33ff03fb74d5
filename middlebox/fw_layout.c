/*
 * The table as a whole: its sets, maps and chains, created or adopted in one
 * batch, so that no packet ever meets half of it. The rules are fw_rules.c's.
 *
 * The layout is named in the table's comment; a table with another comment is
 * not adopted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

#define SET_SIZE_MIN 4096u
/*
 * The kernel looks for expired elements by walking the whole set, every second
 * unless told otherwise: with a million rules that takes time and caches from
 * everybody. We remove what is ours; the rest expires all the same and is only
 * collected later.
 */
#define GC_MS 60000u
#define WILD_SIZE_MAX 65536u

/* Rule a: before the site's own chains at the usual priorities, where that matters. */
struct chain {
	const char *name, *type; /* type NULL: not a base chain */
	uint32_t hook;
	int prio;
	uint32_t policy;
};

#define NAT_DST (-100)
#define NAT_SRC 100

static const struct chain common_chains[] = {
	{"defrag", NULL, 0, 0, 0}, /* nobody jumps there: it need only exist */
	{"input", "filter", NF_INET_LOCAL_IN, -1, NF_ACCEPT},
	{"wild4", NULL, 0, 0, 0},
	{"wild6", NULL, 0, 0, 0},
	{"wild4_icmp", NULL, 0, 0, 0},
	{"wild6_icmp", NULL, 0, 0, 0},
	{"block", NULL, 0, 0, 0},
	{"block_in", NULL, 0, 0, 0},
	{"block_out", NULL, 0, 0, 0},
};

static const struct chain enforce_chains[] = {
	{"forward", "filter", NF_INET_FORWARD, 0, NF_DROP},
	{"output", "filter", NF_INET_LOCAL_OUT, 0, NF_ACCEPT},
};

static const struct chain mark_chains[] = {
	{"forward_mark", "filter", NF_INET_FORWARD, -10, NF_ACCEPT},
	{"output_mark", "filter", NF_INET_LOCAL_OUT, -10, NF_ACCEPT},
};

static const struct chain nat_chains[] = {
	{"prerouting", "nat", NF_INET_PRE_ROUTING, NAT_DST - 1, NF_ACCEPT},
	{"postrouting", "nat", NF_INET_POST_ROUTING, NAT_SRC - 1, NF_ACCEPT},
	{"off_pool", NULL, 0, 0, 0},
	{"guard", "filter", NF_INET_POST_ROUTING, NAT_SRC + 1, NF_ACCEPT},
};

static const struct chain twice_chains[] = {
	{"output_nat", "nat", NF_INET_LOCAL_OUT, NAT_DST - 1, NF_ACCEPT},
};

static void put_chain(struct fw_nft *f, const struct chain *c)
{
	struct nlmsghdr *h = fw_batch_room(&f->batch);
	struct nftnl_chain *n = nftnl_chain_alloc();

	if (!h || !n) {
		f->batch.nomem = true;
		nftnl_chain_free(n);
		return;
	}
	nftnl_chain_set_str(n, NFTNL_CHAIN_TABLE, f->cfg->table);
	nftnl_chain_set_str(n, NFTNL_CHAIN_NAME, c->name);
	nftnl_chain_set_u32(n, NFTNL_CHAIN_FAMILY, NFPROTO_INET);
	if (c->type) {
		nftnl_chain_set_str(n, NFTNL_CHAIN_TYPE, c->type);
		nftnl_chain_set_u32(n, NFTNL_CHAIN_HOOKNUM, c->hook);
		nftnl_chain_set_s32(n, NFTNL_CHAIN_PRIO, c->prio);
		nftnl_chain_set_u32(n, NFTNL_CHAIN_POLICY, c->policy);
	}
	nftnl_nlmsg_build_hdr((char *)h, NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE, 0);
	nftnl_chain_nlmsg_build_payload(h, n);
	nftnl_chain_free(n);
	fw_batch_add(&f->batch, h->nlmsg_len);
}

/* Calls fn for every chain that this configuration has. */
static void each_chain(const struct fw_nft *f, void (*fn)(const struct chain *c, void *arg),
		       void *arg)
{
	const struct fw_config *cfg = f->cfg;
	const struct chain *mode = cfg->mode == FW_MARK ? mark_chains : enforce_chains;

	for (size_t i = 0; i < ARRAY_LEN(common_chains); i++)
		fn(&common_chains[i], arg);
	for (size_t i = 0; i < ARRAY_LEN(enforce_chains); i++)
		fn(&mode[i], arg);
	for (size_t i = 0; i < ARRAY_LEN(nat_chains) && cfg->nat != FW_NAT_NONE; i++)
		fn(&nat_chains[i], arg);
	for (size_t i = 0; i < ARRAY_LEN(twice_chains) && cfg->nat == FW_NAT_TWICE; i++)
		fn(&twice_chains[i], arg);
}

static void put_wanted_chain(const struct chain *c, void *arg)
{
	put_chain(arg, c);
}

/* Above what is asked for and never a reason to resize: a full set aborts a batch. */
uint32_t fw_layout_set_size(const struct fw_nft *f, const struct fw_set *s)
{
	uint32_t size = SET_SIZE_MIN;

	if (s->interval)
		return 2 * FW_RANGES_MAX;
	while (size < f->cfg->max_elements && size < 1u << 30)
		size *= 2;
	return s->shape == FW_EXACT || s->map || s->block || size < WILD_SIZE_MAX ? size
										  : WILD_SIZE_MAX;
}

static void fill_set(struct fw_nft *f, const struct fw_set *s, struct nftnl_set *n)
{
	uint32_t flags = NFT_SET_TIMEOUT | NFT_SET_CONCAT;
	struct nftnl_expr *counter;

	if (s->map)
		flags |= NFT_SET_MAP;
	if (s->interval)
		flags |= NFT_SET_INTERVAL;
	nftnl_set_set_str(n, NFTNL_SET_TABLE, f->cfg->table);
	nftnl_set_set_str(n, NFTNL_SET_NAME, s->name);
	nftnl_set_set_u32(n, NFTNL_SET_FAMILY, NFPROTO_INET);
	nftnl_set_set_u32(n, NFTNL_SET_ID, ++f->set_id);
	nftnl_set_set_u32(n, NFTNL_SET_FLAGS, flags);
	nftnl_set_set_u32(n, NFTNL_SET_KEY_TYPE, s->key_type);
	nftnl_set_set_u32(n, NFTNL_SET_KEY_LEN, s->key_len);
	nftnl_set_set_u32(n, NFTNL_SET_DESC_SIZE, fw_layout_set_size(f, s));
	nftnl_set_set_u32(n, NFTNL_SET_GC_INTERVAL, GC_MS);
	nftnl_set_set_data(n, NFTNL_SET_DESC_CONCAT, s->field_len, s->fields);
	if (s->map) {
		nftnl_set_set_u32(n, NFTNL_SET_DATA_TYPE, 7u << 6 | 13u); /* address . port */
		nftnl_set_set_u32(n, NFTNL_SET_DATA_LEN, FW_DATA_LEN);
	} else if (f->cfg->counters) {
		counter = nftnl_expr_alloc("counter");
		if (counter)
			nftnl_set_add_expr(n, counter);
		else
			f->batch.nomem = true;
	}
}

static void put_set(struct fw_nft *f, struct fw_set *s)
{
	struct nlmsghdr *h = fw_batch_room(&f->batch);
	struct nftnl_set *n = nftnl_set_alloc();

	if (!h || !n) {
		f->batch.nomem = true;
		nftnl_set_free(n);
		return;
	}
	fill_set(f, s, n);
	nftnl_nlmsg_build_hdr((char *)h, NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE, 0);
	nftnl_set_nlmsg_build_payload(h, n);
	nftnl_set_free(n);
	fw_batch_add(&f->batch, h->nlmsg_len);
	s->state = FW_SET_PENDING;
}

void fw_layout_wild(struct fw_nft *f, struct fw_set *s)
{
	put_set(f, s);
	fw_rules_put_wild(f, s);
	f->n_rules = 0;
}

size_t fw_layout_comment(const struct fw_nft *f, char *text, size_t size)
{
	static const char *const nat[] = {"none", "napt", "twice"};
	int n = snprintf(text, size, "sluice layout %d nat=%s counters=%d", FW_LAYOUT_VERSION,
			 nat[f->cfg->nat], f->cfg->counters);

	return (size_t)n + 1;
}

static void put_table(struct fw_nft *f, int type, bool comment)
{
	struct nlmsghdr *h = fw_batch_room(&f->batch);
	struct nftnl_table *n = nftnl_table_alloc();
	uint8_t udata[2 + 100] = {NFTNL_UDATA_TABLE_COMMENT};
	size_t len;

	if (!h || !n) {
		f->batch.nomem = true;
		nftnl_table_free(n);
		return;
	}
	nftnl_table_set_str(n, NFTNL_TABLE_NAME, f->cfg->table);
	nftnl_table_set_u32(n, NFTNL_TABLE_FAMILY, NFPROTO_INET);
	if (f->owned && type == NFT_MSG_NEWTABLE)
		nftnl_table_set_u32(n, NFTNL_TABLE_FLAGS, FW_TABLE_F_OWNER | FW_TABLE_F_PERSIST);
	if (comment) {
		len = fw_layout_comment(f, (char *)udata + 2, sizeof(udata) - 2);
		udata[1] = (uint8_t)len;
		nftnl_table_set_data(n, NFTNL_TABLE_USERDATA, udata, (uint32_t)(2 + len));
	}
	nftnl_nlmsg_build_hdr((char *)h, (uint16_t)type, NFPROTO_INET,
			      type == NFT_MSG_NEWTABLE ? NLM_F_CREATE : 0, 0);
	nftnl_table_nlmsg_build_payload(h, n);
	nftnl_table_free(n);
	fw_batch_add(&f->batch, h->nlmsg_len);
}

/* Deletes one chain, or with name NULL every rule of the table. */
static void put_delete(struct fw_nft *f, int type, const char *chain)
{
	struct nlmsghdr *h = fw_batch_room(&f->batch);

	if (!h)
		return;
	nftnl_nlmsg_build_hdr((char *)h, (uint16_t)type, NFPROTO_INET, 0, 0);
	mnl_attr_put_strz(h, type == NFT_MSG_DELRULE ? NFTA_RULE_TABLE : NFTA_CHAIN_TABLE,
			  f->cfg->table);
	if (chain)
		mnl_attr_put_strz(h, NFTA_CHAIN_NAME, chain);
	fw_batch_add(&f->batch, h->nlmsg_len);
}

struct wanted {
	const char *name;
	bool yes;
};

static void is_wanted(const struct chain *c, void *arg)
{
	struct wanted *w = arg;

	w->yes |= strcmp(c->name, w->name) == 0;
}

static void put_fixed_sets(struct fw_nft *f)
{
	size_t n = f->cfg->nat == FW_NAT_TWICE	? FW_FIXED_SETS
		   : f->cfg->nat == FW_NAT_NONE ? (size_t)FW_DNAT4
						: (size_t)FW_PEER_DNAT4;

	for (size_t i = 0; i < n; i++)
		if (f->fixed[i].state == FW_SET_ABSENT)
			put_set(f, &f->fixed[i]);
}

struct refused {
	uint32_t index;
	int error;
};

static void on_refused(uint32_t index, int error, void *arg)
{
	struct refused *r = arg;

	if (!r->error) {
		r->index = index;
		r->error = error;
	}
}

static void settle(struct fw_set *s, void *arg)
{
	const bool *done = arg;

	if (s->state == FW_SET_PENDING)
		s->state = *done ? FW_SET_PRESENT : FW_SET_ABSENT;
}

void fw_layout_settle(struct fw_nft *f, bool done)
{
	fw_sets_each(f, settle, &done);
}

static int send_batch(struct fw_nft *f, const char *what)
{
	struct refused r = {0};
	int err = fw_batch_send(&f->batch, on_refused, &r);

	fw_layout_settle(f, err == 0);
	if (!err)
		return 0;
	if (err < 0)
		r.error = -err;
	log_err("fw: %s table inet %s: message %u of %u: %s", what, f->cfg->table, r.index,
		f->batch.n, strerror(r.error));
	return r.error == EPERM ? ERR_PERM : r.error == ENOMEM ? ERR_NOMEM : ERR_KERNEL;
}

static void present_wild(struct fw_set *s, void *arg)
{
	struct fw_nft *f = arg;

	if (s->state == FW_SET_PRESENT && !s->map &&
	    (s->block || s->interval || s->shape != FW_EXACT))
		fw_rules_put_wild(f, s);
}

int fw_layout_install(struct fw_nft *f, bool adopt)
{
	struct fw_table_info info;
	struct fw_chain_names chains;
	int err = fw_layout_look_all(f, &info, &chains);

	if (err)
		return err;
	if (adopt && info.exists && !info.same_layout)
		log_warn("fw: table inet %s has another layout: created anew", f->cfg->table);
	adopt = adopt && info.same_layout;
	f->fw.kept = adopt;
	/* OWNER alone would take the table away with us: fail open. Both or none. */
	f->owned = (f->features & FW_FEATURE_OWNER_PERSIST) &&
		   (!adopt || info.has_owner || info.orphan);

	fw_batch_begin(&f->batch);
	if (info.exists && !adopt) {
		put_table(f, NFT_MSG_DELTABLE, false);
		fw_sets_each(f, fw_set_absent, NULL);
	}
	put_table(f, NFT_MSG_NEWTABLE, !adopt);
	if (adopt)
		put_delete(f, NFT_MSG_DELRULE, NULL);
	for (size_t i = 0; adopt && i < chains.n; i++) {
		struct wanted w = {.name = chains.name[i]};

		each_chain(f, is_wanted, &w);
		if (!w.yes)
			put_delete(f, NFT_MSG_DELCHAIN, w.name);
	}
	put_fixed_sets(f);
	each_chain(f, put_wanted_chain, f);
	fw_rules_put(f);
	fw_sets_each(f, present_wild, f);
	err = send_batch(f, "installing");
	if (err)
		return err;
	err = fw_layout_remember(f);
	return err ? err : fw_range_load(f);
}

int fw_layout_remove(struct fw_nft *f)
{
	struct fw_table_info info;
	int err = fw_layout_look(f, &info);

	if (err || !info.exists)
		return err;
	fw_batch_begin(&f->batch);
	put_table(f, NFT_MSG_DELTABLE, false);
	err = send_batch(f, "removing");
	if (!err)
		fw_sets_each(f, fw_set_absent, NULL);
	return err;
}
