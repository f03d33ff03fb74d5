/*
 * Request-URIs.
 */
#include "agent/rtsp/rtsp_uri.h"

#include <string.h>

#include "common/errcode.h"

static const struct scheme {
	const char *name;
	uint16_t port;
} schemes[] = {{"rtsp", RTSP_PORT}, {"rtspu", RTSP_PORT}, {"rtsps", RTSPS_PORT}};

static bool host_ok(struct span h)
{
	size_t i;

	for (i = 0; i < h.n; i++) {
		uint8_t c = h.p[i];

		if (c <= 0x20 || c >= 0x7f || strchr("<>\"\\^`{|}%#?@:/[]", c) != NULL)
			return false;
	}
	return h.n > 0 && h.n <= 255;
}

/* "host", "host:port", "[v6]:port" */
static int parse_authority(struct span s, struct rtsp_uri *u)
{
	size_t at = span_find(s, '@'), end;
	uint64_t port;

	if (at < s.n) /* user information: passed on, never looked at */
		s = span_sub(s, at + 1, s.n - at - 1);
	if (s.n > 0 && s.p[0] == '[') {
		end = span_find(s, ']');
		if (end == s.n)
			return ERR_MALFORMED;
		u->host = span_sub(s, 1, end - 1);
		if (addr_parse(u->host, &u->addr) < 0 || u->addr.version != 6)
			return ERR_MALFORMED;
		s = span_sub(s, end + 1, s.n - end - 1);
	} else {
		end = span_find(s, ':');
		u->host = span_sub(s, 0, end);
		s = span_sub(s, end, s.n - end);
		if (!host_ok(u->host))
			return ERR_MALFORMED;
		if (addr_parse(u->host, &u->addr) < 0)
			u->addr = addr_none;
	}
	if (s.n == 0)
		return 0;
	if (s.p[0] != ':')
		return ERR_MALFORMED;
	if (s.n == 1) /* "host:" is allowed by RFC 2396 §3.2.2 */
		return 0;
	if (span_u64(span_sub(s, 1, s.n - 1), UINT16_MAX, &port) < 0 || port == 0)
		return ERR_MALFORMED;
	u->port = (uint16_t)port;
	return 0;
}

static size_t find_scheme_end(struct span s)
{
	size_t i;

	for (i = 0; i + 3 <= s.n; i++)
		if (memcmp(s.p + i, "://", 3) == 0)
			return i;
	return s.n;
}

int rtsp_uri_parse(struct span text, struct rtsp_uri *out)
{
	struct rtsp_uri u = {.form = RTSP_URI_ABSOLUTE};
	size_t colon, end, i;
	struct span rest;

	if (span_eq_str(text, "*")) {
		u.form = RTSP_URI_STAR;
		u.path = text;
		*out = u;
		return 0;
	}
	if (text.n > 0 && text.p[0] == '/') {
		u.form = RTSP_URI_ORIGIN;
		u.path = text;
		*out = u;
		return 0;
	}
	colon = find_scheme_end(text);
	if (colon == text.n)
		return ERR_MALFORMED;
	u.scheme = span_sub(text, 0, colon);
	for (i = 0; i < ARRAY_LEN(schemes); i++)
		if (span_eq_str_nocase(u.scheme, schemes[i].name))
			u.port = schemes[i].port;
	if (u.port == 0)
		return ERR_MALFORMED;
	rest = span_sub(text, colon + 3, text.n - colon - 3);
	for (end = 0; end < rest.n && rest.p[end] != '/' && rest.p[end] != '?'; end++)
		;
	u.path = span_sub(rest, end, rest.n - end);
	if (parse_authority(span_sub(rest, 0, end), &u) < 0)
		return ERR_MALFORMED;
	*out = u;
	return 0;
}

static struct span without_slash(struct span s)
{
	if (s.n > 0 && s.p[s.n - 1] == '/')
		s.n--;
	return s;
}

bool rtsp_uri_same(struct span a, struct span b)
{
	struct rtsp_uri ua, ub;

	if (rtsp_uri_parse(a, &ua) < 0 || rtsp_uri_parse(b, &ub) < 0)
		return span_eq(a, b);
	if (!span_eq(without_slash(ua.path), without_slash(ub.path)))
		return false;
	/* A client that mixes both forms means the server it talks to. */
	if (ua.form != RTSP_URI_ABSOLUTE || ub.form != RTSP_URI_ABSOLUTE)
		return true;
	return ua.port == ub.port && span_eq_nocase(ua.scheme, ub.scheme) &&
	       span_eq_nocase(ua.host, ub.host);
}
