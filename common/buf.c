/*
 * The growing buffer. Memory doubles up to `max` (plus one octet, so that
 * vsnprintf may write its NUL); consumed space at the front is reused before
 * memory grows.
 */
#include "common/buf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"

#define BUF_FIRST 256

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

void buf_fini(struct buf *b)
{
	free(b->mem);
	*b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
	b->start = 0;
	b->len = 0;
	b->error = 0;
}

static int fail(struct buf *b, int err)
{
	if (b->error == 0)
		b->error = err;
	return err;
}

/* Grows to at least `need` octets of memory. */
static int grow(struct buf *b, size_t need)
{
	size_t cap = b->cap > 0 ? b->cap : BUF_FIRST;
	uint8_t *mem;

	while (cap < need)
		cap = cap > SIZE_MAX / 2 ? need : cap * 2;
	if (cap > b->max && b->max < SIZE_MAX)
		cap = need > b->max + 1 ? need : b->max + 1;
	mem = malloc(cap);
	if (mem == NULL)
		return ERR_NOMEM;
	if (b->len > 0)
		memcpy(mem, b->mem + b->start, b->len);
	free(b->mem);
	b->mem = mem;
	b->cap = cap;
	b->start = 0;
	return 0;
}

/* Room for n octets plus one that is not counted against max. */
static int make_room(struct buf *b, size_t n)
{
	size_t need;
	int err;

	if (n > b->max - b->len || n > SIZE_MAX - 1 - b->len)
		return fail(b, ERR_TOOBIG);
	need = b->len + n + 1;
	if (b->mem != NULL && b->cap - b->start >= need)
		return 0;
	/* Moving is amortised only while the gap is at least as big as the content. */
	if (b->mem != NULL && b->cap >= need && b->start >= b->len) {
		memmove(b->mem, b->mem + b->start, b->len);
		b->start = 0;
		return 0;
	}
	err = grow(b, need);
	return err != 0 ? fail(b, err) : 0;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
	int err = make_room(b, n);

	if (err != 0)
		return err;
	if (n > 0)
		memcpy(b->mem + b->start + b->len, p, n);
	b->len += n;
	return 0;
}

int buf_append_span(struct buf *b, struct span s)
{
	return buf_append(b, s.p, s.n);
}

int buf_append_str(struct buf *b, const char *s)
{
	return buf_append(b, s, strlen(s));
}

int buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	int n;
	int err;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0)
		return fail(b, ERR_INVALID);
	err = make_room(b, (size_t)n);
	if (err != 0)
		return err;
	vsnprintf((char *)b->mem + b->start + b->len, (size_t)n + 1, fmt, ap);
	b->len += (size_t)n;
	return 0;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int err;

	va_start(ap, fmt);
	err = buf_vprintf(b, fmt, ap);
	va_end(ap);
	return err;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
	if (make_room(b, n) != 0)
		return NULL;
	return b->mem + b->start + b->len;
}

void buf_commit(struct buf *b, size_t n)
{
	assert(n <= b->cap - b->start - b->len && n <= b->max - b->len);
	b->len += n;
}

struct span buf_span(const struct buf *b)
{
	return b->len > 0 ? span_of(b->mem + b->start, b->len) : SPAN_EMPTY;
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	b->len -= n;
	b->start = b->len > 0 ? b->start + n : 0;
}
