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
#include "tests/unit/failing_alloc.h"

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

		alloc_fail_after(n, 1);
		rc = mbx_policy_parse(SPAN_LIT(good), "p", &p, &errs);
		alloc_allowed = ALLOC_ALL;
		assert_int_equal(rc, alloc_failed ? ERR_NOMEM : 0);
		assert_true((p != NULL) == (rc == 0));
		mbx_policy_free(p);
		conf_errors_fini(&errs);
		if (!alloc_failed)
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

		alloc_fail_after(n, 1);
		rc = mbx_policy_parse(SPAN_LIT(bad), "p", &p, &errs);
		alloc_allowed = ALLOC_ALL;
		assert_true(rc != 0 && p == NULL);
		assert_true(alloc_failed || errs.n == 4);
		conf_errors_fini(&errs);
		if (!alloc_failed)
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
