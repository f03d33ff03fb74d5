/*
 * The middlebox's policy: every contradiction with its place, the derived
 * forms, the files shipped in etc/.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "middlebox/policy.h"

#define SIMCO "\"simco\":{\"listen\":[\"127.0.0.1:7626\"]}"
#define AGENTS(more)                                                                               \
	"\"agents\":{\"a\":{\"address\":[\"127.0.0.1/32\"]" more                                   \
	",\"permit\":[{\"internal\":\"10.0.0.0/8\",\"external\":\"0.0.0.0/0\"}]}}"
#define FW "\"firewall\":{\"inside\":[\"in\"],\"outside\":[\"out\"]}"
#define NAT(more) "\"nat\":{\"mode\":\"napt\",\"outside\":[{\"address\":\"192.0.2.1\"}]" more "}"
#define PLAIN SIMCO ",\n" AGENTS("") ",\n" FW
#define POOL ",\"pool\":\"192.0.2.1\""

/* A whole policy and what is wrong with it. */
static const struct {
	const char *in, *out;
} bad[] = {
	{"{}", "p:1:1: simco: required key missing\n"
	       "p:1:1: agents: required key missing\n"
	       "p:1:1: firewall: required key missing\n"},
	{"{" SIMCO ",\n\"agents\":{},\n" FW "}", "p:2:10: agents: needs at least 1 entries\n"},
	{"{\"simco\":{\n\"listen\":[\"10.0.0.1:7626\"]},\n" AGENTS("") ",\n" FW "}",
	 "p:1:1: simco.listen: 10.0.0.1:7626 is not loopback: needs tls, or plain set to true\n"},
	{"{\"simco\":{\"listen\":[\"127.0.0.1:7626\",\"127.0.0.1:7626\"]},\n" AGENTS("") ",\n" FW
											 "}",
	 "p:1:1: simco.listen: 127.0.0.1:7626 is there twice\n"},
	{"{" SIMCO ",\n\"agents\":{\"a\":{\"permit\":[]}},\n" FW "}",
	 "p:2:1: agents.a: cannot be recognised: needs certificate, secret_file or address\n"},
	{"{" SIMCO ",\n" AGENTS(",\"certificate\":\"x\"") ",\n" FW "}",
	 "p:2:1: agents.a: has a certificate, but simco.tls is missing\n"},
	{"{" SIMCO ",\n\"agents\":{\"a\":{\"address\":[\"10.0.0.1\"],\"permit\":[]},\n"
	 "\"b\":{\"address\":[\"::1\",\"10.0.0.1/32\"],\"permit\":[]}},\n" FW "}",
	 "p:3:1: agents.b: has an address of a\n"},
	{"{" SIMCO ",\n" AGENTS(",\"owners\":[\"b\"]") ",\n" FW "}",
	 "p:2:1: agents.a: owner \"b\" is no agent\n"},
	{"{" SIMCO ",\n" AGENTS(POOL) ",\n" FW "}",
	 "p:2:1: agents.a: has a pool, but there is no nat\n"},
	{"{" SIMCO ",\n" AGENTS("") ",\n" FW ",\n" NAT("") "}",
	 "p:2:1: agents.a: needs a pool, an address of nat.outside\n"},
	{"{" SIMCO ",\n" AGENTS(",\"pool\":\"192.0.2.9\"") ",\n" FW ",\n" NAT("") "}",
	 "p:2:1: agents.a: pool 192.0.2.9 is not in nat.outside\n"},
	{"{" SIMCO ",\n" AGENTS(",\"max_lifetime\":9999") ",\n" FW "}",
	 "p:2:1: agents.a: max_lifetime is above that of simco\n"},
	{"{" SIMCO ",\n" AGENTS(",\"secret_file\":\"/nonexistent\"") ",\n" FW "}",
	 "p:2:1: agents.a: cannot read secret_file /nonexistent\n"},
	{"{" SIMCO ",\n\"agents\":{\"a\":{\"address\":[\"10.0.0.1\"],\"permit\":[\n"
	 "{\"internal\":\"10.0.0.0/8\",\"external\":\"::/0\"}]}},\n" FW "}",
	 "p:3:1: agents.a: mixes IPv4 and IPv6\n"},
	{"{" SIMCO ",\n" AGENTS("") ",\n\"firewall\":{\"inside\":[\"x\"],\"outside\":[\"x\",\n"
				    "\"averyveryverylongname\"]}}",
	 "p:3:1: firewall.outside: x is inside already\n"
	 "p:3:1: firewall.outside: \"averyveryverylongname\" is no interface name\n"},
	{"{" SIMCO ",\n" AGENTS("") ",\n\"firewall\":{\"inside\":[\"i\"],\"outside\":[\"o\"],\n"
				    "\"table\":\"a b\",\"permit\":[\n"
				    "{\"from\":\"10.0.0.0/8\",\"to\":\"::/0\"},\n"
				    "{\"from\":\"::/0\",\"to\":\"::/0\",\"protocol\":\"ud\"},\n"
				    "{\"from\":\"::/0\",\"to\":\"::/"
				    "0\",\"protocol\":\"256\",\"ports\":\"0-5\"}]}}",
	 "p:3:1: firewall.table: may have letters, digits, _ and - only\n"
	 "p:5:1: firewall.permit: mixes IPv4 and IPv6\n"
	 "p:6:1: firewall.permit: unknown protocol \"ud\"\n"
	 "p:7:1: firewall.permit: port 0 is no port\n"
	 "p:7:1: firewall.permit: unknown protocol \"256\"\n"},
	{"{" SIMCO ",\n" AGENTS(
		 POOL) ",\n" FW ",\n\"nat\":{\"mode\":\"napt\",\"outside\":[\n"
		       "{\"address\":\"192.0.2.1\",\"ports\":\"0-9\"},\n"
		       "{\"address\":\"192.0.2.1\"},\n"
		       "{\"address\":\"fd00::1\"},\n"
		       "{\"address\":\"127.0.0.1\"}],\"inside\":[{\"address\":\"10.0.0.1\"}]}}",
	 "p:4:1: nat.inside: only mode twice has inside addresses\n"
	 "p:5:1: nat.outside: port 0 is no port\n"
	 "p:6:1: nat.outside: 192.0.2.1 is there twice, first in line 5\n"
	 "p:7:1: nat.outside: fd00::1: only IPv4 is translated\n"
	 "p:8:1: nat.outside: 127.0.0.1 is no unicast address\n"},
	{"{" SIMCO ",\n" AGENTS(
		 POOL) ",\n" FW
		       ",\n\"nat\":{\"mode\":\"twice\",\"outside\":[{\"address\":\"192.0.2.1\"}]}}",
	 "p:4:1: nat.inside: mode twice needs inside addresses\n"},
	{"{" SIMCO ",\n" AGENTS(POOL) ",\n" FW ",\n" NAT(
		 ",\"source\":[\n{\"from\":\"10.0.0.0/8\",\"to_address\":\"192.0.2.1\","
		 "\"ports\":\"30000-40000\"},\n"
		 "{\"from\":\"::/0\",\"to_address\":\"192.0.2.2\"}],\"static\":[\n"
		 "{\"protocol\":\"udp\",\"outside\":\"192.0.2.1:5060\",\"inside\":\"10.0.0.1:"
		 "5060\"},\n"
		 "{\"protocol\":\"udp\",\"outside\":\"192.0.2.1:5060\",\"inside\":\"10.0.0.2:"
		 "5060\"},\n"
		 "{\"protocol\":\"tcp\",\"outside\":\"192.0.2.1:20000\",\"inside\":\"10.0.0.2:"
		 "0\"}]") "}",
	 "p:5:1: nat.source: ports 30000-40000 overlap the pool's 16384-32767\n"
	 "p:6:1: nat.source: mixes IPv4 and IPv6\n"
	 "p:8:1: nat.static: 192.0.2.1:5060 is there twice, first in line 7\n"
	 "p:9:1: nat.static: inside: port 0 is no port\n"
	 "p:9:1: nat.static: 192.0.2.1:20000 is a port of the pool\n"},
	{"{" PLAIN ",\"ledger\":\"x\",\n\"rest\":{\"listen\":[\"unix:x\",\"x\",\"127.0.0.1:1\","
	 "\"10.0.0.1:1\",\"unix:/a\",\"unix:/a\"]}}",
	 "p: ledger: must be an absolute path\n"
	 "p:4:1: rest.listen: unix:x: needs an absolute path of at most 107 octets\n"
	 "p:4:1: rest.listen: x is neither unix:/path nor address:port\n"
	 "p:4:1: rest.listen: 127.0.0.1:1 needs token_file or open_loopback\n"
	 "p:4:1: rest.listen: 10.0.0.1:1 needs token_file\n"
	 "p:4:1: rest.listen: unix:/a is there twice\n"},
	/* The schema's findings and the cross-checks' together. */
	{"{\"simco\":{\"listen\":[\"10.0.0.1:7626\"]},\n\"oops\":1,\n" AGENTS(POOL) ",\n" FW "}",
	 "p:1:1: simco.listen: 10.0.0.1:7626 is not loopback: needs tls, or plain set to true\n"
	 "p:2:1: oops: unknown key\n"
	 "p:3:1: agents.a: has a pool, but there is no nat\n"},
};

static void print_all(const struct conf_errors *errs, char *text, size_t size)
{
	FILE *f = fmemopen(text, size, "w");

	assert_non_null(f);
	conf_errors_print(errs, f);
	fclose(f);
}

/* Columns of cross-checks are those of the object; only the line is compared there. */
static void test_errors(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct conf_errors errs = {0};
		struct mbx_policy *p = NULL;
		char text[4096] = "";

		assert_int_not_equal(mbx_policy_parse(span_str(bad[i].in), "p", &p, &errs), 0);
		assert_null(p);
		print_all(&errs, text, sizeof(text));
		assert_string_equal(text, bad[i].out);
		conf_errors_fini(&errs);
	}
}

static void test_derived(void **state)
{
	static const char text[] =
		"{\"simco\":{\"listen\":[\"127.0.0.1:0\"],\"max_lifetime\":100},\n"
		"\"agents\":{\"a\":{\"address\":[\"127.0.0.1\"],\"may\":[\"reserve\",\"disable\"],"
		"\"pool\":\"192.0.2.1\",\"max_rules\":7,\"wildcards\":true,\"owners\":[\"b\"],"
		"\"permit\":[{\"internal\":\"10.0.0.0/8\",\"external\":\"0.0.0.0/0\","
		"\"protocol\":\"udp\",\"ports\":\"5-6\",\"external_ports\":\"7\"}]},\n"
		"\"b\":{\"address\":[\"127.0.0.2\"],\"pool\":\"192.0.2.1\",\"permit\":[]}},\n"
		"\"firewall\":{\"mode\":\"mark\",\"mark\":9,\"inside\":[\"i\"],\"outside\":[\"o\"],"
		"\"permit\":[{\"from\":\"::/0\",\"to\":\"::/0\",\"protocol\":\"icmpv6\"}]},\n"
		"\"nat\":{\"mode\":\"napt\",\"outside\":[{\"address\":\"192.0.2.1\"}],"
		"\"source\":[{\"from\":\"10.0.0.0/8\",\"to_address\":\"192.0.2.1\"}],"
		"\"static\":[{\"protocol\":\"tcp\",\"outside\":\"192.0.2.1:80\","
		"\"inside\":\"10.0.0.1:8080\"}]}}";
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	const struct agent_conf *a;

	(void)state;
	assert_int_equal(mbx_policy_parse(SPAN_LIT(text), "p", &p, &errs), 0);
	a = p->core.agents;
	assert_int_equal(p->core.n_agents, 2);
	assert_string_equal(a[0].name, "a");
	assert_int_equal(a[0].may, AGENT_MAY_RESERVE | AGENT_MAY_DISABLE);
	assert_int_equal(a[1].may, AGENT_MAY_RESERVE | AGENT_MAY_ENABLE);
	assert_int_equal(a[0].max_rules, 7);
	assert_int_equal(a[0].n_permits, 1);
	assert_int_equal(a[0].permits[0].protocol, 17);
	assert_int_equal(a[0].permits[0].ports.last, 6);
	assert_true(a[0].permits[0].has_external_ports);
	assert_string_equal(a[0].owners[0], "b");
	assert_int_equal(p->core.max_lifetime, 100);
	assert_int_equal(p->core.nat, FW_NAT_NAPT);
	assert_int_equal(p->core.pools[0].ports.first, 16384);
	assert_int_equal(p->fw.mode, FW_MARK);
	assert_int_equal(p->fw.mark, 9);
	assert_string_equal(p->fw.inside_if[0], "i");
	assert_int_equal(p->fw.permits[0].protocol, 58);
	assert_int_equal(p->fw.sources[0].ports.first, 40000);
	assert_int_equal(p->fw.statics[0].inside.port, 8080);
	assert_string_equal(p->fw.table, "sluice");
	assert_true(p->fw.max_elements > p->limits.rules * 2);
	assert_non_null(mbx_policy_agent(p, "b"));
	assert_null(mbx_policy_agent(p, "c"));
	mbx_policy_free(p);
}

/* A pure firewall needs little. */
static void test_small(void **state)
{
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;

	(void)state;
	assert_int_equal(mbx_policy_parse(SPAN_LIT("{" PLAIN "}"), "p", &p, &errs), 0);
	assert_int_equal(p->core.nat, FW_NAT_NONE);
	assert_int_equal(p->rest.listen.n, 1);
	assert_int_equal(p->limits.sessions, 256);
	mbx_policy_free(p);
}

static void test_secrets(void **state)
{
	char path[] = "/tmp/sluice-test-secret-XXXXXX", text[1024], out[512] = "";
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	snprintf(text, sizeof(text),
		 "{" SIMCO ",\"agents\":{\"a\":{\"secret_file\":\"%s\",\"permit\":[]}},\n" FW "}",
		 path);
	assert_int_equal(write(fd, "0123456789abcde\n", 16), 16);
	assert_int_not_equal(mbx_policy_parse(span_str(text), "p", &p, &errs), 0);
	conf_errors_fini(&errs);
	assert_int_equal(pwrite(fd, "0123456789abcdef\n", 17, 0), 17);
	assert_int_equal(mbx_policy_parse(span_str(text), "p", &p, &errs), 0);
	assert_true(span_eq_str(mbx_policy_agent(p, "a")->secret, "0123456789abcdef"));
	mbx_policy_free(p);
	p = NULL;

	snprintf(text, sizeof(text),
		 "{" SIMCO ",\"agents\":{\"a\":{\"secret_file\":\"%s\",\"permit\":[]},\n"
		 "\"b\":{\"secret_file\":\"%s\",\"permit\":[]}},\n" FW "}",
		 path, path);
	assert_int_not_equal(mbx_policy_parse(span_str(text), "p", &p, &errs), 0);
	print_all(&errs, out, sizeof(out));
	assert_string_equal(out, "p:2:1: agents: b has the same secret as a\n");
	conf_errors_fini(&errs);
	close(fd);
	unlink(path);
}

/* What is installed must be what the code means. */
static void test_shipped(void **state)
{
	const char *src = getenv("SRCDIR");
	char path[512], *text = NULL, *want;
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	snprintf(path, sizeof(path), "%s/etc/middlebox.json", src != NULL ? src : ".");
	assert_int_equal(mbx_policy_load(path, &p, &errs), 0);
	mbx_policy_free(p);

	conf_schema_print(mbx_policy_schema(), "Policy of sluice-middlebox", f);
	fclose(f);
	snprintf(path, sizeof(path), "%s/etc/middlebox.schema.json", src != NULL ? src : ".");
	f = fopen(path, "r");
	assert_non_null(f);
	want = calloc(1, n + 2);
	assert_int_equal(fread(want, 1, n + 1, f), n);
	fclose(f);
	assert_string_equal(text, want);
	free(want);
	free(text);
}

static void ignore(const char *text, void *arg)
{
	(void)text;
	++*(int *)arg;
}

static void test_warnings(void **state)
{
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	int n = 0;

	(void)state;
	assert_int_equal(
		mbx_policy_parse(SPAN_LIT("{" SIMCO "," AGENTS(
					 ",\"max_rules\":99") "," FW ",\"limits\":{\"rules\":98}}"),
				 "p", &p, &errs),
		0);
	mbx_policy_warnings(p, ignore, &n);
	assert_int_equal(n, 1);
	mbx_policy_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors),	cmocka_unit_test(test_derived),
		cmocka_unit_test(test_small),	cmocka_unit_test(test_secrets),
		cmocka_unit_test(test_shipped), cmocka_unit_test(test_warnings),
	};

	return cmocka_run_group_tests_name("mbx_policy", tests, NULL, NULL);
}
