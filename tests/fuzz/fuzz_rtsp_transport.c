/*
 * The Transport tokeniser on arbitrary values, and its edits: what is kept
 * must parse again to the same number of alternatives.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_transport.h"
#include "agent/rtsp/rtsp_uri.h"

static const struct rtsp_limits limits = {.line = 8192, .header = 16384, .body = 0};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t count(uint32_t keep, size_t n)
{
	size_t i, k = 0;

	for (i = 0; i < n; i++)
		k += rtsp_kept(keep, i);
	return k;
}

static void keep_some(const struct rtsp_msg *m, const struct rtsp_transport *t, uint32_t keep)
{
	struct rtsp_parser parser;
	struct rtsp_edits e;
	struct rtsp_msg again;
	struct rtsp_transport left;
	struct buf out;
	size_t used;
	int err;

	rtsp_edits_init(&e);
	buf_init(&out, 65536);
	rtsp_transport_keep(&e, m, t, keep);
	if (rtsp_edits_apply(&e, m->raw, &out) != 0)
		abort();
	rtsp_parser_init(&parser, &limits);
	if (rtsp_msg_decode(&parser, buf_span(&out), &again, &used) != 0)
		abort();
	err = rtsp_transport_parse(&again, &left);
	if (count(keep, t->n) == 0 ? err != ERR_NOENT : err != 0 || left.n != count(keep, t->n))
		abort();
	rtsp_edits_fini(&e);
	buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char head[] = "SETUP rtsp://h/ RTSP/1.0\r\nTransport: ";
	struct rtsp_parser parser;
	struct rtsp_msg m;
	struct rtsp_transport t;
	struct rtsp_ports ports;
	struct rtsp_uri uri;
	uint8_t a, b;
	uint8_t *text;
	size_t used, n = sizeof(head) - 1;

	if (size > 4096)
		return 0;
	rtsp_ports_parse(span_of(data, size), &ports);
	rtsp_channels_parse(span_of(data, size), &a, &b);
	rtsp_uri_parse(span_of(data, size), &uri);
	text = malloc(n + size + 4);
	if (text == NULL)
		return 0;
	memcpy(text, head, n);
	if (size > 0)
		memcpy(text + n, data, size);
	memcpy(text + n + size, "\r\n\r\n", 4);
	rtsp_parser_init(&parser, &limits);
	if (rtsp_msg_decode(&parser, span_of(text, n + size + 4), &m, &used) == 0 &&
	    rtsp_transport_parse(&m, &t) == 0) {
		keep_some(&m, &t, 0);
		keep_some(&m, &t, 0x55555555u);
		keep_some(&m, &t, 0xaaaaaaaau);
		keep_some(&m, &t, 0xfffffff0u);
	}
	free(text);
	return 0;
}
