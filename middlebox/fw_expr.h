/*
 * Rules, expression by expression: thin words over libnftnl for fw_rules.c and
 * fw_probe.c. A failed allocation is remembered in the batch.
 */
#ifndef SLUICE_MIDDLEBOX_FW_EXPR_H
#define SLUICE_MIDDLEBOX_FW_EXPR_H

#include "common/addr.h"
#include "middlebox/fw_nl.h"

struct nftnl_rule;

/* One rule under construction. */
struct rule {
	struct fw_batch *b;
	struct nftnl_rule *r; /* NULL after a failed allocation */
};

/* Four-octet registers 0..15. */
#define REG(n) (8u + (n)) /* NFT_REG32_00 + n */

/* `note` is shown by nft as the rule's comment. */
struct rule rule_start(struct fw_batch *b, const char *table, const char *chain, const char *note);
/* Puts the NEWRULE message and frees the rule. */
void rule_end(struct rule *r);

void rule_meta(struct rule *r, uint32_t key, uint32_t dreg);
void rule_meta_set(struct rule *r, uint32_t key, uint32_t sreg);
void rule_network(struct rule *r, uint32_t offset, uint32_t len, uint32_t dreg);
void rule_transport(struct rule *r, uint32_t offset, uint32_t len, uint32_t dreg);
void rule_equal(struct rule *r, uint32_t sreg, const void *data, uint32_t len);
void rule_differs(struct rule *r, uint32_t sreg, const void *data, uint32_t len);
void rule_between(struct rule *r, uint32_t sreg, const void *from, const void *to, uint32_t len);
/* dreg = sreg & mask ^ xor, four octets. */
void rule_bits(struct rule *r, uint32_t reg, uint32_t mask, uint32_t xor);
void rule_and(struct rule *r, uint32_t reg, const uint8_t *mask, uint32_t len);
void rule_lookup(struct rule *r, const char *set, uint32_t sreg);
void rule_lookup_map(struct rule *r, const char *map, uint32_t sreg, uint32_t dreg);
void rule_load(struct rule *r, uint32_t dreg, const void *data, uint32_t len);
/* dir: 0 original, 1 reply, -1 none */
void rule_ct(struct rule *r, uint32_t key, int dir, uint32_t dreg);
void rule_ct_set(struct rule *r, uint32_t key, uint32_t sreg);
void rule_verdict(struct rule *r, int verdict);
void rule_jump(struct rule *r, const char *chain);
/* Registers hold address and ports; proto 0: the ports are kept. */
void rule_nat(struct rule *r, bool source, uint32_t addr, uint32_t port_min, uint32_t port_max);
void rule_masquerade(struct rule *r, uint32_t port_min, uint32_t port_max);
/* Per IP version: the kernel never turns defragmentation off after one for both. */
void rule_tproxy(struct rule *r, uint8_t version, uint32_t port);

/* Compound conditions. */
void rule_family(struct rule *r, uint8_t version);
void rule_protocol(struct rule *r, uint8_t protocol);
void rule_interface(struct rule *r, bool in, const char *name);
void rule_prefix(struct rule *r, bool source, const struct addr_prefix *p); /* any: nothing */
void rule_ports(struct rule *r, bool source, const struct port_range *p);   /* any: nothing */

#endif
