/*
 * Decoder of RTSP messages. Owns nothing, knows no socket and no time.
 */
#include "agent/rtsp/rtsp_msg.h"

#include <string.h>

static const char *const method_names[RTSP_METHOD_MAX] = {
	[RTSP_OTHER] = "?",
	[RTSP_ANNOUNCE] = "ANNOUNCE",
	[RTSP_DESCRIBE] = "DESCRIBE",
	[RTSP_GET_PARAMETER] = "GET_PARAMETER",
	[RTSP_OPTIONS] = "OPTIONS",
	[RTSP_PAUSE] = "PAUSE",
	[RTSP_PLAY] = "PLAY",
	[RTSP_RECORD] = "RECORD",
	[RTSP_REDIRECT] = "REDIRECT",
	[RTSP_SETUP] = "SETUP",
	[RTSP_SET_PARAMETER] = "SET_PARAMETER",
	[RTSP_TEARDOWN] = "TEARDOWN",
};

const char *rtsp_method_name(enum rtsp_method m)
{
	return (unsigned)m < RTSP_METHOD_MAX ? method_names[m] : "?";
}

/* RFC 2326 §15.1: any character except control characters and tspecials. */
bool rtsp_is_token(uint8_t c)
{
	return c > 0x20 && c < 0x7f && strchr("()<>@,;:\\\"/[]?={}", c) == NULL;
}

static bool is_token(struct span s)
{
	size_t i;

	for (i = 0; i < s.n; i++)
		if (!rtsp_is_token(s.p[i]))
			return false;
	return s.n > 0;
}

static bool is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

void rtsp_parser_init(struct rtsp_parser *p, const struct rtsp_limits *limits)
{
	memset(p, 0, sizeof(*p));
	p->limits = *limits;
}

static void parser_restart(struct rtsp_parser *p)
{
	struct rtsp_limits limits = p->limits;

	rtsp_parser_init(p, &limits);
}

static int decode_data(struct span in, struct rtsp_msg *m, size_t *used)
{
	size_t n;

	if (in.n < RTSP_DATA_HEADER)
		return ERR_MORE;
	n = RTSP_DATA_HEADER + ((size_t)in.p[2] << 8 | in.p[3]);
	if (in.n < n)
		return ERR_MORE;
	m->kind = RTSP_DATA;
	m->raw = span_sub(in, 0, n);
	m->channel = in.p[1];
	m->body = span_sub(in, RTSP_DATA_HEADER, n - RTSP_DATA_HEADER);
	*used = n;
	return 0;
}

/* The line [from, lf) without its CR; rejects what no line may contain. */
static int check_line(struct span in, size_t from, size_t lf, struct span *line)
{
	size_t i;

	*line = span_sub(in, from, lf - from);
	if (line->n > 0 && line->p[line->n - 1] == '\r')
		line->n--;
	for (i = 0; i < line->n; i++)
		if ((line->p[i] < 0x20 && line->p[i] != '\t') || line->p[i] == 0x7f)
			return ERR_MALFORMED;
	return 0;
}

/*
 * Looks for the empty line, going on where the last call stopped. *end is the
 * offset after it.
 */
static int find_header_end(struct rtsp_parser *p, struct span in, size_t *end)
{
	struct span line;
	const uint8_t *lf;
	size_t at;
	int err;

	while (p->scanned < in.n) {
		lf = memchr(in.p + p->scanned, '\n', in.n - p->scanned);
		if (lf == NULL) {
			p->scanned = in.n;
			break;
		}
		at = (size_t)(lf - in.p);
		err = check_line(in, p->line_start, at, &line);
		if (err < 0)
			return err;
		if (line.n > p->limits.line || at >= p->limits.header)
			return ERR_TOOBIG;
		p->scanned = p->line_start = at + 1;
		if (line.n == 0) {
			*end = at + 1;
			return 0;
		}
		/* Folded lines count, too: what is refused is the work. */
		if (++p->lines > 2 * RTSP_MAX_HEADERS)
			return ERR_TOOBIG;
	}
	if (in.n - p->line_start > p->limits.line + 1 || in.n > p->limits.header)
		return ERR_TOOBIG;
	return ERR_MORE;
}

/* "RTSP/1.0" */
static int parse_version(struct span s, struct rtsp_msg *m)
{
	if (s.n != 8 || memcmp(s.p, "RTSP/", 5) != 0 || !is_digit(s.p[5]) || s.p[6] != '.' ||
	    !is_digit(s.p[7]))
		return ERR_MALFORMED;
	m->major = (unsigned)(s.p[5] - '0');
	m->minor = (unsigned)(s.p[7] - '0');
	return 0;
}

static int parse_status_line(struct span line, struct rtsp_msg *m)
{
	struct span version = span_cut(&line, ' ');
	struct span code = span_cut(&line, ' ');
	uint64_t status;

	m->kind = RTSP_RESPONSE;
	if (parse_version(version, m) < 0)
		return ERR_MALFORMED;
	if (code.n != 3 || span_u64(code, 999, &status) < 0 || status < 100)
		return ERR_MALFORMED;
	m->status = (unsigned)status;
	m->reason = line;
	return 0;
}

static int parse_request_line(struct span line, struct rtsp_msg *m)
{
	size_t i;

	m->kind = RTSP_REQUEST;
	m->method = span_cut(&line, ' ');
	m->uri = span_cut(&line, ' ');
	if (!is_token(m->method) || m->uri.n == 0 || parse_version(line, m) < 0)
		return ERR_MALFORMED;
	for (i = 0; i < m->uri.n; i++)
		if (m->uri.p[i] <= 0x20)
			return ERR_MALFORMED;
	m->method_id = RTSP_OTHER;
	for (i = 1; i < RTSP_METHOD_MAX; i++)
		if (span_eq_str(m->method, method_names[i]))
			m->method_id = (enum rtsp_method)i;
	return 0;
}

static int parse_start_line(struct span line, struct rtsp_msg *m)
{
	static const char prefix[] = "RTSP/";

	if (line.n >= sizeof(prefix) - 1 && memcmp(line.p, prefix, sizeof(prefix) - 1) == 0)
		return parse_status_line(line, m);
	return parse_request_line(line, m);
}

/*
 * White space between name and colon is an error: some servers would take the
 * field, others would not, and so disagree with us about lengths.
 */
static int add_header(struct rtsp_msg *m, struct span line, size_t off, size_t len)
{
	struct rtsp_header *h;
	size_t colon = span_find(line, ':');

	if (colon == line.n)
		return ERR_MALFORMED;
	if (m->n_headers == RTSP_MAX_HEADERS)
		return ERR_TOOBIG;
	h = &m->headers[m->n_headers];
	h->name = span_sub(line, 0, colon);
	if (!is_token(h->name))
		return ERR_MALFORMED;
	h->off = off;
	h->len = len;
	h->value = span_of(line.p + colon + 1, line.n - colon - 1);
	m->n_headers++;
	return 0;
}

/* RFC 2326 §4.2 (RFC 2068 §4.2): a line that starts with white space goes on with the last field.
 */
static int continue_header(struct rtsp_msg *m, struct span line, size_t len)
{
	struct rtsp_header *h;

	if (m->n_headers == 0)
		return ERR_MALFORMED;
	h = &m->headers[m->n_headers - 1];
	h->value.n = (size_t)(line.p + line.n - h->value.p);
	h->len += len;
	return 0;
}

static int parse_head(struct span head, struct rtsp_msg *m)
{
	struct span line;
	size_t at = 0, i;
	int err;

	for (;;) {
		size_t lf = at + span_find(span_sub(head, at, head.n - at), '\n');
		size_t len = lf + 1 - at;

		err = check_line(head, at, lf, &line);
		if (err < 0)
			return err;
		if (at == 0)
			err = parse_start_line(line, m);
		else if (line.n == 0)
			break;
		else if (line.p[0] == ' ' || line.p[0] == '\t')
			err = continue_header(m, line, len);
		else
			err = add_header(m, line, at, len);
		if (err < 0)
			return err;
		at += len;
	}
	m->header_end = at;
	for (i = 0; i < m->n_headers; i++) {
		struct rtsp_header *h = &m->headers[i];

		if (h->value.n > 0)
			h->value = span_trim(h->value);
		h->value_off =
			h->value.p != NULL ? (size_t)(h->value.p - head.p) : h->off + h->name.n + 1;
	}
	return 0;
}

/* RFC 2326 §4.4. More than one Content-Length is an error even if they agree. */
static int body_length(const struct rtsp_msg *m, size_t max, size_t *out)
{
	const struct rtsp_header *h = rtsp_msg_find(m, "Content-Length");
	uint64_t n;
	int err;

	*out = 0;
	if (h == NULL)
		return 0;
	if (rtsp_msg_count(m, "Content-Length") != 1)
		return ERR_MALFORMED;
	err = span_u64(h->value, max, &n);
	if (err < 0)
		return err;
	if (m->kind == RTSP_RESPONSE && (m->status < 200 || m->status == 204 || m->status == 304))
		return 0;
	*out = (size_t)n;
	return 0;
}

static int decode_text(struct rtsp_parser *p, struct span in, struct rtsp_msg *m, size_t *used)
{
	size_t head = 0, body = 0;
	int err;

	if (!rtsp_is_token(in.p[0]))
		return ERR_MALFORMED;
	if (p->need > in.n)
		return ERR_MORE;
	if (p->need == 0) {
		err = find_header_end(p, in, &head);
		if (err < 0)
			return err;
	} else {
		head = p->scanned;
	}
	m->raw = span_sub(in, 0, head);
	err = parse_head(m->raw, m);
	if (err == 0)
		err = body_length(m, p->limits.body, &body);
	if (err < 0)
		return err;
	p->need = head + body;
	if (in.n < p->need)
		return ERR_MORE;
	m->raw = span_sub(in, 0, p->need);
	m->body = span_sub(in, head, body);
	*used = p->need;
	return 0;
}

int rtsp_msg_decode(struct rtsp_parser *p, struct span in, struct rtsp_msg *m, size_t *used)
{
	size_t skip = 0, n = 0;
	int err;

	*used = 0;
	memset(m, 0, offsetof(struct rtsp_msg, headers));
	m->n_headers = 0;
	m->header_end = 0;
	m->body = SPAN_EMPTY;
	if (p->scanned == 0)
		while (skip < in.n && (in.p[skip] == '\r' || in.p[skip] == '\n'))
			skip++;
	in = span_of(in.p + skip, in.n - skip);
	if (in.n == 0) {
		*used = skip;
		return ERR_MORE;
	}
	if (in.p[0] == '$')
		err = decode_data(in, m, &n);
	else
		err = decode_text(p, in, m, &n);
	if (err == ERR_MORE)
		*used = skip;
	if (err == 0) {
		*used = skip + n;
		parser_restart(p);
	}
	return err;
}

const struct rtsp_header *rtsp_msg_find(const struct rtsp_msg *m, const char *name)
{
	size_t i;

	for (i = 0; i < m->n_headers; i++)
		if (span_eq_str_nocase(m->headers[i].name, name))
			return &m->headers[i];
	return NULL;
}

size_t rtsp_msg_count(const struct rtsp_msg *m, const char *name)
{
	size_t i, n = 0;

	for (i = 0; i < m->n_headers; i++)
		if (span_eq_str_nocase(m->headers[i].name, name))
			n++;
	return n;
}

int rtsp_msg_cseq(const struct rtsp_msg *m, uint32_t *out)
{
	const struct rtsp_header *h = rtsp_msg_find(m, "CSeq");
	uint64_t v;

	if (h == NULL)
		return ERR_NOENT;
	if (rtsp_msg_count(m, "CSeq") != 1 || span_u64(h->value, UINT32_MAX, &v) < 0)
		return ERR_MALFORMED;
	*out = (uint32_t)v;
	return 0;
}

int rtsp_msg_session(const struct rtsp_msg *m, struct span *id, unsigned *timeout, bool *given)
{
	const struct rtsp_header *h = rtsp_msg_find(m, "Session");
	struct span rest, part;
	size_t i;

	if (h == NULL)
		return ERR_NOENT;
	if (rtsp_msg_count(m, "Session") != 1)
		return ERR_MALFORMED;
	rest = h->value;
	part = span_trim(span_cut(&rest, ';'));
	for (i = 0; i < part.n; i++)
		if (part.p[i] <= 0x20)
			return ERR_MALFORMED;
	if (part.n == 0)
		return ERR_MALFORMED;
	*id = part;
	*timeout = RTSP_SESSION_TIMEOUT;
	*given = false;
	while (rest.n > 0) {
		uint64_t v;
		struct span value = span_trim(span_cut(&rest, ';'));
		struct span name = span_trim(span_cut(&value, '='));

		if (!span_eq_str_nocase(name, "timeout"))
			continue;
		value = span_trim(value);
		if (span_u64(value, 86400, &v) == 0 && v > 0) {
			*timeout = (unsigned)v;
			*given = true;
		}
	}
	return 0;
}
