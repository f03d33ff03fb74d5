/*
 * The REST server with real sockets, client and server in one process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"
#include "common/rest.h"

static char sock_path[64];

static void silent(enum log_level level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
}

static void get_thing(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)arg;
	jsonw_object(&rep->json, NULL);
	jsonw_str(&rep->json, "id", req->id);
	jsonw_uint(&rep->json, "after", req->after);
	jsonw_uint(&rep->json, "limit", req->limit);
	jsonw_object_end(&rep->json);
}

static void delete_thing(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)arg;
	rest_problem(rep, 404, "No such thing", "%s is not here", req->id);
}

static void get_huge(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)req;
	(void)arg;
	jsonw_array(&rep->json, NULL);
	while (rep->body.error == 0)
		jsonw_str(&rep->json, NULL, "0123456789012345678901234567890123456789");
	jsonw_array_end(&rep->json);
}

static unsigned counted;
static char order[64];

static void get_counted(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)arg;
	order[counted++] = req->id[0];
	jsonw_object(&rep->json, NULL);
	jsonw_object_end(&rep->json);
}

static const struct rest_route routes[] = {
	{"GET", "/count/{id}", get_counted},
	{"GET", "/v1/things", get_thing},
	{"GET", "/v1/things/{id}", get_thing},
	{"DELETE", "/v1/things/{id}", delete_thing},
	{"GET", "/huge", get_huge},
	{NULL, NULL, NULL},
};

static int dial_unix(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", sock_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static int dial_tcp(const struct addr_port *to)
{
	struct sockaddr_storage ss;
	socklen_t n = addr_to_sockaddr(to, &ss);
	int fd = socket(ss.ss_family, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&ss, n), 0);
	return fd;
}

/* Sends `text`, runs the loop until the peer closes; closes fd. */
static void talk(struct loop *l, int fd, const char *text, char *out, size_t size)
{
	size_t at = 0;

	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	for (int i = 0; i < 2000; i++) {
		ssize_t n = recv(fd, out + at, size - 1 - at, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno == ECONNRESET))
			break;
		if (n > 0)
			at += (size_t)n;
		else
			loop_run_once(l, 5);
	}
	out[at] = '\0';
	close(fd);
}

static struct rest *start(struct loop *l, const char *where, const char *token, bool open_loopback)
{
	const char *listen[] = {where};
	struct rest_conf conf = {
		.listen = listen, .n_listen = 1, .token = token, .open_loopback = open_loopback};

	return rest_new(l, &conf, routes, NULL);
}

#define CLOSE " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

static void test_unix(void **state)
{
	static const struct {
		const char *request, *status, *body;
	} cases[] = {
		{"GET /v1/things" CLOSE "\r\n", "HTTP/1.1 200",
		 "{\"id\":null,\"after\":0,\"limit\":100}"},
		{"GET /v1/things/a%20b?after=7&limit=5" CLOSE "\r\n", "HTTP/1.1 200",
		 "{\"id\":\"a b\",\"after\":7,\"limit\":5}"},
		{"GET /v1/things?limit=0" CLOSE "\r\n", "HTTP/1.1 400", "Bad argument"},
		{"GET /v1/things?limit=1001" CLOSE "\r\n", "HTTP/1.1 400", "Bad argument"},
		{"GET /v1/things?after=-1" CLOSE "\r\n", "HTTP/1.1 400", "Bad argument"},
		{"GET /v1" CLOSE "\r\n", "HTTP/1.1 404", "application/problem+json"},
		{"GET /v1/things/" CLOSE "\r\n", "HTTP/1.1 404", "Not found"},
		{"GET /v1/things/a/b" CLOSE "\r\n", "HTTP/1.1 404", "Not found"},
		{"POST /v1/things/a" CLOSE "Content-Length: 2\r\n\r\nhi", "HTTP/1.1 405",
		 "Allow: GET, DELETE"},
		{"DELETE /v1/things/a" CLOSE "\r\n", "HTTP/1.1 404", "a is not here"},
		{"GET /huge" CLOSE "\r\n", "HTTP/1.1 500", "Reply too large"},
		{"GET /v1/things" CLOSE "Content-Length: 99999\r\n\r\n", "HTTP/1.1 413", "at most"},
	};
	struct loop *l = loop_new();
	char where[96], out[8192];
	struct rest *r;
	struct stat st;

	(void)state;
	snprintf(where, sizeof(where), "unix:%s", sock_path);
	r = start(l, where, "secret", false); /* the token is for TCP only */
	assert_non_null(r);
	assert_int_equal(stat(sock_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		talk(l, dial_unix(), cases[i].request, out, sizeof(out));
		assert_non_null(strstr(out, cases[i].status));
		assert_non_null(strstr(out, cases[i].body));
	}
	talk(l, dial_unix(), "HEAD /v1/things" CLOSE "\r\n", out, sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 200"));
	assert_null(strstr(out, "{"));
	rest_free(r);
	assert_int_not_equal(stat(sock_path, &st), 0);
	loop_free(l);
}

static void test_token(void **state)
{
	struct loop *l = loop_new();
	struct rest *r = start(l, "127.0.0.1:0", "secret", false);
	struct addr_port at;
	char out[4096];

	(void)state;
	assert_non_null(r);
	at = rest_local(r, 0);
	talk(l, dial_tcp(&at), "GET /v1/things" CLOSE "\r\n", out, sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 401"));
	assert_non_null(strstr(out, "WWW-Authenticate: Bearer"));
	talk(l, dial_tcp(&at), "GET /v1/things" CLOSE "Authorization: Bearer secreT\r\n\r\n", out,
	     sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 401"));
	talk(l, dial_tcp(&at), "GET /v1/things" CLOSE "Authorization: Bearer secretsecret\r\n\r\n",
	     out, sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 401"));
	talk(l, dial_tcp(&at), "GET /v1/things" CLOSE "Authorization: Bearer\r\n\r\n", out,
	     sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 401"));
	talk(l, dial_tcp(&at), "GET /v1/things" CLOSE "Authorization: Bearer secret\r\n\r\n", out,
	     sizeof(out));
	assert_non_null(strstr(out, "HTTP/1.1 200"));
	rest_free(r);
	loop_free(l);
}

static void test_refused_listeners(void **state)
{
	struct loop *l = loop_new();
	char where[96];
	struct rest *r, *r2;
	FILE *f;

	(void)state;
	assert_null(start(l, "127.0.0.1:0", NULL, false));
	assert_null(start(l, "0.0.0.0:0", NULL, true));
	assert_null(start(l, "unix:relative", NULL, true));
	assert_null(start(l, "nonsense", "t", true));
	r = start(l, "127.0.0.1:0", NULL, true);
	assert_non_null(r);
	rest_free(r);

	/* A file that is no socket stays; so does the socket of a live daemon. */
	snprintf(where, sizeof(where), "unix:%s", sock_path);
	f = fopen(sock_path, "w");
	assert_non_null(f);
	fclose(f);
	assert_null(start(l, where, NULL, false));
	assert_int_equal(unlink(sock_path), 0);
	r = start(l, where, NULL, false);
	assert_non_null(r);
	r2 = start(l, where, NULL, false);
	assert_null(r2);
	close(dial_unix());
	rest_free(r);
	loop_free(l);
}

/* kill -9 leaves the socket file; the next start takes it over. */
static void test_stale_socket(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct loop *l = loop_new();
	char where[96];
	struct rest *r;

	(void)state;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", sock_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
	snprintf(where, sizeof(where), "unix:%s", sock_path);
	r = start(l, where, NULL, false);
	assert_non_null(r);
	rest_free(r);
	loop_free(l);
}

/* Two requests on one connection, the second in pieces. */
static void test_keep_alive(void **state)
{
	static const char two[] = "GET /v1/things/1 HTTP/1.1\r\nHost: x\r\n\r\n"
				  "GET /v1/things/2 HTTP/1.1\r\nHo";
	struct loop *l = loop_new();
	char where[96], out[4096];
	struct rest *r;
	int fd;

	(void)state;
	snprintf(where, sizeof(where), "unix:%s", sock_path);
	r = start(l, where, NULL, false);
	assert_non_null(r);
	fd = dial_unix();
	assert_int_equal(send(fd, two, sizeof(two) - 1, 0), (ssize_t)sizeof(two) - 1);
	for (int i = 0; i < 10; i++)
		loop_run_once(l, 5);
	talk(l, fd, "st: x\r\nConnection: close\r\n\r\n", out, sizeof(out));
	assert_non_null(strstr(out, "\"id\":\"1\""));
	assert_non_null(strstr(out, "\"id\":\"2\""));
	rest_free(r);
	loop_free(l);
}

#define CROWD 26

/* However many ask at once, a turn has one answer; the others keep their order. */
static void test_one_answer_in_a_turn(void **state)
{
	struct loop *l = loop_new();
	int fd[CROWD], waiting = CROWD;
	struct rest *r;
	char text[128];

	(void)state;
	snprintf(sock_path, sizeof(sock_path), "/tmp/sluice-rest-%d", (int)getpid());
	snprintf(text, sizeof(text), "unix:%s", sock_path);
	r = start(l, text, NULL, false);
	assert_non_null(r);
	counted = 0;
	for (int i = 0; i < CROWD; i++) {
		fd[i] = dial_unix();
		snprintf(text, sizeof(text), "GET /count/%c" CLOSE "\r\n", 'A' + i);
		assert_int_equal(send(fd[i], text, strlen(text), 0), (ssize_t)strlen(text));
	}
	for (int i = 0; i < 2000 && waiting > 0; i++) {
		unsigned before = counted;

		loop_run_once(l, 5);
		assert_true(counted - before <= 1);
		if (counted == CROWD / 2 && fd[CROWD - 1] >= 0) { /* leaves while it waits */
			close(fd[CROWD - 1]);
			fd[CROWD - 1] = -1;
			waiting--;
		}
		for (int k = 0; k < CROWD; k++) {
			char out[1024];

			if (fd[k] < 0 || recv(fd[k], out, sizeof(out), MSG_DONTWAIT) != 0)
				continue;
			close(fd[k]);
			fd[k] = -1;
			waiting--;
		}
	}
	assert_int_equal(waiting, 0);
	assert_true(counted >= CROWD - 1);
	for (unsigned i = 0; i < CROWD - 1; i++)
		assert_int_equal(order[i], 'A' + i);
	/* Some may still sleep when it ends. */
	for (int i = 0; i < 8; i++) {
		fd[i] = dial_unix();
		assert_int_equal(send(fd[i], text, strlen(text), 0), (ssize_t)strlen(text));
	}
	for (int i = 0; i < 4; i++)
		loop_run_once(l, 5);
	rest_free(r);
	loop_free(l);
	for (int i = 0; i < 8; i++)
		close(fd[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_answer_in_a_turn),
		cmocka_unit_test(test_unix),
		cmocka_unit_test(test_token),
		cmocka_unit_test(test_refused_listeners),
		cmocka_unit_test(test_stale_socket),
		cmocka_unit_test(test_keep_alive),
	};

	snprintf(sock_path, sizeof(sock_path), "/tmp/sluice-test-rest-%ld.sock", (long)getpid());
	log_set_sink(silent, NULL);
	return cmocka_run_group_tests_name("rest", tests, NULL, NULL);
}
