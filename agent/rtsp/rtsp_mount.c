/*
 * URLs of a reverse proxy, there and back. A mount replaces the beginning of a
 * URL as text: what clients append to it ("/trackID=1", also behind a query)
 * reaches the server as the server's own clients would have written it.
 */
#include "agent/rtsp/rtsp_mount.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"

static struct span without_slash(struct span s)
{
	if (s.n > 0 && s.p[s.n - 1] == '/')
		s.n--;
	return s;
}

int rtsp_mounts_add(struct rtsp_mounts *ms, const char *path, const char *to)
{
	struct rtsp_mount m = {0}, *v;

	v = realloc(ms->v, (ms->n + 1) * sizeof(*v));
	if (v == NULL)
		return ERR_NOMEM;
	ms->v = v;
	m.path = span_dup(without_slash(span_str(path)));
	m.to = span_dup(span_str(to));
	if (m.path == NULL || m.to == NULL) {
		free(m.path);
		free(m.to);
		return ERR_NOMEM;
	}
	if (rtsp_uri_parse(span_str(m.to), &m.uri) < 0 || m.uri.form != RTSP_URI_ABSOLUTE) {
		free(m.path);
		free(m.to);
		return ERR_INVALID;
	}
	m.head = strlen(m.to) - m.uri.path.n;
	m.uri.path = without_slash(m.uri.path);
	m.head += m.uri.path.n;
	m.tls = span_eq_str_nocase(m.uri.scheme, "rtsps");
	v[ms->n++] = m;
	return 0;
}

void rtsp_mounts_fini(struct rtsp_mounts *ms)
{
	size_t i;

	for (i = 0; i < ms->n; i++) {
		free(ms->v[i].path);
		free(ms->v[i].to);
	}
	free(ms->v);
	ms->v = NULL;
	ms->n = 0;
}

/* Is `prefix` the beginning of `s`, up to where something else begins? */
static bool lies_under(struct span s, struct span prefix, const char *ends)
{
	if (prefix.n > s.n || (prefix.n > 0 && memcmp(s.p, prefix.p, prefix.n) != 0))
		return false;
	return s.n == prefix.n || strchr(ends, s.p[prefix.n]) != NULL;
}

static int hex(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (c | 0x20) - 'a' + 10;
	return -1;
}

/* The octet at *i with %XX undone; backslashes are slashes to some servers. */
static uint8_t decoded(struct span s, size_t *i)
{
	uint8_t c = s.p[*i];

	*i += 1;
	if (c == '%' && s.n - *i >= 2 && hex(s.p[*i]) >= 0 && hex(s.p[*i + 1]) >= 0) {
		c = (uint8_t)(hex(s.p[*i]) << 4 | hex(s.p[*i + 1]));
		*i += 2;
	}
	return c == '\\' ? '/' : c;
}

/* Does any segment say "..", in whatever spelling? It could lead out of the mount. */
static bool climbs(struct span path)
{
	size_t i = 0, dots = 0;
	bool only_dots = true;

	while (i < path.n) {
		uint8_t c = decoded(path, &i);

		if (c == '/' || c == '?' || c == ';') {
			if (only_dots && dots == 2)
				return true;
			dots = 0;
			only_dots = true;
		} else if (c == '.') {
			dots++;
		} else {
			only_dots = false;
		}
	}
	return only_dots && dots == 2;
}

const struct rtsp_mount *rtsp_mount_find(const struct rtsp_mounts *ms, struct span path)
{
	const struct rtsp_mount *best = NULL;
	size_t i, best_len = 0;

	if (climbs(path))
		return NULL;
	for (i = 0; i < ms->n; i++) {
		struct span prefix = span_str(ms->v[i].path);

		if (lies_under(path, prefix, "/?") && (best == NULL || prefix.n > best_len)) {
			best = &ms->v[i];
			best_len = prefix.n;
		}
	}
	return best;
}

/* The server's beginning of a URL whose path on the agent goes on with `rest`. */
static struct span server_head(const struct rtsp_mount *m, struct span rest)
{
	struct span to = span_str(m->to);

	return rest.n == 0 ? to : span_sub(to, 0, m->head);
}

static struct span rest_of(const struct rtsp_mount *m, struct span path)
{
	size_t n = strlen(m->path);

	return span_sub(path, n, path.n - n);
}

int rtsp_mount_url(const struct rtsp_mounts *ms, struct span uri, struct buf *out)
{
	const struct rtsp_mount *m;
	struct rtsp_uri u;
	struct span rest;

	if (rtsp_uri_parse(uri, &u) < 0 || u.form == RTSP_URI_STAR)
		return ERR_NOENT;
	m = rtsp_mount_find(ms, u.path);
	if (m == NULL)
		return ERR_NOENT;
	rest = rest_of(m, u.path);
	buf_append_span(out, server_head(m, rest));
	buf_append_span(out, rest);
	return out->error;
}

bool rtsp_mount_front(struct span uri, char front[RTSP_FRONT_MAX])
{
	struct rtsp_uri u;
	struct span authority;
	size_t at, start;

	if (rtsp_uri_parse(uri, &u) < 0 || u.form != RTSP_URI_ABSOLUTE)
		return false;
	start = u.scheme.n + 3;
	authority = span_sub(uri, start, uri.n - u.path.n - start);
	at = span_find(authority, '@');
	if (at < authority.n)
		authority = span_sub(authority, at + 1, authority.n - at - 1);
	if (start + authority.n >= RTSP_FRONT_MAX)
		return false;
	memcpy(front, uri.p, start);
	memcpy(front + start, authority.p, authority.n);
	front[start + authority.n] = '\0';
	return true;
}

/* --- one URL ------------------------------------------------------------------------- */

/* Replaces a beginning; how much longer the message becomes. */
static ptrdiff_t replace(const struct rtsp_msg *m, struct span old, const char *front,
			 struct span head, struct rtsp_edits *e)
{
	rtsp_edit_printf(e, (size_t)(old.p - m->raw.p), old.n, "%s%.*s", front, (int)head.n,
			 (const char *)head.p);
	return (ptrdiff_t)(strlen(front) + head.n) - (ptrdiff_t)old.n;
}

/* Is this URL at the server of that mount? */
static bool same_server(const struct rtsp_view *v, const struct rtsp_mount *mount,
			const struct rtsp_uri *u)
{
	struct addr a = addr_unmap(u->addr);

	if (u->port != mount->uri.port || !span_eq_nocase(u->scheme, mount->uri.scheme))
		return false;
	if (span_eq_nocase(u->host, mount->uri.host))
		return true;
	if (a.version == 0)
		return false;
	return addr_eq(&a, &mount->uri.addr) || (mount == v->mount && addr_eq(&a, &v->server.addr));
}

/* The mount through which the client reaches that URL, NULL when there is none. */
static const struct rtsp_mount *way_back(const struct rtsp_view *v, const struct rtsp_uri *u,
					 const char *ends)
{
	const struct rtsp_mount *best = NULL;
	size_t i;

	for (i = 0; i < v->mounts->n; i++) {
		const struct rtsp_mount *m = &v->mounts->v[i];

		if (!same_server(v, m, u) || !lies_under(u->path, m->uri.path, ends))
			continue;
		if (best == NULL || m->uri.path.n > best->uri.path.n ||
		    (m->uri.path.n == best->uri.path.n && m == v->mount))
			best = m;
	}
	return best;
}

enum kind {
	BASE,	 /* of the resource itself: whatever host it says, the server means itself */
	CONTROL, /* the same, but a path alone stays: clients append it to the base */
	LOCATION /* may well be another server */
};

/*
 * Servers behind a NAT, or with several names, call themselves by what they
 * know; the path tells that they mean what was asked for.
 */
static const struct rtsp_mount *own_name(const struct rtsp_view *v, const struct rtsp_uri *u,
					 const char *ends)
{
	if (v->mount == NULL || !lies_under(u->path, v->mount->uri.path, ends))
		return NULL;
	return v->mount;
}

static ptrdiff_t to_client(const struct rtsp_view *v, const struct rtsp_msg *m, struct span url,
			   enum kind kind, const char *ends, struct rtsp_edits *e)
{
	const struct rtsp_mount *mount;
	const char *front = v->front;
	struct rtsp_uri u;
	struct span old;

	if (rtsp_uri_parse(url, &u) < 0 || u.form == RTSP_URI_STAR)
		return 0;
	if (u.form == RTSP_URI_ORIGIN) {
		mount = kind == CONTROL ? NULL : own_name(v, &u, ends);
		front = "";
	} else {
		mount = way_back(v, &u, ends);
		if (mount == NULL && kind != LOCATION)
			mount = own_name(v, &u, ends);
	}
	if (mount == NULL)
		return 0;
	old = span_of(url.p, url.n - u.path.n + mount->uri.path.n);
	return replace(m, old, front, span_str(mount->path), e);
}

/* Only what carries the name that the client itself used for us. */
static ptrdiff_t to_server(const struct rtsp_view *v, const struct rtsp_msg *m, struct span url,
			   struct rtsp_edits *e)
{
	const struct rtsp_mount *mount;
	struct rtsp_uri u, front;
	struct span rest, old;

	if (rtsp_uri_parse(url, &u) < 0 || u.form != RTSP_URI_ABSOLUTE ||
	    rtsp_uri_parse(span_str(v->front), &front) < 0 || u.port != front.port ||
	    !span_eq_nocase(u.host, front.host))
		return 0;
	mount = rtsp_mount_find(v->mounts, u.path);
	if (mount == NULL)
		return 0;
	rest = rest_of(mount, u.path);
	old = span_of(url.p, url.n - rest.n);
	return replace(m, old, "", server_head(mount, rest), e);
}

/* --- where URLs stand ------------------------------------------------------------------ */

static ptrdiff_t one_url(const struct rtsp_view *v, const struct rtsp_msg *m, struct span url,
			 enum kind kind, bool to_the_client, struct rtsp_edits *e)
{
	if (to_the_client)
		return to_client(v, m, url, kind, "/?", e);
	return to_server(v, m, url, e);
}

/* Where the next "url=" begins at or after `i`: at the start, or behind a comma. */
static size_t next_url(struct span s, size_t i)
{
	bool fresh = i == 0;

	for (; i + 4 <= s.n; i++) {
		uint8_t c = s.p[i];

		if (fresh && span_starts_nocase(span_sub(s, i, 4), "url="))
			return i;
		if (c == ',')
			fresh = true;
		else if (c != ' ' && c != '\t' && c != '\r' && c != '\n')
			fresh = false;
	}
	return s.n;
}

/* RFC 2326 §12.33. URLs may hold ';' and ',', so the next "url=" is what ends one. */
static void rtp_info(const struct rtsp_view *v, const struct rtsp_msg *m, struct span value,
		     bool to_the_client, struct rtsp_edits *e)
{
	size_t at = next_url(value, 0);

	while (at < value.n) {
		size_t from = at + 4, next = next_url(value, from), end = from, slash;
		struct span url;

		if (from < value.n && value.p[from] == '"')
			from++;
		url = span_sub(value, from, next - from);
		/* Without a path the authority ends where the parameters begin. */
		for (slash = 0; slash + 2 < url.n && memcmp(url.p + slash, "://", 3) != 0; slash++)
			;
		for (end = slash + 3; end < url.n && strchr("/;,\" ", url.p[end]) == NULL; end++)
			;
		if (end < url.n && url.p[end] != '/' && url.p[0] != '/')
			url.n = end;
		if (to_the_client)
			to_client(v, m, url, BASE, "/?;,\" \t\r\n", e);
		else
			to_server(v, m, url, e);
		at = next;
	}
}

static void headers(const struct rtsp_view *v, const struct rtsp_msg *m, bool to_the_client,
		    struct rtsp_edits *e)
{
	static const struct {
		const char *name;
		enum kind kind;
	} plain[] = {
		{"Content-Base", BASE},
		{"Content-Location", BASE},
		{"Location", LOCATION},
		{"Referer", BASE},
	};
	size_t i, k;

	for (i = 0; i < m->n_headers; i++) {
		const struct rtsp_header *h = &m->headers[i];

		if (span_eq_str_nocase(h->name, "RTP-Info"))
			rtp_info(v, m, h->value, to_the_client, e);
		for (k = 0; k < ARRAY_LEN(plain); k++)
			if (span_eq_str_nocase(h->name, plain[k].name))
				one_url(v, m, h->value, plain[k].kind, to_the_client, e);
	}
}

static bool is_sdp(const struct rtsp_msg *m)
{
	const struct rtsp_header *type = rtsp_msg_find(m, "Content-Type");
	const struct rtsp_header *coding = rtsp_msg_find(m, "Content-Encoding");
	struct span value;

	if (type == NULL || m->body.n == 0)
		return false;
	if (coding != NULL && !span_eq_str_nocase(coding->value, "identity"))
		return false;
	value = type->value;
	return span_eq_str_nocase(span_trim(span_cut(&value, ';')), "application/sdp");
}

/* RFC 2326 C.1.1: absolute ones; relative ones lead to the Content-Base. */
static void controls(const struct rtsp_view *v, const struct rtsp_msg *m, bool to_the_client,
		     struct rtsp_edits *e)
{
	static const char key[] = "a=control:";
	struct span rest = m->body;
	ptrdiff_t longer = 0;
	size_t i;

	while (rest.n > 0) {
		struct span line = span_cut(&rest, '\n');

		if (!span_starts_nocase(line, key))
			continue;
		line = span_trim(span_sub(line, sizeof(key) - 1, line.n));
		longer += one_url(v, m, line, CONTROL, to_the_client, e);
	}
	if (longer == 0)
		return;
	for (i = 0; i < m->n_headers; i++)
		if (span_eq_str_nocase(m->headers[i].name, "Content-Length"))
			rtsp_edit_printf(e, m->headers[i].value_off, m->headers[i].value.n, "%td",
					 (ptrdiff_t)m->body.n + longer);
}

static void everything(const struct rtsp_view *v, const struct rtsp_msg *m, bool to_the_client,
		       struct rtsp_edits *e)
{
	headers(v, m, to_the_client, e);
	if (is_sdp(m))
		controls(v, m, to_the_client, e);
}

void rtsp_mount_to_server(const struct rtsp_view *v, const struct rtsp_msg *m, struct rtsp_edits *e)
{
	struct rtsp_uri u;
	struct span rest;

	if (m->kind == RTSP_REQUEST && v->mount != NULL && rtsp_uri_parse(m->uri, &u) == 0 &&
	    u.form != RTSP_URI_STAR) {
		rest = rest_of(v->mount, u.path);
		replace(m, span_of(m->uri.p, m->uri.n - rest.n), "", server_head(v->mount, rest),
			e);
	}
	everything(v, m, false, e);
}

void rtsp_mount_to_client(const struct rtsp_view *v, const struct rtsp_msg *m, struct rtsp_edits *e)
{
	struct rtsp_uri u;

	if (m->kind == RTSP_REQUEST && rtsp_uri_parse(m->uri, &u) == 0)
		to_client(v, m, m->uri, BASE, "/?", e);
	everything(v, m, true, e);
}
