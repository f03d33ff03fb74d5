/*
 * The nftables driver's arithmetic, without a kernel: which set takes a match,
 * how keys are packed, which interval set takes an overlapping range.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "middlebox/fw_nft.h"

static struct fw_config config = {.table = "t", .nat = FW_NAT_TWICE};

static int setup(void **state)
{
	struct fw_nft *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->cfg = &config;
	fw_sets_init(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static struct addr_prefix prefix(const char *s)
{
	struct addr_prefix p;

	assert_int_equal(addr_prefix_parse(span_str(s), &p), 0);
	return p;
}

static struct fw_match match(const char *src, uint16_t s0, uint16_t s1, const char *dst,
			     uint16_t d0, uint16_t d1)
{
	return (struct fw_match){.protocol = IPPROTO_UDP,
				 .src = prefix(src),
				 .dst = prefix(dst),
				 .sport = {s0, s1},
				 .dport = {d0, d1}};
}

static void test_exact_key(void **state)
{
	static const uint8_t want[] = {
		17,   0,    0, 0, /* protocol, padded behind */
		10,   1,    0, 2, /* source */
		0x13, 0x88, 0, 0, /* 5000 */
		192,  0,    2, 9, /* destination */
		0x17, 0x70, 0, 0, /* 6000 */
	};
	struct fw_match m = match("10.1.0.2", 5000, 5000, "192.0.2.9", 6000, 6000);
	struct fw_nft *f = *state;
	struct fw_elem e[FW_OP_ELEMS];

	assert_true(fw_match_exact(&m));
	assert_int_equal(fw_match_elems(f, false, &m, e), 1);
	assert_ptr_equal(e[0].set, &f->fixed[FW_EXACT4]);
	assert_int_equal(e[0].set->key_len, sizeof(want));
	assert_memory_equal(e[0].key, want, sizeof(want));
}

static void test_exact_key_of_ipv6(void **state)
{
	struct fw_match m = match("2001:db8::1", 1, 1, "2001:db8::2", 2, 2);
	struct fw_nft *f = *state;
	struct fw_elem e[FW_OP_ELEMS];

	m.protocol = IPPROTO_TCP;
	assert_int_equal(fw_match_elems(f, false, &m, e), 1);
	assert_ptr_equal(e[0].set, &f->fixed[FW_EXACT6]);
	assert_int_equal(e[0].set->key_len, 44);
	assert_int_equal(e[0].key[0], IPPROTO_TCP);
	assert_memory_equal(e[0].key + 4, m.src.addr.b, 16);
	assert_int_equal(e[0].key[21], 1);
	assert_memory_equal(e[0].key + 24, m.dst.addr.b, 16);
	assert_int_equal(e[0].key[41], 2);
}

static void test_both_protocols_are_two_elements(void **state)
{
	struct fw_match m = match("10.1.0.2", 5000, 5000, "192.0.2.9", 6000, 6000);
	struct fw_elem e[FW_OP_ELEMS];

	m.protocol = 0;
	assert_int_equal(fw_match_elems(*state, false, &m, e), 2);
	assert_int_equal(e[0].key[0], IPPROTO_UDP);
	assert_int_equal(e[1].key[0], IPPROTO_TCP);
}

static void test_every_shape(void **state)
{
	struct fw_nft *f = *state;

	for (int shape = 1; shape < 15; shape++) {
		uint16_t sp = shape & 2 ? 5000 : 0, dp = shape & 8 ? 6000 : 0;
		struct fw_match m =
			match(shape & 1 ? "10.1.0.2" : "0.0.0.0/0", sp, shape & 2 ? 5000 : 65535,
			      shape & 4 ? "192.0.2.9" : "0.0.0.0/0", dp, shape & 8 ? 6000 : 65535);
		struct fw_elem e[FW_OP_ELEMS];
		unsigned fields =
			1u + !!(shape & 1) + !!(shape & 2) + !!(shape & 4) + !!(shape & 8);

		assert_int_equal(fw_match_elems(f, false, &m, e), 1);
		assert_ptr_equal(e[0].set, &f->shapes[0][shape]);
		assert_int_equal(e[0].set->fields, fields);
		assert_int_equal(e[0].set->key_len, 4 * fields);
	}
}

static void test_the_cap_on_shapes(void **state)
{
	struct fw_match m = match("0.0.0.0/0", 0, 65535, "192.0.2.9", 6000, 6000);
	struct fw_nft *f = *state;
	struct fw_elem e[FW_OP_ELEMS];

	for (int i = 1; i <= FW_SHAPES_MAX; i++)
		f->shapes[0][i].state = FW_SET_PRESENT;
	assert_int_equal(fw_match_elems(f, false, &m, e), 1);
	assert_null(e[0].set); /* goes to the interval sets */
	f->shapes[0][1].state = FW_SET_ABSENT;
	assert_int_equal(fw_match_elems(f, false, &m, e), 1);
	assert_ptr_equal(e[0].set, &f->shapes[0][12]);
}

static void test_range_keys(void **state)
{
	static const uint8_t first[] = {17, 0, 0, 0, 10, 1, 0, 0, 0x13, 0x88,
					0,  0, 0, 0, 0,	 0, 0, 0, 0,	0};
	static const uint8_t last[] = {17, 0, 0,   0,	10,  1,	  0,	127,  0x13, 0x89,
				       0,  0, 255, 255, 255, 255, 0xff, 0xff, 0,    0};
	struct fw_match m = match("10.1.0.0/25", 5000, 5001, "0.0.0.0/0", 0, 65535);
	struct fw_elem e[FW_OP_ELEMS];

	assert_int_equal(fw_match_elems(*state, false, &m, e), 1);
	assert_null(e[0].set);
	assert_memory_equal(e[0].key, first, sizeof(first));
	assert_memory_equal(e[0].end, last, sizeof(last));
}

static void test_what_makes_no_sense(void **state)
{
	struct fw_match mixed = match("10.1.0.2", 1, 1, "2001:db8::2", 2, 2);
	struct fw_match backwards = match("10.1.0.2", 2, 1, "10.1.0.3", 2, 2);
	struct fw_match none = {.protocol = IPPROTO_UDP};
	struct fw_elem e[FW_OP_ELEMS];

	assert_int_equal(fw_match_elems(*state, false, &mixed, e), ERR_INVALID);
	assert_int_equal(fw_match_elems(*state, false, &backwards, e), ERR_INVALID);
	assert_int_equal(fw_match_elems(*state, false, &none, e), ERR_INVALID);
}

static struct addr_port end(const char *s)
{
	struct addr_port a;

	assert_int_equal(addr_port_parse(span_str(s), &a), 0);
	return a;
}

static void test_bindings(void **state)
{
	struct fw_binding b = {.protocol = IPPROTO_UDP,
			       .inside = end("10.1.0.2:5000"),
			       .outside = end("192.0.2.1:20000")};
	struct fw_nft *f = *state;
	struct fw_elem e[FW_OP_ELEMS];

	assert_int_equal(fw_binding_elems(f, &b, e), 2);
	assert_ptr_equal(e[0].set, &f->fixed[FW_DNAT4]);
	assert_ptr_equal(e[1].set, &f->fixed[FW_SNAT4]);
	/* what is the key of one is the data of the other */
	assert_memory_equal(e[0].key + 4, e[1].data, FW_DATA_LEN);
	assert_memory_equal(e[1].key + 4, e[0].data, FW_DATA_LEN);

	b.protocol = 0;
	b.inside_face = end("10.1.0.1:30000");
	b.external = end("198.51.100.9:6000");
	assert_int_equal(fw_binding_elems(f, &b, e), 8);
	assert_ptr_equal(e[6].set, &f->fixed[FW_PEER_DNAT4]);
	assert_int_equal(e[6].key[0], IPPROTO_TCP);

	b.outside = end("[2001:db8::1]:20000");
	assert_int_equal(fw_binding_elems(f, &b, e), ERR_UNSUPPORTED);
}

static void test_layers(void **state)
{
	struct fw_nft *f = *state;
	uint64_t later = fw_now_ms() + 60000;
	struct fw_match a = match("10.1.0.0/24", 5000, 5010, "0.0.0.0/0", 0, 65535);
	struct fw_match b = match("10.1.0.2", 5005, 5020, "0.0.0.0/0", 0, 65535);
	struct fw_match c = match("10.1.0.0/24", 5011, 5020, "0.0.0.0/0", 0, 65535);
	struct fw_range *slot;

	assert_ptr_equal(fw_range_place(f, false, &a, later), &f->layers[0][0]);
	assert_ptr_equal(fw_range_place(f, false, &b, later), &f->layers[0][1]);
	/* beside a in the first layer it overlaps nothing */
	assert_ptr_equal(fw_range_place(f, false, &c, later), &f->layers[0][0]);
	/* again: where it is */
	assert_ptr_equal(fw_range_place(f, false, &b, later), &f->layers[0][1]);
	assert_ptr_equal(fw_range_find(f, false, &c, &slot), &f->layers[0][0]);
	/* what overlaps in one field only does not overlap */
	b.protocol = IPPROTO_TCP;
	assert_ptr_equal(fw_range_place(f, false, &b, later), &f->layers[0][0]);
	slot->expires_ms = 0;
	assert_null(fw_range_find(f, false, &c, &slot));
}

static void test_layers_and_slots_are_capped(void **state)
{
	struct fw_nft *f = *state;
	uint64_t later = fw_now_ms() + 60000;
	struct fw_match m;

	for (uint16_t i = 0; i < FW_LAYERS; i++) {
		m = match("10.1.0.2", (uint16_t)(5000 + i), 6000, "0.0.0.0/0", 0, 65535);
		assert_non_null(fw_range_place(f, false, &m, later));
	}
	m = match("10.1.0.2", 5500, 6000, "0.0.0.0/0", 0, 65535);
	assert_null(fw_range_place(f, false, &m, later));
	for (uint16_t i = 0; i < FW_RANGES_MAX - FW_LAYERS; i++) {
		uint16_t first = (uint16_t)(10000 + 2 * i);

		m = match("10.1.0.2", first, (uint16_t)(first + 1), "0.0.0.0/0", 0, 65535);
		assert_ptr_equal(fw_range_place(f, false, &m, later), &f->layers[0][0]);
	}
	m = match("10.1.0.2", 40000, 40001, "0.0.0.0/0", 0, 65535);
	assert_null(fw_range_place(f, false, &m, later));
	/* an expired one makes room */
	f->ranges[0][20].expires_ms = 1;
	assert_non_null(fw_range_place(f, false, &m, later));
}

/* Each part that rules are made of counts; where it lies in memory does not. */
static void test_same_configuration(void **state)
{
	const char *in[] = {"in"}, *out[] = {"out"}, *other[] = {"other"};
	struct fw_permit permit = {.protocol = 6, .ports = {554, 554}}, permit2 = permit;
	struct fw_pool pool = {.ports = {1024, 65535}}, pool2 = pool;
	struct fw_source source = {.ports = {1, 2}}, source2 = source;
	struct fw_static fixed = {.protocol = 17}, fixed2 = fixed;
	struct addr_port control = {.port = 7626}, control2 = control;
	struct fw_config a = {.table = "t",
			      .inside_if = in,
			      .n_inside_if = 1,
			      .outside_if = out,
			      .n_outside_if = 1,
			      .permits = &permit,
			      .n_permits = 1,
			      .nat = FW_NAT_NAPT,
			      .pools = &pool,
			      .n_pools = 1,
			      .sources = &source,
			      .n_sources = 1,
			      .statics = &fixed,
			      .n_statics = 1,
			      .control = &control,
			      .n_control = 1};
	struct fw_config b = a;

	(void)state;
	b.permits = &permit2;
	b.pools = &pool2;
	b.sources = &source2;
	b.statics = &fixed2;
	b.control = &control2;
	b.max_elements = 7; /* sizes sets, not rules */
	assert_true(fw_config_same(&a, &b));
#define DIFFERS(change, back)                                                                      \
	do {                                                                                       \
		change;                                                                            \
		assert_false(fw_config_same(&a, &b));                                              \
		back;                                                                              \
		assert_true(fw_config_same(&a, &b));                                               \
	} while (0)
	DIFFERS(permit2.ports.last = 555, permit2 = permit);
	DIFFERS(permit2.from.len = 8, permit2 = permit);
	DIFFERS(permit2.protocol = 17, permit2 = permit);
	DIFFERS(b.n_permits = 0, b.n_permits = 1);
	DIFFERS(pool2.ports.first = 1, pool2 = pool);
	DIFFERS(pool2.address.version = 4, pool2 = pool);
	DIFFERS(b.n_pools = 0, b.n_pools = 1);
	DIFFERS(source2.to_address.version = 4, source2 = source);
	DIFFERS(b.n_sources = 0, b.n_sources = 1);
	DIFFERS(fixed2.inside.port = 5060, fixed2 = fixed);
	DIFFERS(b.n_statics = 0, b.n_statics = 1);
	DIFFERS(control2.port = 1, control2 = control);
	DIFFERS(b.n_control = 0, b.n_control = 1);
	DIFFERS(b.inside_if = other, b.inside_if = in);
	DIFFERS(b.outside_if = other, b.outside_if = out);
	DIFFERS(b.n_outside_if = 0, b.n_outside_if = 1);
	DIFFERS(b.mode = FW_MARK, b.mode = FW_ENFORCE);
	DIFFERS(b.mark = 7, b.mark = 0);
	DIFFERS(b.nat = FW_NAT_NONE, b.nat = FW_NAT_NAPT);
	DIFFERS(b.counters = true, b.counters = false);
	DIFFERS(b.omit = 1, b.omit = 0);
	DIFFERS(b.table = "u", b.table = "t");
#undef DIFFERS
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_exact_key, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exact_key_of_ipv6, setup, teardown),
		cmocka_unit_test_setup_teardown(test_both_protocols_are_two_elements, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_every_shape, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_cap_on_shapes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_range_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_makes_no_sense, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bindings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
		cmocka_unit_test(test_same_configuration),
		cmocka_unit_test_setup_teardown(test_layers_and_slots_are_capped, setup, teardown),
	};

	return cmocka_run_group_tests_name("fw_set", tests, NULL, NULL);
}
