/*
 * The agent as a whole, without a middlebox: what a reload takes and refuses,
 * the operator's routes, the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/agent_rest.h"
#include "agent/bindings.h"
#include "agent/rtsp/rtsp.h"
#include "common/log.h"
#include "common/stream.h"

struct stage {
	struct loop *loop;
	struct agent *a;
	char file[64], log[8192];
	bool stopped;
	struct stream_listener *taken; /* a port that somebody else has */
	char taken_at[ADDR_PORT_STRLEN];
};

static void keep(enum log_level level, const char *line, void *arg)
{
	struct stage *s = arg;
	size_t n = strlen(s->log);

	(void)level;
	snprintf(s->log + n, sizeof(s->log) - n, "%s\n", line);
}

static void nobody(int fd, const struct addr_port *peer, void *arg)
{
	(void)peer;
	(void)arg;
	close(fd);
}

static void write_policy(struct stage *s, const char *identity, const char *rtsp, const char *more)
{
	FILE *f = fopen(s->file, "w");

	assert_non_null(f);
	fprintf(f,
		"{ \"identity\": \"%s\", \"zones\": { \"in\": [\"10.0.0.0/8\"], \"out\": "
		"[\"0.0.0.0/0\"] },\n"
		"\"middleboxes\": { \"edge\": { \"address\": \"127.0.0.1:9\" } },\n"
		"\"paths\": [ { \"from\": \"in\", \"to\": \"out\", \"through\": [\"edge\"] },\n"
		" { \"from\": \"out\", \"to\": \"in\", \"through\": [] } ],\n"
		"\"rtsp\": [ { \"listen\": \"%s\", \"mode\": \"forward\" } ] %s }\n",
		identity, rtsp, more);
	fclose(f);
}

static int setup(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct conf_errors errs = {.n = 0};
	struct policy *p = NULL;
	struct addr_port at;
	int fd, err;

	log_set_sink(keep, s);
	snprintf(s->file, sizeof(s->file), "/tmp/sluice-agent-XXXXXX");
	fd = mkstemp(s->file);
	assert_true(fd >= 0);
	close(fd);
	write_policy(s, "a", "127.0.0.1:0", "");
	assert_int_equal(policy_load(s->file, &p, &errs), 0);
	conf_errors_fini(&errs);
	s->loop = loop_new();
	s->a = agent_new(s->loop, p);
	assert_non_null(s->a);
	assert_int_equal(addr_port_parse(SPAN_LIT("127.0.0.1:0"), &at), 0);
	s->taken = stream_listen(s->loop, &at, false, nobody, NULL, &err);
	assert_non_null(s->taken);
	at = stream_listener_local(s->taken);
	addr_port_str(&at, s->taken_at);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct stage *s = *state;

	agent_free(s->a);
	stream_listener_free(s->taken);
	for (int i = 0; i < 3; i++)
		loop_run_once(s->loop, 0);
	loop_free(s->loop);
	unlink(s->file);
	log_set_sink(NULL, NULL);
	free(s);
	return 0;
}

static void reload(struct stage *s, bool taken)
{
	const struct policy *before = s->a->policy;
	uint64_t done = s->a->reloads, refused = s->a->refused_reloads;

	s->log[0] = '\0';
	agent_reload(s->a, s->file);
	assert_true((s->a->policy != before) == taken);
	assert_int_equal(s->a->reloads, done + taken);
	assert_int_equal(s->a->refused_reloads, refused + !taken);
}

static void taken_over(void **state)
{
	struct stage *s = *state;

	write_policy(s, "a", "127.0.0.1:0", ", \"limits\": { \"sessions\": 7 }");
	reload(s, true);
	assert_int_equal(s->a->policy->limits.sessions, 7);
	assert_null(s->a->old); /* nobody pointed into the old one */
}

static void kept_while_a_binding_lives(void **state)
{
	struct stage *s = *state;
	struct addr_port from, to;
	struct flow flow = {.module = "test", .protocol = 17, .ip_version = 4, .components = 1};
	struct failure f;
	struct binding *b;

	assert_int_equal(addr_port_parse(SPAN_LIT("192.0.2.1:1"), &from), 0);
	assert_int_equal(addr_port_parse(SPAN_LIT("10.0.0.1:1"), &to), 0);
	flow.path = policy_path(s->a->policy, &from.addr, &to.addr);
	flow.client = from.addr;
	b = binding_new(s->a->bindings, &flow, NULL, NULL, &f);
	assert_non_null(b);
	reload(s, true);
	assert_non_null(s->a->old);
	binding_release(b);
	loop_run_once(s->loop, 0);
	reload(s, true);
	assert_null(s->a->old);
}

static void refused_with_reasons(void **state)
{
	struct stage *s = *state;

	write_policy(s, "a", "127.0.0.1:0", ", \"colour\": 1, \"exclusive\": 2");
	reload(s, false);
	assert_non_null(strstr(s->log, "colour"));
	assert_non_null(strstr(s->log, "exclusive"));
	write_policy(s, "b", "127.0.0.1:0", "");
	reload(s, false);
	assert_non_null(strstr(s->log, "identity"));
	assert_non_null(strstr(s->log, "needs a restart"));
	write_policy(s, "a", s->taken_at, "");
	reload(s, false);
	write_policy(s, "a", "127.0.0.1:0", ", \"permit\": [ { \"internal\": \"10.0.0.0/8\" } ]");
	reload(s, false);
	unlink(s->file);
	reload(s, false);
	write_policy(s, "a", "127.0.0.1:0", "");
	reload(s, true);
}

/* A secret that cannot be read: no part has changed, not even the listeners. */
static void all_or_nothing(void **state)
{
	struct stage *s = *state;
	FILE *f = fopen(s->file, "w");

	fputs("{ \"identity\": \"a\", \"zones\": { \"in\": [\"10.0.0.0/8\"] },"
	      "\"middleboxes\": { \"edge\": { \"address\": \"127.0.0.1:9\" },"
	      " \"rear\": { \"address\": \"127.0.0.1:10\", \"secret_file\": \"/nonexistent\" } },"
	      "\"paths\": [ { \"from\": \"in\", \"to\": \"in\", \"through\": [\"edge\"] } ] }",
	      f);
	fclose(f);
	reload(s, false);
	assert_non_null(strstr(s->log, "/nonexistent"));
	assert_non_null(mb_clients_find(s->a->middleboxes, "edge"));
	assert_null(mb_clients_find(s->a->middleboxes, "rear"));
}

static void path_states(void **state)
{
	struct stage *s = *state;
	const struct path *paths = s->a->policy->paths.v;
	struct path_state st = agent_path_state(s->a, &paths[0], 4);

	assert_false(st.up);
	assert_string_equal(st.down, "edge");
	assert_false(st.translates);
	st = agent_path_state(s->a, &paths[1], 4); /* nothing in the way */
	assert_true(st.up);
	assert_null(st.down);
}

static unsigned call(struct stage *s, const char *method, const char *path, const char *id,
		     char *body, size_t size)
{
	struct rest_request req = {.method = method, .path = path, .id = id, .limit = 100};
	struct rest_reply rep = {.status = 200, .content_type = "application/json"};

	buf_init(&rep.body, 1 << 20);
	jsonw_init(&rep.json, &rep.body);
	for (const struct rest_route *r = agent_routes; r->method; r++)
		if (!strcmp(r->method, method) && !strcmp(r->path, path))
			r->fn(&req, &rep, s->a);
	assert_int_equal(rep.body.error, 0);
	span_copy(buf_span(&rep.body), body, size);
	buf_fini(&rep.body);
	return rep.status;
}

static void routes(void **state)
{
	struct stage *s = *state;
	char body[16384];

	assert_int_equal(call(s, "GET", "/v1/status", NULL, body, sizeof(body)), 200);
	assert_non_null(strstr(body, "\"identity\":\"a\""));
	assert_non_null(strstr(body, "\"agent-fault\":"));
	assert_int_equal(call(s, "GET", "/v1/sessions", NULL, body, sizeof(body)), 200);
	assert_string_equal(body, "{\"sessions\":[]}");
	assert_int_equal(call(s, "GET", "/v1/bindings", NULL, body, sizeof(body)), 200);
	assert_string_equal(body, "{\"bindings\":[]}");
	assert_int_equal(call(s, "GET", "/v1/bindings/{id}", "1", body, sizeof(body)), 404);
	assert_int_equal(call(s, "GET", "/v1/sessions/{id}", "1", body, sizeof(body)), 404);
	assert_int_equal(call(s, "DELETE", "/v1/bindings/{id}", "1", body, sizeof(body)), 404);
	assert_int_equal(call(s, "DELETE", "/v1/sessions/{id}", "1", body, sizeof(body)), 404);
	assert_int_equal(call(s, "GET", "/healthz", NULL, body, sizeof(body)), 200);
	assert_int_equal(call(s, "GET", "/readyz", NULL, body, sizeof(body)), 503);
	assert_non_null(strstr(body, "edge"));
	assert_int_equal(call(s, "GET", "/metrics", NULL, body, sizeof(body)), 200);
	assert_non_null(
		strstr(body, "\nsluice_agent_failures_total{cause=\"middlebox-unreachable\"} "));
}

static void on_stopped(void *arg)
{
	struct stage *s = arg;

	s->stopped = true;
}

static void stops(void **state)
{
	struct stage *s = *state;
	uint64_t start = loop_now_ms(s->loop);
	char body[1024];

	agent_shutdown(s->a, on_stopped, s);
	assert_false(s->stopped);
	agent_shutdown(s->a, on_stopped, s); /* a second signal changes nothing */
	agent_reload(s->a, s->file);
	assert_int_equal(s->a->reloads, 0);
	assert_int_equal(call(s, "GET", "/readyz", NULL, body, sizeof(body)), 503);
	while (!s->stopped && loop_now_ms(s->loop) < start + 4000)
		loop_run_once(s->loop, 20);
	assert_true(s->stopped);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(taken_over),
		T(kept_while_a_binding_lives),
		T(refused_with_reasons),
		T(all_or_nothing),
		T(path_states),
		T(routes),
		T(stops),
	};

	return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
