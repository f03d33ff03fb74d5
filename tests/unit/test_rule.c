/*
 * Tuples as values: conversion, wildcards, overlap, matches; permits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "middlebox/authz.h"
#include "middlebox/nat.h"
#include "middlebox/tuple.h"

static struct tuple v4(uint8_t a, uint8_t d, uint8_t prefix, uint16_t port, uint16_t range)
{
	return (struct tuple){.addr = {a, 0, 0, d},
			      .version = SIMCO_IPV4,
			      .prefix = prefix,
			      .port = port,
			      .range = range,
			      .protocol = 17};
}

static struct rule rule_of(struct tuple in, struct tuple ex)
{
	struct rule r = {.kind = RULE_ENABLED, .direction = SIMCO_BIDIRECTIONAL};

	r.in = in;
	r.ex = ex;
	return r;
}

static void test_round_trip(void **state)
{
	struct simco_tuple s = {
		.ip_version = SIMCO_IPV6,
		.prefix_len = 64,
		.protocol = 6,
		.location = SIMCO_EXTERNAL,
		.port = 443,
		.port_range = 3,
		.addr = {0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
	struct tuple t = tuple_from_simco(&s);
	struct simco_tuple back = tuple_to_simco(&t, SIMCO_EXTERNAL);
	struct addr_prefix p = tuple_prefix(&t);

	(void)state;
	assert_memory_equal(back.addr, s.addr, 16);
	assert_int_equal(back.port, 443);
	assert_int_equal(back.port_range, 3);
	assert_int_equal(back.prefix_len, 64);
	assert_int_equal(p.len, 64);
	assert_int_equal(p.addr.b[7], 4);
	assert_int_equal(p.addr.b[8], 0); /* host bits are cut */
	assert_false(tuple_addr_exact(&t));
}

static void test_overlap(void **state)
{
	struct tuple host = v4(10, 9, 32, 5000, 1), range = v4(10, 9, 32, 4990, 11);
	struct tuple net = v4(10, 0, 8, 0, 0), other = v4(11, 9, 32, 5000, 1);
	struct tuple all = {.version = SIMCO_IPV4, .protocols_only = 1, .protocol = 17};
	struct tuple tcp = host, any = host, six = {.version = SIMCO_IPV6, .protocols_only = 1};

	(void)state;
	tcp.protocol = 6;
	any.protocol = 0;
	assert_true(tuple_overlaps(&host, &range));
	assert_true(tuple_overlaps(&host, &net));
	assert_true(tuple_overlaps(&host, &all));
	assert_true(tuple_overlaps(&tcp, &any));
	assert_false(tuple_overlaps(&host, &other));
	assert_false(tuple_overlaps(&host, &tcp));
	assert_false(tuple_overlaps(&host, &six));
	range.range = 10;
	assert_false(tuple_overlaps(&host, &range));
}

static void test_matches(void **state)
{
	struct rule r = rule_of(v4(10, 9, 32, 5000, 3), v4(198, 7, 32, 6000, 3));
	struct fw_match m;

	(void)state;
	assert_int_equal(rule_pairs(&r), 3);
	rule_match(&r, SIMCO_INBOUND, 2, &m);
	assert_int_equal(m.src.addr.b[0], 198);
	assert_int_equal(m.src.len, 32);
	assert_int_equal(m.sport.first, 6002);
	assert_int_equal(m.sport.last, 6002);
	assert_int_equal(m.dport.first, 5002);
	/* One side open: a firewall has a range, a NAT one element per binding. */
	r = rule_of(v4(10, 9, 32, 5000, 3), v4(198, 0, 8, 0, 0));
	assert_int_equal(rule_pairs(&r), 1);
	rule_match(&r, SIMCO_OUTBOUND, 0, &m);
	assert_int_equal(m.sport.last, 5002);
	assert_int_equal(m.dport.last, 65535);
	assert_int_equal(m.dst.len, 8);
	assert_int_equal(rule_bindings(&r), 0);
	r.flags = RULE_NAT;
	assert_int_equal(rule_pairs(&r), 3);
	assert_int_equal(rule_bindings(&r), 3);
	rule_match(&r, SIMCO_OUTBOUND, 1, &m);
	assert_int_equal(m.sport.first, 5001);
	assert_int_equal(m.sport.last, 5001);
	/* Any protocol means any port. */
	r = rule_of(v4(10, 9, 32, 5000, 1), v4(198, 7, 32, 6000, 1));
	r.in.protocol = r.ex.protocol = 0;
	rule_match(&r, SIMCO_OUTBOUND, 0, &m);
	assert_int_equal(m.protocol, 0);
	assert_int_equal(m.sport.first, 0);
	assert_int_equal(m.sport.last, 65535);
}

static void test_bindings(void **state)
{
	struct rule r = rule_of(v4(10, 9, 32, 5000, 2), v4(198, 7, 32, 6000, 2));
	static const struct addr out = {4, {192, 0, 0, 1}}, face = {4, {172, 0, 0, 1}};
	struct fw_binding b;
	struct ledger led;
	struct tuple t;
	struct nat n;

	(void)state;
	assert_int_equal(ledger_open(&led, NULL, (const uint8_t[16]){1}, 16), 0);
	assert_int_equal(ledger_address(&led, &face), 0);
	assert_int_equal(ledger_address(&led, &out), 1);
	assert_int_equal(nat_init(&n, FW_NAT_TWICE, &led, NULL), 0);
	t = nat_tuple(&n, &r, SIMCO_OUTSIDE);
	assert_memory_equal(&t, &r.in, sizeof(t));
	t = nat_tuple(&n, &r, SIMCO_INSIDE);
	assert_memory_equal(&t, &r.ex, sizeof(t));
	r.flags = RULE_NAT;
	r.outside = (struct rule_ports){1, 16384};
	nat_binding(&n, &r, 1, &b);
	assert_int_equal(b.inside.port, 5001);
	assert_int_equal(b.outside.port, 16385);
	assert_true(addr_eq(&b.outside.addr, &out));
	assert_int_equal(b.inside_face.addr.version, 0);
	assert_int_equal(b.external.addr.version, 0);
	r.flags |= RULE_TWICE;
	r.inside = (struct rule_ports){0, 30000};
	nat_binding(&n, &r, 1, &b);
	assert_int_equal(b.inside_face.port, 30001);
	assert_int_equal(b.external.port, 6001);
	t = nat_tuple(&n, &r, SIMCO_INSIDE);
	assert_int_equal(t.port, 30000);
	assert_int_equal(t.range, 2);
	assert_int_equal(t.prefix, 32);
	assert_int_equal(t.addr[0], 172);
	/* Before the far end is known: what was reserved. */
	r = (struct rule){.kind = RULE_RESERVED,
			  .version = SIMCO_IPV6,
			  .prr = {.protocol = 6, .port_range = 4}};
	t = nat_tuple(&n, &r, SIMCO_OUTSIDE);
	assert_true(t.protocols_only && t.version == SIMCO_IPV6 && t.protocol == 6);
	assert_int_equal(nat_tuple(&n, &r, SIMCO_INSIDE).version, 0);
	r.flags = RULE_NAT;
	r.outside = (struct rule_ports){1, 16384};
	t = nat_tuple(&n, &r, SIMCO_OUTSIDE);
	assert_true(t.port == 16384 && t.range == 4 && t.version == SIMCO_IPV4);
	nat_fini(&n);
	ledger_close(&led);
}

static void test_permits(void **state)
{
	struct agent_permit permits[] = {
		{.internal = {{4, {10}}, 8},
		 .external = {{4, {198}}, 8},
		 .protocol = 17,
		 .ports = {1024, 65535}},
		{.internal = {{4, {10, 0, 0, 9}}, 32},
		 .external = {{4, {0}}, 0},
		 .protocol = 17,
		 .ports = {5000, 5010},
		 .external_ports = {1, 65535},
		 .has_external_ports = true},
	};
	static const char *const owners[] = {"friend"};
	struct agent_conf a = {
		.name = "me", .permits = permits, .n_permits = 2, .owners = owners, .n_owners = 1};
	struct tuple in = v4(10, 9, 32, 5000, 1), ex = v4(198, 7, 32, 6000, 1);

	(void)state;
	assert_int_equal(authz_tuples(&a, &in, &ex), 0);
	ex.port = 80;
	assert_int_equal(authz_tuples(&a, &in, &ex), 0); /* the second permit */
	in.addr[3] = 8;
	assert_int_equal(authz_tuples(&a, &in, &ex), SIMCO_ILLEGAL_PORT);
	ex.addr[0] = 203;
	assert_int_equal(authz_tuples(&a, &in, &ex), SIMCO_ILLEGAL_ADDRESS);
	in.protocol = ex.protocol = 6;
	assert_int_equal(authz_tuples(&a, &in, &ex), SIMCO_ADDRESS_SPACE_UNAVAILABLE);
	/* A wildcard needs a permit as wide. */
	in = v4(10, 9, 32, 5000, 1);
	ex = v4(198, 0, 8, 0, 0);
	assert_int_equal(authz_tuples(&a, &in, &ex), 0);
	ex = v4(198, 0, 7, 0, 0);
	assert_int_equal(authz_tuples(&a, &in, &ex), 0);
	in.addr[3] = 8;
	assert_int_equal(authz_tuples(&a, &in, &ex), SIMCO_ILLEGAL_ADDRESS);
	in.protocol = ex.protocol = 0;
	assert_int_equal(authz_tuples(&a, &in, &ex), SIMCO_ADDRESS_SPACE_UNAVAILABLE);
	assert_int_equal(authz_reserve(&a, 17, 4), 0);
	assert_int_equal(authz_reserve(&a, 0, 4), 0);
	assert_int_equal(authz_reserve(&a, 6, 4), SIMCO_ADDRESS_SPACE_UNAVAILABLE);
	assert_int_equal(authz_reserve(&a, 17, 6), SIMCO_ADDRESS_SPACE_UNAVAILABLE);
	assert_true(authz_sees(&a, "me") && authz_sees(&a, "friend"));
	assert_false(authz_sees(&a, "foe"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_overlap),
		cmocka_unit_test(test_matches),	   cmocka_unit_test(test_bindings),
		cmocka_unit_test(test_permits),
	};

	return cmocka_run_group_tests_name("rule", tests, NULL, NULL);
}
