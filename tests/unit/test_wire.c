/*
 * The big-endian cursor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/base.h"
#include "common/errcode.h"
#include "common/wire.h"

static const uint8_t golden[] = {
	0x01,						/* u8 */
	0x02, 0x03,					/* u16 */
	0x04, 0x05, 0x06, 0x07,				/* u32 */
	0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, /* u64 */
	'a',  'b',  'c',				/* octets */
};

static void test_read(void **state)
{
	struct wire c;
	char two[2];

	(void)state;
	wire_init_read(&c, span_of(golden, sizeof(golden)));
	assert_int_equal(wire_read_u8(&c), 0x01);
	assert_int_equal(wire_read_u16(&c), 0x0203);
	assert_int_equal(wire_read_u32(&c), 0x04050607);
	assert_true(wire_read_u64(&c) == 0x08090a0b0c0d0e0fu);
	assert_int_equal(wire_left(&c), 3);
	wire_read(&c, two, 2);
	assert_memory_equal(two, "ab", 2);
	assert_true(span_eq_str(wire_read_span(&c, 1), "c"));
	assert_int_equal(c.error, 0);
}

/* Every truncation ends in ERR_MORE and in zeros, never in stray octets. */
static void test_truncation(void **state)
{
	(void)state;
	for (size_t n = 0; n < sizeof(golden); n++) {
		struct wire c;
		char last[3] = "zzz";

		wire_init_read(&c, span_of(golden, n));
		wire_read_u8(&c);
		wire_read_u16(&c);
		wire_read_u32(&c);
		wire_read_u64(&c);
		wire_read(&c, last, 3);
		assert_int_equal(c.error, ERR_MORE);
		assert_memory_equal(last, "\0\0\0", 3);
		assert_int_equal(wire_read_u8(&c), 0);
		assert_int_equal(wire_read_span(&c, 1).n, 0);
		assert_true(c.pos <= n);
	}
}

static void test_write(void **state)
{
	uint8_t out[sizeof(golden)];
	struct wire c;

	(void)state;
	wire_init_write(&c, out, sizeof(out));
	wire_write_u8(&c, 0x01);
	wire_write_u16(&c, 0);
	wire_write_u32(&c, 0x04050607);
	wire_write_u64(&c, 0x08090a0b0c0d0e0fu);
	wire_write(&c, "abc", 3);
	wire_patch_u16(&c, 1, 0x0203);
	assert_int_equal(c.error, 0);
	assert_memory_equal(out, golden, sizeof(golden));
	wire_write(&c, NULL, 0);
	assert_int_equal(c.error, 0);
	wire_write_u8(&c, 9);
	assert_int_equal(c.error, ERR_TOOBIG);
	wire_patch_u16(&c, 0, 0xffff);
	assert_memory_equal(out, golden, sizeof(golden));
}

static void test_write_never_past_the_end(void **state)
{
	uint8_t out[4] = {0, 0, 0, 0xee};
	struct wire c;

	(void)state;
	wire_init_write(&c, out, 3);
	wire_write_u16(&c, 0x0102);
	wire_write_u16(&c, 0x0304);
	wire_write_u8(&c, 5); /* would fit, but the gap must not be filled */
	assert_int_equal(c.error, ERR_TOOBIG);
	assert_int_equal(c.pos, 2);
	assert_int_equal(out[2], 0);
	assert_int_equal(out[3], 0xee);
}

static void test_patch_only_what_is_written(void **state)
{
	uint8_t out[4] = {0};
	struct wire c;

	(void)state;
	wire_init_write(&c, out, sizeof(out));
	wire_write_u16(&c, 0);
	wire_patch_u16(&c, 1, 7);
	assert_int_equal(c.error, ERR_TOOBIG);
	wire_init_read(&c, span_of(golden, 4));
	wire_write_u8(&c, 1);
	assert_int_equal(c.error, ERR_TOOBIG);
	wire_init_read(&c, span_of(golden, 4));
	wire_skip(&c, 3);
	wire_skip(&c, 2);
	assert_int_equal(c.error, ERR_MORE);
	assert_int_equal(wire_left(&c), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_write_never_past_the_end),
		cmocka_unit_test(test_patch_only_what_is_written),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
