/*
 * Fills structs from policy files by schema tables. The only file that knows
 * json-c, which decodes the strings: it is too lax to be trusted with the
 * grammar (duplicate keys, single quotes, NaN, clamped numbers), so
 * conf_scan.c has the say there.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json_tokener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/conf_int.h"
#include "common/errcode.h"

#define CHUNK 16384

struct chunk {
	struct chunk *next;
	size_t used, size;
	_Alignas(max_align_t) uint8_t mem[];
};

struct conf {
	struct chunk *chunks;
	struct json_tokener *tok;
};

/* A fill in progress. */
struct fill {
	struct conf *c;
	struct conf_errors *errs;
	char path[128];
	int rc; /* ERR_NOMEM ends everything */
};

static struct conf *conf_new(void)
{
	struct conf *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->tok = json_tokener_new();
	if (c->tok == NULL) {
		free(c);
		return NULL;
	}
	json_tokener_set_flags(c->tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	return c;
}

void conf_free(struct conf *c)
{
	if (c == NULL)
		return;
	while (c->chunks != NULL) {
		struct chunk *next = c->chunks->next;

		free(c->chunks);
		c->chunks = next;
	}
	json_tokener_free(c->tok);
	free(c);
}

void *conf_alloc(struct conf *c, size_t n)
{
	struct chunk *k = c->chunks;
	size_t align = _Alignof(max_align_t);
	void *p;

	n = (n + align - 1) / align * align;
	if (k == NULL || k->size - k->used < n) {
		size_t size = n > CHUNK ? n : CHUNK;

		k = calloc(1, sizeof(*k) + size);
		if (k == NULL)
			return NULL;
		k->size = size;
		k->next = c->chunks;
		c->chunks = k;
	}
	p = k->mem + k->used;
	k->used += n;
	return p;
}

int conf_decode_string(struct conf *c, struct span token, struct span *out)
{
	struct json_object *o;
	size_t n;
	char *p;
	int rc = ERR_MALFORMED;

	if (token.n > CONF_FILE_MAX)
		return ERR_TOOBIG;
	json_tokener_reset(c->tok);
	o = json_tokener_parse_ex(c->tok, (const char *)token.p, (int)token.n);
	if (o == NULL || !json_object_is_type(o, json_type_string))
		goto out;
	n = (size_t)json_object_get_string_len(o);
	if (memchr(json_object_get_string(o), 0, n) != NULL)
		goto out; /* \u0000 would cut the C string */
	p = conf_alloc(c, n + 1);
	rc = p == NULL ? ERR_NOMEM : 0;
	if (p != NULL) {
		memcpy(p, json_object_get_string(o), n);
		*out = span_of(p, n);
	}
out:
	json_object_put(o);
	return rc;
}

const struct conf_key *conf_star_row(const struct conf_key *sub)
{
	for (; sub->name != NULL; sub++)
		if (sub->name[0] == '\0' && sub->type != CONF_KEY && sub->type != CONF_LINE)
			return sub;
	return NULL;
}

size_t conf_type_size(enum conf_type t, const struct conf_key *row)
{
	static const size_t sizes[] = {
		[CONF_BOOL] = sizeof(bool),
		[CONF_UINT] = sizeof(uint64_t),
		[CONF_STRING] = sizeof(const char *),
		[CONF_ENUM] = sizeof(int),
		[CONF_ADDR] = sizeof(struct addr),
		[CONF_ADDR_PORT] = sizeof(struct addr_port),
		[CONF_PREFIX] = sizeof(struct addr_prefix),
		[CONF_PORTS] = sizeof(struct port_range),
		[CONF_LIST] = sizeof(struct conf_list),
		[CONF_KEY] = sizeof(const char *),
		[CONF_LINE] = sizeof(unsigned),
	};

	return t == CONF_OBJECT || t == CONF_MAP ? row->size : sizes[t];
}

/* ---- Filling -------------------------------------------------------------- */

static int fill_value(struct fill *f, const struct conf_key *row, enum conf_type type,
		      const struct conf_node *n, void *dst);
static void fill_object(struct fill *f, const struct conf_key *sub, const struct conf_node *n,
			uint8_t *base);

/* Extends the path by a key or (name NULL) an index; returns the length to cut it back to. */
static size_t path_push(struct fill *f, const char *name, size_t index)
{
	size_t at = strlen(f->path);
	char *end = f->path + at;

	if (name == NULL) {
		snprintf(end, sizeof(f->path) - at, "[%zu]", index);
		return at;
	}
	if (name[0] != '\0')
		snprintf(end, sizeof(f->path) - at, "%s%s", at > 0 ? "." : "", name);
	for (char *p = end; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7F)
			*p = '?';
	return at;
}

static void path_pop(struct fill *f, size_t at)
{
	f->path[at] = '\0';
}

static int bad(struct fill *f, const struct conf_node *n, const char *text)
{
	conf_error_at(f->errs, n->line, n->column, f->path, "%s", text);
	return ERR_INVALID;
}

/* Decodes a string value; complains when it is none. */
static int get_string(struct fill *f, const struct conf_node *n, const char *what, struct span *out)
{
	char text[160];
	int rc;

	if (n->kind != KIND_STRING) {
		snprintf(text, sizeof(text), "must be a string (%s)", what);
		return bad(f, n, text);
	}
	rc = conf_decode_string(f->c, n->text, out);
	if (rc == ERR_MALFORMED)
		return bad(f, n, "bad escape, NUL or bad UTF-8 in a string");
	if (rc != 0)
		f->rc = rc;
	return rc;
}

static int fill_bool(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		     void *dst)
{
	(void)row;
	if (n->kind != KIND_TRUE && n->kind != KIND_FALSE)
		return bad(f, n, "must be true or false");
	*(bool *)dst = n->kind == KIND_TRUE;
	return 0;
}

static int fill_uint(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		     void *dst)
{
	bool bounds = row->type == CONF_UINT && (row->min != 0 || row->max != 0);
	uint64_t v;
	int rc;

	if (n->kind != KIND_NUMBER)
		return bad(f, n, "must be a number");
	rc = span_u64(n->text, UINT64_MAX, &v);
	if (rc == ERR_TOOBIG)
		v = UINT64_MAX;
	else if (rc != 0)
		return bad(f, n, "must be a whole number, not negative");
	if (bounds && (v < row->min || v > row->max || rc != 0)) {
		conf_error_at(f->errs, n->line, n->column, f->path, "must be between %llu and %llu",
			      (unsigned long long)row->min, (unsigned long long)row->max);
		return ERR_INVALID;
	}
	if (rc != 0)
		return bad(f, n, "number too large");
	*(uint64_t *)dst = v;
	return 0;
}

static int fill_string(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		       void *dst)
{
	bool bounds = row->type == CONF_STRING && (row->min != 0 || row->max != 0);
	struct span s;
	int rc = get_string(f, n, "text", &s);

	if (rc != 0)
		return rc;
	if (row->type == CONF_LIST && s.n == 0)
		return bad(f, n, "must not be empty");
	if (bounds && (s.n < row->min || s.n > row->max)) {
		conf_error_at(f->errs, n->line, n->column, f->path,
			      "must have between %llu and %llu octets",
			      (unsigned long long)row->min, (unsigned long long)row->max);
		return ERR_INVALID;
	}
	*(const char **)dst = (const char *)s.p;
	return 0;
}

static int fill_enum(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		     void *dst)
{
	char all[128] = "";
	struct span s;
	int rc = get_string(f, n, "one of a few words", &s);

	if (rc != 0)
		return rc;
	for (const struct conf_enum *e = row->names; e->name != NULL; e++) {
		size_t at = strlen(all);

		if (span_eq_str(s, e->name)) {
			*(int *)dst = e->value;
			return 0;
		}
		snprintf(all + at, sizeof(all) - at, "%s%s", at > 0 ? ", " : "", e->name);
	}
	conf_error_at(f->errs, n->line, n->column, f->path, "must be one of: %s", all);
	return ERR_INVALID;
}

static int fill_addr(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		     void *dst)
{
	struct span s;
	int rc = get_string(f, n, "an IP address", &s);

	(void)row;
	if (rc != 0)
		return rc;
	if (addr_parse(s, dst) != 0)
		return bad(f, n, "must be an IP address, e.g. 192.0.2.1");
	return 0;
}

static int fill_addr_port(struct fill *f, const struct conf_key *row, const struct conf_node *n,
			  void *dst)
{
	struct span s;
	int rc = get_string(f, n, "address:port", &s);

	(void)row;
	if (rc != 0)
		return rc;
	if (addr_port_parse(s, dst) != 0)
		return bad(f, n, "must be address:port, e.g. 192.0.2.1:7626 or [2001:db8::1]:7626");
	return 0;
}

static int fill_prefix(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		       void *dst)
{
	struct span s;
	int rc = get_string(f, n, "a network", &s);

	(void)row;
	if (rc != 0)
		return rc;
	if (addr_prefix_parse(s, dst) != 0)
		return bad(f, n, "must be a network without host bits, e.g. 10.1.0.0/24");
	return 0;
}

static int fill_ports(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		      void *dst)
{
	struct span s;
	int rc = get_string(f, n, "ports", &s);

	(void)row;
	if (rc != 0)
		return rc;
	if (port_range_parse(s, dst) != 0)
		return bad(f, n, "must be a port or a range, e.g. \"554\" or \"16384-32767\"");
	return 0;
}

static int fill_nested(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		       void *dst)
{
	if (n->kind != KIND_OBJECT)
		return bad(f, n, "must be an object {...}");
	fill_object(f, row->sub, n, dst);
	return 0;
}

static int check_count(struct fill *f, const struct conf_key *row, const struct conf_node *n)
{
	if ((row->min == 0 && row->max == 0) ||
	    (n->n >= row->min && (row->max == 0 || n->n <= row->max)))
		return 0;
	conf_error_at(f->errs, n->line, n->column, f->path,
		      row->max == 0 ? "needs at least %llu entries"
				    : "must have between %llu and %llu entries",
		      (unsigned long long)row->min, (unsigned long long)row->max);
	return ERR_INVALID;
}

static int fill_list(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		     void *dst)
{
	size_t size = conf_type_size(row->elem, row), i = 0;
	struct conf_list *l = dst;
	int rc;

	assert(row->elem != CONF_LIST && row->elem != CONF_MAP);
	if (n->kind != KIND_ARRAY)
		return bad(f, n, "must be a list [...]");
	rc = check_count(f, row, n);
	*l = (struct conf_list){NULL, 0};
	if (n->n == 0)
		return rc;
	l->v = conf_alloc(f->c, n->n * size);
	if (l->v == NULL)
		return f->rc = ERR_NOMEM;
	for (const struct conf_node *m = n->first; m != NULL; m = m->next, i++) {
		size_t at = path_push(f, NULL, i);

		/* A wrong element is reported and left out. */
		if (fill_value(f, row, row->elem, m, (uint8_t *)l->v + l->n * size) == 0)
			l->n++;
		path_pop(f, at);
	}
	return rc;
}

static int fill_entry(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		      uint8_t *base)
{
	const struct conf_key *star = conf_star_row(row->sub);

	if (n->key.n == 0 || n->key.n > 255) {
		conf_error_at(f->errs, n->key_line, n->key_column, f->path,
			      "a name must have between 1 and 255 octets");
		return ERR_INVALID;
	}
	for (const struct conf_key *k = row->sub; k->name != NULL; k++) {
		if (k->type == CONF_KEY)
			*(const char **)(void *)(base + k->offset) = (const char *)n->key.p;
		else if (k->type == CONF_LINE && star != NULL)
			*(unsigned *)(void *)(base + k->offset) = n->key_line;
	}
	if (star != NULL)
		return fill_value(f, star, star->type, n, base + star->offset);
	return fill_nested(f, row, n, base);
}

static int fill_map(struct fill *f, const struct conf_key *row, const struct conf_node *n,
		    void *dst)
{
	struct conf_list *l = dst;
	int rc;

	if (n->kind != KIND_OBJECT)
		return bad(f, n, "must be an object {\"name\": ...}");
	rc = check_count(f, row, n);
	*l = (struct conf_list){NULL, 0};
	if (n->n == 0)
		return rc;
	l->v = conf_alloc(f->c, n->n * row->size);
	if (l->v == NULL)
		return f->rc = ERR_NOMEM;
	for (const struct conf_node *m = n->first; m != NULL; m = m->next) {
		size_t at = path_push(f, (const char *)m->key.p, 0);

		if (fill_entry(f, row, m, (uint8_t *)l->v + l->n * row->size) == 0)
			l->n++;
		path_pop(f, at);
	}
	return rc;
}

static int fill_value(struct fill *f, const struct conf_key *row, enum conf_type type,
		      const struct conf_node *n, void *dst)
{
	static int (*const fns[])(struct fill *, const struct conf_key *, const struct conf_node *,
				  void *) = {
		[CONF_BOOL] = fill_bool,     [CONF_UINT] = fill_uint,
		[CONF_STRING] = fill_string, [CONF_ENUM] = fill_enum,
		[CONF_ADDR] = fill_addr,     [CONF_ADDR_PORT] = fill_addr_port,
		[CONF_PREFIX] = fill_prefix, [CONF_PORTS] = fill_ports,
		[CONF_OBJECT] = fill_nested, [CONF_LIST] = fill_list,
		[CONF_MAP] = fill_map,
	};

	if (f->rc != 0)
		return f->rc;
	assert((size_t)type < ARRAY_LEN(fns));
	return fns[type](f, row, n, dst);
}

/* The schema is ours: a preset that does not parse is a programmer's error. */
static void fill_preset(struct fill *f, const struct conf_key *row, uint8_t *base)
{
	struct conf_node *n = NULL;
	size_t before = f->errs->n;
	int rc = conf_scan(f->c, span_str(row->preset), f->errs, &n);

	if (rc == 0)
		fill_value(f, row, row->type, n, base + row->offset);
	else if (rc == ERR_NOMEM)
		f->rc = rc;
	assert(f->errs->n == before);
	(void)before;
}

/* Every key absent: presets, recursively. */
static void fill_absent(struct fill *f, const struct conf_key *row, uint8_t *base)
{
	if (row->preset != NULL) {
		fill_preset(f, row, base);
	} else if (row->type == CONF_OBJECT) {
		for (const struct conf_key *k = row->sub; k->name != NULL; k++)
			fill_absent(f, k, base + row->offset);
	}
}

static bool is_key(const struct conf_key *row)
{
	return row->type != CONF_KEY && row->type != CONF_LINE;
}

static void fill_member(struct fill *f, const struct conf_key *sub, const struct conf_node *m,
			uint8_t *base, uint64_t *seen)
{
	size_t at = path_push(f, (const char *)m->key.p, 0);
	const struct conf_key *row = sub;

	while (row->name != NULL && (!is_key(row) || !span_eq_str(m->key, row->name)))
		row++;
	if (row->name == NULL) {
		conf_error_at(f->errs, m->key_line, m->key_column, f->path, "unknown key");
	} else {
		*seen |= UINT64_C(1) << (row - sub);
		if (row->present != 0)
			*(bool *)(void *)(base + row->present) = true;
		fill_value(f, row, row->type, m, base + row->offset);
	}
	path_pop(f, at);
}

static void fill_object(struct fill *f, const struct conf_key *sub, const struct conf_node *n,
			uint8_t *base)
{
	uint64_t seen = 0;

	for (const struct conf_node *m = n->first; m != NULL; m = m->next)
		fill_member(f, sub, m, base, &seen);
	for (const struct conf_key *row = sub; row->name != NULL; row++) {
		assert(row - sub < 64);
		if (row->type == CONF_LINE)
			*(unsigned *)(void *)(base + row->offset) = n->line;
		if (!is_key(row) || (seen >> (row - sub) & 1) != 0)
			continue;
		fill_absent(f, row, base);
		if ((row->flags & CONF_REQUIRED) != 0) {
			size_t at = path_push(f, row->name, 0);

			conf_error_at(f->errs, n->line, n->column, f->path, "required key missing");
			path_pop(f, at);
		}
	}
}

int conf_parse_checked(struct span text, const char *name, const struct conf_key *schema,
		       conf_check_fn check, void *out, struct conf **owner,
		       struct conf_errors *errs)
{
	struct conf *c = conf_new();
	struct fill f = {.c = c, .errs = errs};
	struct conf_node *root = NULL;
	int rc;

	errs->file = name;
	if (c == NULL)
		return ERR_NOMEM;
	if (text.n > CONF_FILE_MAX) {
		conf_error(errs, 0, "", "larger than %u octets", CONF_FILE_MAX);
		rc = ERR_TOOBIG;
		goto out;
	}
	rc = conf_scan(c, text, errs, &root);
	if (rc != 0)
		goto out;
	if (root->kind == KIND_OBJECT)
		fill_object(&f, schema, root, out);
	else
		bad(&f, root, "the policy must be an object {...}");
	if (f.rc == 0 && check != NULL && root->kind == KIND_OBJECT)
		check(out, errs);
	rc = f.rc != 0 ? f.rc : errs->lost ? ERR_NOMEM : errs->n > 0 ? ERR_INVALID : 0;
out:
	if (rc == ERR_NOMEM && errs->n == 0)
		conf_error(errs, 0, "", "out of memory");
	if (rc != 0)
		conf_free(c);
	else
		*owner = c;
	return rc;
}

int conf_parse(struct span text, const char *name, const struct conf_key *schema, void *out,
	       struct conf **owner, struct conf_errors *errs)
{
	return conf_parse_checked(text, name, schema, NULL, out, owner, errs);
}

/* Reads at most one octet more than allowed, so that conf_parse can refuse it. */
static int read_file(const char *path, struct buf *b)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	struct stat st;

	if (fd < 0)
		return err_from_errno(errno);
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		rc = ERR_INVALID;
	while (rc == 0 && b->len <= CONF_FILE_MAX) {
		uint8_t *p = buf_reserve(b, 4096);
		ssize_t n;

		if (p == NULL) {
			rc = b->error;
			break;
		}
		n = read(fd, p, 4096);
		if (n < 0)
			rc = err_from_errno(errno);
		if (n <= 0)
			break;
		buf_commit(b, (size_t)n);
	}
	close(fd);
	return rc;
}

int conf_load_checked(const char *path, const struct conf_key *schema, conf_check_fn check,
		      void *out, struct conf **owner, struct conf_errors *errs)
{
	struct buf b;
	int rc;

	errs->file = path;
	buf_init(&b, CONF_FILE_MAX + 8192);
	rc = read_file(path, &b);
	if (rc != 0)
		conf_error(errs, 0, "", "cannot read the file: %s", err_str(rc));
	else
		rc = conf_parse_checked(buf_span(&b), path, schema, check, out, owner, errs);
	buf_fini(&b);
	return rc;
}

int conf_load(const char *path, const struct conf_key *schema, void *out, struct conf **owner,
	      struct conf_errors *errs)
{
	return conf_load_checked(path, schema, NULL, out, owner, errs);
}
