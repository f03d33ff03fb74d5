/*
 * Transport header: every form of RFC 2326 §12.39 and of programs seen, and
 * the edits a proxy makes to it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_transport.h"

static const struct rtsp_limits limits = {.line = 4096, .header = 8192, .body = 100};

static int parse(const char *value, struct rtsp_transport *t)
{
	char *copy = malloc(strlen(value) + 1); /* exact size: ASan sees over-reads */
	int err;

	memcpy(copy, value, strlen(value));
	t->n = 0;
	err = rtsp_transport_parse_value(span_of(copy, strlen(value)), 0, 0, t);
	free(copy);
	return err;
}

static void test_forms(void **state ATTR_UNUSED)
{
	static const struct {
		const char *value;
		enum rtsp_delivery delivery;
		bool record, mux;
	} rows[] = {
		{"RTP/AVP;unicast;client_port=5000-5001", RTSP_UDP, false, false},
		{"RTP/AVP/UDP;unicast;client_port=5000", RTSP_UDP, false, false},
		{"rtp/avp/udp;UNICAST;Client_Port=5000-5001", RTSP_UDP, false, false},
		{"RTP/AVP;client_port=5000-5001", RTSP_UDP, false, false},
		{"RTP/SAVP;unicast;client_port=5000-5001;mode=\"PLAY\"", RTSP_UDP, false, false},
		{"RTP/SAVPF/UDP;unicast;client_port=5000;RTCP-mux", RTSP_UDP, false, true},
		{"MP2T/H2221/UDP;unicast;client_port=5000", RTSP_UDP, false, false},
		{"RTP/AVP/TCP;unicast;interleaved=0-1", RTSP_INTERLEAVED, false, false},
		{"RTP/AVP/TCP", RTSP_INTERLEAVED, false, false},
		{"RTP/AVP;unicast;interleaved=0-1", RTSP_INTERLEAVED, false, false},
		{"RTP/AVP;multicast;port=3456-3457;ttl=16", RTSP_MULTICAST, false, false},
		{"RTP/AVP", RTSP_MULTICAST, false, false},
		{"RTP/AVP;unicast;multicast", RTSP_UNKNOWN, false, false},
		{"RTP/AVP/DCCP;unicast", RTSP_UNKNOWN, false, false},
		{"x-real-rdt/mcast", RTSP_UNKNOWN, false, false},
		{"RTP/AVP;unicast;client_port=1-2;mode=record", RTSP_UDP, true, false},
		{"RTP/AVP;unicast;client_port=1-2;mode=\"RECORD\"", RTSP_UDP, true, false},
		{"RTP/AVP;unicast;client_port=1-2;mode=\"PLAY,RECORD\"", RTSP_UDP, true, false},
		{"RTP/AVP;unicast;client_port=1-2;mode=PLAY,RECORD", RTSP_UDP, true, false},
		{"RTP/AVP;unicast;mode=receive;client_port=1-2", RTSP_UDP, true, false},
		{"RTP/AVP;unicast;client_port=1-2;ssrc=1234ABCD;foo;bar=\"a,b;c\"", RTSP_UDP, false,
		 false},
	};
	struct rtsp_transport t;
	size_t i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		if (parse(rows[i].value, &t) != 0 || t.n != 1)
			fail_msg("refused: %s", rows[i].value);
		assert_int_equal(t.specs[0].delivery, rows[i].delivery);
		assert_int_equal(t.specs[0].record, rows[i].record);
		assert_int_equal(t.specs[0].rtcp_mux, rows[i].mux);
	}
}

static void test_several(void **state ATTR_UNUSED)
{
	static const char value[] = ", RTP/AVP/TCP;interleaved=0-1 ,\r\n"
				    "\tRTP/AVP;mode=PLAY,RECORD;client_port=6-7,,"
				    "RTP/AVP;multicast";
	struct rtsp_transport t;
	const struct rtsp_param *p;

	t.n = 0;
	assert_int_equal(rtsp_transport_parse_value(SPAN_LIT(value), 100, 3, &t), 0);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.specs[0].off, 102);
	assert_int_equal(t.specs[0].len, strlen("RTP/AVP/TCP;interleaved=0-1"));
	assert_int_equal(t.specs[1].header, 3);
	p = rtsp_spec_param(&t.specs[1], "CLIENT_PORT");
	assert_non_null(p);
	assert_true(span_eq_str(p->value, "6-7"));
	assert_memory_equal(value + (p->value_off - 100), "6-7", p->value_len);
	assert_memory_equal(value + (p->off - 100), ";client_port=6-7,", p->len + 1);
	p = rtsp_spec_param(&t.specs[1], "mode");
	assert_true(span_eq_str(p->value, "PLAY,RECORD"));
}

static void test_bad(void **state ATTR_UNUSED)
{
	static const char *const bad[] = {
		";unicast",
		"x-real-rdt;mode=PLAY",
		"RTP/AVP;mode=\"PLAY",
		"RTP/AVP;mode=\"PLAY\"x",
		"RTP/AVP;=5",
		"RTP/AVP;cl ient=5",
		"RTP/AVP;client_port=1 2",
		"RTP/AVP;client_port=1-2;client_port=3-4",
		"RTP/AVP;source=1.1.1.1;Source=2.2.2.2",
		"RTP/AVP;destination;destination=2.2.2.2",
		"RTP/ AVP",
	};
	struct rtsp_transport t;
	char s[1000] = "";
	size_t i, n = 0;

	for (i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], &t) != ERR_MALFORMED)
			fail_msg("accepted: %s", bad[i]);
	for (i = 0; i <= RTSP_MAX_SPECS; i++)
		n += (size_t)snprintf(s + n, sizeof(s) - n, "RTP/AVP,");
	assert_int_equal(parse(s, &t), ERR_TOOBIG);
	n = (size_t)snprintf(s, sizeof(s), "RTP/AVP");
	for (i = 0; i <= RTSP_MAX_PARAMS; i++)
		n += (size_t)snprintf(s + n, sizeof(s) - n, ";a");
	assert_int_equal(parse(s, &t), ERR_TOOBIG);
}

static void test_ports(void **state ATTR_UNUSED)
{
	static const char *const bad[] = {"",	 "-",	"0",	 "65536", "1-",	    "-2",
					  "1-0", "a-b", "1-2-3", "+1",	  "1-65536"};
	struct rtsp_ports p;
	uint8_t a, b;
	size_t i;

	assert_int_equal(rtsp_ports_parse(SPAN_LIT("5001"), &p), 0);
	assert_int_equal(p.first, 5001);
	assert_int_equal(p.last, 5001);
	assert_int_equal(rtsp_ports_parse(SPAN_LIT("65535-1"), &p), 0);
	assert_int_equal(p.first, 65535);
	assert_int_equal(p.last, 1);
	for (i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(rtsp_ports_parse(span_str(bad[i]), &p), ERR_MALFORMED);
	assert_int_equal(rtsp_channels_parse(SPAN_LIT("0-255"), &a, &b), 0);
	assert_int_equal(b, 255);
	assert_int_equal(rtsp_channels_parse(SPAN_LIT("256"), &a, &b), ERR_MALFORMED);
	assert_int_equal(rtsp_channels_parse(SPAN_LIT("2-1"), &a, &b), ERR_MALFORMED);
	assert_true(rtsp_protocol_same(SPAN_LIT("RTP/AVP"), SPAN_LIT("rtp/avp/udp")));
	assert_true(rtsp_protocol_same(SPAN_LIT("RTP/SAVP/UDP"), SPAN_LIT("RTP/SAVP")));
	assert_false(rtsp_protocol_same(SPAN_LIT("RTP/SAVP"), SPAN_LIT("RTP/AVP")));
	assert_false(rtsp_protocol_same(SPAN_LIT("RTP/AVP"), SPAN_LIT("RTP/AVP/TCP")));
}

static void expect_keep(const char *message, uint32_t keep, const char *want)
{
	struct rtsp_parser parser;
	struct rtsp_msg m;
	struct rtsp_transport t;
	struct rtsp_edits e;
	struct buf out;
	size_t used;

	rtsp_parser_init(&parser, &limits);
	assert_int_equal(rtsp_msg_decode(&parser, span_str(message), &m, &used), 0);
	assert_int_equal(rtsp_transport_parse(&m, &t), 0);
	rtsp_edits_init(&e);
	buf_init(&out, 4096);
	rtsp_transport_keep(&e, &m, &t, keep);
	assert_int_equal(rtsp_edits_apply(&e, m.raw, &out), 0);
	if (!span_eq_str(buf_span(&out), want))
		fail_msg("got: %.*s", (int)out.len, (const char *)buf_span(&out).p);
	rtsp_edits_fini(&e);
	buf_fini(&out);
}

static void test_keep(void **state ATTR_UNUSED)
{
	static const char m[] = "SETUP * RTSP/1.0\r\nTransport: A/B;x , C/D;y;,E/F\r\nB: c\r\n"
				"transport: G/H\r\n\r\n";

	expect_keep(m, 0xf, m);
	expect_keep(m, 1, "SETUP * RTSP/1.0\r\nTransport: A/B;x\r\nB: c\r\n\r\n");
	expect_keep(m, 2, "SETUP * RTSP/1.0\r\nTransport: C/D;y;\r\nB: c\r\n\r\n");
	expect_keep(m, 4 | 8,
		    "SETUP * RTSP/1.0\r\nTransport: E/F\r\nB: c\r\ntransport: G/H\r\n\r\n");
	expect_keep(m, 1 | 4, "SETUP * RTSP/1.0\r\nTransport: A/B;x,E/F\r\nB: c\r\n\r\n");
	expect_keep(m, 8, "SETUP * RTSP/1.0\r\nB: c\r\ntransport: G/H\r\n\r\n");
	expect_keep(m, 0, "SETUP * RTSP/1.0\r\nB: c\r\n\r\n");
}

static void test_edits(void **state ATTR_UNUSED)
{
	struct rtsp_edits e;
	struct buf out;
	int i;

	rtsp_edits_init(&e);
	buf_init(&out, 100);
	rtsp_edit_replace(&e, 6, 1, SPAN_LIT("SIX"));
	rtsp_edit_replace(&e, 0, 1, SPAN_EMPTY);
	rtsp_edit_printf(&e, 3, 0, "%d", 33);
	rtsp_edit_printf(&e, 3, 0, "+");
	rtsp_edit_replace(&e, 10, 0, SPAN_LIT("end"));
	assert_int_equal(rtsp_edits_apply(&e, SPAN_LIT("0123456789"), &out), 0);
	assert_true(span_eq_str(buf_span(&out), "1233+345SIX789end"));
	rtsp_edits_fini(&e);

	rtsp_edits_init(&e);
	rtsp_edit_replace(&e, 2, 3, SPAN_EMPTY);
	rtsp_edit_replace(&e, 4, 1, SPAN_EMPTY);
	assert_int_equal(rtsp_edits_apply(&e, SPAN_LIT("0123456789"), &out), ERR_INVALID);
	rtsp_edits_fini(&e);

	rtsp_edits_init(&e);
	rtsp_edit_replace(&e, 9, 2, SPAN_EMPTY);
	assert_int_equal(rtsp_edits_apply(&e, SPAN_LIT("0123456789"), &out), ERR_INVALID);
	for (i = 0; i < RTSP_MAX_EDITS; i++)
		rtsp_edit_replace(&e, 0, 0, SPAN_EMPTY);
	assert_int_equal(rtsp_edits_apply(&e, SPAN_LIT("0123456789"), &out), ERR_TOOBIG);
	rtsp_edits_fini(&e);
	buf_fini(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms), cmocka_unit_test(test_several),
		cmocka_unit_test(test_bad),   cmocka_unit_test(test_ports),
		cmocka_unit_test(test_keep),  cmocka_unit_test(test_edits),
	};

	return cmocka_run_group_tests_name("rtsp_transport", tests, NULL, NULL);
}
