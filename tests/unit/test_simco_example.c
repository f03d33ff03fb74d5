/*
 * The example agent against a middlebox of a few lines, over a socket: an
 * outside user of the shared library gets a flow opened and released.
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto-simco/simco.h"
#include "tests/unit/simco_golden.h"

struct middlebox {
	struct simco_srv *srv;
	uint16_t refuse; /* this request type */
	uint16_t seen[8];
	size_t n_seen;
};

static void on_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	(void)arg;
	(void)m;
	adm->capabilities = golden_find(SIMCO_SE_REP)->msg.capabilities;
}

static void on_request(void *arg, const struct simco_msg *m)
{
	struct middlebox *mb = arg;
	struct simco_msg reply;

	assert_true(mb->n_seen < 8);
	mb->seen[mb->n_seen++] = m->type;
	switch (m->type) {
	case SIMCO_PRR_REQ:
		assert_int_equal(m->prr.protocol, 17);
		reply = golden_find(SIMCO_PRR_REP)->msg;
		break;
	case SIMCO_PEA_REQ:
		assert_int_equal(m->pid, 42);
		assert_int_equal(m->tuple[SIMCO_INTERNAL].port, 5000);
		assert_int_equal(m->tuple[SIMCO_EXTERNAL].port, 6000);
		reply = golden_find(SIMCO_PER_REP)->msg;
		break;
	case SIMCO_PRL_REQ:
		reply = golden_find(SIMCO_PRL_REP)->msg;
		break;
	default:
		assert_int_equal(m->type, SIMCO_PLC_REQ);
		assert_int_equal(m->lifetime, 0);
		reply = (struct simco_msg){.type = SIMCO_PRD_REP};
	}
	if (m->type == mb->refuse)
		reply = (struct simco_msg){.type = SIMCO_CONFIGURATION_FAILED};
	assert_int_equal(simco_srv_reply(mb->srv, &reply), SIMCO_OK);
}

static const struct simco_srv_ops ops = {on_establish, NULL, on_request, NULL};

static void serve(struct middlebox *mb, int fd)
{
	bool closed = false;

	mb->srv = simco_srv_new(&ops, mb, 65536, 0);
	assert_non_null(mb->srv);
	while (!closed) {
		uint8_t in[512];
		ssize_t n = recv(fd, in, sizeof(in), 0);
		const uint8_t *out;
		size_t used, left;

		assert_true(n > 0);
		closed = simco_srv_input(mb->srv, in, (size_t)n, &used, 0) == SIMCO_ERR_CLOSED;
		assert_int_equal(used, n);
		out = simco_srv_output(mb->srv, &left);
		assert_int_equal(send(fd, out, left, MSG_NOSIGNAL), left);
		simco_srv_sent(mb->srv, left);
	}
	simco_srv_free(mb->srv);
	close(fd);
}

static int listen_on_loopback(char *port, size_t size)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	snprintf(port, size, "%u", ntohs(a.sin_port));
	return fd;
}

/* Runs the example against the middlebox; its exit status and what it said. */
static int run(struct middlebox *mb, char *text, size_t size)
{
	const char *build = getenv("BUILDDIR");
	char path[512], port[16];
	int out[2], status, fd = listen_on_loopback(port, sizeof(port));
	size_t used = 0;
	ssize_t n;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/proto-simco/example-agent", build != NULL ? build : ".");
	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl(path, "example-agent", "127.0.0.1", port, "10.1.0.2:5000",
		      "198.51.100.1:6000", (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	serve(mb, accept(fd, NULL, NULL));
	while (n = read(out[0], text + used, size - 1 - used), n > 0)
		used += (size_t)n;
	text[used] = '\0';
	close(out[0]);
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_flow(void **state)
{
	static const uint16_t want[] = {SIMCO_PRR_REQ, SIMCO_PEA_REQ, SIMCO_PRL_REQ, SIMCO_PLC_REQ};
	struct middlebox mb = {.n_seen = 0};
	char text[4096];

	(void)state;
	alarm(20);
	assert_int_equal(run(&mb, text, sizeof(text)), 0);
	assert_int_equal(mb.n_seen, 4);
	assert_memory_equal(mb.seen, want, sizeof(want));
	assert_non_null(strstr(text, "reserved outside is 192.0.2.1 port 16384"));
	assert_non_null(strstr(text, "3 rules: 1 3735928559 3"));
	assert_non_null(strstr(text, "done, nothing left behind"));
}

/* What was reserved is released when it cannot be enabled. */
static void test_refused(void **state)
{
	static const uint16_t want[] = {SIMCO_PRR_REQ, SIMCO_PEA_REQ, SIMCO_PLC_REQ};
	struct middlebox mb = {.refuse = SIMCO_PEA_REQ};
	char text[4096];

	(void)state;
	alarm(20);
	assert_int_equal(run(&mb, text, sizeof(text)), 1);
	assert_int_equal(mb.n_seen, 3);
	assert_memory_equal(mb.seen, want, sizeof(want));
	assert_non_null(strstr(text, "middlebox configuration failed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flow),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests_name("simco_example", tests, NULL, NULL);
}
