/*
 * The big-endian cursor.
 */
#include "common/wire.h"

#include <string.h>

#include "common/errcode.h"

void wire_init_read(struct wire *c, struct span in)
{
	*c = (struct wire){.r = in.p, .n = in.n};
}

void wire_init_write(struct wire *c, void *p, size_t n)
{
	*c = (struct wire){.w = p, .r = p, .n = n};
}

size_t wire_left(const struct wire *c)
{
	return c->n - c->pos;
}

/* The next n octets of the input, or NULL and the error set. */
static const uint8_t *take(struct wire *c, size_t n)
{
	const uint8_t *p;

	if (c->error == 0 && n > wire_left(c))
		c->error = ERR_MORE;
	if (c->error != 0)
		return NULL;
	p = c->r + c->pos;
	c->pos += n;
	return p;
}

static uint64_t read_be(struct wire *c, size_t n)
{
	const uint8_t *p = take(c, n);
	uint64_t v = 0;

	for (size_t i = 0; p != NULL && i < n; i++)
		v = v << 8 | p[i];
	return v;
}

uint8_t wire_read_u8(struct wire *c)
{
	return (uint8_t)read_be(c, 1);
}

uint16_t wire_read_u16(struct wire *c)
{
	return (uint16_t)read_be(c, 2);
}

uint32_t wire_read_u32(struct wire *c)
{
	return (uint32_t)read_be(c, 4);
}

uint64_t wire_read_u64(struct wire *c)
{
	return read_be(c, 8);
}

struct span wire_read_span(struct wire *c, size_t n)
{
	const uint8_t *p = n > 0 ? take(c, n) : NULL;

	return p != NULL ? span_of(p, n) : SPAN_EMPTY;
}

void wire_read(struct wire *c, void *dst, size_t n)
{
	const uint8_t *p;

	if (n == 0)
		return;
	p = take(c, n);
	if (p != NULL)
		memcpy(dst, p, n);
	else
		memset(dst, 0, n);
}

void wire_skip(struct wire *c, size_t n)
{
	if (n > 0)
		take(c, n);
}

/* Where the next n octets go, or NULL and the error set. */
static uint8_t *put(struct wire *c, size_t n)
{
	uint8_t *p;

	if (c->error == 0 && (c->w == NULL || n > wire_left(c)))
		c->error = ERR_TOOBIG;
	if (c->error != 0)
		return NULL;
	p = c->w + c->pos;
	c->pos += n;
	return p;
}

static void write_be(struct wire *c, uint64_t v, size_t n)
{
	uint8_t *p = put(c, n);

	for (size_t i = n; p != NULL && i-- > 0; v >>= 8)
		p[i] = (uint8_t)v;
}

void wire_write_u8(struct wire *c, uint8_t v)
{
	write_be(c, v, 1);
}

void wire_write_u16(struct wire *c, uint16_t v)
{
	write_be(c, v, 2);
}

void wire_write_u32(struct wire *c, uint32_t v)
{
	write_be(c, v, 4);
}

void wire_write_u64(struct wire *c, uint64_t v)
{
	write_be(c, v, 8);
}

void wire_write(struct wire *c, const void *p, size_t n)
{
	uint8_t *to = n > 0 ? put(c, n) : NULL;

	if (to != NULL)
		memcpy(to, p, n);
}

void wire_patch_u16(struct wire *c, size_t at, uint16_t v)
{
	if (c->error == 0 && (c->w == NULL || at > c->pos || c->pos - at < 2))
		c->error = ERR_TOOBIG;
	if (c->error != 0)
		return;
	c->w[at] = (uint8_t)(v >> 8);
	c->w[at + 1] = (uint8_t)v;
}
