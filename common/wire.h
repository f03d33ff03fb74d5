/*
 * A cursor over big-endian octets with a sticky error: read or write any
 * amount, check `error` once. After an error every read returns 0 and every
 * write is dropped.
 */
#ifndef SLUICE_COMMON_WIRE_H
#define SLUICE_COMMON_WIRE_H

#include "common/base.h"
#include "common/span.h"

struct wire {
	uint8_t *w; /* NULL on a read-only cursor */
	const uint8_t *r;
	size_t n; /* size of the area */
	size_t pos;
	int error; /* 0, ERR_MORE (read past the end) or ERR_TOOBIG (write) */
};

void wire_init_read(struct wire *c, struct span in);
void wire_init_write(struct wire *c, void *p, size_t n);
size_t wire_left(const struct wire *c);

uint8_t wire_read_u8(struct wire *c);
uint16_t wire_read_u16(struct wire *c);
uint32_t wire_read_u32(struct wire *c);
uint64_t wire_read_u64(struct wire *c);
/* Borrowed from the input; empty after an error. */
struct span wire_read_span(struct wire *c, size_t n);
void wire_read(struct wire *c, void *dst, size_t n);
void wire_skip(struct wire *c, size_t n);

void wire_write_u8(struct wire *c, uint8_t v);
void wire_write_u16(struct wire *c, uint16_t v);
void wire_write_u32(struct wire *c, uint32_t v);
void wire_write_u64(struct wire *c, uint64_t v);
void wire_write(struct wire *c, const void *p, size_t n);
/* Overwrites two octets already written at `at`. */
void wire_patch_u16(struct wire *c, size_t at, uint16_t v);

#endif
