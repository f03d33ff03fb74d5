/*
 * Mounts: which one a path lies under, the URL behind it, and every place in
 * messages where URLs stand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_mount.h"
#include "common/errcode.h"

static struct rtsp_mounts mounts;

static int set_up(void **state ATTR_UNUSED)
{
	assert_int_equal(rtsp_mounts_add(&mounts, "/cam", "rtsp://192.0.2.9/live/"), 0);
	assert_int_equal(
		rtsp_mounts_add(&mounts, "/cam/hd", "rtsp://[2001:db8::9]:8554/hd?x=1&y=2"), 0);
	assert_int_equal(rtsp_mounts_add(&mounts, "/root", "rtsps://nvr.example"), 0);
	assert_int_equal(rtsp_mounts_add(&mounts, "/bad", "/path"), ERR_INVALID);
	assert_int_equal(mounts.n, 3);
	return 0;
}

static int tear_down(void **state ATTR_UNUSED)
{
	rtsp_mounts_fini(&mounts);
	return 0;
}

static void found(const char *path, int which)
{
	const struct rtsp_mount *m = rtsp_mount_find(&mounts, span_str(path));

	assert_ptr_equal(m, which < 0 ? NULL : &mounts.v[which]);
}

static void paths(void **state ATTR_UNUSED)
{
	found("/cam", 0);
	found("/cam/", 0);
	found("/cam?a", 0);
	found("/cam/x", 0);
	found("/cam/hd", 1);
	found("/cam/hd/x", 1);
	found("/cam/hdx", 0);
	found("/camera", -1);
	found("/CAM", -1);
	found("/", -1);
	found("", -1);
	found("/root", 2);
	/* dots that climb, and dots that do not */
	found("/cam/..", -1);
	found("/cam/../x", -1);
	found("/cam/%2e%2E/x", -1);
	found("/cam/.%2e", -1);
	found("/cam%2f..%2fx", -1);
	found("/cam/..\\x", -1);
	found("/cam/x?/../y", -1);
	found("/cam/..;x", -1);
	found("/cam/...", 0);
	found("/cam/x..", 0);
	found("/cam/..x", 0);
	found("/cam/.", 0);
	found("/cam/%2", 0);
}

static void url(const char *uri, const char *want)
{
	struct buf out;
	int err;

	buf_init(&out, SIZE_MAX);
	err = rtsp_mount_url(&mounts, span_str(uri), &out);
	if (want == NULL)
		assert_int_equal(err, ERR_NOENT);
	else
		assert_true(err == 0 && span_eq_str(buf_span(&out), want));
	buf_fini(&out);
}

static void urls(void **state ATTR_UNUSED)
{
	url("rtsp://agent/cam", "rtsp://192.0.2.9/live/");
	url("rtsp://agent/cam/", "rtsp://192.0.2.9/live/");
	url("rtsp://agent/cam/a?b", "rtsp://192.0.2.9/live/a?b");
	url("rtsp://agent/cam?b", "rtsp://192.0.2.9/live?b");
	url("/cam/hd/trackID=1", "rtsp://[2001:db8::9]:8554/hd?x=1&y=2/trackID=1");
	url("/root", "rtsps://nvr.example");
	url("/root/a", "rtsps://nvr.example/a");
	url("/none", NULL);
	url("*", NULL);
	url("http://agent/cam", NULL);
}

static void fronts(void **state ATTR_UNUSED)
{
	char front[RTSP_FRONT_MAX];
	char *big = calloc(1, 700);

	assert_true(rtsp_mount_front(span_str("RTSP://u:p@Agent.Example:8554/cam"), front));
	assert_string_equal(front, "RTSP://Agent.Example:8554");
	assert_true(rtsp_mount_front(span_str("rtsps://[2001:db8::1]"), front));
	assert_string_equal(front, "rtsps://[2001:db8::1]");
	assert_false(rtsp_mount_front(span_str("/cam"), front));
	assert_false(rtsp_mount_front(span_str("*"), front));
	snprintf(big, 700, "rtsp://%0255d:%0300d/", 1, 5);
	assert_false(rtsp_mount_front(span_str(big), front));
	free(big);
}

/* Decodes, edits, compares. `\n` in both stands for CRLF. */
static char *crlf(const char *text)
{
	char *out = calloc(2, strlen(text) + 1), *p = out;

	for (; *text != '\0'; text++) {
		if (*text == '\n')
			*p++ = '\r';
		*p++ = *text;
	}
	return out;
}

static void edited(bool to_client, const char *in, const char *want)
{
	struct rtsp_limits limits = {4096, 16384, 16384};
	struct rtsp_view v = {&mounts, &mounts.v[0], {.port = 554}, "rtsp://agent:8554"};
	char *raw = crlf(in), *expected = crlf(want);
	struct rtsp_parser parser;
	struct rtsp_edits e;
	struct rtsp_msg m;
	struct buf out;
	size_t used;

	addr_parse(SPAN_LIT("192.0.2.9"), &v.server.addr);
	rtsp_parser_init(&parser, &limits);
	assert_int_equal(rtsp_msg_decode(&parser, span_str(raw), &m, &used), 0);
	rtsp_edits_init(&e);
	buf_init(&out, SIZE_MAX);
	if (to_client)
		rtsp_mount_to_client(&v, &m, &e);
	else
		rtsp_mount_to_server(&v, &m, &e);
	assert_int_equal(rtsp_edits_apply(&e, m.raw, &out), 0);
	buf_append(&out, "", 1);
	assert_string_equal((const char *)buf_span(&out).p, expected);
	buf_fini(&out);
	rtsp_edits_fini(&e);
	free(raw);
	free(expected);
}

#define OK "RTSP/1.0 200 OK\nCSeq: 1\n"

static void headers_to_client(void **state ATTR_UNUSED)
{
	edited(true, OK "content-base:rtsp://192.0.2.9:554/live\n\n",
	       OK "content-base:rtsp://agent:8554/cam\n\n");
	edited(true, OK "Content-Location: rtsp://10.0.0.1:9/live/x\n\n",
	       OK "Content-Location: rtsp://agent:8554/cam/x\n\n");
	edited(true, OK "Location: rtsp://10.0.0.1:9/live/x\nLocation: rtsp://192.0.2.9/liver\n\n",
	       OK "Location: rtsp://10.0.0.1:9/live/x\nLocation: rtsp://192.0.2.9/liver\n\n");
	edited(true, OK "Location: rtsp://[2001:DB8::9]:8554/hd?x=1&y=2/t\n\n",
	       OK "Location: rtsp://agent:8554/cam/hd/t\n\n");
	edited(true, OK "Location: RTSPS://NVR.example:322/a\n\n",
	       OK "Location: rtsp://agent:8554/root/a\n\n");
	edited(true, OK "Location: rtsp://nvr.example:322/a\n\n",
	       OK "Location: rtsp://nvr.example:322/a\n\n");
	edited(true, OK "X: rtsp://192.0.2.9/live\nLocation: *\nReferer: \n\n",
	       OK "X: rtsp://192.0.2.9/live\nLocation: *\nReferer: \n\n");
}

static void rtp_info(void **state ATTR_UNUSED)
{
	edited(true, OK "RTP-Info: url=rtsp://192.0.2.9/live;seq=1\n\n",
	       OK "RTP-Info: url=rtsp://agent:8554/cam;seq=1\n\n");
	edited(true,
	       OK "RTP-Info: "
		  "URL=\"rtsp://192.0.2.9/live\";seq=1,url=rtsp://192.0.2.9/live/,b;x=url=c\n\n",
	       OK "RTP-Info: "
		  "URL=\"rtsp://agent:8554/cam\";seq=1,url=rtsp://agent:8554/cam/,b;x=url=c\n\n");
	edited(true, OK "RTP-Info: url=/live/1;seq=1, url=trackID=2;seq=9\n\n",
	       OK "RTP-Info: url=/cam/1;seq=1, url=trackID=2;seq=9\n\n");
	edited(true, OK "RTP-Info: url=\nRTP-Info: url\nRTP-Info: seq=1;url=/live\n\n",
	       OK "RTP-Info: url=\nRTP-Info: url\nRTP-Info: seq=1;url=/live\n\n");
	edited(true, OK "RTP-Info: url=rtsp://192.0.2.9;seq=1,url=rtsp:\n\n",
	       OK "RTP-Info: url=rtsp://192.0.2.9;seq=1,url=rtsp:\n\n");
}

static void descriptions(void **state ATTR_UNUSED)
{
	edited(true,
	       OK "Content-Type: Application/SDP ; x=1\nContent-Length: 55\n\n"
		  "a=control:rtsp://10.0.0.1/live/t1\na=control: /live/t\n",
	       OK "Content-Type: Application/SDP ; x=1\nContent-Length: 56\n\n"
		  "a=control:rtsp://agent:8554/cam/t1\na=control: /live/t\n");
}

static void not_descriptions(void **state ATTR_UNUSED)
{
	static const char text[] = OK "Content-Type: text/plain\nContent-Length: "
				      "36\n\na=control:rtsp://192.0.2.9/live/t1\n";
	static const char zipped[] =
		OK "Content-Type: application/sdp\nContent-Encoding: gzip\nContent-Length: 36\n\n"
		   "a=control:rtsp://192.0.2.9/live/t1\n";

	edited(true, text, text);
	edited(true, zipped, zipped);
}

static void to_server(void **state ATTR_UNUSED)
{
	edited(false, "DESCRIBE RTSP://x@AGENT:8554/cam/a RTSP/1.0\nCSeq: 1\n\n",
	       "DESCRIBE rtsp://192.0.2.9/live/a RTSP/1.0\nCSeq: 1\n\n");
	edited(false,
	       "PLAY /cam RTSP/1.0\nReferer: rtsp://Agent:8554/cam/hd\nContent-Base: rtsp://b/cam\n"
	       "Authorization: Digest uri=\"rtsp://agent:8554/cam\"\n\n",
	       "PLAY rtsp://192.0.2.9/live/ RTSP/1.0\n"
	       "Referer: rtsp://[2001:db8::9]:8554/hd?x=1&y=2\nContent-Base: rtsp://b/cam\n"
	       "Authorization: Digest uri=\"rtsp://agent:8554/cam\"\n\n");
	edited(false, "OPTIONS * RTSP/1.0\n\n", "OPTIONS * RTSP/1.0\n\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),
		cmocka_unit_test(urls),
		cmocka_unit_test(fronts),
		cmocka_unit_test(headers_to_client),
		cmocka_unit_test(rtp_info),
		cmocka_unit_test(descriptions),
		cmocka_unit_test(not_descriptions),
		cmocka_unit_test(to_server),
	};

	return cmocka_run_group_tests_name("rtsp_mount", tests, set_up, tear_down);
}
