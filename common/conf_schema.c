/*
 * What can be said about a schema table without a file: its JSON Schema, and
 * which keys of two filled structs a reload may not change.
 */
#include <string.h>

#include "common/conf_int.h"
#include "common/jsonw.h"

#define SCHEMA_MAX (1024u * 1024)

/* ---- JSON Schema ------------------------------------------------------------ */

static void put_value(struct jsonw *w, const struct conf_key *row, enum conf_type type);

static void put_bounds(struct jsonw *w, const struct conf_key *row, const char *min,
		       const char *max)
{
	if (row->min != 0)
		jsonw_uint(w, min, row->min);
	if (row->max != 0)
		jsonw_uint(w, max, row->max);
}

static void put_raw(struct jsonw *w, const char *key, const char *json)
{
	/* An empty span writes key and comma; its quotes are taken back. */
	jsonw_span(w, key, SPAN_EMPTY);
	if (w->out->error == 0)
		w->out->len -= 2;
	buf_append_str(w->out, json);
}

static void put_properties(struct jsonw *w, const struct conf_key *sub)
{
	bool any = false;

	jsonw_str(w, "type", "object");
	jsonw_object(w, "properties");
	for (const struct conf_key *row = sub; row->name != NULL; row++) {
		if (row->type == CONF_KEY || row->type == CONF_LINE)
			continue;
		jsonw_object(w, row->name);
		if (row->help != NULL)
			jsonw_str(w, "description", row->help);
		put_value(w, row, row->type);
		if (row->preset != NULL)
			put_raw(w, "default", row->preset);
		jsonw_object_end(w);
		any = any || (row->flags & CONF_REQUIRED) != 0;
	}
	jsonw_object_end(w);
	if (any) {
		jsonw_array(w, "required");
		for (const struct conf_key *row = sub; row->name != NULL; row++)
			if ((row->flags & CONF_REQUIRED) != 0)
				jsonw_str(w, NULL, row->name);
		jsonw_array_end(w);
	}
	jsonw_bool(w, "additionalProperties", false);
}

static void put_enum(struct jsonw *w, const struct conf_enum *names)
{
	jsonw_array(w, "enum");
	for (; names->name != NULL; names++)
		jsonw_str(w, NULL, names->name);
	jsonw_array_end(w);
}

static void put_list(struct jsonw *w, const struct conf_key *row)
{
	jsonw_str(w, "type", "array");
	put_bounds(w, row, "minItems", "maxItems");
	jsonw_object(w, "items");
	put_value(w, row, row->elem);
	jsonw_object_end(w);
}

static void put_map(struct jsonw *w, const struct conf_key *row)
{
	const struct conf_key *star = conf_star_row(row->sub);

	jsonw_str(w, "type", "object");
	put_bounds(w, row, "minProperties", "maxProperties");
	jsonw_object(w, "propertyNames");
	jsonw_uint(w, "minLength", 1);
	jsonw_uint(w, "maxLength", 255);
	jsonw_object_end(w);
	jsonw_object(w, "additionalProperties");
	if (star != NULL)
		put_value(w, star, star->type);
	else
		put_properties(w, row->sub);
	jsonw_object_end(w);
}

static void put_text(struct jsonw *w, const char *pattern)
{
	jsonw_str(w, "type", "string");
	if (pattern != NULL)
		jsonw_str(w, "pattern", pattern);
}

static void put_value(struct jsonw *w, const struct conf_key *row, enum conf_type type)
{
	switch (type) {
	case CONF_BOOL:
		jsonw_str(w, "type", "boolean");
		break;
	case CONF_UINT:
		jsonw_str(w, "type", "integer");
		jsonw_uint(w, "minimum", type == row->type ? row->min : 0);
		if (type == row->type && row->max != 0)
			jsonw_uint(w, "maximum", row->max);
		break;
	case CONF_STRING:
		put_text(w, NULL);
		if (type == row->type)
			put_bounds(w, row, "minLength", "maxLength");
		else
			jsonw_uint(w, "minLength", 1);
		break;
	case CONF_ENUM:
		put_enum(w, row->names);
		break;
	case CONF_ADDR:
		put_text(w, "^[0-9a-fA-F:.]+$");
		break;
	case CONF_ADDR_PORT:
		put_text(w, "^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+$");
		break;
	case CONF_PREFIX:
		put_text(w, "^[0-9a-fA-F:.]+(/[0-9]+)?$");
		break;
	case CONF_PORTS:
		put_text(w, "^[0-9]+(-[0-9]+)?$");
		break;
	case CONF_OBJECT:
		put_properties(w, row->sub);
		break;
	case CONF_LIST:
		put_list(w, row);
		break;
	case CONF_MAP:
		put_map(w, row);
		break;
	case CONF_KEY:
	case CONF_LINE:
		break;
	}
}

/* Line breaks and two spaces per level; strings are left alone. */
static void print_indented(struct span s, FILE *to)
{
	unsigned depth = 0;
	bool quoted = false;

	for (size_t i = 0; i < s.n; i++) {
		char c = (char)s.p[i];
		bool open = c == '{' || c == '[', close = c == '}' || c == ']';
		bool empty = open && i + 1 < s.n && (s.p[i + 1] == '}' || s.p[i + 1] == ']');

		if (c == '"' && (i == 0 || s.p[i - 1] != '\\'))
			quoted = !quoted;
		if (!quoted && close && i > 0 && s.p[i - 1] != '{' && s.p[i - 1] != '[')
			fprintf(to, "\n%*s", (int)(--depth * 2), "");
		else if (!quoted && close)
			depth--;
		fputc(c, to);
		if (quoted)
			continue;
		depth += open;
		if ((open && !empty) || c == ',')
			fprintf(to, "\n%*s", (int)(depth * 2), "");
		else if (c == ':')
			fputc(' ', to);
	}
	fputc('\n', to);
}

void conf_schema_print(const struct conf_key *schema, const char *title, FILE *to)
{
	struct jsonw w;
	struct buf b;

	buf_init(&b, SCHEMA_MAX);
	jsonw_init(&w, &b);
	jsonw_object(&w, NULL);
	jsonw_str(&w, "$schema", "https://json-schema.org/draft/2020-12/schema");
	jsonw_str(&w, "title", title);
	put_properties(&w, schema);
	jsonw_object_end(&w);
	if (b.error == 0)
		print_indented(buf_span(&b), to);
	buf_fini(&b);
}

/* ---- Reload ------------------------------------------------------------------- */

static bool same(const struct conf_key *row, enum conf_type type, const void *a, const void *b);

static bool same_str(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool same_struct(const struct conf_key *sub, const uint8_t *a, const uint8_t *b)
{
	for (; sub->name != NULL; sub++)
		if (!same(sub, sub->type, a + sub->offset, b + sub->offset))
			return false;
	return true;
}

static bool same_list(const struct conf_key *row, const struct conf_list *a,
		      const struct conf_list *b)
{
	enum conf_type type = row->type == CONF_MAP ? CONF_OBJECT : row->elem;
	size_t size = conf_type_size(type, row);

	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!same(row, type, (const uint8_t *)a->v + i * size,
			  (const uint8_t *)b->v + i * size))
			return false;
	return true;
}

static bool same(const struct conf_key *row, enum conf_type type, const void *a, const void *b)
{
	switch (type) {
	case CONF_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case CONF_UINT:
		return *(const uint64_t *)a == *(const uint64_t *)b;
	case CONF_KEY:
	case CONF_STRING:
		return same_str(*(const char *const *)a, *(const char *const *)b);
	case CONF_ENUM:
		return *(const int *)a == *(const int *)b;
	case CONF_ADDR:
		return addr_eq(a, b);
	case CONF_ADDR_PORT:
		return addr_port_eq(a, b);
	case CONF_PREFIX:
		return addr_prefix_eq(a, b);
	case CONF_PORTS:
		return port_range_eq(*(const struct port_range *)a, *(const struct port_range *)b);
	case CONF_OBJECT:
		return same_struct(row->sub, a, b);
	case CONF_LIST:
	case CONF_MAP:
		return same_list(row, a, b);
	case CONF_LINE:
		break;
	}
	return true;
}

struct restart {
	void (*fn)(const char *key, void *arg);
	void *arg;
	size_t n;
};

static void restart_walk(struct restart *r, const char *prefix, const struct conf_key *sub,
			 const uint8_t *a, const uint8_t *b)
{
	for (; sub->name != NULL; sub++) {
		char path[128];

		snprintf(path, sizeof(path), "%s%s%s", prefix, prefix[0] != '\0' ? "." : "",
			 sub->name);
		if ((sub->flags & CONF_RESTART) == 0) {
			if (sub->type == CONF_OBJECT)
				restart_walk(r, path, sub->sub, a + sub->offset, b + sub->offset);
			continue;
		}
		if (same(sub, sub->type, a + sub->offset, b + sub->offset))
			continue;
		r->n++;
		if (r->fn != NULL)
			r->fn(path, r->arg);
	}
}

size_t conf_restart_keys(const struct conf_key *schema, const void *before, const void *after,
			 void (*fn)(const char *key, void *arg), void *arg)
{
	struct restart r = {.fn = fn, .arg = arg};

	restart_walk(&r, "", schema, before, after);
	return r.n;
}
