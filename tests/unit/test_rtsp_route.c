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
	const struct rtsp_mount *mount;
	bool rewrites; /* what was found */
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
	if (rtsp_route_find(&x->agent, &x->terms, x->mount, &from.addr, &to, &r, &f) < 0)
		return f.cause;
	assert_true(addr_port_eq(&r.server, &to));
	x->rewrites = r.rewrite;
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
	assert_true(x.rewrites);
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
	assert_false(x.rewrites);
	assert_int_equal(ask(&x, "10.1.0.2:1", "127.0.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_true(span_copy(SPAN_LIT("inside"), x.terms.zone, sizeof(x.terms.zone)));
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_NONE);
	assert_true(span_copy(SPAN_LIT("dmz"), x.terms.zone, sizeof(x.terms.zone)));
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.9:554"), CAUSE_POLICY_REFUSED);
	policy_free(x.agent.policy);
}

/* The mount's word counts most, then the longest route, then the listener's. */
static void test_ways_out(void **state ATTR_UNUSED)
{
	struct rtsp_route_conf routes[3] = {
		{.out = RTSP_OUT_TRANSPARENT}, {.out = RTSP_OUT_REWRITE}, {.out = RTSP_OUT_RELAY}};
	struct rtsp_plan plan = {.refs = 1, .routes = routes, .n_routes = 3};
	struct rtsp_mount mount = {.out = RTSP_OUT_REWRITE, .has_out = true};
	struct fixture x;

	addr_prefix_parse(SPAN_LIT("192.0.0.0/16"), &routes[0].to);
	addr_prefix_parse(SPAN_LIT("192.0.2.0/24"), &routes[1].to);
	addr_prefix_parse(SPAN_LIT("198.51.100.0/24"), &routes[2].to);
	setup(&x, RTSP_REVERSE);
	x.terms.plan = &plan;
	assert_int_equal(ask(&x, "10.1.0.2:1", "203.0.113.1:554"), CAUSE_NONE);
	assert_true(x.rewrites);
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.3.1:554"), CAUSE_NONE);
	assert_false(x.rewrites);
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.2.1:554"), CAUSE_NONE);
	assert_true(x.rewrites);
	assert_int_equal(ask(&x, "10.1.0.2:1", "198.51.100.1:554"), CAUSE_UNSUPPORTED);
	x.mount = &mount;
	assert_int_equal(ask(&x, "10.1.0.2:1", "192.0.3.1:554"), CAUSE_NONE);
	assert_true(x.rewrites);
	/* a mount is the operator's word, but not against a path or for our own host */
	assert_int_equal(ask(&x, "10.1.0.2:1", "10.1.0.3:554"), CAUSE_NONE);
	assert_int_equal(ask(&x, "10.1.0.2:1", "10.2.0.1:554"), CAUSE_POLICY_REFUSED);
	assert_int_equal(ask(&x, "10.1.0.2:1", "127.0.0.1:554"), CAUSE_POLICY_REFUSED);
	policy_free(x.agent.policy);
}

/* Own addresses that policy names, else those that the host itself would use. */
static void test_relay(void **state ATTR_UNUSED)
{
	struct addr own[2], client, want;
	struct addr_port server;
	struct rtsp_route r;
	struct failure f;
	struct fixture x;

	setup(&x, RTSP_REVERSE);
	x.terms.out = RTSP_OUT_RELAY;
	assert_int_equal(ask(&x, "10.1.0.2:1", "198.51.100.1:554"), CAUSE_UNSUPPORTED);
	addr_parse(SPAN_LIT("fd01::9"), &own[0]);
	addr_parse(SPAN_LIT("10.1.0.9"), &own[1]);
	addr_parse(SPAN_LIT("10.1.0.2"), &client);
	addr_port_parse(SPAN_LIT("198.51.100.1:554"), &server);
	x.agent.policy->relay.present = true;
	x.agent.policy->relay.addresses.v = own;
	x.agent.policy->relay.addresses.n = 2;
	assert_int_equal(rtsp_route_find(&x.agent, &x.terms, NULL, &client, &server, &r, &f), 0);
	assert_true(r.relay && r.rewrite);
	assert_true(addr_eq(&r.relay_local[RELAY_CLIENT], &own[1]));
	assert_true(addr_eq(&r.relay_local[RELAY_FAR], &own[1]));
	assert_true(addr_eq(&r.from.addr, &own[1]));
	addr_parse(SPAN_LIT("127.0.0.1"), &client); /* inside, in this policy */
	addr_parse(SPAN_LIT("127.0.0.1"), &want);
	x.agent.policy->relay.addresses.n = 0;
	if (rtsp_route_find(&x.agent, &x.terms, NULL, &client, &server, &r, &f) == 0)
		assert_true(addr_eq(&r.relay_local[RELAY_CLIENT], &want));
	else /* no network at all here */
		assert_int_equal(f.cause, CAUSE_PEER_UNREACHABLE);
	x.agent.policy->relay.addresses.v = NULL;
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
		cmocka_unit_test(test_forward),	 cmocka_unit_test(test_transparent),
		cmocka_unit_test(test_ways_out), cmocka_unit_test(test_relay),
		cmocka_unit_test(test_permits),
	};

	return cmocka_run_group_tests_name("rtsp_route", tests, NULL, NULL);
}
