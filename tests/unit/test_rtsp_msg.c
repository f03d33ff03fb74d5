/*
 * RTSP decoder: every form, every split point, every truncation, every limit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_msg.h"
#include "agent/rtsp/rtsp_uri.h"

static const struct rtsp_limits limits = {.line = 200, .header = 1000, .body = 500};

static int decode(const void *p, size_t n, struct rtsp_msg *m, size_t *used)
{
	struct rtsp_parser parser;

	rtsp_parser_init(&parser, &limits);
	return rtsp_msg_decode(&parser, span_of(p, n), m, used);
}

static int decode_str(const char *s, struct rtsp_msg *m)
{
	size_t used;

	return decode(s, strlen(s), m, &used);
}

static const char request[] = "SETUP rtsp://192.0.2.9/a/track=1 RTSP/1.0\r\n"
			      "cSEQ: 7\r\n"
			      "Transport: RTP/AVP;unicast;\r\n"
			      "\tclient_port=5000-5001\r\n"
			      "X-Unknown:\r\n"
			      "Session:  47;timeout=8 \r\n"
			      "Content-Length: 4\r\n"
			      "\r\n"
			      "body";

static void check_request(const struct rtsp_msg *m)
{
	uint32_t cseq;
	struct span id;
	unsigned timeout;
	bool given;
	const struct rtsp_header *h;

	assert_int_equal(m->kind, RTSP_REQUEST);
	assert_int_equal(m->method_id, RTSP_SETUP);
	assert_true(span_eq_str(m->uri, "rtsp://192.0.2.9/a/track=1"));
	assert_int_equal(m->major, 1);
	assert_int_equal(m->n_headers, 5);
	assert_int_equal(rtsp_msg_cseq(m, &cseq), 0);
	assert_int_equal(cseq, 7);
	assert_int_equal(rtsp_msg_session(m, &id, &timeout, &given), 0);
	assert_true(span_eq_str(id, "47"));
	assert_int_equal(timeout, 8);
	assert_true(given);
	h = rtsp_msg_find(m, "transport");
	assert_non_null(h);
	assert_true(span_eq_str(h->value, "RTP/AVP;unicast;\r\n\tclient_port=5000-5001"));
	assert_memory_equal(m->raw.p + h->value_off, "RTP/AVP", 7);
	assert_memory_equal(m->raw.p + h->off + h->len, "X-Unknown", 9);
	h = rtsp_msg_find(m, "X-Unknown");
	assert_int_equal(h->value.n, 0);
	assert_int_equal(h->value_off, h->off + 10);
	assert_memory_equal(m->raw.p + m->header_end, "\r\nbody", 6);
	assert_true(span_eq_str(m->body, "body"));
	assert_int_equal(m->raw.n, sizeof(request) - 1);
}

static void test_request(void **state ATTR_UNUSED)
{
	struct rtsp_msg m;
	size_t used;

	assert_int_equal(decode(request, sizeof(request) - 1, &m, &used), 0);
	assert_int_equal(used, sizeof(request) - 1);
	check_request(&m);
}

/* The same parser is offered one octet more each time; heap copies let ASan see over-reads. */
static void test_every_truncation(void **state ATTR_UNUSED)
{
	struct rtsp_parser parser;
	struct rtsp_msg m;
	size_t n, used;

	rtsp_parser_init(&parser, &limits);
	for (n = 1; n < sizeof(request) - 1; n++) {
		uint8_t *copy = malloc(n);

		memcpy(copy, request, n);
		assert_int_equal(rtsp_msg_decode(&parser, span_of(copy, n), &m, &used), ERR_MORE);
		assert_int_equal(used, 0);
		assert_int_equal(decode(copy, n, &m, &used), ERR_MORE);
		free(copy);
	}
	assert_int_equal(rtsp_msg_decode(&parser, span_of(request, n), &m, &used), 0);
	assert_int_equal(used, n);
	check_request(&m);
}

static void test_every_split(void **state ATTR_UNUSED)
{
	struct rtsp_msg m;
	size_t cut, used;

	for (cut = 1; cut < sizeof(request) - 1; cut++) {
		struct rtsp_parser parser;

		rtsp_parser_init(&parser, &limits);
		assert_int_equal(rtsp_msg_decode(&parser, span_of(request, cut), &m, &used),
				 ERR_MORE);
		assert_int_equal(
			rtsp_msg_decode(&parser, span_of(request, sizeof(request) - 1), &m, &used),
			0);
		check_request(&m);
	}
}

static void test_response(void **state ATTR_UNUSED)
{
	struct rtsp_msg m;

	assert_int_equal(decode_str("RTSP/1.0 454 Session Not Found\r\nCSeq: 1\r\n\r\n", &m), 0);
	assert_int_equal(m.kind, RTSP_RESPONSE);
	assert_int_equal(m.status, 454);
	assert_true(span_eq_str(m.reason, "Session Not Found"));
	assert_int_equal(decode_str("RTSP/1.0 200\r\n\r\n", &m), 0);
	assert_int_equal(m.reason.n, 0);
	/* RFC 2326 §4.4: these never have a body. */
	assert_int_equal(decode_str("RTSP/1.0 304 Same\r\nContent-Length: 9\r\n\r\n", &m), 0);
	assert_int_equal(m.body.n, 0);
	assert_int_equal(decode_str("RTSP/2.0 200 OK\r\n\r\n", &m), 0);
	assert_int_equal(m.major, 2);
}

static void test_data(void **state ATTR_UNUSED)
{
	static const uint8_t frame[] = {'$', 7, 0, 3, 0, '\r', '\n', 'O'};
	struct rtsp_msg m;
	size_t used, n;

	for (n = 1; n < 7; n++)
		assert_int_equal(decode(frame, n, &m, &used), ERR_MORE);
	assert_int_equal(decode(frame, sizeof(frame), &m, &used), 0);
	assert_int_equal(used, 7);
	assert_int_equal(m.kind, RTSP_DATA);
	assert_int_equal(m.channel, 7);
	assert_int_equal(m.body.n, 3);
	assert_int_equal(m.raw.n, 7);
}

static void test_line_ends(void **state ATTR_UNUSED)
{
	struct rtsp_msg m;
	size_t used;
	const char *s = "\r\n\nOPTIONS * RTSP/1.0\nCSeq: 1\n\nX";

	assert_int_equal(decode(s, strlen(s), &m, &used), 0);
	assert_int_equal(used, strlen(s) - 1);
	assert_int_equal(m.raw.p[0], 'O');
	assert_int_equal(m.method_id, RTSP_OPTIONS);
	assert_int_equal(decode("\r\n\r\n", 4, &m, &used), ERR_MORE);
	assert_int_equal(used, 4);
}

static void test_malformed(void **state ATTR_UNUSED)
{
	static const char *const bad[] = {
		"\x16\x03\x01",
		" OPTIONS * RTSP/1.0\r\n",
		"OPTIONS * RTSP/1.0\r\n folded\r\n\r\n",
		"OPTIONS *  RTSP/1.0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\n\r\n",
		"OPTIONS * RTSP/1\r\n\r\n",
		"OPTIONS\r\n\r\n",
		"OPT(ONS * RTSP/1.0\r\n\r\n",
		"OPTIONS a\tb RTSP/1.0\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nno colon\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\n: empty\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nCSeq : 1\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nA: b\rTransport: x\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nA: \x01\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nContent-Length: 1x\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nContent-Length:\r\n\r\n",
		"OPTIONS * RTSP/1.0\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n",
		"RTSP/1.0 20 OK\r\n\r\n",
		"RTSP/1.0 2000 OK\r\n\r\n",
		"RTSP/1.0 099 OK\r\n\r\n",
	};
	struct rtsp_msg m;
	size_t i, used;

	for (i = 0; i < ARRAY_LEN(bad); i++)
		if (decode_str(bad[i], &m) != ERR_MALFORMED)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(decode("OPTIONS * RTSP/1.0\r\nA: b\0c\r\n\r\n", 30, &m, &used),
			 ERR_MALFORMED);
}

static void test_limits(void **state ATTR_UNUSED)
{
	struct rtsp_parser parser;
	struct rtsp_msg m;
	char s[4096];
	size_t used, n;
	int i;

	n = (size_t)snprintf(s, sizeof(s), "OPTIONS * RTSP/1.0\r\nA: ");
	memset(s + n, 'x', 400);
	assert_int_equal(decode(s, n + 400, &m, &used), ERR_TOOBIG);
	for (i = 0; i < 60; i++)
		n += (size_t)snprintf(s + n, sizeof(s) - n, "\r\nHeader-%d: vvvvvvvv", i);
	assert_int_equal(decode(s, n, &m, &used), ERR_TOOBIG);
	assert_int_equal(decode_str("O * RTSP/1.0\r\nContent-Length: 501\r\n\r\n", &m), ERR_TOOBIG);
	assert_int_equal(
		decode_str("O * RTSP/1.0\r\nContent-Length: 99999999999999999999999\r\n\r\n", &m),
		ERR_TOOBIG);
	n = (size_t)snprintf(s, sizeof(s), "O * RTSP/1.0\r\n");
	for (i = 0; i < RTSP_MAX_HEADERS + 1; i++)
		n += (size_t)snprintf(s + n, sizeof(s) - n, "A:\r\n");
	n += (size_t)snprintf(s + n, sizeof(s) - n, "\r\n");
	assert_int_equal(decode(s, n, &m, &used), ERR_TOOBIG);
	assert_int_equal(m.n_headers, RTSP_MAX_HEADERS);
	/* A parser in the middle of one message knows the limit of the next. */
	rtsp_parser_init(&parser, &limits);
	assert_int_equal(rtsp_msg_decode(&parser, SPAN_LIT("O * RTSP/1.0\r\n\r\n"), &m, &used), 0);
	assert_int_equal(parser.limits.body, 500);
	assert_int_equal(parser.scanned, 0);
}

static void test_session(void **state ATTR_UNUSED)
{
	static const struct {
		const char *value, *id;
		int err;
		unsigned timeout;
	} rows[] = {
		{"1", "1", 0, 60},
		{"a-b_c.d+$;timeout=30", "a-b_c.d+$", 0, 30},
		{"x ; Timeout = 9", "x", 0, 9},
		{"x;timeout=0", "x", 0, 60},
		{"x;timeout=-3", "x", 0, 60},
		{"x;timeout=99999999999999999999", "x", 0, 60},
		{"x;timeout", "x", 0, 60},
		{";timeout=5", "", ERR_MALFORMED, 0},
		{"", "", ERR_MALFORMED, 0},
		{"a b", "", ERR_MALFORMED, 0},
	};
	struct rtsp_msg m;
	struct span id;
	unsigned timeout;
	bool given;
	char s[256];
	size_t i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		snprintf(s, sizeof(s), "RTSP/1.0 200 OK\r\nSession: %s\r\n\r\n", rows[i].value);
		assert_int_equal(decode_str(s, &m), 0);
		assert_int_equal(rtsp_msg_session(&m, &id, &timeout, &given), rows[i].err);
		if (rows[i].err < 0)
			continue;
		assert_true(span_eq_str(id, rows[i].id));
		assert_int_equal(timeout, rows[i].timeout);
	}
	assert_int_equal(decode_str("RTSP/1.0 200 OK\r\nSession: a\r\nSession: b\r\n\r\n", &m), 0);
	assert_int_equal(rtsp_msg_session(&m, &id, &timeout, &given), ERR_MALFORMED);
	assert_int_equal(decode_str("RTSP/1.0 200 OK\r\nCSeq: 1\r\nCSeq: 1\r\n\r\n", &m), 0);
	assert_int_equal(rtsp_msg_cseq(&m, &timeout), ERR_MALFORMED);
	assert_int_equal(rtsp_msg_session(&m, &id, &timeout, &given), ERR_NOENT);
}

static void test_uri(void **state ATTR_UNUSED)
{
	static const struct {
		const char *text, *host, *path;
		int err;
		uint16_t port;
		uint8_t version;
	} rows[] = {
		{"rtsp://192.0.2.1/a?b", "192.0.2.1", "/a?b", 0, 554, 4},
		{"RTSP://u:p@cam.example:8554/", "cam.example", "/", 0, 8554, 0},
		{"rtsps://[2001:db8::1]", "2001:db8::1", "", 0, 322, 6},
		{"rtsp://h:", "h", "", 0, 554, 0},
		{"rtsp://h?q", "h", "?q", 0, 554, 0},
		{"rtsp:///a", "", "", ERR_MALFORMED, 0, 0},
		{"http://h/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp://h:0/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp://h:65536/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp://[192.0.2.1]/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp://[::1/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp://[::1]x/", "", "", ERR_MALFORMED, 0, 0},
		{"rtsp", "", "", ERR_MALFORMED, 0, 0},
		{"", "", "", ERR_MALFORMED, 0, 0},
	};
	struct rtsp_uri u;
	size_t i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(rtsp_uri_parse(span_str(rows[i].text), &u), rows[i].err);
		if (rows[i].err < 0)
			continue;
		assert_true(span_eq_str(u.host, rows[i].host));
		assert_true(span_eq_str(u.path, rows[i].path));
		assert_int_equal(u.port, rows[i].port);
		assert_int_equal(u.addr.version, rows[i].version);
	}
	assert_int_equal(rtsp_uri_parse(SPAN_LIT("*"), &u), 0);
	assert_int_equal(u.form, RTSP_URI_STAR);
	assert_int_equal(rtsp_uri_parse(SPAN_LIT("/a"), &u), 0);
	assert_int_equal(u.form, RTSP_URI_ORIGIN);
	assert_true(rtsp_uri_same(SPAN_LIT("rtsp://H/a/"), SPAN_LIT("RTSP://h:554/a")));
	assert_true(rtsp_uri_same(SPAN_LIT("rtsp://h/a"), SPAN_LIT("/a/")));
	assert_false(rtsp_uri_same(SPAN_LIT("rtsp://h/a"), SPAN_LIT("rtsp://h/A")));
	assert_false(rtsp_uri_same(SPAN_LIT("rtsp://h/a"), SPAN_LIT("rtsp://i/a")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request),	    cmocka_unit_test(test_every_truncation),
		cmocka_unit_test(test_every_split), cmocka_unit_test(test_response),
		cmocka_unit_test(test_data),	    cmocka_unit_test(test_line_ends),
		cmocka_unit_test(test_malformed),   cmocka_unit_test(test_limits),
		cmocka_unit_test(test_session),	    cmocka_unit_test(test_uri),
	};

	return cmocka_run_group_tests_name("rtsp_msg", tests, NULL, NULL);
}
