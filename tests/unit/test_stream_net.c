/*
 * What streams ask of the kernel for intercepted connections: original
 * destinations after a redirect and after TPROXY, and connecting from an
 * address that is not ours. Runs in a network namespace of its own; skipped
 * where none can be made.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/loop.h"
#include "common/stream.h"

struct end {
	struct stream *s;
	unsigned ready, ends;
};

struct world {
	struct loop *loop;
	struct stream_listener *listener;
	struct addr_port listen; /* as configured, perhaps with a wildcard address */
	struct end client, server;
};

static void on_ready(struct stream *s, void *arg)
{
	(void)s;
	((struct end *)arg)->ready++;
}

static void on_end(struct stream *s, int err, void *arg)
{
	(void)s;
	(void)err;
	((struct end *)arg)->ends++;
}

static const struct stream_ops ops = {.ready = on_ready, .end = on_end};

static void on_accept(int fd, const struct addr_port *peer, void *arg)
{
	struct world *w = arg;

	(void)peer;
	w->server.s = stream_adopt(w->loop, fd, NULL, &ops, &w->server);
	assert_non_null(w->server.s);
}

static struct addr_port AP(const char *text) {
	struct addr_port ap;

	assert_int_equal(addr_port_parse(span_str(text), &ap), 0);
	return ap;
}

static bool
run(const char *command)
{
	return system(command) == 0;
}

static const char set_up_commands[] =
	"{ ip link set lo up && ip address add 10.9.0.1/32 dev lo &&"
	" ip route add 192.0.2.0/24 dev lo && ip -6 route add 2001:db8::/32 dev lo &&"
	" ip route add local default dev lo table 100 && ip rule add fwmark 1 lookup 100 &&"
	" ip -6 route add local default dev lo table 100 && ip -6 rule add fwmark 1 lookup 100 &&"
	" nft -f - <<'END'\n"
	"table inet t {\n"
	"	chain out {\n"
	"		type nat hook output priority -100;\n"
	"		ip daddr 192.0.2.1 tcp dport 554 redirect to :5554\n"
	"		ip6 daddr 2001:db8::1 tcp dport 554 redirect to :5554\n"
	"	}\n"
	"	chain marking {\n"
	"		type route hook output priority mangle;\n"
	"		tcp dport 8554 meta mark set 1\n"
	"	}\n"
	"	chain pre {\n"
	"		type filter hook prerouting priority mangle;\n"
	"		meta nfproto ipv4 tcp dport 8554 tproxy ip to :5554 meta mark set 1\n"
	"		meta nfproto ipv6 tcp dport 8554 tproxy ip6 to :5554 meta mark set 1\n"
	"	}\n"
	"}\n"
	"END\n"
	"} >/dev/null 2>&1";

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->loop = loop_new();
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	stream_free(w->client.s);
	stream_free(w->server.s);
	stream_listener_free(w->listener);
	loop_free(w->loop);
	free(w);
	return 0;
}

/* Connects to `to` and gives what the listener takes for its destination. */
static int intercept(struct world *w, const char *listen, const char *to, struct addr_port *dst)
{
	struct addr_port target = AP(to);
	uint64_t start = loop_now_ms(w->loop);
	int err;

	w->listen = AP(listen);
	w->listener = stream_listen(w->loop, &w->listen, true, on_accept, w, &err);
	assert_non_null(w->listener);
	w->client.s = stream_connect(w->loop, &target, NULL, &ops, &w->client, &err);
	assert_non_null(w->client.s);
	while (w->server.ready == 0) {
		assert_int_equal(w->client.ends, 0);
		assert_true(loop_now_ms(w->loop) < start + 3000);
		loop_run_once(w->loop, 50);
	}
	return stream_original_dst(w->server.s, &w->listen, dst);
}

static void expect_dst(struct world *w, const char *listen, const char *to)
{
	struct addr_port dst, want = AP(to);

	assert_int_equal(intercept(w, listen, to, &dst), 0);
	assert_true(addr_port_eq(&dst, &want));
}

static void test_redirect_v4(void **state)
{
	expect_dst(*state, "0.0.0.0:5554", "192.0.2.1:554");
}

static void test_redirect_v6(void **state)
{
	expect_dst(*state, "[::]:5554", "[2001:db8::1]:554");
}

static void test_tproxy_v4(void **state)
{
	expect_dst(*state, "0.0.0.0:5554", "192.0.2.9:8554");
}

static void test_tproxy_v6(void **state)
{
	expect_dst(*state, "[::]:5554", "[2001:db8::9]:8554");
}

static void test_direct(void **state)
{
	struct addr_port dst;

	assert_int_equal(intercept(*state, "0.0.0.0:5554", "10.9.0.1:5554", &dst), ERR_NOENT);
}

/* The same port elsewhere is not the listener: TPROXY caught it on its way. */
static void test_same_port_elsewhere(void **state)
{
	assert_true(run(
		"nft add rule inet t marking tcp dport 5554 ip daddr 192.0.2.5 meta mark set 1 &&"
		"nft add rule inet t pre ip daddr 192.0.2.5 tcp dport 5554"
		" tproxy ip to :5554 meta mark set 1"));
	expect_dst(*state, "0.0.0.0:5554", "192.0.2.5:5554");
}

static void test_connect_from_elsewhere(void **state)
{
	struct world *w = *state;
	struct stream_opts opts = {.from = AP("198.51.100.7:0")};
	struct addr_port to = AP("192.0.2.77:80"), local;
	int err = 0;

	assert_null(stream_connect(w->loop, &to, &opts, &ops, &w->client, &err));
	assert_int_equal(err, ERR_INVALID);
	opts.transparent = true;
	w->client.s = stream_connect(w->loop, &to, &opts, &ops, &w->client, &err);
	assert_non_null(w->client.s);
	local = stream_local(w->client.s);
	assert_true(addr_eq(&local.addr, &opts.from.addr));
	assert_true(local.port != 0);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_redirect_v4),
		TEST(test_redirect_v6),
		TEST(test_tproxy_v4),
		TEST(test_tproxy_v6),
		TEST(test_direct),
		TEST(test_same_port_elsewhere),
		TEST(test_connect_from_elsewhere),
	};

	const char *path = getenv("PATH");
	char wider[4096];

	snprintf(wider, sizeof(wider), "%s:/usr/sbin:/sbin", path != NULL ? path : "/usr/bin");
	setenv("PATH", wider, 1);
	if (unshare(CLONE_NEWNET) != 0 || !run(set_up_commands)) {
		puts("1..0 # SKIP no network namespace with nft, ip and TPROXY here");
		return 0;
	}
	return cmocka_run_group_tests_name("stream_net", tests, NULL, NULL);
}
