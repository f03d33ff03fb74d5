/*
 * Addresses, ports and prefixes: text both ways, and their relations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/addr.h"
#include "common/errcode.h"

static struct addr A(const char *text) {
	struct addr a;

	assert_int_equal(addr_parse(span_str(text), &a), 0);
	return a;
}

static struct addr_prefix
P(const char *text) {
	struct addr_prefix p;

	assert_int_equal(addr_prefix_parse(span_str(text), &p), 0);
	return p;
}

static void
test_parse(void **state)
{
	static const char *const bad[] = {
		"",	     "1.2.3",	 "1.2.3.4.5", "01.2.3.4",    "1.2.3.04",   "256.1.1.1",
		" 1.2.3.4",  "1.2.3.4 ", "1.2.3.4/8", "fe80::1%lo",  "[::1]",	   ":::",
		"localhost", "0x7f.1",	 "12345::",   "1:2:3:4:5:6", "2130706433",
	};
	struct addr a = addr_none;
	char text[ADDR_STRLEN];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(addr_parse(span_str(bad[i]), &a), ERR_MALFORMED);
	assert_int_equal(addr_parse(SPAN_LIT("1.2.3.4\0"), &a), ERR_MALFORMED);
	assert_int_equal(a.version, 0);
	a = A("192.0.2.1");
	assert_int_equal(a.version, 4);
	assert_memory_equal(a.b, "\xc0\x00\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_string_equal(addr_str(&a, text), "192.0.2.1");
	a = A("2001:DB8:0::1");
	assert_string_equal(addr_str(&a, text), "2001:db8::1");
	assert_string_equal(addr_str(&addr_none, text), "none");
	a = A("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255");
	assert_string_equal(addr_str(&a, text), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
}

static void test_parse_port(void **state)
{
	static const char *const bad[] = {
		"1.2.3.4",     "1.2.3.4:",     "1.2.3.4:65536", "1.2.3.4:01", "1.2.3.4:+1",
		"::1:80",      "[1.2.3.4]:80", "[::1]",		"[::1]80",    "[::1]:",
		"1.2.3.4:80 ", ":80",	       "[]:80",		"[::1:80",    "",
	};
	struct addr_port ap;
	char text[ADDR_PORT_STRLEN];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(addr_port_parse(span_str(bad[i]), &ap), ERR_MALFORMED);
	assert_int_equal(addr_port_parse(SPAN_LIT("192.0.2.1:554"), &ap), 0);
	assert_int_equal(ap.port, 554);
	assert_string_equal(addr_port_str(&ap, text), "192.0.2.1:554");
	assert_int_equal(addr_port_parse(SPAN_LIT("[2001:db8::1]:0"), &ap), 0);
	assert_string_equal(addr_port_str(&ap, text), "[2001:db8::1]:0");
}

static void test_parse_prefix_and_range(void **state)
{
	static const char *const bad[] = {"10.0.0.0/33", "10.0.0.0/", "10.0.0.1/8", "/8",
					  "::/129",	 "::/08",     "0.0.0.0/-0", "10/8"};
	static const char *const bad_range[] = {"",	 "-",	  "1-",	     "-1",   "2-1",
						"1-2-3", "65536", "0-65536", "01-2", "1 - 2"};
	struct addr_prefix p;
	struct port_range r;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(addr_prefix_parse(span_str(bad[i]), &p), ERR_MALFORMED);
	assert_int_equal(P("10.1.0.0/23").len, 23);
	assert_int_equal(P("10.1.0.1").len, 32);
	assert_int_equal(P("2001:db8::/32").len, 32);
	assert_int_equal(P("::1").len, 128);
	assert_int_equal(P("0.0.0.0/0").len, 0);
	for (size_t i = 0; i < ARRAY_LEN(bad_range); i++)
		assert_int_equal(port_range_parse(span_str(bad_range[i]), &r), ERR_MALFORMED);
	assert_int_equal(port_range_parse(SPAN_LIT("5000"), &r), 0);
	assert_true(r.first == 5000 && r.last == 5000);
	assert_int_equal(port_range_parse(SPAN_LIT("0-65535"), &r), 0);
	assert_true(r.first == 0 && r.last == 65535);
}

static void test_predicates(void **state)
{
	struct addr a = A("0.0.0.0"), b = A("::"), c = A("127.9.9.9"), d = A("::1");
	struct addr e = A("224.0.0.1"), f = A("ff02::1"), g = A("223.255.255.255");
	struct addr m = A("::ffff:192.0.2.1"), n = A("192.0.2.1"), u;

	(void)state;
	assert_true(addr_is_any(&a) && addr_is_any(&b) && !addr_is_any(&d));
	assert_false(addr_is_any(&addr_none));
	assert_true(addr_is_loopback(&c) && addr_is_loopback(&d) && !addr_is_loopback(&b));
	assert_true(addr_is_multicast(&e) && addr_is_multicast(&f) && !addr_is_multicast(&g));
	u = addr_unmap(m);
	assert_true(addr_eq(&u, &n));
	u = addr_unmap(d);
	assert_true(addr_eq(&u, &d));
	assert_false(addr_eq(&a, &b)); /* versions differ */
	assert_true(addr_cmp(&a, &b) < 0 && addr_cmp(&b, &a) > 0);
	assert_true(addr_cmp(&a, &n) < 0 && addr_cmp(&n, &e) < 0);
	assert_int_equal(addr_len(&a) + addr_len(&b) + addr_len(&addr_none), 20);
}

static void test_prefixes(void **state)
{
	struct addr_prefix p = P("10.1.2.0/23"), all = P("0.0.0.0/0"), six = P("::/0");
	struct addr_prefix inside = P("10.1.3.128/25"), beside = P("10.1.4.0/24");
	struct addr_prefix nibble = P("2001:db8:a000::/35");
	struct addr in = A("10.1.3.255"), out = A("10.1.4.0"), v6 = A("2001:db8:bfff::1");
	struct addr v6out = A("2001:db8:c000::1");

	(void)state;
	assert_true(addr_prefix_contains(&p, &in) && !addr_prefix_contains(&p, &out));
	assert_true(addr_prefix_contains(&all, &in) && !addr_prefix_contains(&six, &in));
	assert_false(addr_prefix_contains(&all, &addr_none));
	assert_true(addr_prefix_contains(&nibble, &v6) && !addr_prefix_contains(&nibble, &v6out));
	assert_true(addr_prefix_overlaps(&p, &inside) && addr_prefix_overlaps(&inside, &p));
	assert_true(addr_prefix_overlaps(&all, &beside));
	assert_false(addr_prefix_overlaps(&p, &beside) || addr_prefix_overlaps(&all, &six));
}

static void test_sockaddr(void **state)
{
	static const char *const texts[] = {"192.0.2.1:554", "[2001:db8::1]:65535"};
	struct sockaddr_storage ss;
	struct addr_port a, b, none = {.port = 1};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		assert_int_equal(addr_port_parse(span_str(texts[i]), &a), 0);
		assert_true(addr_to_sockaddr(&a, &ss) > 0);
		assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, &b), 0);
		assert_true(addr_port_eq(&a, &b));
		b.port++;
		assert_false(addr_port_eq(&a, &b));
	}
	assert_int_equal(addr_to_sockaddr(&none, &ss), 0);
	ss.ss_family = AF_UNIX;
	assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, &a), ERR_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_port),
		cmocka_unit_test(test_parse_prefix_and_range),
		cmocka_unit_test(test_predicates),
		cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_sockaddr),
	};

	return cmocka_run_group_tests_name("addr", tests, NULL, NULL);
}
