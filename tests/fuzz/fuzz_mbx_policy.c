/*
 * Policy texts against the middlebox's schema and its cross-checks. Files that
 * a policy names are not touched.
 */
#include <stdint.h>
#include <stdlib.h>

#include "middlebox/policy_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conf_errors errs = {0};
	struct mbx_policy *p = calloc(1, sizeof(*p));
	int rc;

	if (p == NULL)
		return 0;
	rc = conf_parse_checked(span_of(data, size), "fuzz", mbx_policy_schema(), mbx_policy_check,
				p, &p->owner, &errs);
	if ((rc == 0) != (errs.n == 0))
		abort();
	if (rc == 0 && (mbx_policy_fill(p) != 0 || p->core.n_agents == 0 || p->fw.n_inside_if == 0))
		abort();
	conf_errors_fini(&errs);
	mbx_policy_free(p);
	return 0;
}
