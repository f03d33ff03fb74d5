/*
 * The policy as the core and the firewall driver want it.
 */
#include "common/errcode.h"
#include "middlebox/policy_int.h"

/* Elements per rule: both directions, with room for a wildcard's shapes. */
#define ELEMENTS_PER_RULE 4
#define GRACE_MS 10000
#define EXPIRE_EVERY_MS 2

static void *array(struct mbx_policy *p, size_t n, size_t size)
{
	return conf_alloc(p->owner, n > 0 ? n * size : 1);
}

static int fill_agent(struct mbx_policy *p, const struct mbx_agent *a, struct agent_conf *out)
{
	const struct mbx_permit *m = a->permit.v;
	struct agent_permit *permits = array(p, a->permit.n, sizeof(*permits));
	const int *may = a->may.v;

	if (permits == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < a->permit.n; i++)
		permits[i] = (struct agent_permit){
			.internal = m[i].internal,
			.external = m[i].external,
			.protocol = m[i].protocol,
			.ports = m[i].ports,
			.external_ports = m[i].external_ports,
			.has_external_ports = m[i].has_external_ports,
		};
	*out = (struct agent_conf){
		.name = a->name,
		.pool = a->pool,
		.max_rules = (uint32_t)a->max_rules,
		.max_lifetime = (uint32_t)a->max_lifetime,
		.wildcards = a->wildcards,
		.permits = permits,
		.n_permits = a->permit.n,
		.owners = a->owners.v,
		.n_owners = a->owners.n,
		.idle_timeout = (uint32_t)a->idle_timeout,
	};
	for (size_t i = 0; i < a->may.n; i++)
		out->may |= (unsigned)may[i];
	return 0;
}

static struct fw_pool *fill_pools(struct mbx_policy *p, const struct conf_list *list)
{
	const struct mbx_pool *m = list->v;
	struct fw_pool *out = array(p, list->n, sizeof(*out));

	for (size_t i = 0; out != NULL && i < list->n; i++)
		out[i] = (struct fw_pool){.address = m[i].address, .ports = m[i].ports};
	return out;
}

static int fill_core(struct mbx_policy *p)
{
	const struct mbx_agent *a = p->agents.v;
	struct agent_conf *agents = array(p, p->agents.n, sizeof(*agents));
	struct core_conf *c = &p->core;
	int rc = 0;

	if (agents == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; rc == 0 && i < p->agents.n; i++)
		rc = fill_agent(p, &a[i], &agents[i]);
	*c = (struct core_conf){
		.ledger_file = p->ledger,
		.max_rules = (uint32_t)p->limits.rules,
		.max_lifetime = (uint32_t)p->simco.max_lifetime,
		.grace_ms = GRACE_MS,
		.expire_every_ms = EXPIRE_EVERY_MS,
		.nat = p->nat.present ? (enum fw_nat_mode)p->nat.mode : FW_NAT_NONE,
		.pools = fill_pools(p, &p->nat.outside),
		.n_pools = p->nat.outside.n,
		.inside_pools = fill_pools(p, &p->nat.inside),
		.n_inside_pools = p->nat.inside.n,
		.agents = agents,
		.n_agents = p->agents.n,
		.ipv4 = true,
		.ipv6 = true,
	};
	return rc != 0 || c->pools == NULL || c->inside_pools == NULL ? ERR_NOMEM : 0;
}

static struct fw_permit *fill_permits(struct mbx_policy *p)
{
	const struct mbx_fw_permit *m = p->firewall.permit.v;
	struct fw_permit *out = array(p, p->firewall.permit.n, sizeof(*out));

	for (size_t i = 0; out != NULL && i < p->firewall.permit.n; i++) {
		out[i] = (struct fw_permit){.from = m[i].from, .to = m[i].to, .ports = m[i].ports};
		mbx_protocol_parse(m[i].protocol, &out[i].protocol); /* was checked */
	}
	return out;
}

static struct fw_source *fill_sources(struct mbx_policy *p)
{
	const struct mbx_source *m = p->nat.source.v;
	struct fw_source *out = array(p, p->nat.source.n, sizeof(*out));

	for (size_t i = 0; out != NULL && i < p->nat.source.n; i++)
		out[i] = (struct fw_source){
			.from = m[i].from, .to_address = m[i].to_address, .ports = m[i].ports};
	return out;
}

static struct fw_static *fill_statics(struct mbx_policy *p)
{
	const struct mbx_static *m = p->nat.statics.v;
	struct fw_static *out = array(p, p->nat.statics.n, sizeof(*out));

	for (size_t i = 0; out != NULL && i < p->nat.statics.n; i++)
		out[i] = (struct fw_static){.protocol = (uint8_t)m[i].protocol,
					    .outside = m[i].outside,
					    .inside = m[i].inside};
	return out;
}

/* Where agents and the operator reach the daemon by TCP; sets *n. */
static struct addr_port *fill_control(struct mbx_policy *p, size_t *n)
{
	const struct addr_port *simco = p->simco.listen.v;
	const char *const *rest = p->rest.listen.v;
	struct addr_port *out = array(p, p->simco.listen.n + p->rest.listen.n, sizeof(*out));

	*n = 0;
	for (size_t i = 0; out != NULL && i < p->simco.listen.n; i++)
		out[(*n)++] = simco[i];
	for (size_t i = 0; out != NULL && i < p->rest.listen.n; i++)
		if (addr_port_parse(span_str(rest[i]), &out[*n]) == 0)
			(*n)++;
	return out;
}

int mbx_policy_fill(struct mbx_policy *p)
{
	struct fw_config *f = &p->fw;
	size_t n_control;
	struct addr_port *control = fill_control(p, &n_control);

	if (fill_core(p) != 0)
		return ERR_NOMEM;
	*f = (struct fw_config){
		.table = p->firewall.table,
		.mode = (enum fw_mode)p->firewall.mode,
		.mark = (uint32_t)p->firewall.mark,
		.inside_if = p->firewall.inside.v,
		.outside_if = p->firewall.outside.v,
		.n_inside_if = p->firewall.inside.n,
		.n_outside_if = p->firewall.outside.n,
		.permits = fill_permits(p),
		.n_permits = p->firewall.permit.n,
		.nat = p->core.nat,
		.pools = p->core.pools,
		.n_pools = p->core.n_pools,
		.sources = fill_sources(p),
		.n_sources = p->nat.source.n,
		.statics = fill_statics(p),
		.n_statics = p->nat.statics.n,
		.control = control,
		.n_control = n_control,
		.max_elements = (size_t)p->limits.rules * ELEMENTS_PER_RULE + 1024,
		.counters = p->firewall.counters,
	};
	return f->permits == NULL || f->sources == NULL || f->statics == NULL || control == NULL
		       ? ERR_NOMEM
		       : 0;
}
