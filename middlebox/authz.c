#include "middlebox/authz.h"

#include <string.h>

#include "middlebox/tuple.h"

/* The wildcard of a tuple needs the wildcard of the permit. */
static bool covers_protocol(const struct agent_permit *p, uint8_t protocol)
{
	return p->protocol == 0 || p->protocol == protocol;
}

static bool covers_address(const struct addr_prefix *p, const struct tuple *t)
{
	struct addr_prefix want = tuple_prefix(t);

	return p->len <= want.len && addr_prefix_contains(p, &want.addr);
}

static bool covers_ports(struct port_range p, const struct tuple *t)
{
	struct port_range want = tuple_ports(t);

	if (want.first == 0)
		want.first = 1; /* no packet has port 0 */
	return p.first <= want.first && p.last >= want.last;
}

uint16_t authz_tuples(const struct agent_conf *a, const struct tuple *internal,
		      const struct tuple *external)
{
	uint16_t miss = SIMCO_ADDRESS_SPACE_UNAVAILABLE;

	for (size_t i = 0; i < a->n_permits; i++) {
		const struct agent_permit *p = &a->permits[i];

		if (!covers_protocol(p, internal->protocol))
			continue;
		if (!covers_address(&p->internal, internal) ||
		    !covers_address(&p->external, external)) {
			if (miss == SIMCO_ADDRESS_SPACE_UNAVAILABLE)
				miss = SIMCO_ILLEGAL_ADDRESS;
			continue;
		}
		if (covers_ports(p->ports, internal) &&
		    covers_ports(p->has_external_ports ? p->external_ports : p->ports, external))
			return 0;
		miss = SIMCO_ILLEGAL_PORT;
	}
	return miss;
}

uint16_t authz_reserve(const struct agent_conf *a, uint8_t protocol, uint8_t version)
{
	for (size_t i = 0; i < a->n_permits; i++) {
		const struct agent_permit *p = &a->permits[i];

		/* Protocol 0 asks for whatever there is. */
		if ((protocol == 0 || covers_protocol(p, protocol)) &&
		    (version == 0 || p->internal.addr.version == version))
			return 0;
	}
	return SIMCO_ADDRESS_SPACE_UNAVAILABLE;
}

bool authz_sees(const struct agent_conf *a, const char *owner)
{
	if (strcmp(a->name, owner) == 0)
		return true;
	for (size_t i = 0; i < a->n_owners; i++) {
		if (strcmp(a->owners[i], owner) == 0)
			return true;
	}
	return false;
}
