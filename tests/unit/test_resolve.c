/*
 * The resolver against a small DNS server in the same loop, over UDP and TCP.
 * What the server does is in the first label of the name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/resolve.h"
#include "common/errcode.h"

#define TYPE_A 1
#define TYPE_AAAA 28
#define TCP_CONNS 4

struct stage {
	struct loop *loop;
	struct resolver *r;
	int udp, listener, conn[TCP_CONNS];
	struct loop_io *udp_io, *listen_io, *conn_io[TCP_CONNS];
	struct addr_port server;
	unsigned asked, asked_tcp;
	char last_name[256];
};

/* What a callback reported. */
struct result {
	unsigned calls;
	int err;
	size_t n;
	struct addr addrs[RESOLVER_MAX_ADDRS];
	struct stage *again; /* looks up once more from within the callback */
	struct resolver_query *cancel;
};

/* --- the server ----------------------------------------------------------- */

struct message {
	uint8_t b[4096];
	size_t n;
};

static void put(struct message *m, const void *p, size_t n)
{
	assert_true(m->n + n <= sizeof(m->b));
	memcpy(m->b + m->n, p, n);
	m->n += n;
}

static void put16(struct message *m, unsigned v)
{
	uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};

	put(m, b, 2);
}

static void put_record(struct message *m, unsigned type, unsigned ttl, const void *data, size_t n)
{
	put16(m, 0xc00c); /* the name of the question */
	put16(m, type);
	put16(m, 1);
	put16(m, ttl >> 16);
	put16(m, ttl & 0xffff);
	put16(m, (unsigned)n);
	put(m, data, n);
	m->b[7]++;
}

/* The name of the question in text form; the offset behind it. */
static size_t read_name(const uint8_t *q, size_t n, char *name, size_t room)
{
	size_t at = 12, to = 0;

	while (at < n && q[at] != 0) {
		size_t label = q[at++];

		assert_true(at + label < n && to + label + 2 <= room);
		memcpy(name + to, q + at, label);
		to += label;
		name[to++] = '.';
		at += label;
	}
	name[to > 0 ? to - 1 : 0] = '\0';
	return at + 1;
}

static bool starts(const char *name, const char *with)
{
	return strncmp(name, with, strlen(with)) == 0;
}

static void put_addresses(struct message *m, const char *name, unsigned type)
{
	static const uint8_t v4[4] = {192, 0, 2, 1};
	static const uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
	static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1};
	unsigned ttl = starts(name, "zero.") ? 0 : starts(name, "brief.") ? 1 : 60;
	unsigned n = starts(name, "many.") ? 20 : starts(name, "two.") ? 2 : 1;

	for (unsigned i = 0; i < n; i++) {
		uint8_t a[4] = {v4[0], v4[1], v4[2], (uint8_t)(i + 1)};

		if (type == TYPE_A && !starts(name, "six."))
			put_record(m, TYPE_A, ttl, a, 4);
		if (type == TYPE_A && starts(name, "two."))
			put_record(m, TYPE_A, ttl, a, 4); /* twice the same */
	}
	if (type != TYPE_AAAA || starts(name, "four."))
		return;
	if (starts(name, "mapped."))
		put_record(m, TYPE_AAAA, ttl, mapped, 16);
	else if (starts(name, "loop."))
		put_record(m, TYPE_AAAA, ttl, (const uint8_t[16]){[15] = 1}, 16);
	else
		put_record(m, TYPE_AAAA, ttl, v6, 16);
}

/* The answer to a question; nothing when m->n stays 0. */
static void answer(struct stage *s, const uint8_t *q, size_t n, bool tcp, struct message *m)
{
	char *name = s->last_name;
	size_t end = read_name(q, n, name, sizeof(s->last_name));
	unsigned type = (unsigned)q[end] << 8 | q[end + 1];

	s->asked++;
	if (starts(name, "mute."))
		return;
	put(m, q, end + 4);
	m->b[2] = 0x81;
	m->b[3] = 0x80;
	memset(m->b + 6, 0, 6);
	if (starts(name, "nx.")) {
		m->b[3] |= 3;
	} else if (starts(name, "fail.")) {
		m->b[3] |= 2;
	} else if (starts(name, "long.") && !tcp) {
		m->b[2] |= 2; /* TC: ask again over TCP */
	} else {
		put_addresses(m, name, type);
	}
	if (starts(name, "cut."))
		m->n -= 3;
	if (starts(name, "stub."))
		m->n = 7;
	if (starts(name, "wrongid."))
		m->b[0] ^= 0xff;
	if (starts(name, "other."))
		m->b[13] ^= 1; /* answers a question that nobody asked */
	if (starts(name, "noise."))
		for (size_t i = 12; i < m->n; i++)
			m->b[i] = (uint8_t)(i * 151);
}

static void on_udp(unsigned events, void *arg)
{
	struct stage *s = arg;
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	struct message m = {.n = 0};
	uint8_t q[512];
	ssize_t n = recvfrom(s->udp, q, sizeof(q), 0, (struct sockaddr *)&from, &len);

	(void)events;
	assert_true(n > 12);
	answer(s, q, (size_t)n, false, &m);
	if (m.n > 0)
		assert_int_equal(sendto(s->udp, m.b, m.n, 0, (struct sockaddr *)&from, len), m.n);
}

static void on_tcp(unsigned events, void *arg)
{
	struct stage *s = arg;
	struct message m = {.n = 2};
	uint8_t q[512];

	(void)events;
	for (unsigned i = 0; i < TCP_CONNS; i++) {
		struct message body = {.n = 0};
		ssize_t n = s->conn[i] < 0 ? -1 : recv(s->conn[i], q, sizeof(q), MSG_DONTWAIT);

		if (n == 0)
			loop_io_set(s->conn_io[i], 0);
		if (n <= 14)
			continue;
		s->asked_tcp++;
		answer(s, q + 2, (size_t)n - 2, true, &body);
		m.n = 0;
		put16(&m, (unsigned)body.n);
		put(&m, body.b, body.n);
		assert_int_equal(send(s->conn[i], m.b, m.n, 0), m.n);
	}
}

static void on_accept(unsigned events, void *arg)
{
	struct stage *s = arg;
	int fd = accept(s->listener, NULL, NULL);

	(void)events;
	for (unsigned i = 0; i < TCP_CONNS; i++) {
		if (s->conn[i] >= 0)
			continue;
		s->conn[i] = fd;
		s->conn_io[i] = loop_io_new(s->loop, fd, LOOP_READ, on_tcp, s);
		return;
	}
	close(fd);
}

/* One port for both: UDP first, TCP on the same number or try another. */
static int open_server(struct stage *s)
{
	for (int i = 0; i < 20; i++) {
		struct sockaddr_storage sa;
		struct addr_port any = {.addr = {4, {127, 0, 0, 1}}};
		socklen_t len = addr_to_sockaddr(&any, &sa);

		s->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bind(s->udp, (struct sockaddr *)&sa, len);
		getsockname(s->udp, (struct sockaddr *)&sa, &len);
		addr_from_sockaddr((struct sockaddr *)&sa, &s->server);
		if (bind(s->listener, (struct sockaddr *)&sa, len) == 0 &&
		    listen(s->listener, 8) == 0)
			return 0;
		close(s->udp);
		close(s->listener);
	}
	return -1;
}

static const struct resolver_limits limits = {
	.timeout_ms = 300,
	.max_lookups = 8,
	.max_waiting = 16,
	.max_cached = 4,
	.max_ttl = 300,
};

static int set_up(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));

	s->loop = loop_new();
	for (unsigned i = 0; i < TCP_CONNS; i++)
		s->conn[i] = -1;
	if (open_server(s) != 0)
		return -1;
	s->udp_io = loop_io_new(s->loop, s->udp, LOOP_READ, on_udp, s);
	s->listen_io = loop_io_new(s->loop, s->listener, LOOP_READ, on_accept, s);
	s->r = resolver_new_limited(s->loop, &s->server, 1, &limits);
	*state = s;
	return s->r == NULL;
}

static int tear_down(void **state)
{
	struct stage *s = *state;

	resolver_free(s->r);
	for (unsigned i = 0; i < TCP_CONNS; i++) {
		loop_io_free(s->conn_io[i]);
		if (s->conn[i] >= 0)
			close(s->conn[i]);
	}
	loop_io_free(s->udp_io);
	loop_io_free(s->listen_io);
	close(s->udp);
	close(s->listener);
	loop_free(s->loop);
	free(s);
	return 0;
}

/* --- asking --------------------------------------------------------------- */

static void on_result(int err, const struct addr *addrs, size_t n, void *arg)
{
	struct result *res = arg;

	res->calls++;
	res->err = err;
	res->n = n;
	if (n > 0)
		memcpy(res->addrs, addrs, n * sizeof(addrs[0]));
	assert_true(err == 0 ? n > 0 : n == 0);
	resolver_cancel(res->cancel);
	res->cancel = NULL;
	if (res->again != NULL) {
		struct stage *s = res->again;

		res->again = NULL;
		assert_non_null(resolver_lookup(s->r, "198.51.100.1", 0, on_result, res));
	}
}

static struct resolver_query *start(struct stage *s, const char *name, uint8_t version,
				    struct result *res)
{
	struct resolver_query *q;

	q = resolver_lookup(s->r, name, version, on_result, res);
	assert_non_null(q);
	assert_int_equal(res->calls, 0);
	return q;
}

static void finish(struct stage *s, struct result *res)
{
	uint64_t until = loop_now_ms(s->loop) + 3000;

	while (res->calls == 0 && loop_now_ms(s->loop) < until)
		loop_run_once(s->loop, 20);
	assert_int_equal(res->calls, 1);
}

static struct result look_up(struct stage *s, const char *name, uint8_t version)
{
	struct result res = {0};

	start(s, name, version, &res);
	finish(s, &res);
	return res;
}

static void check(struct stage *s, const char *name, uint8_t version, const char *expected)
{
	struct result res = look_up(s, name, version);
	char text[ADDR_STRLEN], all[RESOLVER_MAX_ADDRS * ADDR_STRLEN];
	size_t to = 0;

	assert_int_equal(res.err, 0);
	for (size_t i = 0; i < res.n; i++)
		to += (size_t)snprintf(all + to, sizeof(all) - to, "%s%s", i > 0 ? " " : "",
				       addr_str(&res.addrs[i], text));
	assert_string_equal(all, expected);
}

static void check_fails(struct stage *s, const char *name, uint8_t version, int err)
{
	struct result res = look_up(s, name, version);

	assert_int_equal(res.err, err);
}

static void test_a_and_aaaa(void **state)
{
	struct stage *s = *state;

	check(s, "camera.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 1);
	check(s, "camera.test", 6, "2001:db8::1");
	assert_int_equal(s->asked, 2);
	check(s, "two.test", 4, "192.0.2.1 192.0.2.2");
	check(s, "four.test", 0, "192.0.2.1");
	check(s, "six.test", 0, "2001:db8::1");
	check_fails(s, "four.test", 6, ERR_NOENT);
	check_fails(s, "six.test", 4, ERR_NOENT);
}

/* The loopback has a route on every host; the order of arrival does not matter. */
static void test_both_versions(void **state)
{
	struct stage *s = *state;
	struct result res = look_up(s, "camera.test", 0);

	assert_int_equal(res.err, 0);
	assert_int_equal(res.n, 2);
	assert_int_equal(res.addrs[0].version + res.addrs[1].version, 10);
	check(s, "loop.test", 0, "::1 192.0.2.1");
}

static void test_capped_answer(void **state)
{
	struct stage *s = *state;
	struct result res = look_up(s, "many.test", 4);

	assert_int_equal(res.err, 0);
	assert_int_equal(res.n, RESOLVER_MAX_ADDRS);
}

/* An IPv4 address in an AAAA record is neither IPv6 nor a way around rules for IPv4. */
static void test_mapped(void **state)
{
	struct stage *s = *state;

	check_fails(s, "mapped.test", 6, ERR_NOENT);
	check(s, "mapped.test", 0, "192.0.2.1");
}

static void test_no_such_name(void **state)
{
	struct stage *s = *state;

	check_fails(s, "nx.test", 4, ERR_NOENT);
	check_fails(s, "nx.test", 0, ERR_NOENT);
	assert_int_equal(s->asked, 3);
}

/* Given servers are asked for the name as it is, whatever the host's search list. */
static void test_no_search_list(void **state)
{
	struct stage *s = *state;

	resolver_free(s->r);
	setenv("LOCALDOMAIN", "search.example", 1);
	s->r = resolver_new_limited(s->loop, &s->server, 1, &limits);
	unsetenv("LOCALDOMAIN");
	check_fails(s, "nx.test", 4, ERR_NOENT);
	assert_int_equal(s->asked, 1);
	assert_string_equal(s->last_name, "nx.test");
}

static void test_numeric(void **state)
{
	struct stage *s = *state;

	check(s, "192.0.2.9", 0, "192.0.2.9");
	check(s, "192.0.2.9", 4, "192.0.2.9");
	check_fails(s, "192.0.2.9", 6, ERR_NOENT);
	check(s, "2001:db8::9", 6, "2001:db8::9");
	check_fails(s, "2001:db8::9", 4, ERR_NOENT);
	check(s, "::ffff:192.0.2.9", 0, "192.0.2.9");
	assert_int_equal(s->asked, 0);
}

static void test_hosts_file(void **state)
{
	struct stage *s = *state;

	check(s, "localhost", 4, "127.0.0.1");
	check(s, "LocalHost", 4, "127.0.0.1");
	assert_int_equal(s->asked, 0);
}

/* A name that only this host's file knows; not every host has one. */
static bool own_name(char *addr, char *name, size_t room)
{
	FILE *f = fopen("/etc/hosts", "r");
	char line[256], *a, *b, *rest;
	bool found = false;

	while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
		a = strtok_r(line, " \t\n", &rest);
		b = a != NULL && a[0] != '#' ? strtok_r(NULL, " \t\n", &rest) : NULL;
		if (b == NULL || b[0] == '#' || strstr(b, "local") != NULL ||
		    strstr(a, "127.") != a)
			continue;
		snprintf(addr, room, "%s", a);
		snprintf(name, room, "%s", b);
		found = true;
	}
	if (f != NULL)
		fclose(f);
	return found;
}

static void test_own_name(void **state)
{
	struct stage *s = *state;
	char addr[128], name[128], text[ADDR_STRLEN];
	struct result res;
	bool found = false;

	if (!own_name(addr, name, sizeof(name)))
		skip();
	res = look_up(s, name, 4);
	assert_int_equal(res.err, 0);
	for (size_t i = 0; i < res.n; i++)
		found = found || strcmp(addr_str(&res.addrs[i], text), addr) == 0;
	assert_true(found);
	assert_int_equal(s->asked, 0);
}

static void test_names(void **state)
{
	static const char *const bad[] = {
		"",	     ".",	   "a..test",
		".test",     "a.test..",   "-a.test",
		"a-.test",   "a b.test",   "a/b.test",
		"a@b.test",  "a\n.test",   "caf\xc3\xa9.test",
		"[::1]",     "127.1",	   "10.0.0.256",
		"1.2.3.4.5", "2130706433", "99999999999999999999999999",
		"*.test",    "a%25.test",
	};
	struct stage *s = *state;
	char text[300];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		check_fails(s, bad[i], 0, ERR_INVALID);
	check_fails(s, "camera.test", 5, ERR_INVALID);
	memset(text, 'a', sizeof(text));
	snprintf(text + 64, sizeof(text) - 64, ".test");
	check_fails(s, text, 4, ERR_INVALID);
	memset(text, 'a', 64);
	for (size_t i = 63; i < 254; i += 64)
		text[i] = '.';
	text[254] = '\0';
	memset(text + 192, 'a', 62);
	check_fails(s, text, 4, ERR_INVALID);
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	check_fails(s, text, 4, ERR_INVALID);
	assert_int_equal(s->asked, 0);
	/* The longest there is, and what devices really call themselves. */
	memset(text, 'a', 254);
	for (size_t i = 63; i < 254; i += 64)
		text[i] = '.';
	memset(text + 192, 'a', 61);
	text[253] = '\0';
	check(s, text, 4, "192.0.2.1");
	check(s, "Door_Cam-1.test", 4, "192.0.2.1");
	check(s, "camera.test.", 4, "192.0.2.1");
	check(s, "1.test", 4, "192.0.2.1");
	check(s, "1.2.3.4.in-addr.arpa", 4, "192.0.2.1");
}

/* --- servers that fail ---------------------------------------------------- */

static void test_timeout(void **state)
{
	struct stage *s = *state;
	uint64_t begin = loop_now_ms(s->loop), took;

	check_fails(s, "mute.test", 4, ERR_TIMEOUT);
	took = loop_now_ms(s->loop) - begin;
	assert_in_range(took, 200, 2000);
	assert_in_range(s->asked, 2, 4); /* UDP may lose a question */
}

/* Ours is the limit however often, and whatever, c-ares tries. */
static void test_timeout_of_many_servers(void **state)
{
	struct stage *s = *state;
	struct addr_port servers[4] = {s->server, s->server, s->server, s->server};
	uint64_t begin = loop_now_ms(s->loop);

	resolver_free(s->r);
	s->r = resolver_new_limited(s->loop, servers, 4, &limits);
	check_fails(s, "mute.test", 4, ERR_TIMEOUT);
	assert_in_range(loop_now_ms(s->loop) - begin, 300, 900);
}

static void test_bad_answers(void **state)
{
	struct stage *s = *state;

	check_fails(s, "cut.test", 4, ERR_MALFORMED);
	check_fails(s, "wrongid.test", 4, ERR_TIMEOUT);
	check_fails(s, "other.test", 4, ERR_TIMEOUT);
	check_fails(s, "stub.test", 4, ERR_TIMEOUT);
	check_fails(s, "noise.test", 4, ERR_TIMEOUT);
	check_fails(s, "fail.test", 4, ERR_UNREACHABLE);
	check(s, "camera.test", 4, "192.0.2.1");
}

static void test_truncated_goes_on_over_tcp(void **state)
{
	struct stage *s = *state;

	check(s, "long.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 2);
	assert_int_equal(s->asked_tcp, 1);
}

static void test_no_server(void **state)
{
	struct stage *s = *state;
	struct result res;

	loop_io_free(s->udp_io);
	s->udp_io = NULL;
	close(s->udp);
	s->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	res = look_up(s, "camera.test", 4);
	assert_true(res.err == ERR_UNREACHABLE || res.err == ERR_TIMEOUT);
}

/* The second server helps when the first does not answer. */
static void test_second_server(void **state)
{
	struct stage *s = *state;
	struct addr_port servers[2] = {s->server, s->server};
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int deaf = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct addr_port any = {.addr = {4, {127, 0, 0, 1}}};

	assert_int_equal(bind(deaf, (struct sockaddr *)&sa, addr_to_sockaddr(&any, &sa)), 0);
	getsockname(deaf, (struct sockaddr *)&sa, &len);
	addr_from_sockaddr((struct sockaddr *)&sa, &servers[0]);
	resolver_free(s->r);
	s->r = resolver_new_limited(s->loop, servers, 2, &limits);
	check(s, "camera.test", 4, "192.0.2.1");
	close(deaf);
}

/* --- cache, coalescing, limits -------------------------------------------- */

static void test_cache(void **state)
{
	struct stage *s = *state;

	check(s, "camera.test", 4, "192.0.2.1");
	check(s, "CAMERA.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 1);
	check(s, "zero.test", 4, "192.0.2.1");
	check(s, "zero.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 3);
	check(s, "brief.test", 4, "192.0.2.1");
	check(s, "brief.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 4);
	usleep(1100 * 1000);
	check(s, "brief.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 5);
	check_fails(s, "nx.test", 4, ERR_NOENT);
	check_fails(s, "nx.test", 4, ERR_NOENT);
	assert_int_equal(s->asked, 7);
}

static void test_max_ttl(void **state)
{
	struct stage *s = *state;
	struct resolver_limits none = limits;

	none.max_ttl = 0;
	resolver_free(s->r);
	s->r = resolver_new_limited(s->loop, &s->server, 1, &none);
	check(s, "camera.test", 4, "192.0.2.1");
	check(s, "camera.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 2);
}

/* Four fit; a fifth drives the oldest out. */
static void test_cache_is_capped(void **state)
{
	static const char *const names[] = {"a.test", "b.test", "c.test", "d.test", "e.test"};
	struct stage *s = *state;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		check(s, names[i], 4, "192.0.2.1");
	assert_int_equal(s->asked, 5);
	check(s, "b.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 5);
	check(s, "a.test", 4, "192.0.2.1");
	assert_int_equal(s->asked, 6);
}

static void test_equal_questions_are_one(void **state)
{
	struct stage *s = *state;
	struct result res[5] = {{0}};

	for (unsigned i = 0; i < 5; i++)
		start(s, i % 2 ? "zero.test" : "ZERO.test", 4, &res[i]);
	for (unsigned i = 0; i < 5; i++) {
		finish(s, &res[i]);
		assert_int_equal(res[i].err, 0);
	}
	assert_int_equal(s->asked, 1);
}

static void test_limits(void **state)
{
	struct stage *s = *state;
	struct result res[17] = {{0}}, more = {0};
	char name[32];

	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "mute.n%u.test", i);
		start(s, name, 4, &res[i]);
	}
	start(s, "camera.test", 4, &more);
	finish(s, &more);
	assert_int_equal(more.err, ERR_LIMIT);
	for (unsigned i = 8; i < 16; i++)
		start(s, "mute.n0.test", 4, &res[i]);
	start(s, "mute.n0.test", 4, &res[16]);
	finish(s, &res[16]);
	assert_int_equal(res[16].err, ERR_LIMIT);
	check(s, "192.0.2.1", 4, "192.0.2.1");
	for (unsigned i = 0; i < 16; i++) {
		finish(s, &res[i]);
		assert_int_equal(res[i].err, ERR_TIMEOUT);
	}
	check(s, "camera.test", 4, "192.0.2.1");
}

/* Questions whose callers have gone are still out: they keep their place. */
static void test_cancelled_questions_count(void **state)
{
	struct stage *s = *state;
	struct result none = {0};
	char name[32];

	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "mute.n%u.test", i);
		resolver_cancel(start(s, name, 4, &none));
	}
	check_fails(s, "camera.test", 4, ERR_LIMIT);
}

/* --- cancelling ----------------------------------------------------------- */

static void run_ms(struct stage *s, uint64_t ms)
{
	uint64_t until = loop_now_ms(s->loop) + ms;

	while (loop_now_ms(s->loop) < until)
		loop_run_once(s->loop, 10);
}

static void test_cancel(void **state)
{
	struct stage *s = *state;
	struct result res[4] = {{0}};
	struct resolver_query *q[4];

	q[0] = start(s, "camera.test", 4, &res[0]);
	q[1] = start(s, "camera.test", 4, &res[1]);
	q[2] = start(s, "192.0.2.1", 4, &res[2]);
	q[3] = start(s, "mute.test", 4, &res[3]);
	resolver_cancel(q[0]);
	resolver_cancel(q[2]);
	resolver_cancel(q[3]);
	resolver_cancel(NULL);
	finish(s, &res[1]);
	run_ms(s, 400);
	assert_int_equal(res[0].calls + res[2].calls + res[3].calls, 0);
	assert_int_equal(res[1].calls, 1);
}

/* A callback cancels its neighbour that is about to be told, and asks again. */
static void test_callbacks_may_ask_and_cancel(void **state)
{
	struct stage *s = *state;
	struct result res[2] = {{0}};

	start(s, "192.0.2.1", 4, &res[0]);
	res[0].cancel = start(s, "192.0.2.2", 4, &res[1]);
	res[0].again = s;
	run_ms(s, 50);
	assert_int_equal(res[0].calls, 2);
	assert_int_equal(res[1].calls, 0);
}

static void test_free_with_everything_out(void **state)
{
	struct stage *s = *state;
	struct result res[3] = {{0}};

	start(s, "mute.test", 0, &res[0]);
	start(s, "long.test", 4, &res[1]);
	start(s, "192.0.2.1", 4, &res[2]);
	loop_run_once(s->loop, 0);
	start(s, "192.0.2.1", 4, &(struct result){0});
	resolver_free(s->r);
	s->r = NULL;
	run_ms(s, 50);
	assert_int_equal(res[0].calls + res[1].calls, 0);
}

/* Whatever the host's own configuration says, a resolver can be made from it. */
static void test_host_configuration(void **state)
{
	struct stage *s = *state;
	struct addr_port many[RESOLVER_MAX_SERVERS + 1] = {{.port = 53}};

	resolver_free(s->r);
	s->r = resolver_new(s->loop, NULL, 0);
	assert_non_null(s->r);
	check(s, "localhost", 4, "127.0.0.1");
	assert_null(resolver_new(s->loop, many, RESOLVER_MAX_SERVERS + 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_and_aaaa),
		TEST(test_both_versions),
		TEST(test_capped_answer),
		TEST(test_mapped),
		TEST(test_no_such_name),
		TEST(test_no_search_list),
		TEST(test_numeric),
		TEST(test_hosts_file),
		TEST(test_own_name),
		TEST(test_names),
		TEST(test_timeout),
		TEST(test_timeout_of_many_servers),
		TEST(test_bad_answers),
		TEST(test_truncated_goes_on_over_tcp),
		TEST(test_no_server),
		TEST(test_second_server),
		TEST(test_cache),
		TEST(test_max_ttl),
		TEST(test_cache_is_capped),
		TEST(test_equal_questions_are_one),
		TEST(test_limits),
		TEST(test_cancelled_questions_count),
		TEST(test_cancel),
		TEST(test_callbacks_may_ask_and_cancel),
		TEST(test_free_with_everything_out),
		TEST(test_host_configuration),
	};

	return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
