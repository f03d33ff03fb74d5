/*
 * Shared by policy.c, policy_check.c and policy_rtsp.c only.
 */
#ifndef SLUICE_AGENT_POLICY_INT_H
#define SLUICE_AGENT_POLICY_INT_H

#include "agent/policy.h"

extern const struct conf_key policy_rtsp_keys[], policy_relay_keys[];

/*
 * Resolves names and records every contradiction in a struct policy; a
 * conf_check_fn, so values that the schema refused are zero.
 */
void policy_check(void *filled, struct conf_errors *errs);
void policy_check_rtsp(const struct policy *p, struct conf_errors *errs);
/* NULL when there is none. */
const struct zone *policy_zone_by_name(const struct policy *p, const char *name);

#endif
