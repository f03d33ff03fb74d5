/*
 * Policy files: every kind of error with its place, presets, every type.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/errcode.h"

struct zone {
	const char *name;
	struct conf_list networks;
	unsigned line;
};

struct agent {
	const char *name;
	struct addr pool;
	bool has_pool;
	struct conf_list may; /* int */
	unsigned line;
};

struct box {
	unsigned line;
	bool on;
	uint64_t n, plain;
	const char *text;
	int mode;
	struct addr_port listen;
	struct port_range ports;
	struct {
		bool given;
		const char *key;
		uint64_t size;
	} tls;
	struct conf_list zones, agents, names, permits;
};

struct permit {
	struct addr_prefix from;
	unsigned line;
};

static const struct conf_enum modes[] = {{"enforce", 1}, {"mark", 2}, {NULL, 0}};
static const struct conf_key zone_keys[] = {
	{.name = "name", .type = CONF_KEY, .offset = offsetof(struct zone, name)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct zone, line)},
	{.name = "",
	 .type = CONF_LIST,
	 .offset = offsetof(struct zone, networks),
	 .elem = CONF_PREFIX,
	 .min = 1},
	{.name = NULL},
};
static const struct conf_key agent_keys[] = {
	{.name = "name", .type = CONF_KEY, .offset = offsetof(struct agent, name)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct agent, line)},
	{.name = "pool",
	 .type = CONF_ADDR,
	 .offset = offsetof(struct agent, pool),
	 .present = offsetof(struct agent, has_pool)},
	{.name = "may",
	 .type = CONF_LIST,
	 .offset = offsetof(struct agent, may),
	 .elem = CONF_ENUM,
	 .names = modes,
	 .preset = "[\"mark\"]"},
	{.name = NULL},
};
static const struct conf_key tls_keys[] = {
	{.name = "key",
	 .type = CONF_STRING,
	 .offset = offsetof(struct box, tls.key) - offsetof(struct box, tls),
	 .flags = CONF_REQUIRED},
	{.name = "size",
	 .type = CONF_UINT,
	 .offset = offsetof(struct box, tls.size) - offsetof(struct box, tls),
	 .preset = "2048"},
	{.name = NULL},
};
static const struct conf_key permit_keys[] = {
	{.name = "from", .type = CONF_PREFIX, .offset = offsetof(struct permit, from)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct permit, line)},
	{.name = NULL},
};
static const struct conf_key keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct box, line)},
	{.name = "on", .type = CONF_BOOL, .offset = offsetof(struct box, on), .preset = "true"},
	{.name = "n",
	 .type = CONF_UINT,
	 .offset = offsetof(struct box, n),
	 .min = 1,
	 .max = 100,
	 .preset = "7",
	 .flags = CONF_RESTART,
	 .help = "a number"},
	{.name = "plain", .type = CONF_UINT, .offset = offsetof(struct box, plain)},
	{.name = "text",
	 .type = CONF_STRING,
	 .offset = offsetof(struct box, text),
	 .min = 1,
	 .max = 8,
	 .preset = "\"abc\""},
	{.name = "mode",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct box, mode),
	 .names = modes,
	 .preset = "\"enforce\""},
	{.name = "listen", .type = CONF_ADDR_PORT, .offset = offsetof(struct box, listen)},
	{.name = "ports", .type = CONF_PORTS, .offset = offsetof(struct box, ports)},
	{.name = "tls",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct box, tls),
	 .sub = tls_keys,
	 .present = offsetof(struct box, tls.given)},
	{.name = "zones",
	 .type = CONF_MAP,
	 .offset = offsetof(struct box, zones),
	 .sub = zone_keys,
	 .size = sizeof(struct zone)},
	{.name = "agents",
	 .type = CONF_MAP,
	 .offset = offsetof(struct box, agents),
	 .sub = agent_keys,
	 .size = sizeof(struct agent)},
	{.name = "names",
	 .type = CONF_LIST,
	 .offset = offsetof(struct box, names),
	 .elem = CONF_STRING,
	 .max = 3,
	 .flags = CONF_RESTART},
	{.name = "permits",
	 .type = CONF_LIST,
	 .offset = offsetof(struct box, permits),
	 .elem = CONF_OBJECT,
	 .sub = permit_keys,
	 .size = sizeof(struct permit)},
	{.name = NULL},
};

static void test_values(void **state)
{
	static const char text[] = "/* all */ { \"on\": false, // off\n"
				   " \"n\": 100, \"text\": \"\\u00e9\\n\", \"mode\": \"mark\",\n"
				   " \"listen\": \"[::1]:80\", \"ports\": \"10-20\",\n"
				   " \"tls\": {\"key\": \"k//k\"},\n"
				   " \"zones\": {\"in\": [\"10.0.0.0/8\", \"fd00::/8\"],\n"
				   "   \"out\": [\"0.0.0.0/0\"]},\n"
				   " \"agents\": {\"a\": {\"pool\": \"192.0.2.1\"},\n"
				   "   \"b\": {\"may\": [\"enforce\", \"mark\"]}},\n"
				   " \"names\": [\"x\", \"y\"],\n"
				   " \"permits\": [{\"from\": \"10.1.0.0/16\"},\n {}] } // end";
	struct conf_errors errs = {0};
	struct box b = {0};
	struct conf *c;
	const struct zone *z;
	const struct agent *a;

	(void)state;
	assert_int_equal(conf_parse(SPAN_LIT(text), "t", keys, &b, &c, &errs), 0);
	assert_int_equal(errs.n, 0);
	assert_int_equal(b.line, 1);
	assert_false(b.on);
	assert_int_equal(b.n, 100);
	assert_string_equal(b.text, "\xC3\xA9\n");
	assert_int_equal(b.mode, 2);
	assert_int_equal(b.listen.port, 80);
	assert_int_equal(b.ports.last, 20);
	assert_true(b.tls.given);
	assert_string_equal(b.tls.key, "k//k");
	assert_int_equal(b.tls.size, 2048);
	assert_int_equal(b.zones.n, 2);
	z = b.zones.v;
	assert_string_equal(z[0].name, "in");
	assert_int_equal(z[0].line, 5);
	assert_int_equal(z[0].networks.n, 2);
	assert_int_equal(z[1].line, 6);
	a = b.agents.v;
	assert_int_equal(b.agents.n, 2);
	assert_int_equal(a[0].pool.version, 4);
	assert_true(a[0].has_pool);
	assert_int_equal(a[0].may.n, 1);
	assert_int_equal(*(int *)a[0].may.v, 2);
	assert_false(a[1].has_pool);
	assert_int_equal(a[1].line, 8);
	assert_int_equal(a[1].may.n, 2);
	assert_int_equal(b.names.n, 2);
	assert_string_equal(((const char **)b.names.v)[1], "y");
	assert_int_equal(((struct permit *)b.permits.v)[1].line, 11);
	conf_free(c);
}

static void test_presets(void **state)
{
	struct conf_errors errs = {0};
	struct box b = {0};
	struct conf *c;

	(void)state;
	assert_int_equal(conf_parse(SPAN_LIT("{}"), "t", keys, &b, &c, &errs), 0);
	assert_true(b.on);
	assert_int_equal(b.n, 7);
	assert_string_equal(b.text, "abc");
	assert_int_equal(b.mode, 1);
	assert_false(b.tls.given); /* its required key is not missed */
	assert_int_equal(b.tls.size, 2048);
	assert_null(b.zones.v);
	conf_free(c);
}

/* Text, and the findings as conf_errors_print() shows them. */
static const struct {
	const char *in, *out;
} bad[] = {
	/* Grammar. */
	{"", "t:1:1: end of file, expected a value\n"},
	{"[]", "t:1:1: the policy must be an object {...}\n"},
	{"{} x", "t:1:4: text after the end of the policy\n"},
	{"{}{}", "t:1:3: text after the end of the policy\n"},
	{"{\"n\":1,}", "t:1:8: unexpected '}', expected a key in double quotes\n"},
	{"{'n':1}", "t:1:2: unexpected ''', expected a key in double quotes\n"},
	{"{\"text\":'a'}", "t:1:9: unexpected ''', expected a value\n"},
	{"{\"n\":NaN}", "t:1:6: unexpected 'N', expected a value\n"},
	{"{\"n\":Infinity}", "t:1:6: unexpected 'I', expected a value\n"},
	{"{\"n\":01}", "t:1:7: number with a leading zero\n"},
	{"{\"n\":1.}", "t:1:8: unexpected '}', expected a digit\n"},
	{"{\"n\":+1}", "t:1:6: unexpected '+', expected a value\n"},
	{"{\"n\" 1}", "t:1:6: unexpected '1', expected ':'\n"},
	{"{\"n\":1 \"on\":true}", "t:1:8: unexpected '\"', expected ',' or '}'\n"},
	{"{\"names\":[\"a\" \"b\"]}", "t:1:15: unexpected '\"', expected ',' or ']'\n"},
	{"{\"on\":True}", "t:1:7: unexpected 'T', expected a value\n"},
	{"{\"text\":\"a\nb\"}", "t:1:11: string without end\n"},
	{"{\"text\":\"a\tb\"}", "t:1:11: control character in a string\n"},
	{"{\"text\":\"\\x\"}", "t:1:11: bad escape in a string\n"},
	{"{\n/* ", "t:2:4: comment without end\n"},
	{"{ / }", "t:1:4: a lone '/'; comments are // or /* */\n"},
	{"{\"a\xC3\xA9\": 1, x}", "t:1:11: unexpected 'x', expected a key in double quotes\n"},
	{"\xEF\xBB\xBF{}", "t:1:1: unexpected octet 0xef, expected a value\n"},
	/* Keys. */
	{"{\"n\":1,\n \"n\":2}", "t:2:2: n: duplicate key, first given in line 1\n"},
	{"{\"n\":1,\"\\u006e\":2}", "t:1:8: n: duplicate key, first given in line 1\n"},
	{"{\"m\":1}", "t:1:2: m: unknown key\n"},
	{"{\"line\":1}", "t:1:2: line: unknown key\n"},
	{"{\"agents\":{\"a\":{\"x\":1}}}", "t:1:17: agents.a.x: unknown key\n"},
	{"{\"tls\":{}}", "t:1:8: tls.key: required key missing\n"},
	{"{\"agents\":{\"\":{}}}", "t:1:12: agents: a name must have between 1 and 255 octets\n"},
	{"{\"permits\":[{},\n{\"to\":1}]}", "t:2:2: permits[1].to: unknown key\n"},
	/* Types and ranges. */
	{"{\"n\":0}", "t:1:6: n: must be between 1 and 100\n"},
	{"{\"n\":101}", "t:1:6: n: must be between 1 and 100\n"},
	{"{\"n\":99999999999999999999999}", "t:1:6: n: must be between 1 and 100\n"},
	{"{\"plain\":18446744073709551616}", "t:1:10: plain: number too large\n"},
	{"{\"n\":-1}", "t:1:6: n: must be a whole number, not negative\n"},
	{"{\"n\":1.0}", "t:1:6: n: must be a whole number, not negative\n"},
	{"{\"n\":1e1}", "t:1:6: n: must be a whole number, not negative\n"},
	{"{\"n\":\"1\"}", "t:1:6: n: must be a number\n"},
	{"{\"n\":null}", "t:1:6: n: must be a number\n"},
	{"{\"on\":1}", "t:1:7: on: must be true or false\n"},
	{"{\"text\":true}", "t:1:9: text: must be a string (text)\n"},
	{"{\"text\":\"\"}", "t:1:9: text: must have between 1 and 8 octets\n"},
	{"{\"text\":\"123456789\"}", "t:1:9: text: must have between 1 and 8 octets\n"},
	{"{\"text\":\"a\\u0000b\"}", "t:1:9: text: bad escape, NUL or bad UTF-8 in a string\n"},
	{"{\"text\":\"\xFF\"}", "t:1:9: text: bad escape, NUL or bad UTF-8 in a string\n"},
	{"{\"mode\":\"Mark\"}", "t:1:9: mode: must be one of: enforce, mark\n"},
	{"{\"listen\":\"10.0.0.1\"}",
	 "t:1:11: listen: must be address:port, e.g. 192.0.2.1:7626 or [2001:db8::1]:7626\n"},
	{"{\"ports\":\"20-10\"}",
	 "t:1:10: ports: must be a port or a range, e.g. \"554\" or \"16384-32767\"\n"},
	{"{\"zones\":[]}", "t:1:10: zones: must be an object {\"name\": ...}\n"},
	{"{\"zones\":{\"a\":[]}}", "t:1:15: zones.a: needs at least 1 entries\n"},
	{"{\"zones\":{\"a\":[\"10.0.0.1/8\"]}}",
	 "t:1:16: zones.a[0]: must be a network without host bits, e.g. 10.1.0.0/24\n"},
	{"{\"agents\":{\"a\":{\"pool\":\"x\"}}}",
	 "t:1:24: agents.a.pool: must be an IP address, e.g. 192.0.2.1\n"},
	{"{\"agents\":{\"a\":1}}", "t:1:16: agents.a: must be an object {...}\n"},
	{"{\"names\":{}}", "t:1:10: names: must be a list [...]\n"},
	{"{\"names\":[\"\"]}", "t:1:11: names[0]: must not be empty\n"},
	{"{\"names\":[\"a\",\"b\",\"c\",\"d\"]}",
	 "t:1:10: names: must have between 0 and 3 entries\n"},
	/* All at once, in file order. */
	{"{\"n\":0,\n\"m\":1,\n\"on\":2, \"on\":3,\n\"tls\":{}}",
	 "t:1:6: n: must be between 1 and 100\n"
	 "t:2:1: m: unknown key\n"
	 "t:3:6: on: must be true or false\n"
	 "t:3:9: on: duplicate key, first given in line 3\n"
	 "t:3:14: on: must be true or false\n"
	 "t:4:7: tls.key: required key missing\n"},
};

static void print_all(const struct conf_errors *errs, char *text, size_t size)
{
	FILE *f = fmemopen(text, size, "w");

	assert_non_null(f);
	conf_errors_print(errs, f);
	fclose(f);
}

static void test_errors(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct conf_errors errs = {0};
		char text[2048] = "";
		struct conf *c = NULL;
		struct box b = {0};

		assert_int_not_equal(conf_parse(span_str(bad[i].in), "t", keys, &b, &c, &errs), 0);
		assert_null(c);
		print_all(&errs, text, sizeof(text));
		assert_string_equal(text, bad[i].out);
		conf_errors_fini(&errs);
	}
}

static void test_limits(void **state)
{
	struct conf_errors errs = {0};
	char deep[200], *many = malloc(20000);
	struct conf *c = NULL;
	struct box b = {0};
	size_t n = 0;

	(void)state;
	memset(deep, '[', sizeof(deep));
	assert_int_equal(conf_parse(span_of(deep, 200), "t", keys, &b, &c, &errs), ERR_MALFORMED);
	assert_int_equal(errs.n, 1);
	assert_string_equal(errs.v[0].text, "nested too deeply");
	conf_errors_fini(&errs);

	assert_non_null(many);
	n = (size_t)snprintf(many, 20000, "{");
	for (int i = 0; i < 300; i++)
		n += (size_t)snprintf(many + n, 20000 - n, "\"k%d\":1,\n", i);
	n += (size_t)snprintf(many + n, 20000 - n, "\"on\":true}");
	assert_int_equal(conf_parse(span_of(many, n), "t", keys, &b, &c, &errs), ERR_INVALID);
	assert_int_equal(errs.n, CONF_ERRORS_MAX);
	assert_string_equal(errs.v[CONF_ERRORS_MAX - 1].text, "more errors follow, not shown");
	conf_errors_fini(&errs);
	free(many);

	many = calloc(1, CONF_FILE_MAX + 1);
	assert_non_null(many);
	memset(many, ' ', CONF_FILE_MAX + 1);
	assert_int_equal(conf_parse(span_of(many, CONF_FILE_MAX + 1), "t", keys, &b, &c, &errs),
			 ERR_TOOBIG);
	assert_int_equal(errs.n, 1);
	conf_errors_fini(&errs);
	free(many);
}

static void check(void *filled, struct conf_errors *errs)
{
	const struct box *b = filled;
	const struct agent *a = b->agents.v;

	if (b->agents.n > 0)
		conf_error(errs, a[0].line, "agents.a", "cross %s", "check");
}

/* The daemon's checks run together with the schema's. */
static void test_check(void **state)
{
	static const char text[] = "{\"n\":0,\n\"agents\":{\"a\":{}},\n\"x\":1}";
	struct conf_errors errs = {0};
	char out[512] = "";
	struct conf *c = NULL;
	struct box b = {0};

	(void)state;
	assert_int_equal(conf_parse_checked(SPAN_LIT(text), "t", keys, check, &b, &c, &errs),
			 ERR_INVALID);
	print_all(&errs, out, sizeof(out));
	assert_string_equal(out, "t:1:6: n: must be between 1 and 100\n"
				 "t:2:1: agents.a: cross check\n"
				 "t:3:1: x: unknown key\n");
	conf_errors_fini(&errs);
}

static void test_file(void **state)
{
	char path[] = "/tmp/sluice-test-conf-XXXXXX";
	struct conf_errors errs = {0};
	int fd = mkstemp(path);
	struct conf *c = NULL;
	struct box b = {0};

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "{\"n\":9}", 7), 7);
	close(fd);
	assert_int_equal(conf_load(path, keys, &b, &c, &errs), 0);
	assert_int_equal(b.n, 9);
	conf_free(c);
	unlink(path);
	assert_int_equal(conf_load(path, keys, &b, &c, &errs), ERR_NOENT);
	assert_int_equal(errs.n, 1);
	conf_errors_fini(&errs);
	assert_int_not_equal(conf_load("/", keys, &b, &c, &errs), 0);
	conf_errors_fini(&errs);
}

static void note_key(const char *key, void *arg)
{
	char *all = arg;

	snprintf(all + strlen(all), 64 - strlen(all), "%s ", key);
}

static void test_restart(void **state)
{
	struct conf_errors errs = {0};
	struct conf *c1, *c2;
	struct box a = {0}, b = {0};
	char all[64] = "";

	(void)state;
	assert_int_equal(
		conf_parse(SPAN_LIT("{\"names\":[\"a\"],\"on\":true}"), "t", keys, &a, &c1, &errs),
		0);
	assert_int_equal(conf_parse(SPAN_LIT("{\"names\":[\"b\"],\"on\":false, \"n\":8}"), "t",
				    keys, &b, &c2, &errs),
			 0);
	assert_int_equal(conf_restart_keys(keys, &a, &b, note_key, all), 2);
	assert_string_equal(all, "n names ");
	assert_int_equal(conf_restart_keys(keys, &a, &a, note_key, all), 0);
	conf_free(c1);
	conf_free(c2);
}

static void test_schema(void **state)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	assert_non_null(f);
	conf_schema_print(keys, "Box", f);
	fclose(f);
	assert_non_null(strstr(text, "\"description\": \"a number\""));
	assert_non_null(strstr(text, "\"default\": \"enforce\""));
	assert_non_null(strstr(text, "\"additionalProperties\": false"));
	assert_non_null(strstr(text, "\"required\": [\n"));
	assert_null(strstr(text, "\"line\""));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),	cmocka_unit_test(test_presets),
		cmocka_unit_test(test_errors),	cmocka_unit_test(test_limits),
		cmocka_unit_test(test_check),	cmocka_unit_test(test_file),
		cmocka_unit_test(test_restart), cmocka_unit_test(test_schema),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
