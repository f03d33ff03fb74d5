/*
 * Borrowed octets: comparing, cutting, numbers.
 */
#include "common/span.h"

#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"

struct span span_of(const void *p, size_t n)
{
	return (struct span){p, n};
}

struct span span_str(const char *s)
{
	return (struct span){(const uint8_t *)s, strlen(s)};
}

static uint8_t lower(uint8_t c)
{
	return (c >= 'A' && c <= 'Z') ? (uint8_t)(c + ('a' - 'A')) : c;
}

bool span_eq(struct span a, struct span b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool span_eq_nocase(struct span a, struct span b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		if (lower(a.p[i]) != lower(b.p[i]))
			return false;
	}
	return true;
}

bool span_eq_str(struct span a, const char *s)
{
	return span_eq(a, span_str(s));
}

bool span_eq_str_nocase(struct span a, const char *s)
{
	return span_eq_nocase(a, span_str(s));
}

bool span_starts_nocase(struct span a, const char *prefix)
{
	struct span p = span_str(prefix);

	return a.n >= p.n && span_eq_nocase(span_of(a.p, p.n), p);
}

struct span span_sub(struct span a, size_t from, size_t n)
{
	if (from >= a.n)
		return SPAN_EMPTY;
	if (n > a.n - from)
		n = a.n - from;
	return (struct span){a.p + from, n};
}

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct span span_trim(struct span a)
{
	while (a.n > 0 && is_space(a.p[0])) {
		a.p++;
		a.n--;
	}
	while (a.n > 0 && is_space(a.p[a.n - 1]))
		a.n--;
	return a;
}

size_t span_find(struct span a, uint8_t c)
{
	const uint8_t *hit = a.n > 0 ? memchr(a.p, c, a.n) : NULL;

	return hit != NULL ? (size_t)(hit - a.p) : a.n;
}

struct span span_cut(struct span *rest, uint8_t sep)
{
	size_t at = span_find(*rest, sep);
	struct span head = {rest->p, at};

	*rest = at < rest->n ? (struct span){rest->p + at + 1, rest->n - at - 1} : SPAN_EMPTY;
	return head;
}

int span_u64(struct span a, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;
	bool big = false;

	if (a.n == 0)
		return ERR_MALFORMED;
	for (size_t i = 0; i < a.n; i++) {
		uint64_t d = (uint64_t)a.p[i] - '0';

		if (a.p[i] < '0' || a.p[i] > '9')
			return ERR_MALFORMED;
		if (d > max || v > (max - d) / 10)
			big = true;
		else
			v = v * 10 + d;
	}
	if (big)
		return ERR_TOOBIG;
	*out = v;
	return 0;
}

char *span_dup(struct span a)
{
	char *s = malloc(a.n + 1);

	if (s == NULL)
		return NULL;
	if (a.n > 0)
		memcpy(s, a.p, a.n);
	s[a.n] = '\0';
	return s;
}

bool span_copy(struct span a, char *dst, size_t size)
{
	size_t n = a.n;

	if (size == 0)
		return false;
	if (n > size - 1)
		n = size - 1;
	if (n > 0)
		memcpy(dst, a.p, n);
	dst[n] = '\0';
	return n == a.n;
}
