/*
 * What policy says about an RTSP client and a server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "agent/rtsp/rtsp_route.h"

static const char text[] =
	"{ \"identity\": \"agent-1\","
	"  \"zones\": { \"inside\": [\"10.1.0.0/16\", \"127.0.0.0/8\"], \"dmz\": [\"10.2.0.0/16\"],"
	"               \"outside\": [\"0.0.0.0/0\"] },"
	"  \"middleboxes\": { \"edge\": { \"address\": \"127.0.0.1:7626\" } },"
	"  \"paths\": [ { \"from\": \"inside\", \"to\": \"outside\", \"through\": [\"edge\"] },"
	"               { \"from\": \"inside\", \"to\": \"inside\", \"through\": [] } ],"
	"  \"permit\": [ { \"internal\": \"10.1.0.0/16\", \"external\": \"0.0.0.0/0\","
	"                  \"ports\": \"1024-65535\", \"external_ports\": \"6970-6999\" } ],"
	"  \"rtsp\": [ { \"listen\": \"10.1.0.9:554\", \"mode\": \"forward\" } ] }";

struct fixture {
	struct agent agent;
	struct rtsp_terms terms;
};

static void setup(struct fixture *x, enum rtsp_mode mode)
{
	struct conf_errors errs = {0};

	memset(x, 0, sizeof(*x));
	if (policy_parse(span_str(text), "test", &x->agent.policy, &errs) < 0) {
		conf_errors_print(&errs, stderr);
		fail();
	}
	x->terms.mode = mode;
	x->terms.out = RTSP_OUT_REWRITE;
}

static enum cause ask(struct fixture *x, const char *client, const char *server)
{
	struct addr_port from, to;
	struct rtsp_route r;
	struct failure f = {0};

	assert_int_equal(addr_port_parse(span_str(client), &from), 0);
	assert_int_equal(addr_port_parse(span_str(server), &to), 0);
	if (rtsp_route_find(&x->agent, &x->terms, &from.addr, &to, &r, &f) < 0)
		return f.cause;
	assert_true(addr_port_eq(&r.server, &to));
	assert_true(r.rewrite == (x->terms.out == RTSP_OUT_REWRITE));
	if (!r.rewrite)
		assert_true(addr_eq(&r.from.addr, &from.addr));
	return CAUSE_NONE;
}

/* A forward proxy is no way to itself, to loopback or around inside. */
static void test_forward(void **state ATTR_UNUSED)
{
	struct fixture x;

	setup(&x, RTSP_FORWARD);
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_NONE);
	assert_int_equal(ask(&x, "10.1.0.2:1", "10.1.0.3:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "127.0.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "[::1]:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "0.0.0.0:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "224.0.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "10.2.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "192.0.2.9:1", "10.1.0.2:554"), CAUSE_POLICY_REFUSED);
	policy_free(x.agent.policy);
}

static void test_transparent(void **state ATTR_UNUSED)
{
	struct fixture x;

	setup(&x, RTSP_TRANSPARENT);
	x.terms.out = RTSP_OUT_TRANSPARENT;
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_NONE);
	assert_int_equal(ask(&x, "10.1.0.2:1", "127.0.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_true(span_copy(SPAN_LIT("inside"), x.terms.zone, sizeof(x.terms.zone)));
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_NONE);
	assert_true(span_copy(SPAN_LIT("dmz"), x.terms.zone, sizeof(x.terms.zone)));
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_POLICY_REFUSED);
	policy_free(x.agent.policy);
}

static bool may(struct fixture *x, const char *internal, const char *external)
{
	struct addr_port in, out;
	const char *colon = strrchr(external, ':');

	assert_int_equal(addr_port_parse(span_str(internal), &in), 0);
	if (strcmp(colon, ":0") == 0) {
		assert_int_equal(
			addr_parse(span_of(external, (size_t)(colon - external)), &out.addr), 0);
		out.port = 0;
	} else {
		assert_int_equal(addr_port_parse(span_str(external), &out), 0);
	}
	return rtsp_route_permits(x->agent.policy, &in, &out);
}

static void test_permits(void **state ATTR_UNUSED)
{
	struct fixture x;

	setup(&x, RTSP_FORWARD);
	/* the internal end alone, as a SETUP names it */
	assert_true(may(&x, "10.1.0.2:1024", "192.0.2.9:0"));
	assert_false(may(&x, "10.1.0.2:1023", "192.0.2.9:0"));
	assert_false(may(&x, "10.2.0.2:5000", "192.0.2.9:0"));
	/* both ends, as the reply names them */
	assert_true(may(&x, "10.1.0.2:5000", "192.0.2.9:6970"));
	assert_false(may(&x, "10.1.0.2:5000", "192.0.2.9:7000"));
	policy_free(x.agent.policy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forward),
		cmocka_unit_test(test_transparent),
		cmocka_unit_test(test_permits),
	};

	return cmocka_run_group_tests_name("rtsp_route", tests, NULL, NULL);
}
