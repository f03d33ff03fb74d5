/*
 * The JSON writer: nesting, commas, escapes, peer octets that are no UTF-8.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/jsonw.h"

static void expect(struct buf *b, const char *text)
{
	assert_int_equal(b->error, 0);
	assert_int_equal(buf_append(b, "", 1), 0);
	assert_string_equal((const char *)buf_span(b).p, text);
}

static void test_nesting(void **state)
{
	struct jsonw w;
	struct buf b;

	(void)state;
	buf_init(&b, 1024);
	jsonw_init(&w, &b);
	jsonw_object(&w, NULL);
	jsonw_uint(&w, "a", UINT64_MAX);
	jsonw_array(&w, "b");
	jsonw_array_end(&w);
	jsonw_array(&w, "c");
	jsonw_str(&w, NULL, "x");
	jsonw_str(&w, NULL, NULL);
	jsonw_object(&w, NULL);
	jsonw_bool(&w, "t", true);
	jsonw_bool(&w, "f", false);
	jsonw_object_end(&w);
	jsonw_array_end(&w);
	jsonw_object(&w, "d");
	jsonw_object_end(&w);
	jsonw_uint(&w, "e", 0);
	jsonw_object_end(&w);
	expect(&b, "{\"a\":18446744073709551615,\"b\":[],\"c\":[\"x\",null,"
		   "{\"t\":true,\"f\":false}],\"d\":{},\"e\":0}");
	buf_fini(&b);
}

static void test_strings(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"", "\"\""},
		{"a\"b\\c/", "\"a\\\"b\\\\c/\""},
		{"\n\r\t\x01\x7f", "\"\\n\\r\\t\\u0001\\u007f\""},
		{"gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80",
		 "\"gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80\""},
		{"\xFFx", "\"\xEF\xBF\xBDx\""},				      /* never UTF-8 */
		{"\xC3", "\"\xEF\xBF\xBD\""},				      /* cut short */
		{"\xC0\xAF", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},		      /* overlong */
		{"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* surrogate */
		{"\xF5\x80\x80\x80",
		 "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* above U+10FFFF */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct jsonw w;
		struct buf b;

		buf_init(&b, 1024);
		jsonw_init(&w, &b);
		jsonw_str(&w, NULL, cases[i].in);
		expect(&b, cases[i].out);
		buf_fini(&b);
	}
}

static void test_addresses(void **state)
{
	struct addr_port ap;
	struct jsonw w;
	struct buf b;

	(void)state;
	buf_init(&b, 1024);
	jsonw_init(&w, &b);
	jsonw_array(&w, NULL);
	assert_int_equal(addr_port_parse(span_str("[2001:db8::1]:554"), &ap), 0);
	jsonw_addr(&w, NULL, &ap.addr);
	jsonw_addr_port(&w, NULL, &ap);
	jsonw_addr(&w, NULL, &addr_none);
	jsonw_array_end(&w);
	expect(&b, "[\"2001:db8::1\",\"[2001:db8::1]:554\",null]");
	buf_fini(&b);
}

/* Running out of room is sticky and harmless. */
static void test_full(void **state)
{
	struct jsonw w;
	struct buf b;

	(void)state;
	buf_init(&b, 8);
	jsonw_init(&w, &b);
	jsonw_object(&w, NULL);
	jsonw_str(&w, "key", "a long value");
	jsonw_object_end(&w);
	assert_int_not_equal(b.error, 0);
	assert_true(b.len <= 8);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nesting),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests_name("jsonw", tests, NULL, NULL);
}
