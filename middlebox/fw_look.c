/*
 * What the kernel has: the table, its chains and sets, whether it is still the
 * one that we installed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

#define TRIES 3 /* a dump during which the ruleset changed, or that was lost */

static struct nlmsghdr *question(void *mem, int type)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(mem);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

	h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type);
	h->nlmsg_flags = NLM_F_REQUEST;
	g->nfgen_family = NFPROTO_INET;
	return h;
}

struct look {
	struct fw_nft *f;
	struct fw_table_info *info;
	struct fw_chain_names *chains;
	bool too_small;
};

static uint32_t be32_of(const struct nlattr *a)
{
	const void *p = fw_attr_data(a, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, 4);
	return ntohl(v);
}

static void on_table(const struct nlmsghdr *h, void *arg)
{
	struct look *l = arg;
	uint8_t want[2 + 100] = {NFTNL_UDATA_TABLE_COMMENT};
	size_t len = fw_layout_comment(l->f, (char *)want + 2, sizeof(want) - 2);
	uint32_t flags = be32_of(fw_attrs_find(fw_attrs_of(h), NFTA_TABLE_FLAGS));
	const void *udata =
		fw_attr_data(fw_attrs_find(fw_attrs_of(h), NFTA_TABLE_USERDATA), 2 + len);

	want[1] = (uint8_t)len;
	l->info->exists = true;
	l->info->has_owner = (flags & FW_TABLE_F_OWNER) != 0;
	/* The kernel takes the first flag away with the owner. */
	l->info->orphan = (flags & (FW_TABLE_F_OWNER | FW_TABLE_F_PERSIST)) == FW_TABLE_F_PERSIST;
	l->info->mine = be32_of(fw_attrs_find(fw_attrs_of(h), NFTA_TABLE_OWNER)) == l->f->nl.portid;
	l->info->handle = fw_attr_be64(fw_attrs_find(fw_attrs_of(h), NFTA_TABLE_HANDLE));
	l->info->same_layout = udata && memcmp(udata, want, 2 + len) == 0;
}

static bool text_is(const struct nlattr *a, const char *text)
{
	return fw_attr_data(a, strlen(text) + 1) && strcmp(mnl_attr_get_str(a), text) == 0;
}

static void on_chain(const struct nlmsghdr *h, void *arg)
{
	struct look *l = arg;
	const struct nlattr *name = fw_attrs_find(fw_attrs_of(h), NFTA_CHAIN_NAME);

	if (!text_is(fw_attrs_find(fw_attrs_of(h), NFTA_CHAIN_TABLE), l->f->cfg->table) || !name ||
	    l->chains->n == ARRAY_LEN(l->chains->name))
		return;
	snprintf(l->chains->name[l->chains->n++], sizeof(l->chains->name[0]), "%s",
		 mnl_attr_get_str(name));
}

struct found_set {
	struct look *l;
	const struct nlattr *name;
	uint32_t size;
};

static void match_set(struct fw_set *s, void *arg)
{
	struct found_set *x = arg;

	if (!text_is(x->name, s->name))
		return;
	s->state = FW_SET_PRESENT;
	x->l->too_small |= x->size < fw_layout_set_size(x->l->f, s);
}

static void on_set(const struct nlmsghdr *h, void *arg)
{
	struct look *l = arg;
	const struct nlattr *desc = fw_attrs_find(fw_attrs_of(h), NFTA_SET_DESC);
	struct found_set x = {.l = l, .name = fw_attrs_find(fw_attrs_of(h), NFTA_SET_NAME)};

	if (!text_is(fw_attrs_find(fw_attrs_of(h), NFTA_SET_TABLE), l->f->cfg->table) || !x.name)
		return;
	if (desc)
		x.size = be32_of(fw_attrs_find(fw_attrs_in(desc), NFTA_SET_DESC_SIZE));
	fw_sets_each(l->f, match_set, &x);
}

/* Fills l->info. 0 or a negative errno, -ENOENT where there is no such table. */
static int look_table(struct fw_nft *f, struct look *l)
{
	uint8_t mem[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = question(mem, NFT_MSG_GETTABLE);

	memset(l->info, 0, sizeof(*l->info));
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, f->cfg->table);
	return fw_nl_ask(&f->nl, h, on_table, l);
}

static int look_all(struct look *l)
{
	struct fw_nft *f = l->f;
	uint8_t mem[256] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	int err;

	l->chains->n = 0;
	l->too_small = false;
	fw_sets_each(f, fw_set_absent, NULL);
	err = look_table(f, l);
	if (err)
		return err == -ENOENT ? 0 : err;
	h = question(mem, NFT_MSG_GETCHAIN);
	err = fw_nl_dump(&f->nl, h, on_chain, l);
	if (err)
		return err;
	h = question(mem, NFT_MSG_GETSET);
	mnl_attr_put_strz(h, NFTA_SET_TABLE, f->cfg->table);
	err = fw_nl_dump(&f->nl, h, on_set, l);
	if (l->too_small)
		l->info->same_layout = false;
	return err;
}

int fw_layout_look_all(struct fw_nft *f, struct fw_table_info *out, struct fw_chain_names *chains)
{
	struct look l = {.f = f, .info = out, .chains = chains};
	int err;

	for (unsigned tries = 0; tries < TRIES; tries++) {
		err = look_all(&l);
		if (err != -EINTR && err != -ENOBUFS)
			break;
	}
	if (err)
		log_err("fw: reading table %s: %s", f->cfg->table, strerror(-err));
	return err ? (err == -EPERM ? ERR_PERM : ERR_KERNEL) : 0;
}

int fw_layout_look(struct fw_nft *f, struct fw_table_info *out)
{
	struct look l = {.f = f, .info = out};
	int err = look_table(f, &l);

	if (err == -ENOENT)
		return 0;
	if (err)
		log_err("fw: reading table %s: %s", f->cfg->table, strerror(-err));
	return err ? (err == -EPERM ? ERR_PERM : ERR_KERNEL) : 0;
}

static void on_rule(const struct nlmsghdr *h ATTR_UNUSED, void *arg)
{
	++*(size_t *)arg;
}

/* Rules of the table; SIZE_MAX when they could not be counted. */
static size_t count_rules(struct fw_nft *f)
{
	uint8_t mem[256] __attribute__((aligned(8)));
	size_t n;
	int err;

	for (unsigned tries = 0; tries < TRIES; tries++) {
		struct nlmsghdr *h = question(mem, NFT_MSG_GETRULE);

		n = 0;
		mnl_attr_put_strz(h, NFTA_RULE_TABLE, f->cfg->table);
		err = fw_nl_dump(&f->nl, h, on_rule, &n);
		if (err != -EINTR && err != -ENOBUFS)
			return err ? SIZE_MAX : n;
	}
	return SIZE_MAX;
}

bool fw_layout_intact(struct fw_nft *f)
{
	struct fw_table_info info;
	struct look l = {.f = f, .info = &info};
	int err = look_table(f, &l);
	size_t n;

	if (err && err != -ENOENT) /* then it is installed again */
		log_warn("fw: asking whether table %s is there: %s", f->cfg->table, strerror(-err));
	if (err)
		return false;
	if (info.handle != f->handle)
		return false;
	n = count_rules(f);
	if (f->n_rules == 0 && n != SIZE_MAX)
		f->n_rules = n; /* a wildcard set was added since we last counted */
	return n == SIZE_MAX || n >= f->n_rules;
}

int fw_layout_remember(struct fw_nft *f)
{
	struct fw_table_info info;
	int err = fw_layout_look(f, &info);

	f->handle = info.handle;
	f->n_rules = err ? 0 : count_rules(f);
	return err;
}
