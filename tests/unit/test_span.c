/*
 * Borrowed octets, and the names of errors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/span.h"

static void test_compare(void **state)
{
	(void)state;
	assert_true(span_eq(SPAN_EMPTY, span_str("")));
	assert_true(span_eq(SPAN_LIT("ab"), span_str("ab")));
	assert_false(span_eq(SPAN_LIT("ab"), span_str("aB")));
	assert_true(span_eq_nocase(SPAN_LIT("ab"), span_str("aB")));
	/* ASCII only: [ and { differ by the same bit as A and a. */
	assert_false(span_eq_nocase(SPAN_LIT("["), span_str("{")));
	assert_true(span_eq_str_nocase(SPAN_LIT("SETUP"), "setup"));
	assert_true(span_starts_nocase(SPAN_LIT("Client_Port=1"), "client_port="));
	assert_false(span_starts_nocase(SPAN_LIT("cli"), "client"));
}

static void test_parts(void **state)
{
	struct span rest = SPAN_LIT("a;b;;c");

	(void)state;
	assert_true(span_eq_str(span_sub(SPAN_LIT("abcd"), 1, 2), "bc"));
	assert_true(span_eq_str(span_sub(SPAN_LIT("abcd"), 1, SIZE_MAX), "bcd"));
	assert_int_equal(span_sub(SPAN_LIT("abcd"), 4, 1).n, 0);
	assert_int_equal(span_sub(SPAN_LIT("abcd"), 9, 1).n, 0);
	assert_true(span_eq_str(span_trim(SPAN_LIT(" \t\r\na b\n ")), "a b"));
	assert_int_equal(span_trim(SPAN_LIT("  ")).n, 0);
	assert_int_equal(span_find(SPAN_LIT("abc"), 'c'), 2);
	assert_int_equal(span_find(SPAN_LIT("abc"), 'd'), 3);
	assert_int_equal(span_find(SPAN_EMPTY, 'd'), 0);
	assert_true(span_eq_str(span_cut(&rest, ';'), "a"));
	assert_true(span_eq_str(span_cut(&rest, ';'), "b"));
	assert_true(span_eq_str(span_cut(&rest, ';'), ""));
	assert_true(span_eq_str(span_cut(&rest, ';'), "c"));
	assert_int_equal(rest.n, 0);
	assert_int_equal(span_cut(&rest, ';').n, 0);
}

static void test_numbers(void **state)
{
	uint64_t v = 7;

	(void)state;
	assert_int_equal(span_u64(SPAN_LIT("0"), 0, &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(span_u64(SPAN_LIT("007"), 10, &v), 0);
	assert_int_equal(v, 7);
	assert_int_equal(span_u64(SPAN_LIT("18446744073709551615"), UINT64_MAX, &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(span_u64(SPAN_LIT("18446744073709551616"), UINT64_MAX, &v), ERR_TOOBIG);
	assert_int_equal(span_u64(SPAN_LIT("65536"), 65535, &v), ERR_TOOBIG);
	assert_int_equal(span_u64(SPAN_LIT("5"), 4, &v), ERR_TOOBIG);
	assert_int_equal(span_u64(SPAN_LIT("40"), 41, &v), 0);
	assert_int_equal(span_u64(SPAN_LIT("42"), 41, &v), ERR_TOOBIG);
	assert_int_equal(v, 40);
	assert_int_equal(span_u64(SPAN_EMPTY, 9, &v), ERR_MALFORMED);
	assert_int_equal(span_u64(SPAN_LIT("+1"), 9, &v), ERR_MALFORMED);
	assert_int_equal(span_u64(SPAN_LIT(" 1"), 9, &v), ERR_MALFORMED);
	assert_int_equal(span_u64(SPAN_LIT("99x"), 9, &v), ERR_MALFORMED);
}

static void test_copies(void **state)
{
	char small[4];
	char *s = span_dup(SPAN_LIT("abc"));

	(void)state;
	assert_string_equal(s, "abc");
	free(s);
	assert_true(span_copy(SPAN_LIT("abc"), small, sizeof(small)));
	assert_string_equal(small, "abc");
	assert_false(span_copy(SPAN_LIT("abcd"), small, sizeof(small)));
	assert_string_equal(small, "abc");
	assert_false(span_copy(SPAN_LIT("a"), small, 0));
}

static void test_errors(void **state)
{
	(void)state;
	for (int e = 0; e >= ERR_KERNEL; e--) {
		assert_non_null(err_str(e));
		assert_string_not_equal(err_str(e), "unknown error");
	}
	assert_string_equal(err_str(1), "unknown error");
	assert_string_equal(err_str(ERR_KERNEL - 1), "unknown error");
	assert_int_equal(err_from_errno(0), 0);
	assert_int_equal(err_from_errno(ECONNREFUSED), ERR_REFUSED);
	assert_int_equal(err_from_errno(EAGAIN), ERR_AGAIN);
	assert_int_equal(err_from_errno(99999), ERR_IO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_compare), cmocka_unit_test(test_parts),
		cmocka_unit_test(test_numbers), cmocka_unit_test(test_copies),
		cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests_name("span", tests, NULL, NULL);
}
