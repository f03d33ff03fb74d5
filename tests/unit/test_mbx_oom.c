/*
 * The middlebox with the n-th allocation failing, for every n: nothing crashes
 * or leaks (sanitizers), each request has its own reply or the session ends,
 * what was granted exists and what exists was granted, and the next agent is
 * served.
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

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_fake.h"
#include "middlebox/fw_int.h"
#include "middlebox/mbx.h"
#include "proto-simco/simco.h"
#include "tests/unit/core_kit.h"
#include "tests/unit/failing_alloc.h"

static void silent(enum log_level level, const char *line, void *arg)
{
	(void)arg;
	if (getenv("VERBOSE") != NULL)
		fprintf(stderr, "# %d %s\n", (int)level, line);
}

/* ---- a firewall whose own memory never fails ------------------------------------------ */

static struct fw_ops spared;
static void (*commit)(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn);

static void spared_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result,
			  size_t n_txn)
{
	unsigned long left = alloc_allowed;

	alloc_allowed = ALLOC_ALL;
	commit(fw, ops, n, result, n_txn);
	alloc_allowed = left;
}

static void spare(struct fw *fw)
{
	spared = *fw->ops;
	commit = spared.commit;
	spared.commit = spared_commit;
	fw->ops = &spared;
}

/* ---- the core, random requests -------------------------------------------------------- */

static bool core_run(enum fw_nat_mode nat, uint64_t seed, unsigned long n, unsigned times)
{
	struct kit_input in = kit_random(seed);
	struct kit k;

	kit_open(&k, nat, NULL);
	spare(k.fw);
	alloc_fail_after(n, times);
	for (unsigned i = 0; i < 250; i++)
		kit_step(&k, &in);
	alloc_allowed = ALLOC_ALL;
	kit_check(&k);
	kit_end_all(&k);
	kit_close(&k);
	return alloc_failed;
}

static void test_core(void **state)
{
	unsigned long n, runs = 0;

	(void)state;
	for (int nat = FW_NAT_NONE; nat <= FW_NAT_TWICE; nat++) {
		for (unsigned times = 1; times <= 4; times += 3) {
			for (n = 0; core_run((enum fw_nat_mode)nat, 7 + (unsigned)nat, n, times);)
				n++;
			runs += n;
		}
	}
	assert_true(runs > 40);
}

/* ---- the whole daemon, one agent ------------------------------------------------------ */

#define POLICY_TEXT                                                                                \
	"{\"simco\":{\"listen\":[\"127.0.0.1:0\"]},\"agents\":{"                                   \
	"\"a\":{\"address\":[\"127.0.0.1\"],\"may\":[\"reserve\",\"enable\",\"disable\"],"         \
	"\"max_rules\":1000%s,\"permit\":[{\"internal\":\"10.0.0.0/8\","                           \
	"\"external\":\"0.0.0.0/0\"}]}},"                                                          \
	"\"firewall\":{\"inside\":[\"i\"],\"outside\":[\"o\"]},"                                   \
	"\"limits\":{\"rules\":1000},\"ledger\":\"%s/ledger\","                                    \
	"\"rest\":{\"listen\":[\"unix:%s/sock\"]}%s}"
#define NAT_TEXT ",\"nat\":{\"mode\":\"napt\",\"outside\":[{\"address\":\"192.0.2.1\"}]}"

#define ASKED_MAX 200

static struct {
	struct loop *loop;
	struct mbx *mbx;
	struct fw *fw;
	bool nat;
	unsigned long start_allowed; /* allocations at the start */
	char dir[40], text[1200];
} box;

/* Static memory only: allocations are counted. */
static struct client {
	int fd;
	uint8_t out[32768], in[65536];
	size_t n_out, n_in;
	uint16_t asked[ASKED_MAX]; /* types, by transaction */
	uint16_t port[ASKED_MAX];  /* internal */
	uint32_t n_asked, n_answered;
	uint32_t pids[ASKED_MAX]; /* granted */
	size_t n_pids;
	uint32_t list[ASKED_MAX]; /* of the last PRL */
	size_t n_list;
	bool closed;
} client;

static struct fw *open_fake(const struct fw_config *cfg, bool adopt, int *err)
{
	(void)cfg;
	(void)adopt;
	box.fw = fw_fake_new();
	*err = box.fw ? 0 : ERR_NOMEM;
	if (box.fw)
		spare(box.fw);
	return box.fw;
}

/* False: there was no memory. */
static bool box_try(void)
{
	const struct mbx_opts opts = {.fw_open = open_fake, .file = "policy"};
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	int n = snprintf(box.text, sizeof(box.text), POLICY_TEXT,
			 box.nat ? ",\"pool\":\"192.0.2.1\"" : "", box.dir, box.dir,
			 box.nat ? NAT_TEXT : "");

	assert_int_equal(mbx_policy_parse(span_of(box.text, (size_t)n), "policy", &p, &errs), 0);
	box.loop = loop_new();
	assert_non_null(box.loop);
	alloc_allowed = box.start_allowed;
	box.mbx = mbx_new(box.loop, p, &opts);
	alloc_allowed = ALLOC_ALL;
	return box.mbx != NULL;
}

static void box_start(void)
{
	box.start_allowed = ALLOC_ALL;
	assert_true(box_try());
}

static void box_stop(void)
{
	char path[64];

	if (box.mbx != NULL)
		mbx_free(box.mbx, true);
	loop_run_once(box.loop, 0);
	loop_free(box.loop);
	snprintf(path, sizeof(path), "%s/sock", box.dir);
	unlink(path);
}

static void dial(void)
{
	struct addr_port at = mbx_simco_local(box.mbx, 0);
	struct sockaddr_storage ss;
	socklen_t n = addr_to_sockaddr(&at, &ss);

	memset(&client, 0, sizeof(client));
	client.fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(client.fd, (struct sockaddr *)&ss, n), 0);
}

static void put(struct simco_msg m)
{
	long n;

	assert_true(client.n_asked < ASKED_MAX);
	m.tid = client.n_asked;
	client.port[client.n_asked] = m.tuple[SIMCO_INTERNAL].port;
	client.asked[client.n_asked++] = m.type;
	n = simco_encode(&m, client.out + client.n_out, sizeof(client.out) - client.n_out);
	assert_true(n > 0);
	client.n_out += (size_t)n;
}

/* The reply to the next transaction, of a type that it can have. */
static void take_reply(const struct simco_msg *m)
{
	uint16_t asked, port;

	assert_true(client.n_answered < client.n_asked);
	assert_int_equal(m->tid, client.n_answered);
	port = client.port[client.n_answered];
	asked = client.asked[client.n_answered++];
	assert_true(m->type >> 8 == SIMCO_NEGATIVE || m->type >> 8 == SIMCO_POSITIVE);
	if (m->type == SIMCO_PRR_REP || (m->type == SIMCO_PER_REP && asked == SIMCO_PER_REQ) ||
	    m->type == SIMCO_PDR_REP)
		client.pids[client.n_pids++] = m->pid;
	if (m->type == SIMCO_PER_REP && !box.nat) /* a firewall's outside is A0 */
		assert_int_equal(m->tuple[SIMCO_OUTSIDE].port, port);
	if (m->type == SIMCO_PRD_REP)
		assert_int_equal(asked, SIMCO_PLC_REQ);
	if (m->type != SIMCO_PRL_REP)
		return;
	assert_int_equal(asked, SIMCO_PRL_REQ);
	for (client.n_list = 0; client.n_list < m->n_pids; client.n_list++)
		client.list[client.n_list] = simco_msg_pid(m, client.n_list);
}

static void take_input(void)
{
	size_t used = 0, at = 0;
	struct simco_msg m;

	while (at < client.n_in &&
	       simco_decode(&m, client.in + at, client.n_in - at, &used) == SIMCO_OK) {
		at += used;
		if (m.type >> 8 != SIMCO_NOTIFICATION)
			take_reply(&m);
	}
	memmove(client.in, client.in + at, client.n_in - at);
	client.n_in -= at;
}

/* Until every reply is there, or the end. */
static void talk(void)
{
	for (int i = 0; i < 3000 && !client.closed; i++) {
		ssize_t n = 1;

		if (client.n_out > 0)
			n = send(client.fd, client.out, client.n_out, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0 && client.n_out > 0) {
			client.n_out -= (size_t)n;
			memmove(client.out, client.out + n, client.n_out);
		}
		if (n < 0 && errno != EAGAIN)
			client.closed = true;
		loop_run_once(box.loop, 1);
		n = recv(client.fd, client.in + client.n_in, sizeof(client.in) - client.n_in,
			 MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			client.closed = true;
		if (n > 0)
			client.n_in += (size_t)n;
		take_input();
		if (client.n_out == 0 && client.n_answered == client.n_asked)
			return;
	}
	assert_true(client.closed); /* else somebody waits for ever */
}

static struct simco_tuple end_at(uint8_t location, uint8_t net, uint16_t port)
{
	return (struct simco_tuple){.ip_version = SIMCO_IPV4,
				    .prefix_len = 32,
				    .protocol = 17,
				    .location = location,
				    .port = port,
				    .port_range = 1,
				    .addr = {net, 0, 2, 9}};
}

static struct simco_msg about(uint16_t type, uint16_t inside, uint16_t outside, uint32_t pid)
{
	return (struct simco_msg){
		.type = type,
		.pid = pid,
		.lifetime = 60,
		.per = {.direction = SIMCO_BIDIRECTIONAL},
		.prr = {.nat_mode = SIMCO_NAT_TRADITIONAL,
			.parity = SIMCO_PARITY_EVEN,
			.inside_version = SIMCO_IPV4,
			.outside_version = SIMCO_IPV4,
			.protocol = 17,
			.port_range = 1},
		.tuple = {[SIMCO_INTERNAL] = end_at(SIMCO_INTERNAL, 10, inside),
			  [SIMCO_EXTERNAL] = end_at(SIMCO_EXTERNAL, 198, outside)},
	};
}

static void establish(void)
{
	put((struct simco_msg){.type = SIMCO_SE_REQ, .version = {3, 0}});
	talk();
}

/* 200 with a whole answer, 500 and why, or a closed connection. */
static void look(const char *what)
{
	static char in[65536];
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char out[128];
	size_t got = 0;
	ssize_t n = -1;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s/sock", box.dir);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	snprintf(out, sizeof(out), "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", what);
	assert_int_equal(send(fd, out, strlen(out), MSG_NOSIGNAL), strlen(out));
	for (int i = 0; i < 1000 && n != 0 && got < sizeof(in) - 1; i++) {
		loop_run_once(box.loop, 1);
		n = recv(fd, in + got, sizeof(in) - 1 - got, MSG_DONTWAIT);
		assert_true(n >= 0 || errno == EAGAIN || errno == ECONNRESET);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(n, 0);
	in[got] = '\0';
	if (strncmp(in, "HTTP/1.1 200 ", 13) == 0)
		assert_true(in[got - 1] == '}' || in[got - 1] == '\n');
	else
		assert_true(got == 0 || (alloc_failed && strncmp(in, "HTTP/1.1 500 ", 13) == 0));
	close(fd);
}

static void conversation(void)
{
	establish();
	for (uint16_t i = 0; i < 40; i++)
		put(about(SIMCO_PER_REQ, (uint16_t)(5000 + i), 6000, 0));
	for (uint16_t i = 0; i < 10; i++)
		put(about(SIMCO_PRR_REQ, 0, 0, 0));
	talk();
	look("/v1/rules");
	look("/metrics");
	if (client.closed || client.n_pids < 50)
		return;
	for (uint16_t i = 0; i < 10; i++)
		put(about(SIMCO_PEA_REQ, (uint16_t)(7000 + i), 6001, client.pids[40 + i]));
	put(about(SIMCO_PLC_REQ, 0, 0, client.pids[1]));
	put(about(SIMCO_PRS_REQ, 0, 0, client.pids[2]));
	put((struct simco_msg){.type = SIMCO_PRL_REQ});
	put(about(SIMCO_PDR_REQ, 5003, 6000, 0));
	put((struct simco_msg){.type = SIMCO_PRL_REQ});
	talk();
}

/* Each that was granted is in the list of the rules, or was ended by the disable rule. */
static void compare(const uint32_t *granted, size_t n, bool all)
{
	unsigned missing = 0;

	for (size_t i = 0; i < n; i++) {
		bool there = false;

		for (size_t k = 0; k < client.n_list; k++)
			there = there || client.list[k] == granted[i];
		missing += !there;
	}
	assert_true(missing <= 1);
	if (all) /* no reply was lost: nothing that nobody was told of */
		assert_int_equal(client.n_list, n - missing);
}

/* The next agent is served; the firewall holds nothing when every rule has ended. */
static void check_and_end_all(const uint32_t *granted, size_t n, bool all)
{
	dial();
	establish();
	put((struct simco_msg){.type = SIMCO_PRL_REQ});
	talk();
	assert_false(client.closed);
	compare(granted, n, all);
	for (size_t i = 0; i < client.n_list; i++)
		put((struct simco_msg){.type = SIMCO_PLC_REQ, .pid = client.list[i]});
	talk();
	assert_false(client.closed);
	assert_int_equal(fw_fake_elements(box.fw), 0);
	assert_int_equal(fw_fake_bindings(box.fw), 0);
	close(client.fd);
}

static bool box_run(unsigned long n, unsigned times)
{
	uint32_t granted[ASKED_MAX];
	size_t n_granted;
	bool all;

	box_start();
	alloc_fail_after(n, times);
	dial();
	conversation();
	alloc_allowed = ALLOC_ALL;
	all = client.n_answered == client.n_asked;
	n_granted = client.n_pids;
	memcpy(granted, client.pids, sizeof(granted));
	close(client.fd);
	loop_run_once(box.loop, 1);
	check_and_end_all(granted, n_granted, all);
	box_stop();
	return alloc_failed;
}

static int make_directory(void **state)
{
	(void)state;
	snprintf(box.dir, sizeof(box.dir), "/tmp/sluice-oom-XXXXXX");
	return mkdtemp(box.dir) == NULL;
}

static int remove_directory(void **state)
{
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/ledger", box.dir);
	unlink(path);
	return rmdir(box.dir);
}

/* It starts, or says that it cannot. */
static void test_start(void **state)
{
	unsigned long n = 0, failures = 0;

	(void)state;
	box.nat = true;
	do {
		alloc_fail_after(ALLOC_ALL, 1);
		box.start_allowed = n++;
		failures += !box_try();
		box_stop();
	} while (alloc_failed);
	assert_true(failures > 10);
}

static void test_daemon(void **state)
{
	unsigned long n = 0;

	(void)state;
	for (unsigned way = 0; way < 4; way++) {
		box.nat = way & 1;
		for (n = 0; box_run(n, way & 2 ? 3 : 1); n++)
			;
		fprintf(stderr, "# n %lu way %u\n", n, way);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_core),
		cmocka_unit_test_setup_teardown(test_start, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(test_daemon, make_directory, remove_directory),
	};

	log_set_sink(silent, NULL);
	return cmocka_run_group_tests_name("mbx_oom", tests, NULL, NULL);
}
