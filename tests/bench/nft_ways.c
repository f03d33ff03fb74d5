/*
 * What a pinhole (two directions) costs in other ways than through the daemon:
 * the floor, a bare libnftnl loop that adds set elements and nothing else; and
 * what others do: a rule per pinhole, libnftables, a process of nft(8) each.
 * In the current network namespace; makes and removes its own table. Prints
 * microseconds of CPU time as name=value.
 *
 *   nft_ways COUNT
 */
#include <dlfcn.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

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

static void measure(const char *name, size_t count, size_t per)
{
	double c[2];

	for (int closing = 0; closing < 2; closing++) {
		c[closing] = cpu_us();
		for (size_t i = 0; i < count; i += per)
			elements(closing ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM, i, per);
		c[closing] = cpu_us() - c[closing];
	}
	printf("%s_open=%.2f %s_close=%.2f ", name, c[0] / (double)count, name,
	       c[1] / (double)count);
}

/* ---- a rule per pinhole and direction ---- */

static void chain(void)
{
	struct nftnl_chain *c = nftnl_chain_alloc();
	struct mnl_nlmsg_batch *b = begin();

	nftnl_chain_set_str(c, NFTNL_CHAIN_TABLE, TABLE);
	nftnl_chain_set_str(c, NFTNL_CHAIN_NAME, "forward");
	nftnl_chain_set_str(c, NFTNL_CHAIN_TYPE, "filter");
	nftnl_chain_set_u32(c, NFTNL_CHAIN_HOOKNUM, NF_INET_FORWARD);
	nftnl_chain_set_s32(c, NFTNL_CHAIN_PRIO, 0);
	nftnl_chain_nlmsg_build_payload(nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(b),
							      NFT_MSG_NEWCHAIN, NFPROTO_INET,
							      NLM_F_CREATE, seq++),
					c);
	mnl_nlmsg_batch_next(b);
	nftnl_chain_free(c);
	commit(b);
}

static void compare(struct nftnl_rule *r, uint32_t base, uint32_t offset, const void *v,
		    uint32_t len)
{
	struct nftnl_expr *load = nftnl_expr_alloc("payload"), *cmp = nftnl_expr_alloc("cmp");

	nftnl_expr_set_u32(load, NFTNL_EXPR_PAYLOAD_BASE, base);
	nftnl_expr_set_u32(load, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
	nftnl_expr_set_u32(load, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
	nftnl_expr_set_u32(load, NFTNL_EXPR_PAYLOAD_LEN, len);
	nftnl_expr_set_u32(cmp, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
	nftnl_expr_set_u32(cmp, NFTNL_EXPR_CMP_OP, NFT_CMP_EQ);
	nftnl_expr_set_data(cmp, NFTNL_EXPR_CMP_DATA, v, len);
	nftnl_rule_add_expr(r, load);
	nftnl_rule_add_expr(r, cmp);
}

static void rule(struct mnl_nlmsg_batch *b, size_t i)
{
	struct nftnl_rule *r = nftnl_rule_alloc();
	struct nftnl_expr *e = nftnl_expr_alloc("immediate");
	uint32_t src = 0x0100010a, dst = 0x010012c6, ports = (uint32_t)i;
	uint8_t udp = 17;

	nftnl_rule_set_str(r, NFTNL_RULE_TABLE, TABLE);
	nftnl_rule_set_str(r, NFTNL_RULE_CHAIN, "forward");
	nftnl_rule_set_u32(r, NFTNL_RULE_FAMILY, NFPROTO_INET);
	compare(r, NFT_PAYLOAD_NETWORK_HEADER, 9, &udp, 1);
	compare(r, NFT_PAYLOAD_NETWORK_HEADER, 12, &src, 4);
	compare(r, NFT_PAYLOAD_NETWORK_HEADER, 16, &dst, 4);
	compare(r, NFT_PAYLOAD_TRANSPORT_HEADER, 0, &ports, 4);
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, NF_ACCEPT);
	nftnl_rule_add_expr(r, e);
	nftnl_rule_nlmsg_build_payload(nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(b),
							     NFT_MSG_NEWRULE, NFPROTO_INET,
							     NLM_F_CREATE | NLM_F_APPEND, seq++),
				       r);
	mnl_nlmsg_batch_next(b);
	nftnl_rule_free(r);
}

static void rules(size_t present, size_t count)
{
	double c = 0;

	chain();
	for (size_t i = 0; i < present + count; i++) {
		struct mnl_nlmsg_batch *b = begin();

		if (i == present)
			c = cpu_us();
		rule(b, 2 * i);
		rule(b, 2 * i + 1);
		commit(b);
	}
	printf("rule_open=%.2f ", (cpu_us() - c) / (double)count);
}

/* ---- libnftables and nft(8), an element each ---- */

static const char *command(size_t i)
{
	static char text[256];

	snprintf(text, sizeof(text),
		 "add element inet " TABLE " " SET
		 " { udp . 10.2.0.1 . %zu . 198.18.0.1 . 5004 timeout 600s,"
		 " udp . 198.18.0.1 . 5004 . 10.2.0.1 . %zu timeout 600s }",
		 i % 60000 + 1, i % 60000 + 1);
	return text;
}

/* Debian splits off the header of this one library; its three calls are declared here. */
static void libnftables(size_t count)
{
	void *lib = dlopen("libnftables.so.1", RTLD_NOW);
	void *(*ctx_new)(uint32_t flags);
	int (*run)(void *ctx, const char *text);
	void *ctx;
	double c;

	if (!lib)
		return;
	*(void **)&ctx_new = dlsym(lib, "nft_ctx_new");
	*(void **)&run = dlsym(lib, "nft_run_cmd_from_buffer");
	ctx = ctx_new ? ctx_new(0) : NULL;
	if (!ctx || !run)
		return;
	c = cpu_us();
	for (size_t i = 0; i < count; i++) {
		if (run(ctx, command(i)) != 0) {
			fprintf(stderr, "libnftables refuses\n");
			exit(1);
		}
	}
	printf("libnftables_open=%.2f ", (cpu_us() - c) / (double)count);
}

static double children_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void processes(size_t count)
{
	double c = cpu_us() + children_us();

	for (size_t i = 0; i < count; i++) {
		char *const argv[] = {(char *)"nft", (char *)(uintptr_t)command(30000 + i), NULL};
		pid_t pid;
		int status;

		if (posix_spawnp(&pid, "nft", NULL, NULL, argv, environ) != 0 ||
		    waitpid(pid, &status, 0) != pid || status != 0) {
			fprintf(stderr, "nft refuses\n");
			exit(1);
		}
	}
	printf("process_open=%.2f ", (cpu_us() + children_us() - c) / (double)count);
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
	measure("single", count, 1);
	measure("batch", count, 50);
	libnftables(count / 20);
	processes(count / 100);
	table(NFT_MSG_DELTABLE, 0);
	table(NFT_MSG_NEWTABLE, NLM_F_CREATE);
	rules(1000, 200);
	table(NFT_MSG_DELTABLE, 0);
	printf("\n");
	mnl_socket_close(nl);
	return 0;
}
