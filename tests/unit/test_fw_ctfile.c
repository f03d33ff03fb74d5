/* Conntrack's file: which lines are understood, and when it is not trusted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"
#include "middlebox/fw_ct.h"

#define UDP4                                                                                       \
	"ipv4     2 udp      17 29 src=10.1.0.2 dst=192.0.2.9 sport=5000 dport=6000 "              \
	"[UNREPLIED] src=192.0.2.9 dst=192.0.2.1 sport=6000 dport=20000 mark=0 zone=0 use=2"
#define TCP6                                                                                       \
	"ipv6     10 tcp      6 431999 ESTABLISHED "                                               \
	"src=fd00:0001:0000:0000:0000:0000:0000:0002 dst=fd00:0002:0000:0000:0000:0000:0000:0009 " \
	"sport=5000 dport=6000 packets=2 bytes=112 "                                               \
	"src=fd00:0002:0000:0000:0000:0000:0000:0009 dst=fd00:0001:0000:0000:0000:0000:0000:0002 " \
	"sport=6000 dport=5000 packets=1 bytes=60 [ASSURED] mark=0 secctx=src=x zone=0 use=2"
#define ICMP                                                                                       \
	"ipv4     2 icmp     1 29 src=10.1.0.2 dst=192.0.2.9 type=8 code=0 id=7 "                  \
	"src=192.0.2.9 dst=10.1.0.2 type=0 code=0 id=7 mark=0 zone=0 use=2"

static void assert_end(const struct addr_port *a, const char *text)
{
	char s[ADDR_PORT_STRLEN];

	assert_string_equal(addr_port_str(a, s), text);
}

static void test_lines(void **state)
{
	struct fw_tuple o, r;

	(void)state;
	assert_int_equal(fw_ct_line(SPAN_LIT(UDP4), &o, &r), 0);
	assert_int_equal(o.protocol, IPPROTO_UDP);
	assert_int_equal(r.protocol, IPPROTO_UDP);
	assert_end(&o.src, "10.1.0.2:5000");
	assert_end(&o.dst, "192.0.2.9:6000");
	assert_end(&r.src, "192.0.2.9:6000");
	assert_end(&r.dst, "192.0.2.1:20000");
	assert_int_equal(fw_ct_line(SPAN_LIT(TCP6), &o, &r), 0);
	assert_int_equal(o.protocol, IPPROTO_TCP);
	assert_end(&o.src, "[fd00:1::2]:5000");
	assert_end(&o.dst, "[fd00:2::9]:6000");
	assert_end(&r.src, "[fd00:2::9]:6000");
	assert_end(&r.dst, "[fd00:1::2]:5000");
	assert_int_equal(fw_ct_line(SPAN_LIT(ICMP), &o, &r), ERR_NOENT);
}

/* A line that is cut anywhere in its tuples is no line. */
static void test_cut_lines(void **state)
{
	struct fw_tuple o, r;
	size_t whole = (size_t)(strstr(UDP4, "dport=20000") - UDP4) + strlen("dport=");

	(void)state;
	for (size_t n = 0; n <= whole; n++)
		assert_int_not_equal(fw_ct_line(span_of(UDP4, n), &o, &r), 0);
	assert_int_equal(fw_ct_line(SPAN_LIT("ipv4 2 udp x 29 src=1.2.3.4"), &o, &r),
			 ERR_MALFORMED);
	assert_int_equal(fw_ct_line(SPAN_LIT("ipv4 2 udp 17 29 src=1.2.3 dst=1.2.3.4"), &o, &r),
			 ERR_MALFORMED);
	assert_int_equal(fw_ct_line(SPAN_LIT("ipv4 2 udp 17 29 sport=65536"), &o, &r),
			 ERR_MALFORMED);
}

static void count(const struct fw_tuple *orig, const struct fw_tuple *reply, void *arg)
{
	(void)orig, (void)reply;
	++*(unsigned *)arg;
}

static int each(const char *line, unsigned lines, unsigned *n)
{
	char path[] = "/tmp/sluice-ctfile-XXXXXX";
	int fd = mkstemp(path), err;

	assert_true(fd >= 0);
	for (unsigned i = 0; i < lines; i++)
		assert_int_equal(dprintf(fd, "%s\n", line), strlen(line) + 1);
	close(fd);
	*n = 0;
	err = fw_ct_file_each(path, count, n);
	unlink(path);
	return err;
}

static void test_files(void **state)
{
	unsigned n;

	(void)state;
	assert_int_equal(each("", 0, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(each(UDP4, 20, &n), 0);
	assert_int_equal(n, 20);
	assert_int_equal(each(ICMP, 20, &n), 0);
	assert_int_equal(n, 0);
	/* One more might have had no room. */
	assert_int_equal(each(UDP4, 3584 / sizeof(UDP4), &n), 0);
	assert_int_equal(each(UDP4, 3584 / sizeof(UDP4) + 1, &n), ERR_TOOBIG);
	assert_int_equal(each(UDP4, 500, &n), ERR_TOOBIG);
	assert_int_equal(n, 0);
	assert_int_equal(each("ipv4 2 udp 17 what is this", 1, &n), ERR_MALFORMED);
	assert_int_equal(fw_ct_file_each("/tmp/sluice/no/such/file", count, &n), ERR_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_cut_lines),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests_name("fw_ctfile", tests, NULL, NULL);
}
