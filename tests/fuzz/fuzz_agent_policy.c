/*
 * Any text as the agent's policy: refused with findings, or a policy that can
 * be asked about every zone, path and permit in it.
 */
#include <netinet/in.h>
#include <stdlib.h>

#include "agent/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct policy *p)
{
	const struct zone *zones = p->zones.v;

	for (size_t i = 0; i < p->zones.n; i++) {
		const struct addr_prefix *net = zones[i].networks.v;
		struct addr_port a = {.addr = net->addr, .port = 5000};

		if (policy_zone(p, &a.addr) == NULL)
			abort(); /* the zone itself contains it */
		(void)policy_path(p, &a.addr, &net->addr);
		(void)policy_permits(p, IPPROTO_UDP, &a, &a);
	}
	for (size_t i = 0; i < p->paths.n; i++) {
		const struct path *path = (const struct path *)p->paths.v + i;

		if (path->from_zone == NULL || path->to_zone == NULL ||
		    path->n_middleboxes != path->through.n)
			abort(); /* accepted with a name that leads nowhere */
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conf_errors errs = {.n = 0};
	struct policy *p = NULL;
	int err = policy_parse(span_of(data, size), "fuzz", &p, &errs);

	if ((err == 0) != (errs.n == 0) || (err == 0) != (p != NULL))
		abort();
	if (p != NULL)
		ask(p);
	conf_errors_fini(&errs);
	policy_free(p);
	return 0;
}
