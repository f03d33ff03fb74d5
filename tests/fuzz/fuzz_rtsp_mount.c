/*
 * URLs in arbitrary messages, there and back: what comes out is a message of
 * the same shape, whose Content-Length is right and whose other fields and
 * lines are untouched.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_mount.h"
#include "common/errcode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct rtsp_limits limits = {SIZE_MAX / 2, SIZE_MAX / 2, SIZE_MAX / 2};

static int decode(struct span in, struct rtsp_msg *m)
{
	struct rtsp_parser p;
	size_t used;

	rtsp_parser_init(&p, &limits);
	return rtsp_msg_decode(&p, in, m, &used);
}

static void check_shape(const struct rtsp_msg *a, const struct rtsp_msg *b)
{
	size_t i;

	if (a->kind != b->kind || a->n_headers != b->n_headers || a->status != b->status)
		abort();
	for (i = 0; i < a->n_headers; i++)
		if (!span_eq(a->headers[i].name, b->headers[i].name))
			abort();
	if (b->raw.n < b->header_end || (a->body.n == 0) != (b->body.n == 0))
		abort();
}

static void edit(const struct rtsp_view *v, const struct rtsp_msg *m, bool to_client)
{
	struct rtsp_edits e;
	struct rtsp_msg again;
	struct buf out;

	rtsp_edits_init(&e);
	buf_init(&out, SIZE_MAX);
	if (to_client)
		rtsp_mount_to_client(v, m, &e);
	else
		rtsp_mount_to_server(v, m, &e);
	switch (rtsp_edits_apply(&e, m->raw, &out)) {
	case 0:
		if (decode(buf_span(&out), &again) != 0 || again.raw.n != out.len)
			abort();
		check_shape(m, &again);
		break;
	case ERR_TOOBIG:
	case ERR_NOMEM:
		break;
	default: /* edits that overlap are our own fault */
		abort();
	}
	buf_fini(&out);
	rtsp_edits_fini(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rtsp_mounts mounts = {NULL, 0};
	struct rtsp_view v = {&mounts, NULL, {.port = 554}, "rtsp://agent:8554"};
	struct rtsp_msg m;
	struct rtsp_uri uri;

	if (rtsp_mounts_add(&mounts, "/cam", "rtsp://192.0.2.9/live/") < 0 ||
	    rtsp_mounts_add(&mounts, "/cam/hd", "rtsp://[2001:db8::9]:8554/hd?x=1&y=2") < 0 ||
	    rtsp_mounts_add(&mounts, "/", "rtsps://nvr.example") < 0)
		abort();
	addr_parse(SPAN_LIT("192.0.2.9"), &v.server.addr);
	if (decode(span_of(data, size), &m) == 0 && m.kind != RTSP_DATA) {
		v.mount = &mounts.v[0];
		edit(&v, &m, true);
		if (m.kind == RTSP_REQUEST) {
			v.mount = NULL;
			if (rtsp_uri_parse(m.uri, &uri) == 0 && uri.form != RTSP_URI_STAR)
				v.mount = rtsp_mount_find(&mounts, uri.path);
		}
		edit(&v, &m, false);
	}
	rtsp_mounts_fini(&mounts);
	return 0;
}
