/*
 * Tokeniser and patcher of the Transport header.
 */
#include "agent/rtsp/rtsp_transport.h"

#include <string.h>

/* A cursor over one header value; line folds are white space here. */
struct cursor {
	struct span s;
	size_t at;
	size_t base; /* offset of s in the message */
};

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_space(struct cursor *c)
{
	while (c->at < c->s.n && is_space(c->s.p[c->at]))
		c->at++;
}

static bool at_char(const struct cursor *c, char x)
{
	return c->at < c->s.n && c->s.p[c->at] == (uint8_t)x;
}

/* Up to one of `stops`, white space at the end left out. */
static struct span take_until(struct cursor *c, const char *stops)
{
	size_t from = c->at, end;

	while (c->at < c->s.n && strchr(stops, c->s.p[c->at]) == NULL)
		c->at++;
	for (end = c->at; end > from && is_space(c->s.p[end - 1]); end--)
		;
	return span_sub(c->s, from, end - from);
}

/* Inside: no control characters, no quote, no inner white space. */
static bool is_word(struct span s)
{
	size_t i;

	for (i = 0; i < s.n; i++)
		if (s.p[i] <= 0x20 || s.p[i] == '"' || s.p[i] >= 0x7f)
			return false;
	return true;
}

/* "PLAY,RECORD": commas inside do not separate specs. No backslash escapes here. */
static int take_quoted(struct cursor *c, struct rtsp_param *p)
{
	size_t from = ++c->at;

	while (c->at < c->s.n && c->s.p[c->at] != '"')
		c->at++;
	if (c->at == c->s.n)
		return ERR_MALFORMED;
	p->value = span_sub(c->s, from, c->at - from);
	c->at++;
	p->value_len = c->at - (from - 1);
	return 0;
}

/*
 * Unquoted mode=PLAY,RECORD cannot be told from two specs, except that a spec
 * begins with a protocol, which has a '/'.
 */
static bool mode_goes_on(struct cursor *c)
{
	size_t i = c->at + 1;

	while (i < c->s.n && is_space(c->s.p[i]))
		i++;
	if (i == c->s.n || !rtsp_is_token(c->s.p[i]))
		return false;
	for (; i < c->s.n && strchr(",;", c->s.p[i]) == NULL; i++)
		if (c->s.p[i] == '/')
			return false;
	return true;
}

static int take_plain(struct cursor *c, struct rtsp_param *p)
{
	size_t from = c->at;

	p->value = take_until(c, ",;");
	while (span_eq_str_nocase(p->name, "mode") && at_char(c, ',') && mode_goes_on(c)) {
		c->at++;
		take_until(c, ",;");
		p->value = span_trim(span_sub(c->s, from, c->at - from));
	}
	if (!span_eq_str_nocase(p->name, "mode") && !is_word(p->value))
		return ERR_MALFORMED;
	p->value_len = p->value.n;
	return 0;
}

/* At ';'. An empty parameter (";;") is skipped. */
static int take_param(struct cursor *c, struct rtsp_spec *s)
{
	struct rtsp_param p = {.off = c->base + c->at};
	int err = 0;

	c->at++;
	skip_space(c);
	p.name = take_until(c, "=,;");
	if (p.name.n == 0 && !at_char(c, '='))
		return 0;
	if (p.name.n == 0 || !is_word(p.name))
		return ERR_MALFORMED;
	p.len = (size_t)(p.name.p - c->s.p) + p.name.n + c->base - p.off;
	if (at_char(c, '=')) {
		p.has_value = true;
		c->at++;
		skip_space(c);
		p.value_off = c->base + c->at;
		err = at_char(c, '"') ? take_quoted(c, &p) : take_plain(c, &p);
		p.len = p.value_off + p.value_len - p.off;
		skip_space(c);
	}
	if (err < 0)
		return err;
	if (c->at < c->s.n && !at_char(c, ',') && !at_char(c, ';'))
		return ERR_MALFORMED;
	if (s->n_params == RTSP_MAX_PARAMS)
		return ERR_TOOBIG;
	s->params[s->n_params++] = p;
	return 0;
}

/* Parameters that decide where media goes must not be there twice. */
static int check_duplicates(const struct rtsp_spec *s)
{
	static const char *const once[] = {"client_port", "server_port", "port",    "interleaved",
					   "source",	  "destination", "unicast", "multicast"};
	size_t i, k, n;

	for (i = 0; i < ARRAY_LEN(once); i++) {
		for (k = n = 0; k < s->n_params; k++)
			if (span_eq_str_nocase(s->params[k].name, once[i]))
				n++;
		if (n > 1)
			return ERR_MALFORMED;
	}
	return 0;
}

static bool contains_nocase(struct span s, const char *word)
{
	size_t n = strlen(word), i;

	for (i = 0; i + n <= s.n; i++)
		if (span_eq_str_nocase(span_sub(s, i, n), word))
			return true;
	return false;
}

static struct span last_part(struct span protocol, unsigned *parts)
{
	struct span rest = protocol, part = SPAN_EMPTY;

	for (*parts = 0; rest.n > 0; (*parts)++)
		part = span_cut(&rest, '/');
	return part;
}

/*
 * RFC 2326 §12.39 makes multicast the default, but clients that leave the word
 * out and name client_port mean unicast.
 */
static enum rtsp_delivery classify(const struct rtsp_spec *s)
{
	unsigned parts;
	struct span lower = last_part(s->protocol, &parts);
	bool tcp = parts >= 3 && span_eq_str_nocase(lower, "TCP");
	bool udp = parts >= 3 ? span_eq_str_nocase(lower, "UDP")
			      : parts == 2 && span_starts_nocase(s->protocol, "RTP/");

	if (!tcp && !udp)
		return RTSP_UNKNOWN;
	if (rtsp_spec_param(s, "multicast") != NULL)
		return rtsp_spec_param(s, "unicast") != NULL ? RTSP_UNKNOWN : RTSP_MULTICAST;
	if (tcp || rtsp_spec_param(s, "interleaved") != NULL)
		return RTSP_INTERLEAVED;
	if (rtsp_spec_param(s, "unicast") == NULL && rtsp_spec_param(s, "client_port") == NULL &&
	    rtsp_spec_param(s, "server_port") == NULL)
		return RTSP_MULTICAST;
	return RTSP_UDP;
}

static int take_spec(struct cursor *c, struct rtsp_spec *s)
{
	const struct rtsp_param *mode;
	int err;

	memset(s, 0, offsetof(struct rtsp_spec, params));
	s->n_params = 0;
	s->off = c->base + c->at;
	s->protocol = take_until(c, ",;");
	/* The '/' is what tells a spec from one more word of an unquoted mode list. */
	if (!is_word(s->protocol) || span_find(s->protocol, '/') == s->protocol.n)
		return ERR_MALFORMED;
	while (at_char(c, ';')) {
		err = take_param(c, s);
		if (err < 0)
			return err;
	}
	s->len = span_trim(span_sub(c->s, s->off - c->base, c->base + c->at - s->off)).n;
	err = check_duplicates(s);
	if (err < 0)
		return err;
	mode = rtsp_spec_param(s, "mode");
	/* "receive" is what old RealNetworks clients say for RECORD. */
	s->record = mode != NULL && (contains_nocase(mode->value, "RECORD") ||
				     contains_nocase(mode->value, "receive"));
	s->rtcp_mux = rtsp_spec_param(s, "RTCP-mux") != NULL;
	s->delivery = classify(s);
	return 0;
}

int rtsp_transport_parse_value(struct span value, size_t base, size_t header,
			       struct rtsp_transport *out)
{
	struct cursor c = {.s = value, .base = base};
	int err;

	for (;;) {
		skip_space(&c);
		if (c.at == c.s.n)
			return 0;
		if (at_char(&c, ',')) { /* RFC 2068 §2.1: empty elements are allowed */
			c.at++;
			continue;
		}
		if (out->n == RTSP_MAX_SPECS)
			return ERR_TOOBIG;
		err = take_spec(&c, &out->specs[out->n]);
		if (err < 0)
			return err;
		out->specs[out->n++].header = header;
	}
}

int rtsp_transport_parse(const struct rtsp_msg *m, struct rtsp_transport *out)
{
	size_t i, found = 0;
	int err;

	out->n = 0;
	for (i = 0; i < m->n_headers; i++) {
		const struct rtsp_header *h = &m->headers[i];

		if (!span_eq_str_nocase(h->name, "Transport"))
			continue;
		found++;
		err = rtsp_transport_parse_value(h->value, h->value_off, i, out);
		if (err < 0)
			return err;
	}
	if (found == 0)
		return ERR_NOENT;
	return out->n > 0 ? 0 : ERR_MALFORMED;
}

const struct rtsp_param *rtsp_spec_param(const struct rtsp_spec *s, const char *name)
{
	size_t i;

	for (i = 0; i < s->n_params; i++)
		if (span_eq_str_nocase(s->params[i].name, name))
			return &s->params[i];
	return NULL;
}

static int parse_pair(struct span text, uint64_t max, uint64_t *first, uint64_t *last)
{
	struct span rest = text;
	struct span a = span_trim(span_cut(&rest, '-'));
	bool single = span_find(text, '-') == text.n;

	if (span_u64(a, max, first) < 0)
		return ERR_MALFORMED;
	if (single)
		*last = *first;
	else if (span_u64(span_trim(rest), max, last) < 0)
		return ERR_MALFORMED;
	return 0;
}

int rtsp_ports_parse(struct span text, struct rtsp_ports *out)
{
	uint64_t first, last;

	if (parse_pair(text, UINT16_MAX, &first, &last) < 0 || first == 0 || last == 0)
		return ERR_MALFORMED;
	out->first = (uint16_t)first;
	out->last = (uint16_t)last;
	return 0;
}

int rtsp_channels_parse(struct span text, uint8_t *first, uint8_t *last)
{
	uint64_t a, b;

	if (parse_pair(text, UINT8_MAX, &a, &b) < 0 || a > b)
		return ERR_MALFORMED;
	*first = (uint8_t)a;
	*last = (uint8_t)b;
	return 0;
}

bool rtsp_protocol_same(struct span a, struct span b)
{
	unsigned na, nb;
	struct span la = last_part(a, &na), lb = last_part(b, &nb);

	if (na == nb)
		return span_eq_nocase(a, b);
	if (na == 3 && nb == 2 && span_eq_str_nocase(la, "UDP"))
		return span_eq_nocase(span_sub(a, 0, a.n - 4), b);
	if (nb == 3 && na == 2 && span_eq_str_nocase(lb, "UDP"))
		return span_eq_nocase(span_sub(b, 0, b.n - 4), a);
	return false;
}

void rtsp_param_delete(struct rtsp_edits *e, const struct rtsp_param *p)
{
	rtsp_edit_replace(e, p->off, p->len, SPAN_EMPTY);
}

/* Deletes from the end of the last kept spec, or up to the next one when none is kept yet. */
static void delete_spec(struct rtsp_edits *e, const struct rtsp_transport *t, size_t i,
			bool any_kept)
{
	const struct rtsp_spec *s = &t->specs[i];
	size_t from = s->off, to = s->off + s->len;

	if (any_kept)
		from = t->specs[i - 1].off + t->specs[i - 1].len;
	else
		to = t->specs[i + 1].off;
	rtsp_edit_replace(e, from, to - from, SPAN_EMPTY);
}

void rtsp_transport_keep(struct rtsp_edits *e, const struct rtsp_msg *m,
			 const struct rtsp_transport *t, uint32_t keep)
{
	size_t i, k, end;

	for (i = 0; i < t->n; i = end) {
		bool any = false;

		for (end = i; end < t->n && t->specs[end].header == t->specs[i].header; end++)
			any = any || rtsp_kept(keep, end);
		if (!any) {
			const struct rtsp_header *h = &m->headers[t->specs[i].header];

			rtsp_edit_replace(e, h->off, h->len, SPAN_EMPTY);
			continue;
		}
		any = false;
		for (k = i; k < end; k++) {
			if (rtsp_kept(keep, k))
				any = true;
			else
				delete_spec(e, t, k, any);
		}
	}
}
