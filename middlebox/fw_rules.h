/*
 * Shared by fw_rules.c and fw_rules_nat.c.
 */
#ifndef SLUICE_MIDDLEBOX_FW_RULES_H
#define SLUICE_MIDDLEBOX_FW_RULES_H

#include "middlebox/fw_expr.h"
#include "middlebox/fw_nft.h"

/* The protocols that have ports. */
#define FW_PORT_PROTOCOLS 2
extern const uint8_t fw_port_protocols[FW_PORT_PROTOCOLS];

/* A rule at the end of one of our chains. */
struct rule rule_start_in(struct fw_nft *f, const char *chain, const char *note);
/* Loads the fields of a set's key, in key order, into registers from REG(0) on. */
void fw_rules_load_tuple(struct rule *r, const struct fw_set *s);
void fw_rules_put_nat(struct fw_nft *f);

#endif
