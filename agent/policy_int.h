/*
 * Shared by policy.c and policy_check.c only.
 */
#ifndef SLUICE_AGENT_POLICY_INT_H
#define SLUICE_AGENT_POLICY_INT_H

#include "agent/policy.h"

/* Resolves names and records every contradiction; 0 or ERR_INVALID. */
int policy_check(struct policy *p, struct conf_errors *errs);

#endif
