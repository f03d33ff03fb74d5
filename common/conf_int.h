/*
 * Shared by the conf_*.c files only: the position tree that the scanner makes
 * of a policy file, and the arena that everything filled lives in.
 */
#ifndef SLUICE_COMMON_CONF_INT_H
#define SLUICE_COMMON_CONF_INT_H

#include "common/conf.h"

enum conf_kind {
	KIND_OBJECT,
	KIND_ARRAY,
	KIND_STRING,
	KIND_NUMBER,
	KIND_TRUE,
	KIND_FALSE,
	KIND_NULL,
};

/* One JSON value and where it stands. */
struct conf_node {
	enum conf_kind kind;
	unsigned line, column;
	struct span text; /* scalars: the raw token; strings: with their quotes */
	struct span key;  /* in an object: the decoded key */
	unsigned key_line, key_column;
	struct conf_node *first, *next; /* children in file order; sibling */
	size_t n;			/* children */
};

/* conf_scan.c: 0, ERR_MALFORMED (recorded) or ERR_NOMEM. Nodes live in `c`, texts in `text`. */
int conf_scan(struct conf *c, struct span text, struct conf_errors *errs, struct conf_node **root);

/* conf.c: decodes a string token with its quotes into `c`; NUL-terminated. 0, ERR_MALFORMED,
 * ERR_NOMEM. */
int conf_decode_string(struct conf *c, struct span token, struct span *out);

/* conf_errs.c */
void conf_error_at(struct conf_errors *errs, unsigned line, unsigned column, const char *key,
		   const char *fmt, ...) ATTR_PRINTF(5, 6);

/* conf.c: sizeof one value of that type; OBJECT and MAP elements: row->size. */
size_t conf_type_size(enum conf_type t, const struct conf_key *row);
/* The "" row of a map's table, or NULL. */
const struct conf_key *conf_star_row(const struct conf_key *sub);

#endif
