/*
 * Policy text against a schema with every type: no crash, an error or a
 * filled struct, never both.
 */
#include <stdint.h>
#include <stdlib.h>

#include "common/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct entry {
	const char *name, *text;
	struct conf_list nets;
	struct addr a;
	struct addr_port ap;
	struct port_range ports;
	uint64_t n;
	unsigned line;
	bool on;
	int mode;
};

struct top {
	struct entry o;
	struct conf_list map, list, words, zones;
};

static const struct conf_enum modes[] = {{"a", 1}, {"b", 2}, {NULL, 0}};
#define COMMON_ROWS                                                                                \
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct entry, line)},               \
		{.name = "text",                                                                   \
		 .type = CONF_STRING,                                                              \
		 .offset = offsetof(struct entry, text),                                           \
		 .min = 1,                                                                         \
		 .max = 9},                                                                        \
		{.name = "a", .type = CONF_ADDR, .offset = offsetof(struct entry, a)},             \
		{.name = "ap", .type = CONF_ADDR_PORT, .offset = offsetof(struct entry, ap)},      \
		{.name = "ports", .type = CONF_PORTS, .offset = offsetof(struct entry, ports)},    \
		{.name = "n",                                                                      \
		 .type = CONF_UINT,                                                                \
		 .offset = offsetof(struct entry, n),                                              \
		 .min = 1,                                                                         \
		 .max = 99,                                                                        \
		 .preset = "5"},                                                                   \
		{.name = "on", .type = CONF_BOOL, .offset = offsetof(struct entry, on)},           \
		{.name = "mode",                                                                   \
		 .type = CONF_ENUM,                                                                \
		 .offset = offsetof(struct entry, mode),                                           \
		 .names = modes},                                                                  \
	{                                                                                          \
		.name = "nets", .type = CONF_LIST, .offset = offsetof(struct entry, nets),         \
		.elem = CONF_PREFIX                                                                \
	}
static const struct conf_key entry_keys[] = {COMMON_ROWS, {.name = NULL}};
static const struct conf_key named_keys[] = {
	{.name = "name", .type = CONF_KEY, .offset = offsetof(struct entry, name)},
	COMMON_ROWS,
	{.name = NULL},
};
static const struct conf_key zone_keys[] = {
	{.name = "name", .type = CONF_KEY, .offset = offsetof(struct entry, name)},
	{.name = "",
	 .type = CONF_LIST,
	 .offset = offsetof(struct entry, nets),
	 .elem = CONF_PREFIX},
	{.name = NULL},
};
static const struct conf_key keys[] = {
	{.name = "o", .type = CONF_OBJECT, .offset = offsetof(struct top, o), .sub = entry_keys},
	{.name = "map",
	 .type = CONF_MAP,
	 .offset = offsetof(struct top, map),
	 .sub = named_keys,
	 .size = sizeof(struct entry)},
	{.name = "list",
	 .type = CONF_LIST,
	 .offset = offsetof(struct top, list),
	 .elem = CONF_OBJECT,
	 .sub = entry_keys,
	 .size = sizeof(struct entry)},
	{.name = "words",
	 .type = CONF_LIST,
	 .offset = offsetof(struct top, words),
	 .elem = CONF_STRING},
	{.name = "zones",
	 .type = CONF_MAP,
	 .offset = offsetof(struct top, zones),
	 .sub = zone_keys,
	 .size = sizeof(struct entry)},
	{.name = NULL},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conf_errors errs = {0};
	struct conf *c = NULL;
	struct top t = {0};
	int rc = conf_parse(span_of(data, size), "fuzz", keys, &t, &c, &errs);

	if ((rc == 0) != (c != NULL) || (rc == 0) != (errs.n == 0))
		abort();
	conf_errors_fini(&errs);
	conf_free(c);
	return 0;
}
