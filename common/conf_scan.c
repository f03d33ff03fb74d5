/*
 * A strict scan of JSON text (RFC 8259 plus comments) into a tree that knows
 * where everything stands. It owns grammar, duplicates and depth; what a
 * string's escapes mean it leaves to conf_decode_string().
 */
#include <stdlib.h>
#include <string.h>

#include "common/conf_int.h"
#include "common/errcode.h"

struct scan {
	struct conf *c;
	struct span in;
	size_t pos;
	unsigned line, column;
	unsigned depth;
	struct conf_errors *errs;
};

static int scan_value(struct scan *s, struct conf_node *n);

/* Next octet, or -1 at the end. */
static int peek(const struct scan *s)
{
	return s->pos < s->in.n ? s->in.p[s->pos] : -1;
}

static void take(struct scan *s)
{
	uint8_t c = s->in.p[s->pos++];

	if (c == '\n') {
		s->line++;
		s->column = 1;
	} else if ((c & 0xC0) != 0x80) { /* columns are characters, not octets */
		s->column++;
	}
}

static int fail(struct scan *s, const char *what)
{
	conf_error_at(s->errs, s->line, s->column, "", "%s", what);
	return ERR_MALFORMED;
}

static int fail_here(struct scan *s, const char *expected)
{
	int c = peek(s);

	if (c < 0)
		conf_error_at(s->errs, s->line, s->column, "", "end of file, expected %s",
			      expected);
	else if (c > 0x20 && c < 0x7F)
		conf_error_at(s->errs, s->line, s->column, "", "unexpected '%c', expected %s", c,
			      expected);
	else
		conf_error_at(s->errs, s->line, s->column, "",
			      "unexpected octet 0x%02x, expected %s", (unsigned)c, expected);
	return ERR_MALFORMED;
}

static int skip_comment(struct scan *s)
{
	take(s);
	if (peek(s) == '/') {
		while (peek(s) >= 0 && peek(s) != '\n')
			take(s);
		return 0;
	}
	if (peek(s) != '*')
		return fail(s, "a lone '/'; comments are // or /* */");
	take(s);
	for (int last = 0; peek(s) >= 0;) {
		int c = peek(s);

		take(s);
		if (last == '*' && c == '/')
			return 0;
		last = c;
	}
	return fail(s, "comment without end");
}

static int skip_space(struct scan *s)
{
	for (;;) {
		int c = peek(s), rc;

		if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
			take(s);
		} else if (c == '/') {
			rc = skip_comment(s);
			if (rc != 0)
				return rc;
		} else {
			return 0;
		}
	}
}

static int scan_string(struct scan *s, struct span *token)
{
	size_t from = s->pos;

	take(s);
	for (;;) {
		int c = peek(s);

		if (c < 0 || c == '\n')
			return fail(s, "string without end");
		if (c < 0x20)
			return fail(s, "control character in a string");
		take(s);
		if (c == '"')
			break;
		if (c == '\\') {
			if (peek(s) < 0 || strchr("\"\\/bfnrtu", peek(s)) == NULL || peek(s) == 0)
				return fail(s, "bad escape in a string");
			take(s);
		}
	}
	*token = span_of(s->in.p + from, s->pos - from);
	return 0;
}

static bool is_digit(int c)
{
	return c >= '0' && c <= '9';
}

static size_t skip_digits(struct scan *s)
{
	size_t n = 0;

	for (; is_digit(peek(s)); n++)
		take(s);
	return n;
}

static int scan_number(struct scan *s, struct conf_node *n)
{
	size_t from = s->pos;

	if (peek(s) == '-')
		take(s);
	if (peek(s) == '0') {
		take(s);
		if (is_digit(peek(s)))
			return fail(s, "number with a leading zero");
	} else if (skip_digits(s) == 0) {
		return fail_here(s, "a digit");
	}
	if (peek(s) == '.') {
		take(s);
		if (skip_digits(s) == 0)
			return fail_here(s, "a digit");
	}
	if (peek(s) == 'e' || peek(s) == 'E') {
		take(s);
		if (peek(s) == '+' || peek(s) == '-')
			take(s);
		if (skip_digits(s) == 0)
			return fail_here(s, "a digit");
	}
	n->kind = KIND_NUMBER;
	n->text = span_of(s->in.p + from, s->pos - from);
	return 0;
}

static int scan_word(struct scan *s, struct conf_node *n)
{
	static const struct {
		const char *word;
		enum conf_kind kind;
	} words[] = {{"true", KIND_TRUE}, {"false", KIND_FALSE}, {"null", KIND_NULL}};

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		size_t len = strlen(words[i].word);

		if (!span_eq_str(span_sub(s->in, s->pos, len), words[i].word))
			continue;
		n->kind = words[i].kind;
		n->text = span_of(s->in.p + s->pos, len);
		while (len-- > 0)
			take(s);
		return 0;
	}
	return fail_here(s, "a value");
}

static int key_cmp(const void *a, const void *b)
{
	const struct conf_node *x = *(const struct conf_node *const *)a;
	const struct conf_node *y = *(const struct conf_node *const *)b;
	size_t n = x->key.n < y->key.n ? x->key.n : y->key.n;
	int d = n > 0 ? memcmp(x->key.p, y->key.p, n) : 0;

	if (d != 0)
		return d;
	if (x->key.n != y->key.n)
		return x->key.n < y->key.n ? -1 : 1;
	if (x->key_line != y->key_line)
		return x->key_line < y->key_line ? -1 : 1;
	return x->key_column < y->key_column ? -1 : x->key_column > y->key_column;
}

/* Sorting keeps this n log n for any file. */
static int find_duplicates(struct scan *s, const struct conf_node *object)
{
	struct conf_node **v;
	size_t i = 0;

	if (object->n < 2)
		return 0;
	v = calloc(object->n, sizeof(struct conf_node *));
	if (v == NULL)
		return ERR_NOMEM;
	for (struct conf_node *n = object->first; n != NULL; n = n->next)
		v[i++] = n;
	qsort(v, object->n, sizeof(struct conf_node *), key_cmp);
	for (i = 1; i < object->n; i++) {
		char key[96];

		if (!span_eq(v[i - 1]->key, v[i]->key))
			continue;
		span_copy(v[i]->key, key, sizeof(key));
		conf_error_at(s->errs, v[i]->key_line, v[i]->key_column, key,
			      "duplicate key, first given in line %u", v[i - 1]->key_line);
	}
	free(v);
	return 0;
}

static int scan_key(struct scan *s, struct conf_node *n)
{
	struct span token;
	int rc;

	if (peek(s) != '"')
		return fail_here(s, "a key in double quotes");
	n->key_line = s->line;
	n->key_column = s->column;
	rc = scan_string(s, &token);
	if (rc != 0)
		return rc;
	rc = conf_decode_string(s->c, token, &n->key);
	if (rc == ERR_MALFORMED)
		conf_error_at(s->errs, n->key_line, n->key_column, "",
			      "key with a bad escape or bad UTF-8");
	if (rc != 0)
		return rc;
	rc = skip_space(s);
	if (rc != 0)
		return rc;
	if (peek(s) != ':')
		return fail_here(s, "':'");
	take(s);
	return 0;
}

/* Objects and arrays: members up to `close`. */
static int scan_members(struct scan *s, struct conf_node *parent, int close)
{
	struct conf_node **tail = &parent->first;
	int rc;

	take(s);
	for (;;) {
		struct conf_node *n;

		if ((rc = skip_space(s)) != 0)
			return rc;
		if (peek(s) == close && parent->n == 0)
			break;
		n = conf_alloc(s->c, sizeof(*n));
		if (n == NULL)
			return ERR_NOMEM;
		if (close == '}' && (rc = scan_key(s, n)) != 0)
			return rc;
		if ((rc = skip_space(s)) != 0 || (rc = scan_value(s, n)) != 0 ||
		    (rc = skip_space(s)) != 0)
			return rc;
		*tail = n;
		tail = &n->next;
		parent->n++;
		if (peek(s) == close)
			break;
		if (peek(s) != ',')
			return fail_here(s, close == '}' ? "',' or '}'" : "',' or ']'");
		take(s);
	}
	take(s);
	return 0;
}

static int scan_group(struct scan *s, struct conf_node *n, enum conf_kind kind)
{
	int rc;

	n->kind = kind;
	if (s->depth >= CONF_DEPTH_MAX)
		return fail(s, "nested too deeply");
	s->depth++;
	rc = scan_members(s, n, kind == KIND_OBJECT ? '}' : ']');
	s->depth--;
	if (rc == 0 && kind == KIND_OBJECT)
		rc = find_duplicates(s, n);
	return rc;
}

static int scan_value(struct scan *s, struct conf_node *n)
{
	int c = peek(s);

	n->line = s->line;
	n->column = s->column;
	if (c == '{')
		return scan_group(s, n, KIND_OBJECT);
	if (c == '[')
		return scan_group(s, n, KIND_ARRAY);
	if (c == '"') {
		n->kind = KIND_STRING;
		return scan_string(s, &n->text);
	}
	if (c == '-' || is_digit(c))
		return scan_number(s, n);
	return scan_word(s, n);
}

int conf_scan(struct conf *c, struct span text, struct conf_errors *errs, struct conf_node **root)
{
	struct scan s = {.c = c, .in = text, .line = 1, .column = 1, .errs = errs};
	struct conf_node *n = conf_alloc(c, sizeof(*n));
	int rc;

	if (n == NULL)
		return ERR_NOMEM;
	if ((rc = skip_space(&s)) != 0 || (rc = scan_value(&s, n)) != 0 ||
	    (rc = skip_space(&s)) != 0)
		return rc;
	if (s.pos != text.n)
		return fail(&s, "text after the end of the policy");
	*root = n;
	return 0;
}
