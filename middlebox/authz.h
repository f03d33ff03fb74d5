/*
 * What an agent may ask for: its permits against the tuples of a request.
 * Pure.
 */
#ifndef SLUICE_MIDDLEBOX_AUTHZ_H
#define SLUICE_MIDDLEBOX_AUTHZ_H

#include "middlebox/core.h"
#include "middlebox/rule.h"

/*
 * One permit must cover both tuples whole. 0, or the nearest miss:
 * SIMCO_ADDRESS_SPACE_UNAVAILABLE (no permit for the protocol),
 * SIMCO_ILLEGAL_ADDRESS, SIMCO_ILLEGAL_PORT.
 */
uint16_t authz_tuples(const struct agent_conf *a, const struct tuple *internal,
		      const struct tuple *external);
/* 0 or SIMCO_ADDRESS_SPACE_UNAVAILABLE (§8.2.1): some permit must have the protocol. */
uint16_t authz_reserve(const struct agent_conf *a, uint8_t protocol, uint8_t version);
bool authz_sees(const struct agent_conf *a, const char *owner);

#endif
