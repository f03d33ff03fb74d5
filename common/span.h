/*
 * A borrowed run of octets: never owns, never writes. The one type in which
 * parsers hand out pieces of their input.
 */
#ifndef SLUICE_COMMON_SPAN_H
#define SLUICE_COMMON_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct span {
	const uint8_t *p; /* may be NULL when n is 0 */
	size_t n;	  /* octets */
};

#define SPAN_EMPTY ((struct span){NULL, 0})
#define SPAN_LIT(s) ((struct span){(const uint8_t *)(s), sizeof(s) - 1})

struct span span_of(const void *p, size_t n);
struct span span_str(const char *s); /* without the NUL */
bool span_eq(struct span a, struct span b);
bool span_eq_nocase(struct span a, struct span b); /* ASCII case only */
bool span_eq_str(struct span a, const char *s);
bool span_eq_str_nocase(struct span a, const char *s);
bool span_starts_nocase(struct span a, const char *prefix);

/* Part of `a` from `from`, at most `n` octets; empty when out of range. */
struct span span_sub(struct span a, size_t from, size_t n);
/* Without leading and trailing SP, HT, CR and LF. */
struct span span_trim(struct span a);
/* Index of the first octet `c`, or a.n when there is none. */
size_t span_find(struct span a, uint8_t c);
/*
 * Cuts the part before the first `sep` off `*rest` and returns it; without a
 * separator returns everything and empties `*rest`.
 */
struct span span_cut(struct span *rest, uint8_t sep);

/*
 * The whole span as an unsigned decimal number without sign or white space.
 * 0, ERR_MALFORMED, or ERR_TOOBIG when the value exceeds `max`.
 */
int span_u64(struct span a, uint64_t max, uint64_t *out);

/* NUL-terminated heap copy, owned by the caller; NULL on allocation failure. */
char *span_dup(struct span a);
/* Copies into dst[size], always NUL-terminated; false when it had to cut. */
bool span_copy(struct span a, char *dst, size_t size);

#endif
