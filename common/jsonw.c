/*
 * JSON output. Peer octets that are no UTF-8 become U+FFFD, so the result is
 * always valid.
 */
#include <assert.h>
#include <string.h>

#include "common/jsonw.h"

void jsonw_init(struct jsonw *w, struct buf *out)
{
	*w = (struct jsonw){.out = out};
}

/* Octets of the valid UTF-8 sequence at the front of s, 0: none. */
static size_t utf8_len(struct span s)
{
	uint8_t c = s.p[0];
	size_t n = c < 0x80		? 1
		   : (c & 0xE0) == 0xC0 ? 2
		   : (c & 0xF0) == 0xE0 ? 3
		   : (c & 0xF8) == 0xF0 ? 4
					: 0;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t v;

	if (n <= 1)
		return n;
	if (s.n < n)
		return 0;
	v = c & (0xFFu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s.p[i] & 0xC0) != 0x80)
			return 0;
		v = v << 6 | (s.p[i] & 0x3Fu);
	}
	if (v < least[n] || v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF))
		return 0;
	return n;
}

static void put_char(struct buf *b, uint8_t c)
{
	if (c == '"' || c == '\\')
		buf_printf(b, "\\%c", c);
	else if (c == '\n')
		buf_append_str(b, "\\n");
	else if (c == '\r')
		buf_append_str(b, "\\r");
	else if (c == '\t')
		buf_append_str(b, "\\t");
	else if (c < 0x20 || c == 0x7F)
		buf_printf(b, "\\u%04x", c);
	else
		buf_append(b, &c, 1);
}

static void put_string(struct buf *b, struct span s)
{
	buf_append_str(b, "\"");
	while (s.n > 0) {
		size_t n = utf8_len(s);

		if (n == 0)
			buf_append_str(b, "\xEF\xBF\xBD");
		else if (n == 1)
			put_char(b, s.p[0]);
		else
			buf_append(b, s.p, n);
		s = span_sub(s, n > 0 ? n : 1, s.n);
	}
	buf_append_str(b, "\"");
}

/* Comma and key in front of a value. */
static void before(struct jsonw *w, const char *key)
{
	uint64_t bit = UINT64_C(1) << w->depth;

	if ((w->comma & bit) != 0)
		buf_append_str(w->out, ",");
	w->comma |= bit;
	if (key != NULL) {
		put_string(w->out, span_str(key));
		buf_append_str(w->out, ":");
	}
}

static void open_group(struct jsonw *w, const char *key, const char *bracket)
{
	before(w, key);
	buf_append_str(w->out, bracket);
	w->depth++;
	assert(w->depth < 64);
	w->comma &= ~(UINT64_C(1) << w->depth);
}

static void close_group(struct jsonw *w, const char *bracket)
{
	assert(w->depth > 0);
	w->depth--;
	buf_append_str(w->out, bracket);
}

void jsonw_object(struct jsonw *w, const char *key)
{
	open_group(w, key, "{");
}

void jsonw_object_end(struct jsonw *w)
{
	close_group(w, "}");
}

void jsonw_array(struct jsonw *w, const char *key)
{
	open_group(w, key, "[");
}

void jsonw_array_end(struct jsonw *w)
{
	close_group(w, "]");
}

void jsonw_str(struct jsonw *w, const char *key, const char *value)
{
	if (value != NULL) {
		jsonw_span(w, key, span_str(value));
		return;
	}
	before(w, key);
	buf_append_str(w->out, "null");
}

void jsonw_span(struct jsonw *w, const char *key, struct span value)
{
	before(w, key);
	put_string(w->out, value);
}

void jsonw_uint(struct jsonw *w, const char *key, uint64_t value)
{
	before(w, key);
	buf_printf(w->out, "%llu", (unsigned long long)value);
}

void jsonw_bool(struct jsonw *w, const char *key, bool value)
{
	before(w, key);
	buf_append_str(w->out, value ? "true" : "false");
}

void jsonw_addr(struct jsonw *w, const char *key, const struct addr *a)
{
	char text[ADDR_STRLEN];

	jsonw_str(w, key, a->version != 0 ? addr_str(a, text) : NULL);
}

void jsonw_addr_port(struct jsonw *w, const char *key, const struct addr_port *a)
{
	char text[ADDR_PORT_STRLEN];

	jsonw_str(w, key, a->addr.version != 0 ? addr_port_str(a, text) : NULL);
}
