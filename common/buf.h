/*
 * A growing octet buffer with a hard maximum. Data is appended at the end and
 * consumed at the front; both are amortised O(1).
 */
#ifndef SLUICE_COMMON_BUF_H
#define SLUICE_COMMON_BUF_H

#include <stdarg.h>

#include "common/base.h"
#include "common/span.h"

struct buf {
	uint8_t *mem; /* heap, owned */
	size_t start; /* first unread octet */
	size_t len;   /* unread octets */
	size_t cap;
	size_t max; /* hard limit on len */
	int error;  /* sticky: first failed append, 0 otherwise */
};

/* An empty buffer that will never hold more than `max` octets. */
void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);
/* Forgets content and the sticky error, keeps the memory. */
void buf_reset(struct buf *b);

/*
 * 0, ERR_TOOBIG or ERR_NOMEM (nothing appended, and b->error set). A later
 * append stands on its own: it may succeed, while b->error tells of the gap.
 */
int buf_append(struct buf *b, const void *p, size_t n);
int buf_append_span(struct buf *b, struct span s);
int buf_append_str(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) ATTR_PRINTF(2, 3);
int buf_vprintf(struct buf *b, const char *fmt, va_list ap) ATTR_PRINTF(2, 0);

/*
 * Makes room for `n` more octets and returns where they go (write there, then
 * buf_commit); NULL on failure with b->error set.
 */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_commit(struct buf *b, size_t n);

/* Unread octets; valid until the next call that changes the buffer. */
struct span buf_span(const struct buf *b);
/* Drops `n` octets at the front; n must not exceed b->len. */
void buf_consume(struct buf *b, size_t n);

#endif
