/*
 * What this kernel can do, tried out in a scratch table at start-up. A refused
 * probe costs an aborted transaction (some ms), so this happens once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/log.h"
#include "middlebox/fw_expr.h"
#include "middlebox/fw_nft.h"

#define MSG_DESTROYSETELEM 30 /* kernel 6.3 */
#define TABLE_F_OWNER_PERSIST 0x6u

struct probe {
	struct fw_nl *nl;
	struct fw_batch b;
	char table[32];
};

static void nothing(uint32_t index ATTR_UNUSED, int error ATTR_UNUSED, void *arg ATTR_UNUSED)
{
}

static struct nlmsghdr *start(struct probe *p, int type, uint16_t flags)
{
	struct nlmsghdr *h = fw_batch_room(&p->b);
	struct nfgenmsg *g;

	if (!h)
		return NULL;
	mnl_nlmsg_put_header(h);
	h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type);
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = NFPROTO_INET;
	return h;
}

static void put_table(struct probe *p, int type, uint32_t table_flags)
{
	struct nlmsghdr *h = start(p, type, type == NFT_MSG_NEWTABLE ? NLM_F_CREATE : 0);

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, p->table);
	if (table_flags)
		mnl_attr_put_u32(h, NFTA_TABLE_FLAGS, htonl(table_flags));
	fw_batch_add(&p->b, h->nlmsg_len);
}

static void put_set(struct probe *p)
{
	struct nlmsghdr *h = start(p, NFT_MSG_NEWSET, NLM_F_CREATE);

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_SET_TABLE, p->table);
	mnl_attr_put_strz(h, NFTA_SET_NAME, "s");
	mnl_attr_put_u32(h, NFTA_SET_ID, htonl(1));
	mnl_attr_put_u32(h, NFTA_SET_FLAGS, htonl(NFT_SET_TIMEOUT));
	mnl_attr_put_u32(h, NFTA_SET_KEY_TYPE, htonl(7));
	mnl_attr_put_u32(h, NFTA_SET_KEY_LEN, htonl(4));
	fw_batch_add(&p->b, h->nlmsg_len);
}

static void put_elem(struct probe *p, int type, uint64_t seconds)
{
	struct nlmsghdr *h = start(p, type, type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0);
	struct nlattr *list, *elem, *key;

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, p->table);
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, "s");
	list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
	elem = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
	key = mnl_attr_nest_start(h, NFTA_SET_ELEM_KEY);
	mnl_attr_put_u32(h, NFTA_DATA_VALUE, htonl(0x0a000001));
	mnl_attr_nest_end(h, key);
	if (seconds) {
		mnl_attr_put_u64(h, NFTA_SET_ELEM_TIMEOUT, htobe64(seconds * 1000));
		mnl_attr_put_u64(h, NFTA_SET_ELEM_EXPIRATION, htobe64(seconds * 1000));
	}
	mnl_attr_nest_end(h, elem);
	mnl_attr_nest_end(h, list);
	fw_batch_add(&p->b, h->nlmsg_len);
}

static bool send_batch(struct probe *p)
{
	return fw_batch_send(&p->b, nothing, NULL) == 0;
}

static bool has_destroy(struct probe *p)
{
	fw_batch_begin(&p->b);
	put_elem(p, MSG_DESTROYSETELEM, 0);
	return send_batch(p);
}

static void on_element(const struct nlmsghdr *h, void *arg)
{
	const struct nlattr *a = fw_attrs_find(fw_attrs_of(h), NFTA_SET_ELEM_LIST_ELEMENTS);
	uint64_t *ms = arg;

	a = a ? fw_attrs_find(fw_attrs_in(a), NFTA_LIST_ELEM) : NULL;
	a = a ? fw_attrs_find(fw_attrs_in(a), NFTA_SET_ELEM_EXPIRATION) : NULL;
	if (a)
		*ms = fw_attr_be64(a);
}

static bool has_update(struct probe *p)
{
	uint8_t mem[512] __attribute__((aligned(8)));
	uint64_t ms = 0;
	struct nlmsghdr *h;
	size_t len;

	for (unsigned i = 0; i < 2; i++) {
		fw_batch_begin(&p->b);
		put_elem(p, NFT_MSG_NEWSETELEM, i ? 1000 : 10);
		if (!send_batch(p))
			return false;
	}
	/* The question is the element message with another type, built behind the batch. */
	fw_batch_begin(&p->b);
	len = p->b.len;
	put_elem(p, NFT_MSG_GETSETELEM, 0);
	if (p->b.nomem || p->b.len - len > sizeof(mem))
		return false;
	memcpy(mem, p->b.mem + len, p->b.len - len);
	h = (struct nlmsghdr *)(void *)mem;
	return fw_nl_ask(p->nl, h, on_element, &ms) == 0 && ms > 500000;
}

static void put_chain(struct probe *p)
{
	struct nlmsghdr *h = start(p, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
	struct nlattr *hook;

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_CHAIN_TABLE, p->table);
	mnl_attr_put_strz(h, NFTA_CHAIN_NAME, "c");
	hook = mnl_attr_nest_start(h, NFTA_CHAIN_HOOK);
	mnl_attr_put_u32(h, NFTA_HOOK_HOOKNUM, htonl(NF_INET_PRE_ROUTING));
	mnl_attr_put_u32(h, NFTA_HOOK_PRIORITY, htonl((uint32_t)-300));
	mnl_attr_nest_end(h, hook);
	mnl_attr_put_strz(h, NFTA_CHAIN_TYPE, "filter");
	fw_batch_add(&p->b, h->nlmsg_len);
}

static bool has_tproxy(struct probe *p)
{
	static const uint8_t no_length[2];
	uint16_t port = htons(9);
	struct rule r;

	fw_batch_begin(&p->b);
	put_chain(p);
	r = rule_start(&p->b, p->table, "c", "");
	rule_protocol(&r, IPPROTO_UDP);
	rule_transport(&r, 4, 2, REG(0));
	rule_equal(&r, REG(0), no_length, 2);
	rule_load(&r, REG(0), &port, sizeof(port));
	rule_tproxy(&r, 4, REG(0));
	rule_end(&r);
	return send_batch(p);
}

/* An old kernel ignores the request for an ACK on the end of a batch. */
static bool has_batch_ack(struct probe *p)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	uint8_t in[1024] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	size_t end;
	bool seen = false;
	ssize_t n;

	fw_batch_begin(&p->b);
	put_table(p, NFT_MSG_NEWTABLE, 0);
	end = p->b.len;
	h = start(p, 0, NLM_F_ACK);
	if (!h)
		return false;
	h->nlmsg_type = NFNL_MSG_BATCH_END;
	((struct nfgenmsg *)mnl_nlmsg_get_payload(h))->nfgen_family = AF_UNSPEC;
	((struct nfgenmsg *)mnl_nlmsg_get_payload(h))->res_id = htons(NFNL_SUBSYS_NFTABLES);
	fw_batch_add(&p->b, h->nlmsg_len);
	p->nl->seq += p->b.n;
	if (sendto(p->nl->fd, p->b.mem, p->b.len, 0, (const struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0)
		return false;
	h = (struct nlmsghdr *)(void *)(p->b.mem + end);
	while ((n = recv(p->nl->fd, in, sizeof(in), MSG_DONTWAIT)) > 0)
		seen |= ((struct nlmsghdr *)(void *)in)->nlmsg_seq == h->nlmsg_seq;
	return seen;
}

static bool has_owner_persist(struct probe *p)
{
	bool yes;

	fw_batch_begin(&p->b);
	put_table(p, NFT_MSG_NEWTABLE, TABLE_F_OWNER_PERSIST);
	yes = send_batch(p);
	if (yes) {
		fw_batch_begin(&p->b);
		put_table(p, NFT_MSG_DELTABLE, 0);
		send_batch(p);
	}
	return yes;
}

unsigned fw_probe(struct fw_nl *nl, const struct fw_config *cfg)
{
	struct probe p = {.nl = nl};
	unsigned found = 0;

	snprintf(p.table, sizeof(p.table), "sluice_probe_%ld", (long)getpid());
	fw_batch_init(&p.b, nl);
	if (has_owner_persist(&p))
		found |= FW_FEATURE_OWNER_PERSIST;
	fw_batch_begin(&p.b);
	put_table(&p, NFT_MSG_NEWTABLE, 0);
	put_set(&p);
	if (send_batch(&p)) {
		if (has_destroy(&p))
			found |= FW_FEATURE_DESTROY;
		if (has_update(&p))
			found |= FW_FEATURE_UPDATE_TIMEOUT;
		if (has_tproxy(&p))
			found |= FW_FEATURE_TPROXY;
		if (has_batch_ack(&p))
			found |= FW_FEATURE_BATCH_ACK;
		fw_batch_begin(&p.b);
		put_table(&p, NFT_MSG_DELTABLE, 0);
		send_batch(&p);
	}
	fw_batch_fini(&p.b);
	log_info("fw: kernel features:%s%s%s%s%s%s",
		 found & FW_FEATURE_DESTROY ? " destroy-element" : "",
		 found & FW_FEATURE_UPDATE_TIMEOUT ? " update-timeout" : "",
		 found & FW_FEATURE_BATCH_ACK ? " batch-ack" : "",
		 found & FW_FEATURE_OWNER_PERSIST ? " owner-persist" : "",
		 found & FW_FEATURE_TPROXY ? " tproxy" : "",
		 found & cfg->force_off ? " (some are forced off)" : "");
	return found & ~cfg->force_off;
}
