/*
 * What no single row of the schema can say: how the keys of the policy fit
 * together. Values that the schema already found wrong are zero here and are
 * passed over.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/errcode.h"
#include "middlebox/policy_int.h"

#define IF_NAME_MAX 15
#define UNIX_PATH_MAX_LEN 107

int mbx_protocol_parse(const char *text, uint8_t *out)
{
	static const struct {
		const char *name;
		uint8_t number;
	} names[] = {{"any", 0},
		     {"udp", IPPROTO_UDP},
		     {"tcp", IPPROTO_TCP},
		     {"icmp", IPPROTO_ICMP},
		     {"icmpv6", IPPROTO_ICMPV6}};
	uint64_t v;

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(text, names[i].name) == 0) {
			*out = names[i].number;
			return 0;
		}
	}
	if (span_u64(span_str(text), 255, &v) != 0 || v == 0)
		return ERR_INVALID;
	*out = (uint8_t)v;
	return 0;
}

static bool ports_overlap(struct port_range a, struct port_range b)
{
	return a.first <= b.last && b.first <= a.last;
}

static void check_ports(struct conf_errors *errs, unsigned line, const char *key,
			struct port_range r)
{
	if (r.first == 0 && r.last != 0)
		conf_error(errs, line, key, "port 0 is no port");
}

static void check_versions(struct conf_errors *errs, unsigned line, const char *key,
			   const struct addr *a, const struct addr *b)
{
	if (a->version != 0 && b->version != 0 && a->version != b->version)
		conf_error(errs, line, key, "mixes IPv4 and IPv6");
}

/* ---- simco, rest ------------------------------------------------------------------ */

static void check_simco(const struct mbx_policy *p, struct conf_errors *errs)
{
	const struct addr_port *at = p->simco.listen.v;

	for (size_t i = 0; i < p->simco.listen.n; i++) {
		char text[ADDR_PORT_STRLEN];

		addr_port_str(&at[i], text);
		if (!addr_is_loopback(&at[i].addr) && !p->simco.tls.present && !p->simco.plain)
			conf_error(errs, p->simco.line, "simco.listen",
				   "%s is not loopback: needs tls, or plain set to true", text);
		for (size_t k = 0; k < i; k++)
			if (addr_port_eq(&at[i], &at[k]) && at[i].port != 0)
				conf_error(errs, p->simco.line, "simco.listen", "%s is there twice",
					   text);
	}
}

static void check_rest(const struct mbx_policy *p, struct conf_errors *errs)
{
	const char *const *listen = p->rest.listen.v;

	for (size_t i = 0; i < p->rest.listen.n; i++) {
		struct addr_port at;

		if (strncmp(listen[i], "unix:", 5) == 0) {
			if (listen[i][5] != '/' || strlen(listen[i] + 5) > UNIX_PATH_MAX_LEN)
				conf_error(errs, p->rest.line, "rest.listen",
					   "%s: needs an absolute path of at most %d octets",
					   listen[i], UNIX_PATH_MAX_LEN);
		} else if (addr_port_parse(span_str(listen[i]), &at) != 0) {
			conf_error(errs, p->rest.line, "rest.listen",
				   "%s is neither unix:/path nor address:port", listen[i]);
		} else if (p->rest.token_file == NULL &&
			   !(p->rest.open_loopback && addr_is_loopback(&at.addr))) {
			conf_error(errs, p->rest.line, "rest.listen", "%s needs token_file%s",
				   listen[i],
				   addr_is_loopback(&at.addr) ? " or open_loopback" : "");
		}
		for (size_t k = 0; k < i; k++)
			if (strcmp(listen[i], listen[k]) == 0)
				conf_error(errs, p->rest.line, "rest.listen", "%s is there twice",
					   listen[i]);
	}
}

/* ---- firewall --------------------------------------------------------------------- */

static bool has_name(const struct conf_list *list, const char *name)
{
	const char *const *v = list->v;

	for (size_t i = 0; i < list->n; i++)
		if (strcmp(v[i], name) == 0)
			return true;
	return false;
}

static void check_interfaces(const struct mbx_policy *p, const struct conf_list *list,
			     const char *key, struct conf_errors *errs)
{
	const char *const *v = list->v;

	for (size_t i = 0; i < list->n; i++) {
		if (strlen(v[i]) > IF_NAME_MAX || strpbrk(v[i], " /") != NULL)
			conf_error(errs, p->firewall.line, key, "\"%s\" is no interface name",
				   v[i]);
		if (list == &p->firewall.outside && has_name(&p->firewall.inside, v[i]))
			conf_error(errs, p->firewall.line, key, "%s is inside already", v[i]);
	}
}

static void check_firewall(const struct mbx_policy *p, struct conf_errors *errs)
{
	const struct mbx_fw_permit *m = p->firewall.permit.v;

	check_interfaces(p, &p->firewall.inside, "firewall.inside", errs);
	check_interfaces(p, &p->firewall.outside, "firewall.outside", errs);
	for (size_t i = 0; i < p->firewall.permit.n; i++) {
		uint8_t protocol = 0;

		check_versions(errs, m[i].line, "firewall.permit", &m[i].from.addr, &m[i].to.addr);
		check_ports(errs, m[i].line, "firewall.permit", m[i].ports);
		if (m[i].protocol != NULL && mbx_protocol_parse(m[i].protocol, &protocol) != 0)
			conf_error(errs, m[i].line, "firewall.permit", "unknown protocol \"%s\"",
				   m[i].protocol);
	}
	if (p->firewall.table != NULL &&
	    strspn(p->firewall.table, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789_-") != strlen(p->firewall.table))
		conf_error(errs, p->firewall.line, "firewall.table",
			   "may have letters, digits, _ and - only");
}

/* ---- nat ---------------------------------------------------------------------------- */

static const struct mbx_pool *pool_of(const struct conf_list *pools, const struct addr *a)
{
	const struct mbx_pool *v = pools->v;

	for (size_t i = 0; i < pools->n; i++)
		if (addr_eq(&v[i].address, a))
			return &v[i];
	return NULL;
}

static void check_pools(const struct conf_list *pools, const char *key, struct conf_errors *errs)
{
	const struct mbx_pool *v = pools->v;

	for (size_t i = 0; i < pools->n; i++) {
		char text[ADDR_STRLEN];

		if (v[i].address.version == 0)
			continue;
		addr_str(&v[i].address, text);
		if (v[i].address.version != 4)
			conf_error(errs, v[i].line, key, "%s: only IPv4 is translated", text);
		else if (addr_is_any(&v[i].address) || addr_is_loopback(&v[i].address) ||
			 addr_is_multicast(&v[i].address))
			conf_error(errs, v[i].line, key, "%s is no unicast address", text);
		check_ports(errs, v[i].line, key, v[i].ports);
		if (pool_of(pools, &v[i].address) != &v[i])
			conf_error(errs, v[i].line, key, "%s is there twice, first in line %u",
				   text, pool_of(pools, &v[i].address)->line);
	}
}

/* Rule c: what is no reservation stays off the pool's ports. */
static void check_sources(const struct mbx_policy *p, struct conf_errors *errs)
{
	const struct mbx_source *v = p->nat.source.v;

	for (size_t i = 0; i < p->nat.source.n; i++) {
		const struct mbx_pool *pool = pool_of(&p->nat.outside, &v[i].to_address);

		check_versions(errs, v[i].line, "nat.source", &v[i].from.addr, &v[i].to_address);
		check_ports(errs, v[i].line, "nat.source", v[i].ports);
		if (pool != NULL && ports_overlap(pool->ports, v[i].ports))
			conf_error(errs, v[i].line, "nat.source",
				   "ports %u-%u overlap the pool's %u-%u", v[i].ports.first,
				   v[i].ports.last, pool->ports.first, pool->ports.last);
	}
}

static void check_statics(const struct mbx_policy *p, struct conf_errors *errs)
{
	const struct mbx_static *v = p->nat.statics.v;

	for (size_t i = 0; i < p->nat.statics.n; i++) {
		const struct mbx_pool *pool = pool_of(&p->nat.outside, &v[i].outside.addr);
		char text[ADDR_PORT_STRLEN];

		addr_port_str(&v[i].outside, text);
		check_versions(errs, v[i].line, "nat.static", &v[i].outside.addr,
			       &v[i].inside.addr);
		if (v[i].outside.addr.version != 0 && v[i].outside.port == 0)
			conf_error(errs, v[i].line, "nat.static", "outside: port 0 is no port");
		if (v[i].inside.addr.version != 0 && v[i].inside.port == 0)
			conf_error(errs, v[i].line, "nat.static", "inside: port 0 is no port");
		if (pool != NULL && v[i].outside.port >= pool->ports.first &&
		    v[i].outside.port <= pool->ports.last)
			conf_error(errs, v[i].line, "nat.static", "%s is a port of the pool", text);
		for (size_t k = 0; k < i; k++)
			if (v[i].protocol == v[k].protocol &&
			    addr_port_eq(&v[i].outside, &v[k].outside))
				conf_error(errs, v[i].line, "nat.static",
					   "%s is there twice, first in line %u", text, v[k].line);
	}
}

static void check_nat(const struct mbx_policy *p, struct conf_errors *errs)
{
	if (!p->nat.present)
		return;
	check_pools(&p->nat.outside, "nat.outside", errs);
	check_pools(&p->nat.inside, "nat.inside", errs);
	check_sources(p, errs);
	check_statics(p, errs);
	if (p->nat.mode == FW_NAT_TWICE && p->nat.inside.n == 0)
		conf_error(errs, p->nat.line, "nat.inside", "mode twice needs inside addresses");
	if (p->nat.mode == FW_NAT_NAPT && p->nat.inside.n > 0)
		conf_error(errs, p->nat.line, "nat.inside", "only mode twice has inside addresses");
}

/* ---- agents ---------------------------------------------------------------------------- */

static void check_identity(const struct mbx_policy *p, const struct mbx_agent *a, const char *key,
			   struct conf_errors *errs)
{
	if (a->certificate == NULL && a->secret_file == NULL && !a->has_address)
		conf_error(errs, a->line, key,
			   "cannot be recognised: needs certificate, secret_file or address");
	if (a->certificate != NULL && !p->simco.tls.present)
		conf_error(errs, a->line, key, "has a certificate, but simco.tls is missing");
}

/* Agents that only their address tells apart must not have the same one. */
static void check_distinct(const struct mbx_agent *a, const struct mbx_agent *b, const char *key,
			   struct conf_errors *errs)
{
	const struct addr_prefix *x = a->address.v, *y = b->address.v;

	if (a->certificate != NULL && b->certificate != NULL &&
	    strcmp(a->certificate, b->certificate) == 0)
		conf_error(errs, b->line, key, "has the certificate name of %s", a->name);
	if (a->certificate != NULL || b->certificate != NULL || a->secret_file != NULL ||
	    b->secret_file != NULL)
		return;
	for (size_t i = 0; i < a->address.n; i++)
		for (size_t k = 0; k < b->address.n; k++)
			if (x[i].len == y[k].len && addr_eq(&x[i].addr, &y[k].addr))
				conf_error(errs, b->line, key, "has an address of %s", a->name);
}

static void check_pool(const struct mbx_policy *p, const struct mbx_agent *a, const char *key,
		       struct conf_errors *errs)
{
	char text[ADDR_STRLEN];

	if (!p->nat.present && a->has_pool)
		conf_error(errs, a->line, key, "has a pool, but there is no nat");
	if (p->nat.present && !a->has_pool)
		conf_error(errs, a->line, key, "needs a pool, an address of nat.outside");
	if (p->nat.present && a->pool.version != 0 && pool_of(&p->nat.outside, &a->pool) == NULL)
		conf_error(errs, a->line, key, "pool %s is not in nat.outside",
			   addr_str(&a->pool, text));
}

static void check_agent(const struct mbx_policy *p, const struct mbx_agent *a,
			struct conf_errors *errs)
{
	const char *const *owners = a->owners.v;
	const struct mbx_permit *m = a->permit.v;
	char key[128];

	snprintf(key, sizeof(key), "agents.%s", a->name);
	check_identity(p, a, key, errs);
	check_pool(p, a, key, errs);
	for (const struct mbx_agent *b = p->agents.v; b < a; b++)
		check_distinct(b, a, key, errs);
	for (size_t i = 0; i < a->owners.n; i++)
		if (mbx_policy_agent(p, owners[i]) == NULL)
			conf_error(errs, a->line, key, "owner \"%s\" is no agent", owners[i]);
	for (size_t i = 0; i < a->permit.n; i++)
		check_versions(errs, m[i].line, key, &m[i].internal.addr, &m[i].external.addr);
	if (a->max_lifetime > p->simco.max_lifetime && p->simco.max_lifetime != 0)
		conf_error(errs, a->line, key, "max_lifetime is above that of simco");
}

void mbx_policy_check(void *policy, struct conf_errors *errs)
{
	const struct mbx_policy *p = policy;
	const struct mbx_agent *a = p->agents.v;

	check_simco(p, errs);
	for (size_t i = 0; i < p->agents.n; i++)
		check_agent(p, &a[i], errs);
	check_firewall(p, errs);
	check_nat(p, errs);
	if (p->ledger != NULL && p->ledger[0] != '/')
		conf_error(errs, 0, "ledger", "must be an absolute path");
	check_rest(p, errs);
}
