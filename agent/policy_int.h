/*
 * Shared by policy.c and policy_check.c only.
 */
#ifndef SLUICE_AGENT_POLICY_INT_H
#define SLUICE_AGENT_POLICY_INT_H

#include "agent/policy.h"

/*
 * Resolves names and records every contradiction in a struct policy; a
 * conf_check_fn, so values that the schema refused are zero.
 */
void policy_check(void *filled, struct conf_errors *errs);

#endif
