/*
 * The daemon end to end in one process: real sockets on loopback, a firewall
 * in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/log.h"
#include "middlebox/fw_fake.h"
#include "middlebox/mbx.h"
#include "proto-simco/simco.h"

#define POLICY_TEXT                                                                                \
	"{\"simco\":{\"listen\":[\"127.0.0.1:0\"]},\"agents\":{"                                   \
	"\"a\":{\"address\":[\"127.0.0.1\"],\"max_rules\":100000,\"permit\":["                     \
	"{\"internal\":\"10.0.0.0/8\",\"external\":\"0.0.0.0/0\"}]},"                              \
	"\"b\":{\"address\":[\"127.0.0.2\"],\"permit\":[]}},"                                      \
	"\"firewall\":{\"inside\":[\"i\"],\"outside\":[\"o\"]},"                                   \
	"\"limits\":{\"sessions\":%u,\"sessions_per_agent\":64,\"output_bytes\":262144,\"rules\":" \
	"100000},"                                                                                 \
	"\"ledger\":\"%s/ledger\",\"rest\":{\"listen\":[\"unix:%s/sock\"]}%s}"

#define FLOODERS 40
#define TURN_MAX 64  /* requests in a turn */
#define TURN_ENDS 16 /* connections that end in one */

static struct {
	struct loop *loop;
	struct mbx *mbx;
	struct fw *fw;
	char dir[40], file[64];
	unsigned done;
} box;

struct client {
	int fd;
	struct buf in, out;
	uint32_t tid;
	unsigned events;    /* ARE received */
	unsigned n_replies; /* that the test counted */
	bool closed;
};

static void silent(enum log_level level, const char *line, void *arg)
{
	(void)arg;
	if (getenv("VERBOSE") != NULL)
		fprintf(stderr, "# %d %s\n", (int)level, line);
}

static struct fw *open_fake(const struct fw_config *cfg, bool adopt, int *err)
{
	(void)cfg;
	(void)adopt;
	*err = 0;
	return box.fw = fw_fake_new();
}

static void write_policy(unsigned sessions, const char *more)
{
	FILE *f = fopen(box.file, "w");

	assert_non_null(f);
	fprintf(f, POLICY_TEXT, sessions, box.dir, box.dir, more);
	fclose(f);
}

static int start_with(unsigned sessions)
{
	struct mbx_opts opts = {.fw_open = open_fake, .file = box.file};
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;

	snprintf(box.dir, sizeof(box.dir), "/tmp/sluice-mbx-XXXXXX");
	if (mkdtemp(box.dir) == NULL)
		return -1;
	snprintf(box.file, sizeof(box.file), "%s/policy", box.dir);
	write_policy(sessions, "");
	if (mbx_policy_load(box.file, &p, &errs) != 0) {
		conf_errors_print(&errs, stderr);
		return -1;
	}
	box.done = 0;
	box.loop = loop_new();
	box.mbx = mbx_new(box.loop, p, &opts);
	return box.mbx != NULL ? 0 : -1;
}

static int start(void **state)
{
	(void)state;
	return start_with(4);
}

static int start_roomy(void **state)
{
	(void)state;
	return start_with(FLOODERS);
}

static int stop(void **state)
{
	char path[64];

	(void)state;
	mbx_free(box.mbx, true);
	loop_run_once(box.loop, 0);
	loop_free(box.loop);
	unlink(box.file);
	snprintf(path, sizeof(path), "%s/ledger", box.dir);
	unlink(path);
	return rmdir(box.dir);
}

/* ---- A client --------------------------------------------------------------------- */

static void client_open_from(struct client *c, const char *from, int rcvbuf)
{
	struct addr_port at = mbx_simco_local(box.mbx, 0), local = {.port = 0};
	struct sockaddr_storage ss;
	socklen_t n;

	memset(c, 0, sizeof(*c));
	buf_init(&c->in, 1u << 24);
	buf_init(&c->out, 1u << 25);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (rcvbuf > 0)
		setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
	assert_int_equal(addr_parse(span_str(from), &local.addr), 0);
	n = addr_to_sockaddr(&local, &ss);
	assert_int_equal(bind(c->fd, (struct sockaddr *)&ss, n), 0);
	n = addr_to_sockaddr(&at, &ss);
	assert_true(connect(c->fd, (struct sockaddr *)&ss, n) == 0 || errno == EINPROGRESS);
}

static void client_close(struct client *c)
{
	close(c->fd);
	buf_fini(&c->in);
	buf_fini(&c->out);
}

static void put(struct client *c, struct simco_msg *m)
{
	uint8_t text[512];
	long n;

	m->tid = ++c->tid;
	n = simco_encode(m, text, sizeof(text));
	assert_true(n > 0);
	assert_int_equal(buf_append(&c->out, text, (size_t)n), 0);
}

/* Moves octets both ways as far as they go now. */
static void pump_writes(struct client *c)
{
	while (c->out.len > 0) {
		struct span s = buf_span(&c->out);
		ssize_t n = send(c->fd, s.p, s.n, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		buf_consume(&c->out, (size_t)n);
	}
}

static void pump_reads(struct client *c)
{
	for (;;) {
		uint8_t *p = buf_reserve(&c->in, 65536);
		ssize_t n;

		assert_non_null(p);
		n = recv(c->fd, p, 65536, 0);
		if (n <= 0) {
			c->closed = c->closed || n == 0 || (errno != EAGAIN && errno != EINTR);
			return;
		}
		buf_commit(&c->in, (size_t)n);
	}
}

/* The next message; the buffer keeps it until the next call. */
static bool next(struct client *c, struct simco_msg *m)
{
	struct span s = buf_span(&c->in);
	size_t used = 0;
	int rc = s.n > 0 ? simco_decode(m, s.p, s.n, &used) : SIMCO_ERR_MORE;

	if (rc != SIMCO_OK)
		return false;
	buf_consume(&c->in, used);
	return true;
}

static uint16_t wait_reply(struct client *c, struct simco_msg *m)
{
	for (int i = 0; i < 5000; i++) {
		pump_writes(c);
		loop_run_once(box.loop, 1);
		pump_reads(c);
		while (next(c, m)) {
			if (m->type != SIMCO_ARE)
				return m->type;
			c->events++;
		}
		if (c->closed)
			return 0;
	}
	fail_msg("no reply");
	return 0;
}

static uint16_t ask(struct client *c, struct simco_msg *m)
{
	struct simco_msg reply;
	uint16_t type;

	put(c, m);
	type = wait_reply(c, &reply);
	*m = reply;
	return type;
}

static uint16_t establish(struct client *c)
{
	struct simco_msg m = {.type = SIMCO_SE_REQ, .version = {3, 0}};

	return ask(c, &m);
}

static struct simco_msg per(uint16_t port)
{
	return (struct simco_msg){
		.type = SIMCO_PER_REQ,
		.lifetime = 60,
		.per = {.direction = SIMCO_BIDIRECTIONAL},
		.tuple = {[SIMCO_INTERNAL] = {.ip_version = SIMCO_IPV4,
					      .prefix_len = 32,
					      .protocol = 17,
					      .location = SIMCO_INTERNAL,
					      .port = 5000,
					      .port_range = 1,
					      .addr = {10, 0, 0, 1}},
			  [SIMCO_EXTERNAL] = {.ip_version = SIMCO_IPV4,
					      .prefix_len = 32,
					      .protocol = 17,
					      .location = SIMCO_EXTERNAL,
					      .port = port,
					      .port_range = 1,
					      .addr = {192, 0, 2, 9}}},
	};
}

static uint16_t plc(struct client *c, uint32_t pid, uint32_t lifetime)
{
	struct simco_msg m = {.type = SIMCO_PLC_REQ, .pid = pid, .lifetime = lifetime};

	return ask(c, &m);
}

/* ---- Tests --------------------------------------------------------------------------- */

static void test_open_and_close(void **state)
{
	struct simco_msg m = per(6000);
	struct client c;

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	assert_int_equal(ask(&c, &m), SIMCO_PER_REP);
	assert_int_equal(fw_fake_elements(box.fw), 2);
	assert_int_equal(plc(&c, m.pid, 0), SIMCO_PRD_REP);
	assert_int_equal(fw_fake_elements(box.fw), 0);
	m = (struct simco_msg){.type = SIMCO_ST_REQ};
	assert_int_equal(ask(&c, &m), SIMCO_ST_REP);
	assert_int_equal(wait_reply(&c, &m), 0); /* closed */
	client_close(&c);
}

/* Requests and the end of input in one go: every reply still comes. */
static void test_half_closed(void **state)
{
	struct simco_msg m = {.type = SIMCO_SE_REQ, .version = {3, 0}};
	struct client c;

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	put(&c, &m);
	for (uint16_t i = 0; i < 200; i++) {
		m = per((uint16_t)(6000 + i));
		put(&c, &m);
	}
	for (int i = 0; i < 5; i++) /* connected */
		loop_run_once(box.loop, 1);
	pump_writes(&c);
	assert_int_equal(c.out.len, 0);
	shutdown(c.fd, SHUT_WR);
	assert_int_equal(wait_reply(&c, &m), SIMCO_SE_REP);
	for (uint16_t i = 0; i < 200; i++)
		assert_int_equal(wait_reply(&c, &m), SIMCO_PER_REP);
	assert_int_equal(wait_reply(&c, &m), 0);
	assert_int_equal(fw_fake_elements(box.fw), 400);
	client_close(&c);
}

static void test_who(void **state)
{
	struct client known, stranger;

	(void)state;
	client_open_from(&known, "127.0.0.2", 0);
	assert_int_equal(establish(&known), SIMCO_SE_REP);
	client_open_from(&stranger, "127.0.0.3", 0);
	assert_int_equal(establish(&stranger), SIMCO_NO_AUTHORIZATION);
	client_close(&known);
	client_close(&stranger);
}

/* Above limits.sessions the agent is told, and a leaving one makes room. */
static void test_too_many(void **state)
{
	struct client c[5];

	(void)state;
	for (int i = 0; i < 5; i++) {
		client_open_from(&c[i], "127.0.0.1", 0);
		assert_int_equal(establish(&c[i]), i < 4 ? SIMCO_SE_REP : SIMCO_LACK_OF_RESOURCES);
	}
	client_close(&c[0]);
	client_close(&c[4]);
	for (int i = 0; i < 20; i++)
		loop_run_once(box.loop, 1);
	client_open_from(&c[0], "127.0.0.1", 0);
	assert_int_equal(establish(&c[0]), SIMCO_SE_REP);
	for (int i = 0; i < 4; i++)
		client_close(&c[i]);
}

static void count_op(const struct fw_op *op, void *arg)
{
	(void)op;
	++*(unsigned *)arg;
}

static void pump_all(struct client *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pump_writes(&c[i]);
}

/* Reads replies until `n` came, all of that type and in order. */
static void read_replies(struct client *c, unsigned n, uint16_t type)
{
	struct simco_msg m;

	for (unsigned got = 0; got < n;) {
		pump_writes(c);
		loop_run_once(box.loop, 1);
		pump_reads(c);
		while (next(c, &m)) {
			if (m.type == SIMCO_ARE)
				continue;
			assert_int_equal(m.type, type);
			assert_int_equal(m.tid, ++got + 1); /* the first was SE */
		}
		assert_true(!c->closed || got == n);
	}
}

/* Many sessions ask as fast as they can; a turn stays short, nothing is lost. */
static void test_fair_turns(void **state)
{
	unsigned ops = 0, most = 0, each = 500;
	static struct client c[FLOODERS];

	(void)state;
	for (int i = 0; i < FLOODERS; i++) {
		client_open_from(&c[i], "127.0.0.1", 0);
		assert_int_equal(establish(&c[i]), SIMCO_SE_REP);
		for (unsigned k = 0; k < each; k++) {
			struct simco_msg m = per((uint16_t)(10000 + k));

			m.tuple[SIMCO_INTERNAL].port = (uint16_t)(5000 + i);
			put(&c[i], &m);
		}
	}
	fw_fake_on_op(box.fw, count_op, &ops);
	for (int i = 0; i < 10000 && (fw_fake_elements(box.fw) < 2 * FLOODERS * each); i++) {
		pump_all(c, FLOODERS);
		ops = 0;
		loop_run_once(box.loop, 1);
		most = ops > most ? ops : most;
	}
	assert_int_equal(fw_fake_elements(box.fw), 2 * FLOODERS * each);
	/* 20000 PERs are there at once, up to three operations each; sessions in bulk come extra.
	 */
	assert_true(most > 0 && most <= 2 * 3 * TURN_MAX);
	for (int i = 0; i < FLOODERS; i++) {
		read_replies(&c[i], each, SIMCO_PER_REP);
		client_close(&c[i]);
	}
}

static unsigned replies_there(struct client *c)
{
	struct simco_msg m;
	unsigned n = 0;

	pump_reads(c);
	while (next(c, &m))
		n += m.type != SIMCO_ARE;
	return n;
}

static void flood(struct client *c, uint16_t port, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct simco_msg m = per((uint16_t)(port + i));

		put(c, &m);
	}
	pump_writes(c);
}

/* Who asks for one thing has the answer in the same turn, however much others have waiting. */
static void test_one_request_beside_a_flood(void **state)
{
	struct client bulk, one;

	(void)state;
	client_open_from(&bulk, "127.0.0.1", 0);
	client_open_from(&one, "127.0.0.1", 0);
	assert_int_equal(establish(&bulk), SIMCO_SE_REP);
	bulk.n_replies = one.n_replies = 1;
	assert_int_equal(establish(&one), SIMCO_SE_REP);
	for (unsigned i = 0; i < 20; i++) {
		struct simco_msg m = per((uint16_t)(20000 + i));

		flood(&bulk, 10000, i % 2 ? 3000 : 100); /* waiting; or new, and there first */
		put(&one, &m);
		pump_writes(&one);
		if (i % 2)
			loop_run_once(box.loop, 0);
		loop_run_once(box.loop, 0);
		one.n_replies += replies_there(&one);
		if (i > 1) /* until then nobody knows who sends in bulk */
			assert_int_equal(one.n_replies, one.tid);
		while (bulk.n_replies < bulk.tid) {
			pump_writes(&bulk);
			loop_run_once(box.loop, 1);
			bulk.n_replies += replies_there(&bulk);
			one.n_replies += replies_there(&one);
		}
	}
	client_close(&bulk);
	client_close(&one);
}

/* Many who ask little, all the time, do not keep out one who was left over. */
static void test_small_requests_do_not_starve(void **state)
{
	static struct client c[FLOODERS];
	unsigned got[FLOODERS] = {0};
	uint16_t port = 10000;

	(void)state;
	for (int i = 0; i < FLOODERS; i++) {
		client_open_from(&c[i], "127.0.0.1", 0);
		assert_int_equal(establish(&c[i]), SIMCO_SE_REP);
	}
	for (int turn = 0; turn < 200; turn++) {
		for (int i = 0; i < FLOODERS; i++) {
			while (c[i].tid - 1 < got[i] + 5) { /* the first was SE */
				struct simco_msg m = per(port++);

				put(&c[i], &m);
			}
		}
		pump_all(c, FLOODERS);
		loop_run_once(box.loop, 0);
		for (int i = 0; i < FLOODERS; i++)
			got[i] += replies_there(&c[i]);
	}
	for (int i = 0; i < FLOODERS; i++) {
		assert_true(got[i] > 50); /* some 300 each, when all are equal */
		client_close(&c[i]);
	}
}

/* All connections end at once: a few in each turn. */
static void test_ends_in_slices(void **state)
{
	static struct client c[FLOODERS];
	unsigned most = 0, ended = 0;

	(void)state;
	for (int i = 0; i < FLOODERS; i++) {
		client_open_from(&c[i], "127.0.0.1", 0);
		if (i % 2 == 0)
			assert_int_equal(establish(&c[i]), SIMCO_SE_REP);
	}
	for (int i = 0; i < 50; i++)
		loop_run_once(box.loop, 1);
	for (int i = 0; i < FLOODERS; i++)
		shutdown(c[i].fd, SHUT_WR);
	for (int i = 0; i < 200 && ended < FLOODERS; i++) {
		unsigned before = ended;

		loop_run_once(box.loop, 1);
		for (int k = 0; k < FLOODERS; k++) {
			bool was = c[k].closed;

			pump_reads(&c[k]);
			ended += c[k].closed && !was;
		}
		most = ended - before > most ? ended - before : most;
	}
	assert_int_equal(ended, FLOODERS);
	for (int i = 0; i < FLOODERS; i++)
		client_close(&c[i]);
	assert_int_equal(most, TURN_ENDS);
}

/* One GET over the unix socket. */
static void get(const char *target, char *out, size_t size)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	char text[256];
	size_t at = 0;
	ssize_t n = -1;

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/sock", box.dir);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		 target);
	assert_int_equal(send(fd, text, strlen(text), 0), (ssize_t)strlen(text));
	for (int i = 0; i < 1000 && n != 0; i++) {
		loop_run_once(box.loop, 1);
		n = recv(fd, out + at, size - 1 - at, 0);
		at += n > 0 ? (size_t)n : 0;
	}
	out[at] = '\0';
	close(fd);
}

static unsigned long requests_so_far(void)
{
	static char out[8192];
	const char *at;

	get("/v1/status", out, sizeof(out));
	at = strstr(out, "\"requests\":");
	assert_non_null(at);
	return strtoul(at + strlen("\"requests\":"), NULL, 10);
}

/* An agent that asks but does not read is held back; memory stays bounded, nobody waits. */
static void test_reader_that_stops(void **state)
{
	struct simco_msg prs = {.type = SIMCO_PRS_REQ, .pid = 1};
	struct client deaf, other;

	(void)state;
	client_open_from(&deaf, "127.0.0.1", 4096);
	assert_int_equal(establish(&deaf), SIMCO_SE_REP);
	for (unsigned i = 0; i < 1000000; i++)
		put(&deaf, &prs);
	for (int i = 0; i < 3000; i++) {
		pump_writes(&deaf);
		loop_run_once(box.loop, 0);
	}
	/* Sockets hold some megabytes of replies of 8 octets; then no more is taken. */
	assert_true(requests_so_far() > 1000);
	assert_true(requests_so_far() < 900000);
	client_open_from(&other, "127.0.0.1", 0);
	assert_int_equal(establish(&other), SIMCO_SE_REP);
	prs.pid = 2;
	assert_int_equal(ask(&other, &prs), SIMCO_NO_SUCH_RULE);
	client_close(&other);
	read_replies(&deaf, 1000000, SIMCO_NO_SUCH_RULE); /* it hears again: nothing is lost */
	client_close(&deaf);
}

static void test_lost_tables(void **state)
{
	struct simco_msg m = per(6000);
	struct client c;

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	for (uint16_t i = 0; i < 500; i++) {
		m = per((uint16_t)(6000 + i));
		assert_int_equal(ask(&c, &m), SIMCO_PER_REP);
	}
	assert_int_equal(fw_fake_elements(box.fw), 1000);
	fw_fake_flush(box.fw);
	assert_int_equal(fw_fake_elements(box.fw), 0);
	for (int i = 0; i < 1000 && fw_fake_elements(box.fw) < 1000; i++)
		loop_run_once(box.loop, 5);
	assert_int_equal(fw_fake_elements(box.fw), 1000);
	assert_int_equal(plc(&c, m.pid, 0), SIMCO_PRD_REP);
	assert_int_equal(fw_fake_elements(box.fw), 998);
	client_close(&c);
}

static void on_done(void *arg)
{
	++*(unsigned *)arg;
}

static void test_shutdown(void **state)
{
	struct client c, half_open;
	struct simco_msg m;

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	client_open_from(&half_open, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	mbx_shutdown(box.mbx, on_done, &box.done);
	assert_int_equal(wait_reply(&c, &m), SIMCO_AST);
	assert_int_equal(wait_reply(&c, &m), 0);
	for (int i = 0; i < 200 && box.done == 0; i++)
		loop_run_once(box.loop, 5);
	assert_int_equal(box.done, 1);
	client_close(&c);
	client_close(&half_open);
}

static void test_reload(void **state)
{
	struct client c;
	struct simco_msg m = per(6000);

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	write_policy(4, ",\"log\":{\"level\":\"error\"}");
	assert_int_equal(mbx_reload(box.mbx), 0);
	assert_int_equal(ask(&c, &m), SIMCO_PER_REP);
	write_policy(4, ",\"nat\":{\"mode\":\"napt\",\"outside\":[]}");
	assert_int_not_equal(mbx_reload(box.mbx), 0);
	write_policy(4, "");
	assert_int_equal(truncate(box.file, 100), 0);
	assert_int_not_equal(mbx_reload(box.mbx), 0);
	assert_int_equal(plc(&c, m.pid, 0), SIMCO_PRD_REP);
	log_set_level(LOG_LEVEL_INFO);
	client_close(&c);
}

static enum log_level level_now(void)
{
	static const enum log_level levels[] = {LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN};

	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (log_enabled(levels[i]))
			return levels[i];
	return LOG_LEVEL_ERR;
}

static void until_level(enum log_level level)
{
	for (int i = 0; i < 1000 && level_now() != level; i++)
		loop_run_once(box.loop, 5);
	assert_int_equal(level_now(), level);
}

/* The policy is read by a thread; what comes meanwhile counts, and an end in the middle is fine. */
static void test_reload_aside(void **state)
{
	struct client c;
	struct simco_msg m = per(6000);

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	write_policy(4, ",\"log\":{\"level\":\"error\"}");
	mbx_reload_start(box.mbx);
	until_level(LOG_LEVEL_ERR);
	write_policy(4, ",\"log\":{\"level\":\"warning\"}");
	mbx_reload_start(box.mbx);
	mbx_reload_start(box.mbx);
	write_policy(4, ",\"log\":{\"level\":\"debug\"}");
	mbx_reload_start(box.mbx);
	until_level(LOG_LEVEL_DEBUG);
	write_policy(4, ",\"oops\":1");
	mbx_reload_start(box.mbx);
	for (int i = 0; i < 20; i++)
		loop_run_once(box.loop, 5);
	assert_int_equal(level_now(), LOG_LEVEL_DEBUG);
	assert_int_equal(ask(&c, &m), SIMCO_PER_REP);
	mbx_reload_start(box.mbx);
	log_set_level(LOG_LEVEL_INFO);
	client_close(&c);
}

static void test_rest(void **state)
{
	struct simco_msg m = per(6000);
	static char out[65536];
	struct client c;
	char path[32];

	(void)state;
	client_open_from(&c, "127.0.0.1", 0);
	assert_int_equal(establish(&c), SIMCO_SE_REP);
	assert_int_equal(ask(&c, &m), SIMCO_PER_REP);
	get("/v1/status", out, sizeof(out));
	assert_non_null(strstr(out, "\"enabled\":1"));
	assert_non_null(strstr(out, "\"mode\":\"enforce\",\"nat\":\"none\""));
	get("/v1/sessions", out, sizeof(out));
	assert_non_null(strstr(out, "\"agent\":\"a\""));
	get("/v1/rules", out, sizeof(out));
	assert_non_null(strstr(out, "10.0.0.1:5000"));
	snprintf(path, sizeof(path), "/v1/rules/%u", m.pid);
	get(path, out, sizeof(out));
	assert_non_null(strstr(out, "200 OK"));
	get("/v1/rules/99999999", out, sizeof(out));
	assert_non_null(strstr(out, "404"));
	get("/v1/rules/x", out, sizeof(out));
	assert_non_null(strstr(out, "400"));
	get("/readyz", out, sizeof(out));
	assert_non_null(strstr(out, "200 OK"));
	get("/metrics", out, sizeof(out));
	assert_non_null(strstr(out, "sluice_middlebox_rules{state=\"enabled\"} 1\n"));
	assert_non_null(strstr(out, "text/plain; version=0.0.4"));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_open_and_close, start, stop),
		cmocka_unit_test_setup_teardown(test_half_closed, start, stop),
		cmocka_unit_test_setup_teardown(test_who, start, stop),
		cmocka_unit_test_setup_teardown(test_too_many, start, stop),
		cmocka_unit_test_setup_teardown(test_fair_turns, start_roomy, stop),
		cmocka_unit_test_setup_teardown(test_one_request_beside_a_flood, start, stop),
		cmocka_unit_test_setup_teardown(test_small_requests_do_not_starve, start_roomy,
						stop),
		cmocka_unit_test_setup_teardown(test_ends_in_slices, start_roomy, stop),
		cmocka_unit_test_setup_teardown(test_reader_that_stops, start, stop),
		cmocka_unit_test_setup_teardown(test_lost_tables, start, stop),
		cmocka_unit_test_setup_teardown(test_shutdown, start, stop),
		cmocka_unit_test_setup_teardown(test_reload_aside, start, stop),
		cmocka_unit_test_setup_teardown(test_reload, start, stop),
		cmocka_unit_test_setup_teardown(test_rest, start, stop),
	};

	log_set_sink(silent, NULL);
	return cmocka_run_group_tests_name("mbx", tests, NULL, NULL);
}
