/*
 * The RTSP decoder on arbitrary octets: whole, and once more octet by octet;
 * both must understand the same.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_msg.h"

static const struct rtsp_limits limits = {.line = 512, .header = 2048, .body = 1024};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Offsets must lie inside and agree with the spans. */
static void check(const struct rtsp_msg *m)
{
	size_t i;
	uint32_t cseq;
	struct span id;
	unsigned timeout;
	bool given;

	if (m->kind == RTSP_DATA)
		return;
	for (i = 0; i < m->n_headers; i++) {
		const struct rtsp_header *h = &m->headers[i];

		if (h->off + h->len > m->header_end || h->value_off + h->value.n > h->off + h->len)
			abort();
		if (h->value.n > 0 && h->value.p != m->raw.p + h->value_off)
			abort();
	}
	rtsp_msg_cseq(m, &cseq);
	rtsp_msg_session(m, &id, &timeout, &given);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rtsp_parser whole, bits;
	struct rtsp_msg a, b;
	size_t at = 0, n, used, used_b = 0;
	int ea, eb = ERR_MORE;

	if (size > 8192)
		return 0;
	rtsp_parser_init(&whole, &limits);
	for (;;) {
		ea = rtsp_msg_decode(&whole, span_of(data + at, size - at), &a, &used);
		if (ea != 0)
			break;
		check(&a);
		if (used == 0 || used > size - at)
			abort();
		at += used;
	}
	rtsp_parser_init(&bits, &limits);
	for (at = 0, n = 1; at + n <= size;) {
		eb = rtsp_msg_decode(&bits, span_of(data + at, n), &b, &used_b);
		if (eb == ERR_MORE && used_b == 0) {
			n++;
			continue;
		}
		if (eb != 0 && eb != ERR_MORE)
			break;
		at += used_b;
		n = n > used_b ? n - used_b : 1;
	}
	/* Malformed is malformed however it arrives; which error comes first may differ. */
	if (size > 0 && (ea == ERR_MORE) != (eb == ERR_MORE) && eb != 0)
		abort();
	return 0;
}
