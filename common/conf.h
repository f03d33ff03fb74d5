/*
 * Strict JSON policy files, driven by a schema table. conf.c is the only file
 * that knows json-c.
 *
 * `//` and block comments are allowed. Unknown keys, duplicate keys, wrong
 * types, values out of range, missing required keys and trailing text are
 * errors with file, line, column and key; all are reported, not the first.
 */
#ifndef SLUICE_COMMON_CONF_H
#define SLUICE_COMMON_CONF_H

#include <stdio.h>

#include "common/addr.h"
#include "common/base.h"

enum conf_type {
	CONF_BOOL,	/* bool */
	CONF_UINT,	/* uint64_t, min..max */
	CONF_STRING,	/* const char *; min..max octets; no NUL inside */
	CONF_ENUM,	/* int, one of `names` */
	CONF_ADDR,	/* struct addr */
	CONF_ADDR_PORT, /* struct addr_port */
	CONF_PREFIX,	/* struct addr_prefix */
	CONF_PORTS,	/* struct port_range */
	CONF_OBJECT,	/* embedded struct described by `sub` */
	CONF_LIST,	/* struct conf_list of `elem` values; min..max entries */
	/*
	 * struct conf_list of structs; the key goes to the CONF_KEY row. The
	 * value is an object described by `sub`, or, when `sub` has a row
	 * named "", that row: { "inside": ["10.1.0.0/24"] }.
	 */
	CONF_MAP,
	CONF_KEY,  /* only in a map's `sub`: const char *, the entry's name (1..255 octets) */
	CONF_LINE, /* only in `sub`: unsigned, the line where the object starts */
};

struct conf_enum {
	const char *name;
	int value;
};

#define CONF_REQUIRED 1u
#define CONF_RESTART 2u /* a reload that changes it is refused: needs a restart */

struct conf_list {
	void *v; /* array of the element type, NULL when empty */
	size_t n;
};

/*
 * One row per key; a table ends with a row whose name is NULL, and has at most
 * 64 rows. CONF_KEY and CONF_LINE rows need a name, too; it means nothing.
 */
struct conf_key {
	const char *name;
	enum conf_type type;
	size_t offset; /* into the struct being filled */
	unsigned flags;
	uint64_t min, max;  /* 0,0: no bounds */
	const char *preset; /* default as JSON text; NULL: zero value */
	const struct conf_enum *names;
	const struct conf_key *sub; /* OBJECT, MAP, LIST of OBJECT */
	size_t size;		    /* sizeof one struct of `sub`, or of a list's scalar */
	enum conf_type elem;	    /* LIST: type of an element */
	const char *help;	    /* one line for the manual and the schema */
	size_t present;		    /* offset of a bool set when the key was given; 0: none */
};

/* Errors found, in file order; the caller zeroes it first. */
struct conf_errors {
	struct conf_error {
		unsigned line, column;
		char key[128]; /* dotted path, e.g. agents.agent-1.pool */
		char text[192];
	} * v;
	size_t n;
	const char *file; /* borrowed */
	bool lost;	  /* no memory to record one: there are more than n */
};

struct conf; /* owns the memory that the filled struct points into */

#define CONF_FILE_MAX (4u * 1024 * 1024) /* octets */
#define CONF_DEPTH_MAX 32		 /* nested objects and lists */
#define CONF_ERRORS_MAX 100		 /* recorded; the last one says that there are more */

/*
 * A daemon's own checks across keys. Called after the schema's, also when
 * those found errors (values that were wrong or absent are zero then), so that
 * one run names everything. Not called on text that is no JSON.
 */
typedef void (*conf_check_fn)(void *filled, struct conf_errors *errs);

/*
 * Reads and checks a file into the zeroed struct `out`. 0, or ERR_* with at
 * least one error recorded; *owner is only set on success, conf_free() it.
 */
int conf_load(const char *path, const struct conf_key *schema, void *out, struct conf **owner,
	      struct conf_errors *errs);
/* The same on text in memory; `name` stands for the file. */
int conf_parse(struct span text, const char *name, const struct conf_key *schema, void *out,
	       struct conf **owner, struct conf_errors *errs);
/* The same with the daemon's own checks; `check` may be NULL. */
int conf_load_checked(const char *path, const struct conf_key *schema, conf_check_fn check,
		      void *out, struct conf **owner, struct conf_errors *errs);
int conf_parse_checked(struct span text, const char *name, const struct conf_key *schema,
		       conf_check_fn check, void *out, struct conf **owner,
		       struct conf_errors *errs);
/* Memory that lives as long as `c`, zeroed; NULL on failure. */
void *conf_alloc(struct conf *c, size_t n);
/* Adds a finding of a cross-check. `line` from a CONF_LINE row, 0 if unknown. */
void conf_error(struct conf_errors *errs, unsigned line, const char *key, const char *fmt, ...)
	ATTR_PRINTF(4, 5);
/* "file:line:column: key: text" per error. */
void conf_errors_print(const struct conf_errors *errs, FILE *to);
void conf_errors_fini(struct conf_errors *errs);
void conf_free(struct conf *c); /* NULL is fine */

/*
 * Calls fn for every CONF_RESTART key in which two filled structs differ.
 * Number of those keys.
 */
size_t conf_restart_keys(const struct conf_key *schema, const void *before, const void *after,
			 void (*fn)(const char *key, void *arg), void *arg);

/* Writes the schema as JSON Schema (draft 2020-12). */
void conf_schema_print(const struct conf_key *schema, const char *title, FILE *to);

#endif
