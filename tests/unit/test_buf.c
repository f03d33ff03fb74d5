/*
 * The growing buffer: order, limits, the sticky error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/errcode.h"

static void test_append_and_consume(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 100);
	assert_int_equal(buf_span(&b).n, 0);
	assert_int_equal(buf_append(&b, NULL, 0), 0);
	assert_int_equal(buf_append_str(&b, "abc"), 0);
	assert_int_equal(buf_append_span(&b, SPAN_LIT("def")), 0);
	buf_consume(&b, 2);
	assert_true(span_eq_str(buf_span(&b), "cdef"));
	buf_consume(&b, 4);
	assert_int_equal(b.len, 0);
	assert_int_equal(b.error, 0);
	buf_fini(&b);
}

static void test_maximum(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 4);
	assert_int_equal(buf_append_str(&b, "abcd"), 0);
	assert_int_equal(buf_append_str(&b, "e"), ERR_TOOBIG);
	assert_int_equal(b.error, ERR_TOOBIG);
	assert_true(span_eq_str(buf_span(&b), "abcd"));
	assert_null(buf_reserve(&b, 1));
	/* Space comes back, the error stays until reset. */
	buf_consume(&b, 2);
	assert_int_equal(buf_append_str(&b, "ef"), 0);
	assert_true(span_eq_str(buf_span(&b), "cdef"));
	assert_int_equal(b.error, ERR_TOOBIG);
	buf_reset(&b);
	assert_int_equal(b.error, 0);
	assert_int_equal(b.len, 0);
	assert_int_equal(buf_append(&b, "x", SIZE_MAX), ERR_TOOBIG);
	buf_fini(&b);
}

static void test_printf(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 5);
	assert_int_equal(buf_printf(&b, "%d-%s", 12, "ab"), 0);
	assert_true(span_eq_str(buf_span(&b), "12-ab"));
	assert_int_equal(buf_printf(&b, "%c", 'x'), ERR_TOOBIG);
	assert_true(span_eq_str(buf_span(&b), "12-ab"));
	buf_fini(&b);
}

static void test_reserve_and_commit(void **state)
{
	struct buf b;
	uint8_t *p;

	(void)state;
	buf_init(&b, 1000);
	buf_append_str(&b, "ab");
	p = buf_reserve(&b, 998);
	assert_non_null(p);
	memset(p, 'c', 998);
	buf_commit(&b, 3);
	assert_true(span_eq_str(buf_span(&b), "abccc"));
	buf_fini(&b);
}

/* A queue that moves for ever must stay small and keep its order. */
static void test_queue(void **state)
{
	struct buf b;
	uint8_t in = 0, out = 0;

	(void)state;
	buf_init(&b, 4096);
	srandom(1);
	for (int i = 0; i < 20000; i++) {
		uint8_t block[200];
		size_t n = (size_t)random() % sizeof(block);

		for (size_t k = 0; k < n; k++)
			block[k] = in++;
		if (buf_append(&b, block, n) != 0)
			in = (uint8_t)(in - n);
		n = (size_t)random() % (b.len + 1);
		for (size_t k = 0; k < n; k++)
			assert_int_equal(buf_span(&b).p[k], out++);
		buf_consume(&b, n);
		assert_true(b.cap <= 4097);
	}
	buf_fini(&b);
}

static void test_without_limit(void **state)
{
	struct buf b;
	static uint8_t block[1000];

	(void)state;
	buf_init(&b, SIZE_MAX);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(buf_append(&b, block, sizeof(block)), 0);
	assert_int_equal(b.len, 1000000);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_append_and_consume),
		cmocka_unit_test(test_maximum),
		cmocka_unit_test(test_printf),
		cmocka_unit_test(test_reserve_and_commit),
		cmocka_unit_test(test_queue),
		cmocka_unit_test(test_without_limit),
	};

	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
