/*
 * Shared by the policy_*.c files only.
 */
#ifndef SLUICE_MIDDLEBOX_POLICY_INT_H
#define SLUICE_MIDDLEBOX_POLICY_INT_H

#include "middlebox/policy.h"

#define MBX_SECRET_MIN 16u
#define MBX_SECRET_MAX 4096u

/* policy_check.c: everything that needs more than one key. A conf_check_fn. */
void mbx_policy_check(void *policy, struct conf_errors *errs);
/* "udp", "tcp", "icmp", "icmpv6", "any" or a number 1..255. 0 or ERR_INVALID. */
int mbx_protocol_parse(const char *text, uint8_t *out);

/* policy_fill.c: derives p->core and p->fw. 0 or ERR_NOMEM. */
int mbx_policy_fill(struct mbx_policy *p);

#endif
