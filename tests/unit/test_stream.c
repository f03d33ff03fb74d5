/*
 * Streams over loopback: order, bounds, half-close, life time, listeners.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/stream.h"

/* One end of a connection and what happened to it. */
struct end {
	struct stream *s;
	struct buf in;
	unsigned ready, data, drained, ends;
	int err;
	size_t keep; /* octets that stay unconsumed */
	bool free_in_ready, free_in_data, free_in_end, close_in_data;
	struct span answer; /* written before close_in_data */
};

struct world {
	struct loop *loop;
	struct stream_listener *listener;
	struct addr_port at;
	struct end client, server;
	struct stream_opts server_opts;
	unsigned accepted;
	bool refuse; /* close what is accepted */
	int raw;     /* keep the accepted descriptor here instead of a stream */
	bool keep_raw;
};

static void on_ready(struct stream *s, void *arg)
{
	struct end *e = arg;

	assert_true(e->s == NULL || e->s == s);
	e->ready++;
	if (e->free_in_ready) {
		stream_free(s);
		e->s = NULL;
	}
}

static size_t on_data(struct stream *s, struct span in, void *arg)
{
	struct end *e = arg;
	size_t use = in.n > e->keep ? in.n - e->keep : 0;

	assert_int_equal(e->ends, 0);
	e->data++;
	if (e->free_in_data) {
		stream_free(s);
		e->s = NULL;
	}
	if (e->close_in_data) {
		stream_write(s, e->answer);
		stream_close(s, 1000);
		e->s = NULL;
	}
	/* The octets must still be there after the stream was given up. */
	assert_int_equal(buf_append(&e->in, in.p, use), 0);
	return use;
}

static void on_drained(struct stream *s, void *arg)
{
	struct end *e = arg;

	(void)s;
	e->drained++;
}

static void on_end(struct stream *s, int err, void *arg)
{
	struct end *e = arg;

	e->ends++;
	e->err = err;
	if (e->free_in_end) {
		stream_free(s);
		e->s = NULL;
	}
}

static const struct stream_ops ops = {on_ready, on_data, on_drained, on_end};

static void on_accept(int fd, const struct addr_port *peer, void *arg)
{
	struct world *w = arg;

	assert_true(addr_is_loopback(&peer->addr));
	w->accepted++;
	if (w->keep_raw) {
		w->raw = fd;
	} else if (w->refuse || w->server.s != NULL) {
		close(fd);
	} else {
		w->server.s = stream_adopt(w->loop, fd, &w->server_opts, &ops, &w->server);
		assert_non_null(w->server.s);
		assert_int_equal(w->server.ready, 0);
	}
}

static struct addr_port loopback(uint8_t version)
{
	struct addr_port ap = {.port = 0};

	assert_int_equal(addr_parse(span_str(version == 4 ? "127.0.0.1" : "::1"), &ap.addr), 0);
	return ap;
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct addr_port at = loopback(4);
	int err;

	w->raw = -1;
	w->loop = loop_new();
	buf_init(&w->client.in, 16u << 20);
	buf_init(&w->server.in, 16u << 20);
	w->listener = stream_listen(w->loop, &at, false, on_accept, w, &err);
	if (w->listener == NULL)
		return -1;
	w->at = stream_listener_local(w->listener);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	stream_free(w->client.s);
	stream_free(w->server.s);
	stream_listener_free(w->listener);
	if (w->raw >= 0)
		close(w->raw);
	loop_free(w->loop);
	buf_fini(&w->client.in);
	buf_fini(&w->server.in);
	free(w);
	return 0;
}

/* Runs turns until the condition holds, or fails after 5 s. */
#define RUN_UNTIL(w, condition)                                                                    \
	do {                                                                                       \
		uint64_t start_ = loop_now_ms((w)->loop);                                          \
		while (!(condition)) {                                                             \
			assert_true(loop_now_ms((w)->loop) < start_ + 5000);                       \
			loop_run_once((w)->loop, 50);                                              \
		}                                                                                  \
	} while (0)

static void run_for(struct world *w, uint64_t ms)
{
	uint64_t start = loop_now_ms(w->loop);

	while (loop_now_ms(w->loop) < start + ms)
		loop_run_once(w->loop, 10);
}

static void connect_both(struct world *w, const struct stream_opts *opts)
{
	int err = -1;

	w->client.s = stream_connect(w->loop, &w->at, opts, &ops, &w->client, &err);
	assert_non_null(w->client.s);
	assert_int_equal(err, 0);
	assert_int_equal(w->client.ready, 0);
	RUN_UNTIL(w, w->client.ready == 1 && w->server.ready == 1);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_echo(void **state)
{
	struct world *w = *state;
	struct addr_port a, b;

	connect_both(w, NULL);
	assert_int_equal(stream_write(w->client.s, span_str("hello")), 0);
	RUN_UNTIL(w, w->server.in.len == 5);
	assert_true(span_eq_str(buf_span(&w->server.in), "hello"));
	assert_int_equal(stream_write(w->server.s, span_str("world!")), 0);
	RUN_UNTIL(w, w->client.in.len == 6);
	a = stream_local(w->client.s);
	b = stream_peer(w->server.s);
	assert_true(addr_port_eq(&a, &b));
	a = stream_peer(w->client.s);
	assert_true(addr_port_eq(&a, &w->at));
	assert_null(stream_tls(w->client.s));
	assert_int_equal(w->client.ready, 1);
	assert_true(w->client.drained >= 1);
}

static void test_write_before_ready(void **state)
{
	struct world *w = *state;
	int err;

	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	assert_int_equal(stream_write(w->client.s, span_str("early")), 0);
	assert_int_equal(stream_queued(w->client.s), 5);
	RUN_UNTIL(w, w->server.in.len == 5);
	assert_int_equal(stream_queued(w->client.s), 0);
}

static void test_rest_is_offered_again(void **state)
{
	struct world *w = *state;

	connect_both(w, NULL);
	w->server.keep = 3;
	stream_write(w->client.s, span_str("abcde"));
	RUN_UNTIL(w, w->server.in.len == 2);
	run_for(w, 30);
	assert_int_equal(w->server.data, 1);
	stream_write(w->client.s, span_str("f"));
	RUN_UNTIL(w, w->server.in.len == 3);
	assert_true(span_eq_str(buf_span(&w->server.in), "abc"));
}

static void test_pause_and_resume(void **state)
{
	struct world *w = *state;

	connect_both(w, NULL);
	stream_pause(w->server.s);
	stream_write(w->client.s, span_str("abc"));
	run_for(w, 50);
	assert_int_equal(w->server.data, 0);
	stream_resume(w->server.s);
	assert_int_equal(w->server.data, 0); /* never from inside the call */
	RUN_UNTIL(w, w->server.in.len == 3);
}

static void test_end_after_data_while_paused(void **state)
{
	struct world *w = *state;

	connect_both(w, NULL);
	stream_pause(w->server.s);
	stream_write(w->client.s, span_str("last words"));
	stream_close(w->client.s, 1000);
	w->client.s = NULL;
	run_for(w, 50);
	assert_int_equal(w->server.ends, 0);
	stream_resume(w->server.s);
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.in.len, 10);
	assert_int_equal(w->server.err, ERR_CLOSED);
	/* It may still read: stream_close() would send that. */
	assert_int_equal(stream_write(w->server.s, span_str("x")), 0);
	run_for(w, 30);
	assert_int_equal(w->server.ends, 1);
}

static void test_end_while_paused_and_empty(void **state)
{
	struct world *w = *state;

	connect_both(w, NULL);
	stream_pause(w->server.s);
	stream_free(w->client.s);
	w->client.s = NULL;
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.err, ERR_CLOSED);
}

static void test_reading_is_bounded(void **state)
{
	struct world *w = *state;
	static char block[65536];
	size_t sent = 0;
	uint64_t start;

	w->server_opts.read_max = 10000;
	connect_both(w, NULL);
	stream_pause(w->server.s);
	for (int i = 0; i < 400; i++) {
		if (stream_write(w->client.s, span_of(block, sizeof(block))) == 0)
			sent += sizeof(block);
		loop_run_once(w->loop, 1);
	}
	/* Only socket buffers took the rest, and then the writer was stopped. */
	assert_true(stream_queued(w->client.s) > 0);
	assert_int_equal(w->server.data, 0);
	/* Nothing moves, so the loop must sleep. */
	run_for(w, 50);
	start = loop_now_ms(w->loop);
	loop_run_once(w->loop, 50);
	assert_true(loop_now_ms(w->loop) >= start + 40);
	stream_resume(w->server.s);
	RUN_UNTIL(w, w->server.in.len == sent);
	assert_true(w->server.data >= sent / 10000);
	assert_true(w->client.drained > 0);
}

static void test_writing_is_bounded(void **state)
{
	struct world *w = *state;
	struct stream_opts opts = {.write_max = 100};
	char block[101] = {0};

	connect_both(w, &opts);
	assert_int_equal(stream_write(w->client.s, span_of(block, 101)), ERR_TOOBIG);
	assert_int_equal(stream_queued(w->client.s), 0);
	assert_int_equal(stream_write(w->client.s, span_of(block, 60)), 0);
	assert_int_equal(stream_write(w->client.s, span_of(block, 41)), ERR_TOOBIG);
	assert_int_equal(stream_write(w->client.s, span_of(block, 40)), 0);
	RUN_UNTIL(w, w->server.in.len == 100);
}

static void test_free_in_callbacks(void **state)
{
	struct world *w = *state;
	unsigned before = open_fds();
	int err;

	w->client.free_in_ready = true;
	w->server.free_in_end = true;
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	RUN_UNTIL(w, w->server.ends == 1 && w->client.s == NULL);
	assert_null(w->server.s);

	w->client.free_in_ready = false;
	w->server = (struct end){.in = w->server.in, .free_in_data = true};
	w->client = (struct end){.in = w->client.in, .free_in_end = true};
	connect_both(w, NULL);
	stream_write(w->client.s, span_str("die"));
	RUN_UNTIL(w, w->client.ends == 1);
	assert_true(span_eq_str(buf_span(&w->server.in), "die"));
	loop_run_once(w->loop, 0);
	assert_int_equal(open_fds(), before);
}

static void test_close_sends_the_rest(void **state)
{
	struct world *w = *state;
	static char block[200000];
	unsigned before = open_fds();

	connect_both(w, NULL);
	w->client.free_in_end = true;
	assert_int_equal(stream_write(w->server.s, span_of(block, sizeof(block))), 0);
	stream_close(w->server.s, 2000);
	w->server.s = NULL;
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.err, ERR_CLOSED);
	assert_int_equal(w->client.in.len, sizeof(block));
	assert_int_equal(w->server.ends, 0);
	RUN_UNTIL(w, open_fds() == before);
}

/* The answer must arrive although the closer never read the rest of the input. */
static void test_close_does_not_reset(void **state)
{
	struct world *w = *state;
	static char block[200000];

	connect_both(w, NULL);
	w->server.close_in_data = true;
	w->server.answer = span_str("go away");
	stream_write(w->client.s, span_of(block, sizeof(block)));
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.err, ERR_CLOSED);
	assert_true(span_eq_str(buf_span(&w->client.in), "go away"));
	assert_int_equal(w->server.data, 1);
}

static void test_linger_is_bounded(void **state)
{
	struct world *w = *state;
	static char block[65536];
	unsigned before;
	int err;

	w->keep_raw = true; /* a peer that never reads */
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	RUN_UNTIL(w, w->client.ready == 1 && w->raw >= 0);
	before = open_fds();
	for (int i = 0; i < 300; i++) {
		stream_write(w->client.s, span_of(block, sizeof(block)));
		loop_run_once(w->loop, 0);
	}
	assert_true(stream_queued(w->client.s) > 0);
	stream_close(w->client.s, 50);
	w->client.s = NULL;
	RUN_UNTIL(w, open_fds() == before - 1);
}

/* What still lingers when the loop goes must go, too (seen by leak checkers). */
static void test_linger_ends_with_the_loop(void **state)
{
	struct world *w = *state;

	connect_both(w, NULL);
	stream_close(w->client.s, 60000);
	w->client.s = NULL;
}

static void test_refused(void **state)
{
	struct world *w = *state;
	int err = 0;

	stream_listener_free(w->listener);
	w->listener = NULL;
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	if (w->client.s == NULL) {
		assert_int_equal(err, ERR_REFUSED);
		return;
	}
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.err, ERR_REFUSED);
	assert_int_equal(w->client.ready, 0);
}

static void test_connect_times_out(void **state)
{
	struct world *w = *state;
	struct stream_opts opts = {.connect_timeout_ms = 60};
	struct addr_port at = loopback(4);
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&at, &ss);
	struct stream *s[4];
	int err, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* A full backlog drops the handshake, so connecting hangs. */
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(listen(fd, 0), 0);
	len = sizeof(ss);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
	assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, &at), 0);
	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		s[i] = stream_connect(w->loop, &at, &opts, &ops, &w->client, &err);
		assert_non_null(s[i]);
		run_for(w, 5);
		w->client.s = NULL;
	}
	RUN_UNTIL(w, w->client.ends > 0);
	assert_int_equal(w->client.err, ERR_TIMEOUT);
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		stream_free(s[i]);
	close(fd);
}

static void test_reset(void **state)
{
	struct world *w = *state;
	struct linger now = {.l_onoff = 1, .l_linger = 0};
	int err;

	w->keep_raw = true;
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	RUN_UNTIL(w, w->client.ready == 1 && w->raw >= 0);
	stream_pause(w->client.s);
	setsockopt(w->raw, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(w->raw);
	w->raw = -1;
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.err, ERR_REFUSED);
}

static void test_half_close(void **state)
{
	struct world *w = *state;
	char got[16];
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&w->at, &ss);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	w->server.close_in_data = true;
	w->server.answer = span_str("answer");
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(write(fd, "question", 8), 8);
	shutdown(fd, SHUT_WR);
	RUN_UNTIL(w, w->server.in.len == 8);
	run_for(w, 20);
	assert_int_equal(read(fd, got, sizeof(got)), 6);
	assert_int_equal(read(fd, got, sizeof(got)), 0);
	close(fd);
}

static void test_local_address(void **state)
{
	struct world *w = *state;
	struct stream_opts opts = {.from = loopback(4)};
	struct addr_port peer;

	opts.from.addr.b[3] = 77;
	connect_both(w, &opts);
	peer = stream_peer(w->server.s);
	assert_true(addr_eq(&peer.addr, &opts.from.addr));
	assert_true(peer.port != 0);
}

static void test_foreign_address_needs_transparent(void **state)
{
	struct world *w = *state;
	struct stream_opts opts = {.from = loopback(4)};
	int err = 0;

	assert_int_equal(addr_parse(span_str("192.0.2.77"), &opts.from.addr), 0);
	w->client.s = stream_connect(w->loop, &w->at, &opts, &ops, &w->client, &err);
	assert_null(w->client.s);
	assert_int_equal(err, ERR_INVALID);
}

static void test_ipv6(void **state)
{
	struct world *w = *state;
	struct addr_port at = loopback(6);
	int err;

	stream_listener_free(w->listener);
	w->listener = stream_listen(w->loop, &at, false, on_accept, w, &err);
	if (w->listener == NULL) {
		print_message("# this host has no IPv6\n");
		return;
	}
	w->at = stream_listener_local(w->listener);
	connect_both(w, NULL);
	assert_int_equal(stream_peer(w->server.s).addr.version, 6);
}

static void test_original_dst_of_a_direct_connection(void **state)
{
	struct world *w = *state;
	struct addr_port any = w->at, other = w->at, dst;

	connect_both(w, NULL);
	memset(any.addr.b, 0, 16);
	other.port = 1;
	assert_int_equal(stream_original_dst(w->server.s, &w->at, &dst), ERR_NOENT);
	assert_int_equal(stream_original_dst(w->server.s, &any, &dst), ERR_NOENT);
	assert_int_equal(stream_original_dst(w->server.s, &other, &dst), 0);
	assert_true(addr_port_eq(&dst, &w->at));
}

static void test_listener_rests(void **state)
{
	struct world *w = *state;
	int err;

	stream_listener_enable(w->listener, false);
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	run_for(w, 30);
	assert_int_equal(w->accepted, 0);
	stream_listener_enable(w->listener, true);
	RUN_UNTIL(w, w->accepted == 1);
}

static void test_listen_on_a_used_port(void **state)
{
	struct world *w = *state;
	int err = 0;

	assert_null(stream_listen(w->loop, &w->at, false, on_accept, w, &err));
	assert_int_equal(err, ERR_EXIST);
}

static void count_line(enum log_level level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	++*(unsigned *)arg;
}

static void test_out_of_descriptors(void **state)
{
	struct world *w = *state;
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&w->at, &ss);
	struct rlimit old, low;
	unsigned lines = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = (rlim_t)fd + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	log_set_sink(count_line, &lines);
	run_for(w, 250);
	assert_int_equal(w->accepted, 0);
	assert_int_equal(lines, 1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	RUN_UNTIL(w, w->accepted == 1);
	log_set_sink(NULL, NULL);
	close(fd);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_echo),
		TEST(test_write_before_ready),
		TEST(test_rest_is_offered_again),
		TEST(test_pause_and_resume),
		TEST(test_end_after_data_while_paused),
		TEST(test_end_while_paused_and_empty),
		TEST(test_reading_is_bounded),
		TEST(test_writing_is_bounded),
		TEST(test_free_in_callbacks),
		TEST(test_close_sends_the_rest),
		TEST(test_close_does_not_reset),
		TEST(test_linger_is_bounded),
		TEST(test_linger_ends_with_the_loop),
		TEST(test_refused),
		TEST(test_connect_times_out),
		TEST(test_reset),
		TEST(test_half_close),
		TEST(test_local_address),
		TEST(test_foreign_address_needs_transparent),
		TEST(test_ipv6),
		TEST(test_original_dst_of_a_direct_connection),
		TEST(test_listener_rests),
		TEST(test_listen_on_a_used_port),
		TEST(test_out_of_descriptors),
	};

	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
