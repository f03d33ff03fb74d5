/*
 * The floor: a bare libnftnl loop that adds and removes set elements of the
 * same shape as a pinhole, one and a hundred per transaction, and nothing else.
 *
 *   nft_bare COUNT        in the current network namespace; makes and removes its own table
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define TABLE "bare"
#define SET "exact4"

static struct mnl_socket *nl;
static char area[1 << 20];
static uint32_t seq = 1;

static double cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void commit(struct mnl_nlmsg_batch *b)
{
	char r[8192];

	nftnl_batch_end(mnl_nlmsg_batch_current(b), seq++);
	mnl_nlmsg_batch_next(b);
	if (mnl_socket_sendto(nl, mnl_nlmsg_batch_head(b), mnl_nlmsg_batch_size(b)) < 0) {
		perror("sendto");
		exit(1);
	}
	mnl_nlmsg_batch_stop(b);
	if (recv(mnl_socket_get_fd(nl), r, sizeof(r), MSG_DONTWAIT) > 0) {
		fprintf(stderr, "the kernel refused a message\n");
		exit(1);
	}
}

static struct mnl_nlmsg_batch *begin(void)
{
	struct mnl_nlmsg_batch *b = mnl_nlmsg_batch_start(area, sizeof(area));

	nftnl_batch_begin(mnl_nlmsg_batch_current(b), seq++);
	mnl_nlmsg_batch_next(b);
	return b;
}

static void table(uint16_t type, uint16_t flags)
{
	struct nftnl_table *t = nftnl_table_alloc();
	struct mnl_nlmsg_batch *b = begin();

	nftnl_table_set_str(t, NFTNL_TABLE_NAME, TABLE);
	nftnl_table_set_u32(t, NFTNL_TABLE_FAMILY, NFPROTO_INET);
	nftnl_table_nlmsg_build_payload(
		nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(b), type, NFPROTO_INET, flags, seq++),
		t);
	mnl_nlmsg_batch_next(b);
	nftnl_table_free(t);
	commit(b);
}

static void set(void)
{
	static const uint8_t field[5] = {1, 4, 2, 4, 2};
	struct nftnl_set *s = nftnl_set_alloc();
	struct mnl_nlmsg_batch *b = begin();

	nftnl_set_set_str(s, NFTNL_SET_TABLE, TABLE);
	nftnl_set_set_str(s, NFTNL_SET_NAME, SET);
	nftnl_set_set_u32(s, NFTNL_SET_FAMILY, NFPROTO_INET);
	nftnl_set_set_u32(s, NFTNL_SET_ID, 1);
	nftnl_set_set_u32(s, NFTNL_SET_FLAGS, NFT_SET_TIMEOUT | NFT_SET_CONCAT);
	nftnl_set_set_u32(s, NFTNL_SET_KEY_TYPE, 12u << 24 | 7u << 18 | 13u << 12 | 7u << 6 | 13u);
	nftnl_set_set_u32(s, NFTNL_SET_KEY_LEN, 20);
	nftnl_set_set_data(s, NFTNL_SET_DESC_CONCAT, field, sizeof(field));
	nftnl_set_nlmsg_build_payload(nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(b),
							    NFT_MSG_NEWSET, NFPROTO_INET,
							    NLM_F_CREATE, seq++),
				      s);
	mnl_nlmsg_batch_next(b);
	nftnl_set_free(s);
	commit(b);
}

/* Two elements a pinhole, as the daemon does: one per direction. */
static void elements(uint16_t type, size_t first, size_t n)
{
	struct mnl_nlmsg_batch *b = begin();

	for (size_t i = 2 * first; i < 2 * (first + n); i++) {
		uint32_t key[5] = {17, 0x0100010a, (uint32_t)i, 0x010012c6, (uint32_t)(i >> 16)};
		struct nftnl_set *s = nftnl_set_alloc();
		struct nftnl_set_elem *e = nftnl_set_elem_alloc();

		nftnl_set_set_str(s, NFTNL_SET_TABLE, TABLE);
		nftnl_set_set_str(s, NFTNL_SET_NAME, SET);
		nftnl_set_elem_set(e, NFTNL_SET_ELEM_KEY, key, sizeof(key));
		if (type == NFT_MSG_NEWSETELEM)
			nftnl_set_elem_set_u64(e, NFTNL_SET_ELEM_TIMEOUT, 600000);
		nftnl_set_elem_add(s, e);
		nftnl_set_elems_nlmsg_build_payload(
			nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(b), type, NFPROTO_INET,
					      type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0, seq++),
			s);
		mnl_nlmsg_batch_next(b);
		nftnl_set_free(s);
	}
	commit(b);
}

static void measure(size_t count, size_t per)
{
	for (int closing = 0; closing < 2; closing++) {
		double c = cpu_us();

		for (size_t i = 0; i < count; i += per)
			elements(closing ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM, i, per);
		c = cpu_us() - c;
		printf("bare libnftnl %s, %3zu per batch     %8.2f us CPU each\n",
		       closing ? "close" : "open ", per, c / (double)count);
	}
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
	int big = 8 << 20;

	nl = mnl_socket_open(NETLINK_NETFILTER);
	if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
		perror("netlink");
		return 1;
	}
	setsockopt(mnl_socket_get_fd(nl), SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
	table(NFT_MSG_NEWTABLE, NLM_F_CREATE);
	set();
	measure(count, 1);
	measure(count, 50);
	table(NFT_MSG_DELTABLE, 0);
	mnl_socket_close(nl);
	return 0;
}
