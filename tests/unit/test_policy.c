/*
 * The agent's policy: presets, contradictions with their lines, and the answers
 * about zones, paths and permits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/policy.h"
#include "common/errcode.h"
#include "common/log.h"

#define BASE                                                                                       \
	"\"identity\": \"agent-1\",\n"                                                             \
	"\"zones\": { \"inside\": [\"10.1.0.0/24\"], \"outside\": [\"0.0.0.0/0\", \"::/0\"] },\n"  \
	"\"middleboxes\": { \"edge\": { \"address\": \"10.1.0.1:7626\" } },\n"                     \
	"\"paths\": [ { \"from\": \"inside\", \"to\": \"outside\", \"through\": [\"edge\"] } ]\n"

static struct policy *parse(const char *text, struct conf_errors *errs)
{
	struct policy *p = NULL;
	int err = policy_parse(span_str(text), "test.json", &p, errs);

	assert_true(err ? errs->n > 0 && !p : errs->n == 0 && p != NULL);
	return p;
}

static struct policy *good(const char *text)
{
	struct conf_errors errs = {.n = 0};
	struct policy *p = parse(text, &errs);

	if (!p)
		conf_errors_print(&errs, stderr);
	assert_non_null(p);
	conf_errors_fini(&errs);
	return p;
}

/* Expects `n` findings, one of them in `line` with `part` in its text. */
static void bad(const char *text, size_t n, unsigned line, const char *part)
{
	struct conf_errors errs = {.n = 0};
	bool found = false;

	assert_null(parse(text, &errs));
	for (size_t i = 0; i < errs.n; i++)
		found |= errs.v[i].line == line && strstr(errs.v[i].text, part);
	if (!found || errs.n != n)
		conf_errors_print(&errs, stderr);
	assert_true(found);
	assert_int_equal(errs.n, n);
	conf_errors_fini(&errs);
}

static struct addr addr(const char *text)
{
	struct addr a;

	assert_int_equal(addr_parse(span_str(text), &a), 0);
	return a;
}

static struct addr_port ap(const char *text)
{
	struct addr_port a;

	assert_int_equal(addr_port_parse(span_str(text), &a), 0);
	return a;
}

static void presets(void **state)
{
	struct policy *p = good("{" BASE "}");
	const struct path *path = p->paths.v;

	(void)state;
	assert_string_equal(p->identity, "agent-1");
	assert_int_equal(p->lifetime.reserved, 30);
	assert_int_equal(p->lifetime.enabled, 120);
	assert_true(p->exclusive);
	assert_false(p->has_permit);
	assert_int_equal(p->limits.sessions, 10000);
	assert_int_equal(p->limits.sessions_per_client, 50);
	assert_int_equal(p->log.level, LOG_LEVEL_INFO);
	assert_int_equal(path->n_middleboxes, 1);
	assert_string_equal(path->middlebox[0]->name, "edge");
	assert_false(path->middlebox[0]->tls.present);
	assert_string_equal(path->from_zone->name, "inside");
	assert_null(policy_middlebox(p, "other"));
	policy_free(p);
}

static void everything_given(void **state)
{
	struct policy *p =
		good("{ // the longest\n"
		     "\"identity\": \"a\",\n"
		     "\"zones\": { \"in\": [\"10.0.0.0/8\"], \"out\": [\"0.0.0.0/0\"] },\n"
		     "\"middleboxes\": { \"edge\": { \"address\": \"10.1.0.1:7626\",\n"
		     "  \"tls\": { \"certificate\": \"c\", \"key\": \"k\", \"ca\": \"a\", "
		     "\"name\": \"n\" },\n"
		     "  \"secret_file\": \"s\" } },\n"
		     "\"paths\": [ { \"from\": \"in\", \"to\": \"out\", \"through\": [] } ],\n"
		     "\"permit\": [],\n"
		     "\"lifetime\": { \"reserved\": 10, \"enabled\": 20 },\n"
		     "\"exclusive\": false,\n"
		     "\"rtsp\": [ { \"listen\": \"0.0.0.0:554\", \"mode\": \"transparent\", "
		     "\"out\": \"rewrite\",\n"
		     "  \"zone\": \"in\", \"tproxy\": true, \"media_from\": [\"192.0.2.0/24\"],\n"
		     "  \"multicast\": [\"232.0.0.0/8\", \"ff3e::/16\"],\n"
		     "  \"interleaved_hint\": true, \"connect_timeout_ms\": 1000 } ],\n"
		     "\"rest\": { \"listen\": [\"unix:/run/x\", \"127.0.0.1:9627\"], "
		     "\"open_loopback\": true },\n"
		     "\"limits\": { \"sessions\": 5, \"bindings_per_client\": 3 },\n"
		     "\"log\": { \"level\": \"debug\", \"format\": \"json\" } }");
	const struct rtsp_listener_conf *l = p->rtsp.v;
	const struct middlebox_conf *mb = p->middleboxes.v;

	(void)state;
	assert_true(mb->tls.present);
	assert_string_equal(mb->tls.name, "n");
	assert_string_equal(mb->secret_file, "s");
	assert_true(p->has_permit);
	assert_false(p->exclusive);
	assert_int_equal(p->lifetime.enabled, 20);
	assert_int_equal(l->mode, RTSP_TRANSPARENT);
	assert_int_equal(l->out, RTSP_OUT_REWRITE);
	assert_true(l->tproxy && l->interleaved_hint);
	assert_int_equal(l->connect_timeout_ms, 1000);
	assert_int_equal(l->header_bytes, 65536);
	assert_int_equal(l->media_from.n, 1);
	assert_int_equal(l->multicast.n, 2);
	assert_int_equal(p->limits.bindings_per_client, 3);
	assert_int_equal(p->limits.bindings, 40000);
	policy_free(p);
}

static void contradictions(void **state)
{
	(void)state;
	bad("{" BASE ",\"paths\": [] }", 2, 5, "duplicate key");
	bad("{\n\"identity\": \"a\",\n\"zones\": { \"in\": [\"10.0.0.0/8\"] },\n"
	    "\"paths\": [\n{ \"from\": \"in\", \"to\": \"out\", \"through\": [\"edge\"] }\n] }",
	    2, 5, "unknown zone \"out\" in to");
	bad("{\n\"identity\": \"a\",\n\"zones\": { \"in\": [\"10.0.0.0/8\"] },\n"
	    "\"paths\": [\n{ \"from\": \"in\", \"to\": \"out\", \"through\": [\"edge\"] }\n] }",
	    2, 5, "unknown middlebox \"edge\"");
	bad("{" BASE ",\"rtsp\": [\n{ \"listen\": \"0.0.0.0:554\", \"mode\": \"forward\" },\n"
	    "{ \"listen\": \"0.0.0.0:554\", \"mode\": \"forward\", \"tproxy\": true }\n] }",
	    2, 7, "second listener on 0.0.0.0:554 (first in line 6)");
	bad("{" BASE ",\"rtsp\": [ { \"listen\": \"0.0.0.0:554\", \"mode\": \"forward\",\n"
	    " \"zone\": \"attic\" } ] }",
	    1, 5, "unknown zone \"attic\"");
	bad("{" BASE ",\"rest\": { \"listen\": [\"127.0.0.1:9627\"] } }", 1, 5, "open_loopback");
	bad("{" BASE ",\"rest\": { \"listen\": [\"192.0.2.1:9627\"], \"open_loopback\": true } }",
	    1, 5, "needs token_file");
	bad("{" BASE ",\"rest\": { \"listen\": [\"unix:relative\"] } }", 1, 5, "absolute path");
	bad("{" BASE ",\"rtsp\": [ { \"listen\": \"0.0.0.0:554\", \"mode\": \"relay\" } ] }", 1, 5,
	    "");
}

static void mounts_and_tls(void **state)
{
	struct policy *p =
		good("{" BASE ",\"resolver\": [\"10.1.0.53:53\"],\n"
		     "\"relay\": { \"ports\": \"50000-50099\", \"addresses\": [\"10.1.0.9\"] },\n"
		     "\"rtsp\": [ { \"listen\": \"[::]:322\", \"mode\": \"reverse\",\n"
		     "  \"mounts\": { \"/cam1\": { \"to\": \"rtsp://10.2.0.5:554/live?a=1\" },\n"
		     "  \"/\": { \"to\": \"rtsps://nvr.example\", \"out\": \"relay\" } },\n"
		     "  \"routes\": [ { \"to\": \"10.0.0.0/8\", \"out\": \"transparent\" } ],\n"
		     "  \"tls\": { \"certificate\": \"c\", \"key\": \"k\" },\n"
		     "  \"upstream_tls\": { \"verify\": false } } ] }");
	const struct rtsp_listener_conf *l = p->rtsp.v;
	const struct rtsp_mount_conf *m = l->mounts.v;
	const struct rtsp_route_conf *r = l->routes.v;

	(void)state;
	assert_int_equal(p->resolver.n, 1);
	assert_true(p->relay.present);
	assert_int_equal(p->relay.ports.last, 50099);
	assert_int_equal(p->relay.max, 1000);
	assert_int_equal(l->mode, RTSP_REVERSE);
	assert_int_equal(l->mounts.n, 2);
	assert_string_equal(m[0].path, "/cam1");
	assert_string_equal(m[0].to, "rtsp://10.2.0.5:554/live?a=1");
	assert_false(m[0].has_out);
	assert_true(m[1].has_out);
	assert_int_equal(m[1].out, RTSP_OUT_RELAY);
	assert_int_equal(r->out, RTSP_OUT_TRANSPARENT);
	assert_true(l->tls.present);
	assert_null(l->tls.ca);
	assert_false(l->upstream_tls.verify);
	policy_free(p);
	p = good("{" BASE ",\"rtsp\": [ { \"listen\": \"[::]:554\", \"mode\": \"forward\" } ] }");
	l = p->rtsp.v;
	assert_true(l->upstream_tls.verify);
	assert_false(l->tls.present);
	assert_false(p->relay.present);
	policy_free(p);
}

#define LISTENER ",\"rtsp\": [ { \"listen\": \"0.0.0.0:554\", \"mode\": "
#define MOUNT(path, to)                                                                            \
	"{" BASE LISTENER "\"reverse\",\n\"mounts\": {\n\"" path "\": { \"to\": \"" to             \
	"\" } } } ] }"

static void bad_mounts_and_tls(void **state)
{
	(void)state;
	bad("{" BASE LISTENER "\"reverse\" } ] }", 1, 5, "needs mounts");
	bad("{" BASE LISTENER
	    "\"forward\", \"mounts\": { \"/a\": { \"to\": \"rtsp://h/\" } } } ] }",
	    1, 5, "mode \"reverse\" only");
	bad(MOUNT("cam", "rtsp://h/"), 1, 7, "begins with");
	bad(MOUNT("/cam/", "rtsp://h/"), 1, 7, "does not end");
	bad(MOUNT("/a/../b", "rtsp://h/"), 1, 7, "dot segments");
	bad(MOUNT("/a?b", "rtsp://h/"), 1, 7, "not the path");
	bad(MOUNT("/a", "http://h/"), 1, 7, "not a URL");
	bad(MOUNT("/a", "rtspu://h/"), 1, 7, "only rtsp://");
	bad(MOUNT("/a", "/live"), 1, 7, "not a URL");
	bad(MOUNT("/a", "rtsp://al:pw@h/"), 1, 7, "with a user");
	bad(MOUNT("/a", "rtsp://0.0.0.0/"), 1, 7, "not a server's address");
	bad(MOUNT("/a", "rtsp://h/ b"), 1, 7, "not a URL");
	bad("{" BASE LISTENER "\"forward\", \"out\": \"relay\" } ] }", 1, 5, "needs \"relay\"");
	bad("{" BASE LISTENER "\"forward\", \"routes\": [\n"
	    "{ \"to\": \"10.0.0.0/8\", \"out\": \"auto\" },\n"
	    "{ \"to\": \"10.0.0.0/8\", \"out\": \"relay\" } ] } ] }",
	    2, 7, "a second route to 10.0.0.0/8 (first in line 6)");
	bad("{" BASE LISTENER
	    "\"forward\", \"multicast\": [\"232.0.0.0/8\", \"192.0.0.0/3\"] } ] }",
	    1, 5, "192.0.0.0/3 holds more than groups");
	bad("{" BASE LISTENER "\"forward\", \"multicast\": [\"224.0.0.0/3\"] } ] }", 1, 5,
	    "224.0.0.0/3 holds more than groups");
	bad("{" BASE LISTENER "\"forward\",\n\"upstream_tls\": { \"key\": \"k\" } } ] }", 1, 6,
	    "needs its key");
	bad("{" BASE LISTENER
	    "\"forward\",\n\"upstream_tls\": { \"ca\": \"c\", \"verify\": false } "
	    "} ] }",
	    1, 6, "verify is false");
	bad("{" BASE ",\n\"relay\": { \"ports\": \"5000-5002\", \"addresses\": [\"0.0.0.0\"] } }",
	    2, 6, "fewer than 4 ports");
	bad("{" BASE ",\"resolver\": [\"10.0.0.1:0\"] }", 1, 0, "nobody's address");
}

static void long_and_double_paths(void **state)
{
	(void)state;
	bad("{ \"identity\": \"a\", \"zones\": { \"in\": [\"10.0.0.0/8\"], \"out\": "
	    "[\"0.0.0.0/0\"] },\n"
	    "\"middleboxes\": { \"a\": { \"address\": \"10.0.0.1:1\" }, \"b\": { \"address\": "
	    "\"10.0.0.2:1\" },\n"
	    "\"c\": { \"address\": \"10.0.0.3:1\" }, \"d\": { \"address\": \"10.0.0.4:1\" }, "
	    "\"e\": { \"address\": \"10.0.0.5:1\" } },\n"
	    "\"paths\": [\n{ \"from\": \"in\", \"to\": \"out\", \"through\": [\"a\", \"b\", \"c\", "
	    "\"d\", \"e\"] } ] }",
	    1, 5, "5 middleboxes in a row, at most 4");
	bad("{ \"identity\": \"a\", \"zones\": { \"in\": [\"10.0.0.0/8\"], \"out\": "
	    "[\"0.0.0.0/0\"] },\n"
	    "\"middleboxes\": { \"a\": { \"address\": \"10.0.0.1:1\" },\n \"b\": { \"address\": "
	    "\"10.0.0.1:1\" } },\n"
	    "\"paths\": [\n{ \"from\": \"in\", \"to\": \"out\", \"through\": [\"a\", \"a\"] },\n"
	    "{ \"from\": \"in\", \"to\": \"out\", \"through\": [] } ] }",
	    3, 6, "a second path from \"in\" to \"out\" (first in line 5)");
	bad("{ \"identity\": \"a\", \"zones\": { \"in\": [\"10.0.0.0/8\"],\n\"out\": "
	    "[\"10.0.0.0/8\"] },\n"
	    "\"paths\": [ { \"from\": \"in\", \"to\": \"out\", \"through\": [] } ] }",
	    1, 2, "10.0.0.0/8 belongs to zone \"in\" (line 1) and to \"out\"");
}

/* What the schema refuses does not keep the rest from being checked. */
static void all_at_once(void **state)
{
	(void)state;
	bad("{\n\"identity\": 5,\n\"zones\": { \"in\": [\"10.1.0.0/33\"] },\n"
	    "\"middleboxes\": { \"edge\": { \"address\": \"10.1.1.1\" } },\n"
	    "\"paths\": [ { \"from\": \"in\", \"to\": \"nowhere\", \"through\": [\"edge\", 7] }, "
	    "{} ],\n"
	    "\"rtsp\": [ {}, {} ],\n"
	    "\"rest\": { \"listen\": [\"127.0.0.1:1\", 5, \"127.0.0.1:1\"] } }",
	    16, 5, "unknown zone \"nowhere\"");
}

static void zones_and_paths(void **state)
{
	struct policy *p =
		good("{ \"identity\": \"a\", \"zones\": { \"all\": [\"0.0.0.0/0\"], \"in\": "
		     "[\"10.0.0.0/8\"],"
		     " \"dmz\": [\"10.9.0.0/16\", \"2001:db8::/32\"] },"
		     "\"paths\": [ { \"from\": \"in\", \"to\": \"all\", \"through\": [] },"
		     " { \"from\": \"in\", \"to\": \"dmz\", \"through\": [] } ] }");
	struct addr in = addr("10.1.2.3"), dmz = addr("10.9.1.1"), far = addr("192.0.2.1"),
		    v6 = addr("2001:db8::1"), none = addr("2001:db9::1");

	(void)state;
	assert_string_equal(policy_zone(p, &in)->name, "in");
	assert_string_equal(policy_zone(p, &dmz)->name, "dmz");
	assert_string_equal(policy_zone(p, &far)->name, "all");
	assert_string_equal(policy_zone(p, &v6)->name, "dmz");
	assert_null(policy_zone(p, &none));
	assert_string_equal(policy_path(p, &in, &far)->to, "all");
	assert_string_equal(policy_path(p, &in, &dmz)->to, "dmz");
	assert_null(policy_path(p, &far, &in));
	assert_null(policy_path(p, &in, &none));
	policy_free(p);
}

static bool permits(const struct policy *p, const char *internal, const char *external)
{
	struct addr_port i = ap(internal), e = ap(external);

	return policy_permits(p, IPPROTO_UDP, &i, &e);
}

static void permit_list(void **state)
{
	struct policy *p = good("{" BASE ", \"permit\": ["
				"{ \"internal\": \"10.1.0.0/25\", \"external\": \"192.0.2.0/24\", "
				"\"ports\": \"1024-65535\" },"
				"{ \"internal\": \"10.1.0.128/25\", \"external\": \"0.0.0.0/0\", "
				"\"ports\": \"5000\","
				"  \"external_ports\": \"6000-6001\" } ] }");
	struct addr_port i = ap("10.1.0.5:5000"), e = ap("192.0.2.9:6000");

	(void)state;
	assert_true(permits(p, "10.1.0.5:5000", "192.0.2.9:6000"));
	assert_false(permits(p, "10.1.0.5:1023", "192.0.2.9:6000"));
	assert_false(permits(p, "10.1.0.5:5000", "192.0.2.9:554"));
	assert_false(permits(p, "10.1.0.5:5000", "192.0.3.9:6000"));
	assert_true(permits(p, "10.1.0.200:5000", "198.51.100.1:6001"));
	assert_false(permits(p, "10.1.0.200:5001", "198.51.100.1:6001"));
	assert_false(permits(p, "10.1.0.200:5000", "198.51.100.1:5000"));
	assert_false(policy_permits(p, IPPROTO_TCP, &i, &e));
	policy_free(p);
}

static void permits_without_a_list(void **state)
{
	struct policy *p = good("{" BASE "}");
	struct policy *none = good("{" BASE ", \"permit\": [] }");

	(void)state;
	assert_true(permits(p, "10.1.0.5:5000", "192.0.2.9:6000"));
	assert_false(permits(p, "10.2.0.5:5000", "10.1.0.9:6000")); /* no such path */
	assert_false(permits(p, "10.1.0.5:5000", "224.0.0.1:6000"));
	assert_false(permits(p, "10.1.0.5:5000", "0.0.0.0:6000"));
	assert_false(permits(p, "10.1.0.5:5000", "192.0.2.9:0"));
	assert_false(permits(none, "10.1.0.5:5000", "192.0.2.9:6000"));
	policy_free(p);
	policy_free(none);
}

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 17);

	assert_non_null(f);
	assert_non_null(text);
	assert_true(fread(text, 1, (1 << 17) - 1, f) > 0);
	fclose(f);
	return text;
}

static char *source_file(const char *name)
{
	static char path[4096];
	const char *dir = getenv("SRCDIR");

	snprintf(path, sizeof(path), "%s/%s", dir ? dir : ".", name);
	return path;
}

/* etc/ holds what --schema prints: whoever changes a row updates the file. */
static void schema_file_is_current(void **state)
{
	char *now = NULL, *file = slurp(source_file("etc/agent.schema.json"));
	size_t n;
	FILE *f = open_memstream(&now, &n);

	(void)state;
	conf_schema_print(policy_schema(), "sluice-agent", f);
	fclose(f);
	assert_string_equal(now, file);
	free(now);
	free(file);
}

static void example_is_valid(void **state)
{
	struct conf_errors errs = {.n = 0};
	struct policy *p = NULL;
	int err = policy_load(source_file("etc/agent.json"), &p, &errs);

	(void)state;
	if (err)
		conf_errors_print(&errs, stderr);
	assert_int_equal(err, 0);
	assert_true(p->rtsp.n > 0);
	conf_errors_fini(&errs);
	policy_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(presets),
		cmocka_unit_test(everything_given),
		cmocka_unit_test(contradictions),
		cmocka_unit_test(mounts_and_tls),
		cmocka_unit_test(bad_mounts_and_tls),
		cmocka_unit_test(long_and_double_paths),
		cmocka_unit_test(all_at_once),
		cmocka_unit_test(zones_and_paths),
		cmocka_unit_test(permit_list),
		cmocka_unit_test(permits_without_a_list),
		cmocka_unit_test(schema_file_is_current),
		cmocka_unit_test(example_is_valid),
	};

	return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
