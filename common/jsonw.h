/*
 * Writes JSON text into a buf: commas, escapes and nesting are its business.
 * Errors are sticky in the buf.
 */
#ifndef SLUICE_COMMON_JSONW_H
#define SLUICE_COMMON_JSONW_H

#include "common/addr.h"
#include "common/buf.h"

struct jsonw {
	struct buf *out;
	unsigned depth;
	uint64_t comma; /* bit per depth: a value was written */
};

void jsonw_init(struct jsonw *w, struct buf *out);
/* `key` is NULL inside arrays and at the top. */
void jsonw_object(struct jsonw *w, const char *key);
void jsonw_object_end(struct jsonw *w);
void jsonw_array(struct jsonw *w, const char *key);
void jsonw_array_end(struct jsonw *w);
void jsonw_str(struct jsonw *w, const char *key, const char *value); /* NULL: null */
void jsonw_span(struct jsonw *w, const char *key, struct span value);
void jsonw_uint(struct jsonw *w, const char *key, uint64_t value);
void jsonw_bool(struct jsonw *w, const char *key, bool value);
void jsonw_addr(struct jsonw *w, const char *key, const struct addr *a);
void jsonw_addr_port(struct jsonw *w, const char *key, const struct addr_port *a);

#endif
