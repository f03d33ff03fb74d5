/*
 * Address tuples as values: conversion from and to SIMCO, wildcards, overlap,
 * and the kernel matches that a rule's tuples mean. Pure.
 */
#ifndef SLUICE_MIDDLEBOX_TUPLE_H
#define SLUICE_MIDDLEBOX_TUPLE_H

#include "middlebox/fw.h"
#include "middlebox/rule.h"

struct tuple tuple_from_simco(const struct simco_tuple *s);
struct simco_tuple tuple_to_simco(const struct tuple *t, enum simco_location location);
/* One exact address and `range` ports from `port` on. */
struct tuple tuple_exact(const struct addr *a, uint8_t protocol, uint16_t port, uint16_t range);
/* "Protocols only": no address, no port (§8.2.2). */
struct tuple tuple_protocols(uint8_t version, uint8_t protocol);

uint8_t tuple_version(const struct tuple *t); /* 4, 6 or 0 */
struct addr tuple_addr(const struct tuple *t);
/* What it covers, after the wildcards of §8.3.1. */
struct addr_prefix tuple_prefix(const struct tuple *t);
struct port_range tuple_ports(const struct tuple *t);
bool tuple_addr_exact(const struct tuple *t);
bool tuple_port_any(const struct tuple *t);
/* Some packet's end lies in both. */
bool tuple_overlaps(const struct tuple *a, const struct tuple *b);
/* RFC 4540 §8.8.1: some packet matches A0 and A3 of both. */
bool rule_conflicts(const struct rule *a, const struct rule *b);

/* Elements per direction. Port ranges on both ends are parallel pairs; all with all to disable. */
unsigned rule_pairs(const struct rule *r);
/* The i-th one; `direction` is SIMCO_INBOUND or SIMCO_OUTBOUND. */
void rule_match(const struct rule *r, uint8_t direction, unsigned i, struct fw_match *m);
/* Ports to which the rule's internal and outside tuples map one to one; 0 without NAT. */
unsigned rule_bindings(const struct rule *r);
bool match_eq(const struct fw_match *a, const struct fw_match *b);

#endif
