/*
 * The RTSP part of the agent's policy: what is written where, and what
 * contradicts itself.
 */
#include <string.h>

#include "agent/policy_int.h"
#include "agent/rtsp/rtsp_uri.h"
#include "common/errcode.h"
#include "common/log.h"

#define RELAY_PORTS_MIN 4 /* RTP and RTCP on both sides */

static const struct conf_enum rtsp_modes[] = {
	{"forward", RTSP_FORWARD},
	{"reverse", RTSP_REVERSE},
	{"transparent", RTSP_TRANSPARENT},
	{NULL, 0},
};

static const struct conf_enum rtsp_outs[] = {
	{"auto", RTSP_OUT_AUTO},
	{"rewrite", RTSP_OUT_REWRITE},
	{"transparent", RTSP_OUT_TRANSPARENT},
	{"relay", RTSP_OUT_RELAY},
	{NULL, 0},
};

static const struct conf_key mount_keys[] = {
	{.name = "path", .type = CONF_KEY, .offset = offsetof(struct rtsp_mount_conf, path)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct rtsp_mount_conf, line)},
	{.name = "to",
	 .type = CONF_STRING,
	 .offset = offsetof(struct rtsp_mount_conf, to),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 1023,
	 .help = "URL that stands behind the path: rtsp://host[:port][/path] or rtsps://..."},
	{.name = "out",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct rtsp_mount_conf, out),
	 .present = offsetof(struct rtsp_mount_conf, has_out),
	 .names = rtsp_outs,
	 .help = "way out for this mount; absent: as routes and out say"},
	{.name = NULL},
};

static const struct conf_key route_keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct rtsp_route_conf, line)},
	{.name = "to",
	 .type = CONF_PREFIX,
	 .offset = offsetof(struct rtsp_route_conf, to),
	 .flags = CONF_REQUIRED,
	 .help = "network of the servers; the longest prefix decides"},
	{.name = "out",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct rtsp_route_conf, out),
	 .flags = CONF_REQUIRED,
	 .names = rtsp_outs,
	 .help = "way out to them"},
	{.name = "interleaved_hint",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct rtsp_route_conf, interleaved_hint),
	 .help = "461 instead of 503 for them when a middlebox is unreachable"},
	{.name = NULL},
};

#define FILE_NAME(key, in, member, more, text)                                                     \
	{                                                                                          \
		.name = key, .type = CONF_STRING, .offset = offsetof(struct in, member),           \
		.flags = more, .min = 1, .max = 4095, .help = text                                 \
	}

static const struct conf_key tls_keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct rtsp_tls_conf, line)},
	FILE_NAME("certificate", rtsp_tls_conf, certificate, CONF_REQUIRED,
		  "file with the listener's certificate chain, PEM"),
	FILE_NAME("key", rtsp_tls_conf, key, CONF_REQUIRED, "file with its private key, PEM"),
	FILE_NAME("ca", rtsp_tls_conf, ca, 0,
		  "file with the authorities of clients' certificates; absent: none is asked for"),
	{.name = NULL},
};

static const struct conf_key upstream_tls_keys[] = {
	{.name = "line",
	 .type = CONF_LINE,
	 .offset = offsetof(struct rtsp_upstream_tls_conf, line)},
	FILE_NAME("ca", rtsp_upstream_tls_conf, ca, 0,
		  "file with the authorities of servers' certificates; absent: the system's"),
	FILE_NAME("certificate", rtsp_upstream_tls_conf, certificate, 0,
		  "file with a certificate chain to show to servers, PEM"),
	FILE_NAME("key", rtsp_upstream_tls_conf, key, 0, "file with its private key, PEM"),
	{.name = "verify",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct rtsp_upstream_tls_conf, verify),
	 .preset = "true",
	 .help = "false: any certificate will do (cameras that made their own)"},
	{.name = NULL},
};

#define RTSP_UINT(key, member, lo, hi, dflt, text)                                                 \
	{                                                                                          \
		.name = key, .type = CONF_UINT,                                                    \
		.offset = offsetof(struct rtsp_listener_conf, member), .min = lo, .max = hi,       \
		.preset = dflt, .help = text                                                       \
	}

const struct conf_key policy_rtsp_keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct rtsp_listener_conf, line)},
	{.name = "listen",
	 .type = CONF_ADDR_PORT,
	 .offset = offsetof(struct rtsp_listener_conf, listen),
	 .flags = CONF_REQUIRED,
	 .help = "address and port for RTSP clients"},
	{.name = "mode",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct rtsp_listener_conf, mode),
	 .flags = CONF_REQUIRED,
	 .names = rtsp_modes,
	 .help = "forward: clients name the server in the URI; reverse: mounts do; transparent: "
		 "intercepted connections"},
	{.name = "out",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct rtsp_listener_conf, out),
	 .preset = "\"auto\"",
	 .names = rtsp_outs,
	 .help = "auto: rewrite behind a NAT, transparent behind a firewall"},
	{.name = "routes",
	 .type = CONF_LIST,
	 .offset = offsetof(struct rtsp_listener_conf, routes),
	 .max = 1024,
	 .sub = route_keys,
	 .size = sizeof(struct rtsp_route_conf),
	 .elem = CONF_OBJECT,
	 .help = "other ways out for some servers"},
	{.name = "mounts",
	 .type = CONF_MAP,
	 .offset = offsetof(struct rtsp_listener_conf, mounts),
	 .max = 4096,
	 .sub = mount_keys,
	 .size = sizeof(struct rtsp_mount_conf),
	 .help = "paths on the agent and what stands behind them (reverse only)"},
	{.name = "zone",
	 .type = CONF_STRING,
	 .offset = offsetof(struct rtsp_listener_conf, zone),
	 .min = 1,
	 .max = 63,
	 .help = "zone of its clients; absent: the zone of each client's address"},
	{.name = "tproxy",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct rtsp_listener_conf, tproxy),
	 .preset = "false",
	 .help = "connections come by TPROXY, not by redirection (transparent only)"},
	{.name = "tls",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct rtsp_listener_conf, tls),
	 .sub = tls_keys,
	 .size = sizeof(struct rtsp_tls_conf),
	 .present = offsetof(struct rtsp_listener_conf, tls.present),
	 .help = "clients come with RTSPS, TLS 1.2 or later; absent: plain TCP"},
	{.name = "upstream_tls",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct rtsp_listener_conf, upstream_tls),
	 .sub = upstream_tls_keys,
	 .size = sizeof(struct rtsp_upstream_tls_conf),
	 .help = "TLS towards rtsps:// servers"},
	{.name = "media_from",
	 .type = CONF_LIST,
	 .offset = offsetof(struct rtsp_listener_conf, media_from),
	 .size = sizeof(struct addr_prefix),
	 .elem = CONF_PREFIX,
	 .help = "hosts other than the server that it may name in source="},
	{.name = "multicast",
	 .type = CONF_LIST,
	 .offset = offsetof(struct rtsp_listener_conf, multicast),
	 .max = 32,
	 .size = sizeof(struct addr_prefix),
	 .elem = CONF_PREFIX,
	 .help = "groups that servers may send to instead of the client (232.0.0.0/8); absent: "
		 "none, 461"},
	RTSP_UINT("header_bytes", header_bytes, 1024, 1048576, "65536",
		  "octets that the header section of a message may have"),
	RTSP_UINT("line_bytes", line_bytes, 256, 65536, "8192", "octets that a line may have"),
	RTSP_UINT("body_bytes", body_bytes, 1024, 16777216, "1048576",
		  "octets that a body may have"),
	RTSP_UINT("connect_timeout_ms", connect_timeout_ms, 100, 60000, "4000",
		  "milliseconds for reaching the server"),
	RTSP_UINT("idle_timeout_s", idle_timeout_s, 1, 86400, "300",
		  "seconds after which a connection without a session is closed"),
	{.name = "interleaved_hint",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct rtsp_listener_conf, interleaved_hint),
	 .preset = "false",
	 .help = "answer 461 instead of 503 when the middlebox is down: clients go over to TCP"},
	{.name = NULL},
};

const struct conf_key policy_relay_keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct policy_relay, line)},
	{.name = "ports",
	 .type = CONF_PORTS,
	 .offset = offsetof(struct policy_relay, ports),
	 .preset = "\"50000-59999\"",
	 .help = "UDP ports of relayed media, on both sides"},
	{.name = "addresses",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy_relay, addresses),
	 .max = 16,
	 .size = sizeof(struct addr),
	 .elem = CONF_ADDR,
	 .help = "the agent's own addresses to relay on, the first of an IP version for all of "
		 "it; absent: those that lead to the client and the server"},
	{.name = "max",
	 .type = CONF_UINT,
	 .offset = offsetof(struct policy_relay, max),
	 .min = 1,
	 .max = 16384,
	 .preset = "1000",
	 .help = "media flows relayed at a time"},
	{.name = NULL},
};

/* ---- contradictions ------------------------------------------------------------------ */

/* What a path or URL may be made of (RFC 2396 §2), less what would confuse comparing. */
static bool url_octets(const char *s)
{
	for (; *s; s++)
		if (*s <= 0x20 || *s == 0x7f || (unsigned char)*s >= 0x80 ||
		    strchr("<>\"\\^`{}|#", *s))
			return false;
	return true;
}

static const char *why_no_path(const char *path)
{
	size_t n = strlen(path);

	if (path[0] != '/')
		return "a path begins with \"/\"";
	if (n > 1 && path[n - 1] == '/')
		return "a path does not end with \"/\"";
	if (!url_octets(path) || strchr(path, '?'))
		return "not the path of a URL";
	if (strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../"))
		return "empty and dot segments mean nothing here";
	return NULL;
}

static const char *why_no_url(const char *to)
{
	struct rtsp_uri uri;

	if (!url_octets(to) || rtsp_uri_parse(span_str(to), &uri) < 0 ||
	    uri.form != RTSP_URI_ABSOLUTE)
		return "not a URL";
	if (!span_eq_str_nocase(uri.scheme, "rtsp") && !span_eq_str_nocase(uri.scheme, "rtsps"))
		return "only rtsp:// and rtsps:// are spoken";
	if (strchr(to, '@'))
		return "a URL with a user is not taken: clients authenticate themselves";
	if (uri.addr.version && (addr_is_any(&uri.addr) || addr_is_multicast(&uri.addr)))
		return "not a server's address";
	return NULL;
}

static void check_out(const struct policy *p, unsigned line, int out, struct conf_errors *errs)
{
	if (out == RTSP_OUT_RELAY && !p->relay.present)
		conf_error(errs, line, "rtsp", "out \"relay\" needs \"relay\"");
}

static void check_mount(const struct policy *p, const struct rtsp_mount_conf *m,
			struct conf_errors *errs)
{
	char path[128], to[128];
	const char *why = m->path ? why_no_path(m->path) : NULL;

	if (why)
		conf_error(errs, m->line, "rtsp.mounts", "\"%s\": %s",
			   log_escape(span_str(m->path), path, sizeof(path)), why);
	why = m->to ? why_no_url(m->to) : NULL;
	if (why)
		conf_error(errs, m->line, "rtsp.mounts", "\"%s\": %s",
			   log_escape(span_str(m->to), to, sizeof(to)), why);
	if (m->has_out)
		check_out(p, m->line, m->out, errs);
}

static void check_mounts(const struct policy *p, const struct rtsp_listener_conf *l,
			 struct conf_errors *errs)
{
	const struct rtsp_mount_conf *m = l->mounts.v;

	if (l->mode == RTSP_REVERSE && !l->mounts.n)
		conf_error(errs, l->line, "rtsp", "mode \"reverse\" needs mounts");
	if (l->mode != RTSP_REVERSE && l->mounts.n)
		conf_error(errs, l->line, "rtsp", "mounts make sense in mode \"reverse\" only");
	for (size_t i = 0; i < l->mounts.n; i++)
		check_mount(p, &m[i], errs);
}

static void check_routes(const struct policy *p, const struct rtsp_listener_conf *l,
			 struct conf_errors *errs)
{
	const struct rtsp_route_conf *r = l->routes.v;
	char text[ADDR_STRLEN];

	for (size_t i = 0; i < l->routes.n; i++) {
		check_out(p, r[i].line, r[i].out, errs);
		for (size_t k = 0; k < i; k++)
			if (r[i].to.addr.version && r[k].to.len == r[i].to.len &&
			    addr_eq(&r[k].to.addr, &r[i].to.addr))
				conf_error(errs, r[i].line, "rtsp.routes",
					   "a second route to %s/%u (first in line %u)",
					   addr_str(&r[i].to.addr, text), r[i].to.len, r[k].line);
	}
}

static void check_multicast(const struct rtsp_listener_conf *l, struct conf_errors *errs)
{
	const struct addr_prefix *p = l->multicast.v;
	char text[ADDR_STRLEN];

	for (size_t i = 0; i < l->multicast.n; i++)
		if (p[i].addr.version &&
		    (!addr_is_multicast(&p[i].addr) || p[i].len < (p[i].addr.version == 6 ? 8 : 4)))
			conf_error(errs, l->line, "rtsp.multicast", "%s/%u holds more than groups",
				   addr_str(&p[i].addr, text), p[i].len);
}

static void check_tls(const struct rtsp_listener_conf *l, struct conf_errors *errs)
{
	const struct rtsp_upstream_tls_conf *u = &l->upstream_tls;

	if (!u->certificate != !u->key)
		conf_error(errs, u->line, "rtsp.upstream_tls",
			   "a certificate needs its key, and a key its certificate");
	if (!u->verify && u->ca)
		conf_error(errs, u->line, "rtsp.upstream_tls",
			   "ca says nothing where verify is false");
}

static void check_listener(const struct policy *p, const struct rtsp_listener_conf *l,
			   struct conf_errors *errs)
{
	if (l->zone && l->zone[0] && !policy_zone_by_name(p, l->zone))
		conf_error(errs, l->line, "rtsp", "unknown zone \"%s\"", l->zone);
	if (l->tproxy && l->mode != RTSP_TRANSPARENT)
		conf_error(errs, l->line, "rtsp",
			   "tproxy makes sense in mode \"transparent\" only");
	if (l->header_bytes && l->line_bytes > l->header_bytes)
		conf_error(errs, l->line, "rtsp", "line_bytes is above header_bytes");
	check_out(p, l->line, l->out, errs);
	check_mounts(p, l, errs);
	check_routes(p, l, errs);
	check_multicast(l, errs);
	check_tls(l, errs);
}

static void check_relay(const struct policy_relay *r, struct conf_errors *errs)
{
	const struct addr *a = r->addresses.v;
	char text[ADDR_STRLEN];

	if (!r->present)
		return;
	if (r->ports.first && r->ports.last - r->ports.first + 1 < RELAY_PORTS_MIN)
		conf_error(errs, r->line, "relay.ports", "fewer than %d ports", RELAY_PORTS_MIN);
	for (size_t i = 0; i < r->addresses.n; i++)
		if (addr_is_any(&a[i]) || addr_is_multicast(&a[i]))
			conf_error(errs, r->line, "relay.addresses", "%s is not one host's",
				   addr_str(&a[i], text));
}

void policy_check_rtsp(const struct policy *p, struct conf_errors *errs)
{
	const struct rtsp_listener_conf *l = p->rtsp.v;
	const struct addr_port *dns = p->resolver.v;
	char text[ADDR_PORT_STRLEN];

	for (size_t i = 0; i < p->rtsp.n; i++) {
		for (size_t k = 0; k < i; k++)
			if (l[i].listen.addr.version && addr_port_eq(&l[k].listen, &l[i].listen))
				conf_error(errs, l[i].line, "rtsp",
					   "a second listener on %s (first in line %u)",
					   addr_port_str(&l[i].listen, text), l[k].line);
		check_listener(p, &l[i], errs);
	}
	check_relay(&p->relay, errs);
	for (size_t i = 0; i < p->resolver.n; i++)
		if (dns[i].addr.version && (!dns[i].port || addr_is_any(&dns[i].addr)))
			conf_error(errs, 0, "resolver", "\"%s\" is nobody's address",
				   addr_port_str(&dns[i], text));
}
