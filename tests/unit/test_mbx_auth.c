/*
 * Who a connection belongs to: addresses, nearness, secrets, tokens.
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

#include "middlebox/mbx_auth.h"

#define SECRET_B "secret of b here"
#define SECRET_C "secret of c here"
#define A(agent, more) "\"" agent "\":{" more ",\"permit\":[]}"
#define POLICY(plain, agents)                                                                      \
	"{\"simco\":{\"listen\":[\"127.0.0.1:0\"],\"plain\":" plain "},\"agents\":{" agents        \
	"},\"firewall\":{\"inside\":[\"i\"],\"outside\":[\"o\"]}}"

static char secret_b[] = "/tmp/sluice-test-b-XXXXXX", secret_c[] = "/tmp/sluice-test-c-XXXXXX";

static int write_secret(char *path, const char *text)
{
	int fd = mkstemp(path), rc;

	if (fd < 0)
		return -1;
	rc = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	close(fd);
	return rc;
}

static int make_secrets(void **state)
{
	(void)state;
	return write_secret(secret_b, SECRET_B "\n") | write_secret(secret_c, SECRET_C);
}

static int drop_secrets(void **state)
{
	(void)state;
	return unlink(secret_b) | unlink(secret_c);
}

static struct mbx_policy *parse(const char *text)
{
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	int rc = mbx_policy_parse(span_str(text), "p", &p, &errs);

	conf_errors_print(&errs, stderr);
	assert_int_equal(rc, 0);
	return p;
}

static struct mbx_identity identify(const struct mbx_policy *p, const char *from)
{
	struct mbx_origin o = {.tls = false};

	assert_int_equal(addr_parse(span_str(from), &o.peer), 0);
	return mbx_auth_identify(p, &o);
}

static void test_address(void **state)
{
	struct mbx_policy *p = parse(POLICY("true", A("wide", "\"address\":[\"10.0.0.0/8\"]") "," A(
							    "near", "\"address\":[\"10.1.0.0/16\","
								    "\"fd00::/8\"]")));

	(void)state;
	assert_string_equal(identify(p, "10.2.0.1").agent->name, "wide");
	assert_string_equal(identify(p, "10.1.0.1").agent->name, "near");
	assert_string_equal(identify(p, "fd00::1").agent->name, "near");
	assert_false(identify(p, "10.1.0.1").challenge);
	assert_int_equal(identify(p, "192.0.2.1").refuse, SIMCO_NO_AUTHORIZATION);
	mbx_policy_free(p);
}

/* Plain TCP from beyond loopback is insecure unless the policy says otherwise. */
static void test_insecure(void **state)
{
	struct mbx_policy *p =
		parse(POLICY("false", A("a", "\"address\":[\"10.0.0.0/8\",\"127.0.0.1\"]")));

	(void)state;
	assert_int_equal(identify(p, "10.0.0.1").refuse, SIMCO_SECURITY_INSUFFICIENT);
	assert_int_equal(identify(p, "127.0.0.1").refuse, 0);
	assert_int_equal(identify(p, "127.0.0.2").refuse, SIMCO_NO_AUTHORIZATION);
	mbx_policy_free(p);
}

/* Agents b and c share a network and have secrets; `more` comes in front. */
static struct mbx_policy *parse_secrets(const char *more)
{
	char text[2048];

	snprintf(text, sizeof(text),
		 POLICY("true",
			"%s" A("b", "\"address\":[\"10.0.0.0/24\"],\"secret_file\":\"%s\"") "," A(
				"c", "\"address\":[\"10.0.0.0/24\",\"10.9.0.0/16\"],"
				     "\"secret_file\":\"%s\"")),
		 more, secret_b, secret_c);
	return parse(text);
}

static void test_secrets_ask_for_a_token(void **state)
{
	struct mbx_policy *p = parse_secrets(A("a", "\"address\":[\"10.0.0.1\"]") ",");
	struct mbx_identity id;

	(void)state;
	id = identify(p, "10.0.0.1"); /* nearest wins, it needs none */
	assert_string_equal(id.agent->name, "a");
	assert_false(id.challenge);
	id = identify(p, "10.0.0.2"); /* two candidates */
	assert_null(id.agent);
	assert_true(id.challenge);
	assert_int_equal(id.refuse, 0);
	id = identify(p, "10.9.0.1");
	assert_string_equal(id.agent->name, "c");
	assert_true(id.challenge);
	mbx_policy_free(p);
}

static size_t make_token(const char *name, const char *secret, const char *role,
			 struct span challenge, uint8_t *out)
{
	uint8_t text[256];
	size_t n = 0;

	if (name != NULL) {
		memcpy(out, name, strlen(name) + 1);
		n = strlen(name) + 1;
	}
	memcpy(text, role, strlen(role) + 1);
	memcpy(text + strlen(role) + 1, challenge.p, challenge.n);
	assert_int_equal(tls_hmac_sha256(span_str(secret),
					 span_of(text, strlen(role) + 1 + challenge.n), out + n),
			 0);
	return n + TLS_SHA256_LEN;
}

static void test_tokens(void **state)
{
	static const char b[] = SECRET_B, c[] = SECRET_C;
	struct mbx_policy *p = parse_secrets("");
	struct span challenge = SPAN_LIT("0123456789abcdef");
	struct mbx_origin o = {.tls = false}, elsewhere = {.tls = false};
	uint8_t t[256];
	size_t n;

	(void)state;
	assert_int_equal(addr_parse(SPAN_LIT("10.0.0.7"), &o.peer), 0);
	assert_int_equal(addr_parse(SPAN_LIT("10.0.1.7"), &elsewhere.peer), 0);

	n = make_token(NULL, c, "agent", challenge, t);
	assert_string_equal(mbx_auth_verify(p, &o, challenge, span_of(t, n))->name, "c");
	assert_null(mbx_auth_verify(p, &elsewhere, challenge, span_of(t, n)));
	assert_null(mbx_auth_verify(p, &o, SPAN_LIT("another challenge"), span_of(t, n)));
	assert_null(mbx_auth_verify(p, &o, challenge, span_of(t, n - 1)));
	for (size_t i = 0; i < n; i++) { /* every octet counts */
		t[i] ^= 1;
		assert_null(mbx_auth_verify(p, &o, challenge, span_of(t, n)));
		t[i] ^= 1;
	}
	n = make_token("b", b, "agent", challenge, t);
	assert_string_equal(mbx_auth_verify(p, &o, challenge, span_of(t, n))->name, "b");
	n = make_token("c", b, "agent", challenge, t); /* b says that it is c */
	assert_null(mbx_auth_verify(p, &o, challenge, span_of(t, n)));
	n = make_token("", b, "agent", challenge, t);
	assert_null(mbx_auth_verify(p, &o, challenge, span_of(t, n)));
	n = make_token(NULL, b, "middlebox", challenge, t); /* reflected */
	assert_null(mbx_auth_verify(p, &o, challenge, span_of(t, n)));
	assert_null(mbx_auth_verify(p, &o, challenge, SPAN_EMPTY));

	n = make_token(NULL, b, "middlebox", challenge, t);
	assert_int_equal(mbx_auth_answer(mbx_policy_agent(p, "b"), challenge, t + 64), n);
	assert_memory_equal(t, t + 64, n);
	assert_int_equal(mbx_auth_answer(NULL, challenge, t), 0);
	mbx_policy_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_address),
		cmocka_unit_test(test_insecure),
		cmocka_unit_test(test_secrets_ask_for_a_token),
		cmocka_unit_test(test_tokens),
	};

	return cmocka_run_group_tests_name("mbx_auth", tests, make_secrets, drop_secrets);
}
