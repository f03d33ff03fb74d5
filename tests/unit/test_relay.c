/*
 * The media relay with real sockets on the loopback: who gets through, who
 * does not, and which ports are taken.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/relay.h"
#include "common/errcode.h"

#define FIRST 30000

struct stage {
	struct loop *loop;
	struct relays *rs;
	struct addr a, b, six; /* local addresses that no other process binds */
};

static struct addr text_addr(const char *text)
{
	struct addr a;

	assert_int_equal(addr_parse(span_str(text), &a), 0);
	return a;
}

/* All of 127/8 is local: an address of this process alone has every port free. */
static struct addr own_addr(unsigned last)
{
	unsigned pid = (unsigned)getpid();
	uint8_t b[4] = {127, (uint8_t)(64 + (pid >> 8) % 128), (uint8_t)pid, (uint8_t)last};

	return addr_v4(b);
}

static int set_up(void **state)
{
	struct relay_cfg cfg = {.ports = {FIRST, FIRST + 999}, .max_relays = 20};
	struct stage *s = calloc(1, sizeof(*s));

	s->loop = loop_new();
	s->rs = relays_new(s->loop, &cfg);
	s->a = own_addr(1);
	s->b = own_addr(2);
	s->six = text_addr("::1");
	*state = s;
	return s->rs == NULL;
}

static int tear_down(void **state)
{
	struct stage *s = *state;

	relays_free(s->rs);
	loop_free(s->loop);
	free(s);
	return 0;
}

static struct relay *new_relay(struct stage *s, struct addr client, struct addr far, unsigned n)
{
	struct addr local[RELAY_SIDES] = {[RELAY_CLIENT] = client, [RELAY_FAR] = far};
	struct relay *r = NULL;

	assert_int_equal(relay_new(s->rs, local, n, &r), 0);
	assert_non_null(r);
	return r;
}

/* An endpoint: a socket on some port of that address. */
struct end {
	int fd;
	struct addr_port me;
};

static struct end end_open_at(struct addr a, uint16_t port)
{
	struct end e = {.me = {.addr = a, .port = port}};
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&e.me, &sa);

	e.fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(e.fd >= 0);
	assert_int_equal(bind(e.fd, (struct sockaddr *)&sa, len), 0);
	len = sizeof(sa);
	assert_int_equal(getsockname(e.fd, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, &e.me), 0);
	return e;
}

static struct end end_open(struct addr a)
{
	return end_open_at(a, 0);
}

static void end_send(const struct end *e, struct addr_port to, const char *text)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&to, &sa);

	assert_int_equal(sendto(e->fd, text, strlen(text), 0, (struct sockaddr *)&sa, len),
			 strlen(text));
}

/* Loopback datagrams are queued when sendto() returns: a few turns deliver all. */
static void turns(struct stage *s)
{
	for (int i = 0; i < 4; i++)
		loop_run_once(s->loop, 0);
}

/* The next datagram at `e` is `text` and comes from `from`. */
static void expect(struct stage *s, const struct end *e, struct addr_port from, const char *text)
{
	char got[64];
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct addr_port sender;
	ssize_t n;

	turns(s);
	n = recvfrom(e->fd, got, sizeof(got), 0, (struct sockaddr *)&sa, &len);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(got, text, strlen(text));
	assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, &sender), 0);
	assert_true(addr_port_eq(&sender, &from));
}

static void expect_nothing(struct stage *s, const struct end *e)
{
	char got[64];

	turns(s);
	assert_int_equal(recv(e->fd, got, sizeof(got), 0), -1);
}

static void set_remotes(struct relay *r, unsigned c, const struct end *client,
			const struct end *far)
{
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, c, &client->me), 0);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, c, &far->me), 0);
}

/* --- forwarding ----------------------------------------------------------- */

static void check_both_ways(struct stage *s, struct addr client_local, struct addr far_local)
{
	struct relay *r = new_relay(s, client_local, far_local, 2);
	struct end client[2], far[2];

	for (unsigned c = 0; c < 2; c++) {
		client[c] = end_open(client_local);
		far[c] = end_open(far_local);
		set_remotes(r, c, &client[c], &far[c]);
	}
	for (unsigned c = 0; c < 2; c++) {
		struct addr_port in = relay_local(r, RELAY_CLIENT, c);
		struct addr_port out = relay_local(r, RELAY_FAR, c);

		end_send(&far[c], out, "picture");
		expect(s, &client[c], in, "picture");
		end_send(&client[c], in, "report");
		expect(s, &far[c], out, "report");
		end_send(&client[c], in, "");
		expect(s, &far[c], out, "");
		assert_int_equal(relay_stats(r, RELAY_FAR, c).packets, 1);
		assert_int_equal(relay_stats(r, RELAY_FAR, c).octets, 7);
		assert_int_equal(relay_stats(r, RELAY_CLIENT, c).packets, 2);
		assert_int_equal(relay_stats(r, RELAY_CLIENT, c).octets, 6);
		assert_int_equal(relay_stats(r, RELAY_CLIENT, c).dropped, 0);
		assert_true(relay_stats(r, RELAY_CLIENT, c).last_ms + 5000 > loop_now_ms(s->loop));
		expect_nothing(s, &client[1 - c]);
		expect_nothing(s, &far[1 - c]);
	}
	for (unsigned c = 0; c < 2; c++) {
		close(client[c].fd);
		close(far[c].fd);
	}
	relay_free(r);
}

static void test_both_directions(void **state)
{
	struct stage *s = *state;

	check_both_ways(s, s->a, s->b);
	check_both_ways(s, s->a, s->a);
}

static void test_between_ip_versions(void **state)
{
	struct stage *s = *state;

	check_both_ways(s, s->six, s->a);
	check_both_ways(s, s->a, s->six);
	check_both_ways(s, s->six, s->six);
}

static void test_large_and_many(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 1);
	struct end client = end_open(s->a), far = end_open(s->b);
	struct addr_port out = relay_local(r, RELAY_FAR, 0);
	static char big[60000], got[sizeof(big) + 1];
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&out, &sa);

	set_remotes(r, 0, &client, &far);
	memset(big, 'x', sizeof(big));
	assert_int_equal(sendto(far.fd, big, sizeof(big), 0, (struct sockaddr *)&sa, len),
			 sizeof(big));
	turns(s);
	assert_int_equal(recv(client.fd, got, sizeof(got), 0), sizeof(big));
	assert_memory_equal(got, big, sizeof(big));
	/* More than one batch, in order. */
	for (int i = 0; i < 100; i++) {
		snprintf(big, sizeof(big), "%d", i);
		end_send(&far, out, big);
	}
	for (int i = 0; i < 100; i++) {
		snprintf(big, sizeof(big), "%d", i);
		expect(s, &client, relay_local(r, RELAY_CLIENT, 0), big);
	}
	close(client.fd);
	close(far.fd);
	relay_free(r);
}

/* --- who is kept out ------------------------------------------------------ */

static void check_strangers(struct stage *s, struct addr local, struct addr elsewhere)
{
	struct relay *r = new_relay(s, local, local, 1);
	struct end client = end_open(local), far = end_open(local);
	struct end port = end_open(local), host = end_open(elsewhere);
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0), out = relay_local(r, RELAY_FAR, 0);

	set_remotes(r, 0, &client, &far);
	end_send(&port, in, "other port");
	end_send(&port, out, "other port");
	end_send(&host, in, "other host");
	end_send(&far, in, "other side");
	end_send(&client, out, "other side");
	expect_nothing(s, &client);
	expect_nothing(s, &far);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).packets, 0);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, 3);
	assert_int_equal(relay_stats(r, RELAY_FAR, 0).dropped, 2);
	/* Strangers change nothing for those who belong here. */
	end_send(&client, in, "mine");
	expect(s, &far, out, "mine");
	expect_nothing(s, &port);
	expect_nothing(s, &host);
	close(client.fd);
	close(far.fd);
	close(port.fd);
	close(host.fd);
	relay_free(r);
}

static void test_strangers(void **state)
{
	struct stage *s = *state;

	check_strangers(s, s->a, s->b);
	check_strangers(s, s->six, s->six);
}

/* The same port number on another host: the address must count on its own. */
static void test_stranger_with_the_port(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->a, 1);
	struct end far = end_open(s->a), stranger = end_open(s->b);
	struct addr_port claimed = {.addr = s->a, .port = stranger.me.port};
	struct addr_port beyond = {.addr = s->b, .port = far.me.port};
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0);

	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &claimed), 0);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &far.me), 0);
	end_send(&stranger, in, "same port");
	expect_nothing(s, &far);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, 1);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &beyond), 0);
	end_send(&far, relay_local(r, RELAY_FAR, 0), "same port");
	turns(s);
	assert_int_equal(relay_stats(r, RELAY_FAR, 0).packets, 0);
	close(far.fd);
	close(stranger.fd);
	relay_free(r);
}

/* Every word of an IPv6 address is compared: a remote that differs in one of them. */
static void test_stranger_by_one_word(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->six, s->a, 1);
	struct end client = end_open(s->six), far = end_open(s->a);

	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &far.me), 0);
	for (unsigned i = 0; i < 16; i += 4) {
		struct addr_port near = client.me;

		near.addr.b[i] ^= 0x40;
		assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &near), 0);
		end_send(&client, relay_local(r, RELAY_CLIENT, 0), "almost");
		expect_nothing(s, &far);
		assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, i / 4 + 1);
	}
	close(client.fd);
	close(far.fd);
	relay_free(r);
}

/* --- before it is open, and after ------------------------------------------ */

static void test_nothing_early(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 1);
	struct end client = end_open(s->a), far = end_open(s->b);
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0), out = relay_local(r, RELAY_FAR, 0);

	/* Without a turn of the loop in between: still in the socket if anywhere. */
	end_send(&client, in, "early");
	end_send(&far, out, "early");
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &client.me), 0);
	end_send(&client, in, "half");
	end_send(&far, out, "half");
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &far.me), 0);
	expect_nothing(s, &client);
	expect_nothing(s, &far);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, 2);
	assert_int_equal(relay_stats(r, RELAY_FAR, 0).dropped, 2);
	end_send(&client, in, "now");
	expect(s, &far, out, "now");
	end_send(&far, out, "now");
	expect(s, &client, in, "now");
	close(client.fd);
	close(far.fd);
	relay_free(r);
}

static void test_one_component_open(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 2);
	struct end client = end_open(s->a), far = end_open(s->b);

	set_remotes(r, 0, &client, &far);
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 1, &client.me), 0);
	end_send(&client, relay_local(r, RELAY_CLIENT, 1), "rtcp");
	expect_nothing(s, &far);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 1).dropped, 1);
	end_send(&client, relay_local(r, RELAY_CLIENT, 0), "rtp");
	expect(s, &far, relay_local(r, RELAY_FAR, 0), "rtp");
	close(client.fd);
	close(far.fd);
	relay_free(r);
}

static void test_remote_moves(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 1);
	struct end client = end_open(s->a), moved = end_open(s->a), far = end_open(s->b);
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0), out = relay_local(r, RELAY_FAR, 0);
	struct addr_port none = {0};

	set_remotes(r, 0, &client, &far);
	/* Queued for the old place, and from it: gone with the move. */
	end_send(&far, out, "old");
	end_send(&client, in, "old");
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &moved.me), 0);
	expect_nothing(s, &moved);
	expect_nothing(s, &client);
	expect_nothing(s, &far);
	assert_int_equal(relay_stats(r, RELAY_FAR, 0).dropped, 1);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, 1);
	end_send(&client, in, "still there");
	expect_nothing(s, &far);
	end_send(&far, out, "new");
	expect(s, &moved, in, "new");
	/* The same remote once more disturbs nothing. */
	end_send(&far, out, "kept");
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &moved.me), 0);
	expect(s, &moved, in, "kept");
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &none), 0);
	end_send(&far, out, "closed");
	end_send(&moved, in, "closed");
	expect_nothing(s, &moved);
	expect_nothing(s, &far);
	close(client.fd);
	close(moved.fd);
	close(far.fd);
	relay_free(r);
}

static void test_bad_remotes(void **state)
{
	static const char *const bad[] = {"0.0.0.0:5000", "224.1.2.3:5000", "255.255.255.255:5000",
					  "[::1]:5000", "127.0.0.1:0"};
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 1), *r2 = new_relay(s, s->a, s->b, 1);
	struct end client = end_open(s->a), far = end_open(s->b);
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0), ap;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		set_remotes(r, 0, &client, &far);
		assert_int_equal(addr_port_parse(span_str(bad[i]), &ap), 0);
		assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &ap), ERR_INVALID);
		/* The old permission does not outlive the attempt. */
		end_send(&client, in, "x");
		expect_nothing(s, &far);
	}
	/* Datagrams cannot be made to go round in circles. */
	ap = relay_local(r, RELAY_CLIENT, 0);
	assert_int_equal(relay_set_remote(r, RELAY_CLIENT, 0, &ap), ERR_INVALID);
	ap = relay_local(r2, RELAY_FAR, 0);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &ap), ERR_INVALID);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 1, &far.me), ERR_INVALID);
	close(client.fd);
	close(far.fd);
	relay_free(r);
	relay_free(r2);
}

/* An end that is not there (ICMP) or cannot be reached stops nothing. */
static void test_absent_end(void **state)
{
	struct stage *s = *state;
	struct relay *r = new_relay(s, s->a, s->b, 1);
	struct end client = end_open(s->a), far = end_open(s->b);
	struct addr_port in = relay_local(r, RELAY_CLIENT, 0), out = relay_local(r, RELAY_FAR, 0);

	set_remotes(r, 0, &client, &far);
	close(far.fd);
	for (int i = 0; i < 5; i++) {
		end_send(&client, in, "anybody there?");
		turns(s);
	}
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).packets, 5);
	/* A v4 loopback source cannot send there: EINVAL or ENETUNREACH for each. */
	far.me = (struct addr_port){.addr = text_addr("192.0.2.1"), .port = 9};
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &far.me), 0);
	for (int i = 0; i < 5; i++)
		end_send(&client, in, "lost");
	turns(s);
	assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).packets +
				 relay_stats(r, RELAY_CLIENT, 0).dropped,
			 10);
	far = end_open(s->b);
	assert_int_equal(relay_set_remote(r, RELAY_FAR, 0, &far.me), 0);
	end_send(&client, in, "back");
	expect(s, &far, out, "back");
	close(client.fd);
	close(far.fd);
	relay_free(r);
}

/* --- ports ---------------------------------------------------------------- */

static bool port_free(struct addr a, uint16_t port)
{
	struct addr_port ap = {.addr = a, .port = port};
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&ap, &sa);
	int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok = bind(fd, (struct sockaddr *)&sa, len) == 0;

	close(fd);
	return ok;
}

static void test_pairs(void **state)
{
	struct stage *s = *state;
	struct relay *r[20];

	for (unsigned i = 0; i < ARRAY_LEN(r); i++) {
		r[i] = new_relay(s, s->a, s->b, 2 - i % 2);
		for (unsigned side = 0; side < RELAY_SIDES; side++) {
			struct addr_port p = relay_local(r[i], side, 0);

			assert_true(addr_eq(&p.addr, side == RELAY_CLIENT ? &s->a : &s->b));
			assert_int_equal(p.port % 2, 0);
			assert_in_range(p.port, FIRST, FIRST + 998);
			assert_false(port_free(p.addr, p.port));
			if (i % 2 == 0)
				assert_int_equal(relay_local(r[i], side, 1).port, p.port + 1);
			else
				assert_int_equal(relay_local(r[i], side, 1).port, 0);
		}
	}
	for (unsigned i = 0; i < ARRAY_LEN(r); i++) {
		struct addr_port p = relay_local(r[i], RELAY_CLIENT, 0);

		relay_free(r[i]);
		assert_true(port_free(p.addr, p.port));
	}
}

static void test_cap(void **state)
{
	struct stage *s = *state;
	struct addr local[RELAY_SIDES] = {s->a, s->b};
	struct relay *r[20], *more = NULL;

	for (unsigned i = 0; i < ARRAY_LEN(r); i++)
		r[i] = new_relay(s, s->a, s->b, 1);
	assert_int_equal(relay_new(s->rs, local, 1, &more), ERR_LIMIT);
	assert_null(more);
	relay_free(r[3]);
	assert_int_equal(relays_count(s->rs), 19);
	r[3] = new_relay(s, s->a, s->b, 1);
	for (unsigned i = 0; i < ARRAY_LEN(r); i++)
		relay_free(r[i]);
	assert_int_equal(relays_count(s->rs), 0);
}

/* Odd limits leave out half pairs: three pairs are one relay and a half. */
static void test_exhaustion(void **state)
{
	struct stage *s = *state;
	struct relay_cfg cfg = {.ports = {FIRST + 1, FIRST + 8}, .max_relays = 20};
	struct addr local[RELAY_SIDES] = {s->a, s->b};
	struct relay *r, *more = NULL;

	assert_int_equal(relays_set_cfg(s->rs, &cfg), 0);
	for (int i = 0; i < 10; i++) {
		r = new_relay(s, s->a, s->b, 2);
		for (unsigned side = 0; side < RELAY_SIDES; side++)
			assert_in_range(relay_local(r, side, 0).port, FIRST + 2, FIRST + 6);
		assert_int_equal(relay_new(s->rs, local, 2, &more), ERR_AGAIN);
		assert_null(more);
		assert_int_equal(relays_count(s->rs), 1);
		relay_free(r);
	}
	for (uint16_t p = FIRST + 1; p <= FIRST + 8; p++) {
		assert_true(port_free(s->a, p));
		assert_true(port_free(s->b, p));
	}
}

/* Ports that another program holds are passed over, also half pairs. */
static void test_foreign_ports(void **state)
{
	struct stage *s = *state;
	struct relay_cfg cfg = {.ports = {FIRST, FIRST + 7}, .max_relays = 20};
	struct sockaddr_storage sa;
	int fd[2];

	for (unsigned i = 0; i < 2; i++) {
		struct addr_port ap = {.addr = s->a, .port = (uint16_t)(FIRST + 3 + 3 * i)};
		socklen_t len = addr_to_sockaddr(&ap, &sa);

		fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(fd[i], (struct sockaddr *)&sa, len), 0);
	}
	assert_int_equal(relays_set_cfg(s->rs, &cfg), 0);
	for (int i = 0; i < 20; i++) {
		struct relay *r = new_relay(s, s->a, s->a, 2);
		uint16_t one = relay_local(r, RELAY_CLIENT, 0).port;
		uint16_t two = relay_local(r, RELAY_FAR, 0).port;

		assert_true((one == FIRST && two == FIRST + 4) ||
			    (two == FIRST && one == FIRST + 4));
		assert_int_equal(relay_local(r, RELAY_CLIENT, 1).port, one + 1);
		relay_free(r);
	}
	close(fd[0]);
	close(fd[1]);
}

static void test_bad_wishes(void **state)
{
	struct stage *s = *state;
	static const char *const bad[] = {"0.0.0.0", "224.0.0.1", "::", "192.0.2.77"};
	struct relay_cfg none = {.ports = {FIRST + 1, FIRST + 2}, .max_relays = 1};
	struct addr local[RELAY_SIDES] = {s->a, s->b};
	struct relay *r = NULL;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		local[RELAY_FAR] = text_addr(bad[i]);
		assert_int_equal(relay_new(s->rs, local, 1, &r), ERR_INVALID);
	}
	local[RELAY_FAR] = addr_none;
	assert_int_equal(relay_new(s->rs, local, 1, &r), ERR_INVALID);
	local[RELAY_FAR] = s->b;
	assert_int_equal(relay_new(s->rs, local, 0, &r), ERR_INVALID);
	assert_int_equal(relay_new(s->rs, local, 3, &r), ERR_INVALID);
	assert_null(r);
	assert_int_equal(relays_count(s->rs), 0);
	assert_int_equal(relays_set_cfg(s->rs, &none), ERR_INVALID);
	assert_null(relays_new(s->loop, &none));
}

/* --- a second IPv6 address, in a network of our own ----------------------- */

/* As linux/ipv6.h, which does not go with netinet/in.h. */
struct address_request {
	struct in6_addr addr;
	uint32_t prefix_len;
	int ifindex;
};

static bool own_network(const char *const *addresses, size_t n)
{
	struct ifreq up = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING};
	bool ok;
	int fd;

	if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return false;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ok = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &up) == 0;
	for (size_t i = 0; ok && i < n; i++) {
		struct address_request r = {.prefix_len = 128, .ifindex = 1};
		struct addr a = text_addr(addresses[i]);

		memcpy(&r.addr, a.b, sizeof(r.addr));
		ok = ioctl(fd, SIOCSIFADDR, &r) == 0;
		/* The kernel makes it usable a moment later. */
		for (int k = 0; ok && k < 200 && !port_free(a, FIRST); k++)
			usleep(5000);
	}
	close(fd);
	return ok;
}

/* Each differs from the client in one word; the source counts, not the destination. */
static void test_strangers_ipv6(void **state)
{
	static const char *const hosts[] = {"fd01:0:0:1::1", "fd02:0:0:1::1", "fd01:0:0:2::1",
					    "fd01:0:0:1:1::1", "fd01:0:0:1::2"};
	struct stage *s = *state;
	struct end e[ARRAY_LEN(hosts)];
	struct relay *r;
	struct addr_port in, out;

	if (!own_network(hosts, ARRAY_LEN(hosts)))
		skip();
	r = new_relay(s, s->six, text_addr(hosts[4]), 1);
	in = relay_local(r, RELAY_CLIENT, 0);
	out = relay_local(r, RELAY_FAR, 0);
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
		e[i] = end_open(text_addr(hosts[i]));
	/* Equal ports, so that only the addresses tell them apart. */
	for (size_t i = 1; i < 4; i++) {
		close(e[i].fd);
		e[i] = end_open_at(text_addr(hosts[i]), e[0].me.port);
	}
	set_remotes(r, 0, &e[0], &e[4]);
	for (unsigned i = 1; i < 4; i++) {
		end_send(&e[i], in, "stranger");
		expect_nothing(s, &e[4]);
		assert_int_equal(relay_stats(r, RELAY_CLIENT, 0).dropped, i);
	}
	end_send(&e[0], in, "mine");
	expect(s, &e[4], out, "mine");
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
		close(e[i].fd);
	relay_free(r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_both_directions),
		TEST(test_between_ip_versions),
		TEST(test_large_and_many),
		TEST(test_strangers),
		TEST(test_stranger_with_the_port),
		TEST(test_stranger_by_one_word),
		TEST(test_nothing_early),
		TEST(test_one_component_open),
		TEST(test_remote_moves),
		TEST(test_bad_remotes),
		TEST(test_absent_end),
		TEST(test_pairs),
		TEST(test_cap),
		TEST(test_exhaustion),
		TEST(test_foreign_ports),
		TEST(test_bad_wishes),
		TEST(test_strangers_ipv6), /* the last: leaves the host's network */
	};

	return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
