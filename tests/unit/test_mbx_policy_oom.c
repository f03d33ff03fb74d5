/*
 * The policy with the n-th allocation failing, for every n: a good one is read
 * or refused for want of memory, a bad one is never accepted, nothing leaks
 * (sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "common/errcode.h"
#include "middlebox/policy.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static unsigned long allowed = UINT32_MAX; /* allocations before one fails */
static bool failed;

static bool fails(void)
{
	if (allowed-- > 0)
		return false;
	allowed = UINT32_MAX;
	failed = true;
	return true;
}

void *__wrap_malloc(size_t n)
{
	return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails() ? NULL : __real_realloc(p, n);
}

static const char good[] =
	"{\"simco\":{\"listen\":[\"127.0.0.1:0\"]},\"agents\":{\"a\":{\"address\":[\"127.0.0.1\"],"
	"\"pool\":\"192.0.2.1\",\"owners\":[\"b\"],\"permit\":[{\"internal\":\"10.0.0.0/8\","
	"\"external\":\"0.0.0.0/0\"}]},\"b\":{\"address\":[\"127.0.0.2\"],\"pool\":\"192.0.2.1\","
	"\"permit\":[]}},\"firewall\":{\"inside\":[\"i\"],\"outside\":[\"o\"],\"permit\":["
	"{\"from\":\"::/0\",\"to\":\"::/0\"}]},\"nat\":{\"mode\":\"napt\",\"outside\":["
	"{\"address\":\"192.0.2.1\"}],\"source\":[{\"from\":\"10.0.0.0/8\","
	"\"to_address\":\"192.0.2.1\"}],\"static\":[]}}";

static void test_good(void **state)
{
	(void)state;
	for (unsigned long n = 0;; n++) {
		struct conf_errors errs = {0};
		struct mbx_policy *p = NULL;
		int rc;

		allowed = n;
		failed = false;
		rc = mbx_policy_parse(SPAN_LIT(good), "p", &p, &errs);
		allowed = UINT32_MAX;
		assert_int_equal(rc, failed ? ERR_NOMEM : 0);
		assert_true((p != NULL) == (rc == 0));
		mbx_policy_free(p);
		conf_errors_fini(&errs);
		if (!failed)
			break;
	}
}

static void test_bad(void **state)
{
	static const char bad[] = "{\"simco\":{\"listen\":[\"10.0.0.1:0\"]},\"agents\":{\"a\":{"
				  "\"address\":[\"x\"],\"permit\":[]}},\"oops\":1,\"firewall\":{"
				  "\"inside\":[\"i\"],\"outside\":[\"i\"]}}";

	(void)state;
	for (unsigned long n = 0;; n++) {
		struct conf_errors errs = {0};
		struct mbx_policy *p = NULL;
		int rc;

		allowed = n;
		failed = false;
		rc = mbx_policy_parse(SPAN_LIT(bad), "p", &p, &errs);
		allowed = UINT32_MAX;
		assert_true(rc != 0 && p == NULL);
		assert_true(failed || errs.n == 4);
		conf_errors_fini(&errs);
		if (!failed)
			break;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests_name("mbx_policy_oom", tests, NULL, NULL);
}
