/*
 * The agent's policy: the schema of its file and the questions asked of it.
 * policy_check.c knows what makes sense; this file knows what is written where.
 */
#include "agent/policy.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "agent/policy_int.h"
#include "common/errcode.h"
#include "common/log.h"

static const struct conf_enum log_levels[] = {
	{"error", LOG_LEVEL_ERR},
	{"warning", LOG_LEVEL_WARN},
	{"info", LOG_LEVEL_INFO},
	{"debug", LOG_LEVEL_DEBUG},
	{NULL, 0},
};

static const struct conf_enum log_formats[] = {
	{"text", LOG_FORMAT_TEXT},
	{"json", LOG_FORMAT_JSON},
	{NULL, 0},
};

static const struct conf_enum protocols[] = {
	{"udp", IPPROTO_UDP},
	{"tcp", IPPROTO_TCP},
	{"any", 0},
	{NULL, 0},
};

static const struct conf_key zone_keys[] = {
	{.name = "zone", .type = CONF_KEY, .offset = offsetof(struct zone, name)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct zone, line)},
	{.name = "",
	 .type = CONF_LIST,
	 .offset = offsetof(struct zone, networks),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 4096,
	 .size = sizeof(struct addr_prefix),
	 .elem = CONF_PREFIX,
	 .help = "networks of the zone; where zones overlap the longest prefix decides"},
	{.name = NULL},
};

static const struct conf_key tls_keys[] = {
	{.name = "certificate",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy_tls, certificate),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 4095,
	 .help = "file with the agent's certificate chain, PEM"},
	{.name = "key",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy_tls, key),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 4095,
	 .help = "file with its private key, PEM"},
	{.name = "ca",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy_tls, ca),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 4095,
	 .help = "file with the authorities that the middlebox's certificate must come from"},
	{.name = "name",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy_tls, name),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 255,
	 .help = "name that the middlebox's certificate must carry"},
	{.name = NULL},
};

static const struct conf_key middlebox_keys[] = {
	{.name = "middlebox", .type = CONF_KEY, .offset = offsetof(struct middlebox_conf, name)},
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct middlebox_conf, line)},
	{.name = "address",
	 .type = CONF_ADDR_PORT,
	 .offset = offsetof(struct middlebox_conf, address),
	 .flags = CONF_REQUIRED,
	 .help = "where its SIMCO server listens, port 7626 by custom"},
	{.name = "tls",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct middlebox_conf, tls),
	 .sub = tls_keys,
	 .size = sizeof(struct policy_tls),
	 .present = offsetof(struct middlebox_conf, tls.present),
	 .help = "mutual TLS 1.2 or later; absent: plain TCP"},
	{.name = "secret_file",
	 .type = CONF_STRING,
	 .offset = offsetof(struct middlebox_conf, secret_file),
	 .min = 1,
	 .max = 4095,
	 .help = "file with the secret shared with the middlebox (challenge and token)"},
	{.name = NULL},
};

static const struct conf_key path_keys[] = {
	{.name = "line", .type = CONF_LINE, .offset = offsetof(struct path, line)},
	{.name = "from",
	 .type = CONF_STRING,
	 .offset = offsetof(struct path, from),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 63,
	 .help = "zone of the internal end (A0)"},
	{.name = "to",
	 .type = CONF_STRING,
	 .offset = offsetof(struct path, to),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 63,
	 .help = "zone of the external end (A3)"},
	{.name = "through",
	 .type = CONF_LIST,
	 .offset = offsetof(struct path, through),
	 .flags = CONF_REQUIRED,
	 .size = sizeof(const char *),
	 .elem = CONF_STRING,
	 .help = "middleboxes on the way, the one nearest to the internal end first; at most "
		 "four; [] when none is in the way"},
	{.name = NULL},
};

static const struct conf_key permit_keys[] = {
	{.name = "internal",
	 .type = CONF_PREFIX,
	 .offset = offsetof(struct permit, internal),
	 .flags = CONF_REQUIRED,
	 .help = "network of the internal end"},
	{.name = "external",
	 .type = CONF_PREFIX,
	 .offset = offsetof(struct permit, external),
	 .flags = CONF_REQUIRED,
	 .help = "network of the external end"},
	{.name = "protocol",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct permit, protocol),
	 .preset = "\"udp\"",
	 .names = protocols,
	 .help = "transport protocol"},
	{.name = "ports",
	 .type = CONF_PORTS,
	 .offset = offsetof(struct permit, ports),
	 .preset = "\"1-65535\"",
	 .help = "ports of both ends"},
	{.name = "external_ports",
	 .type = CONF_PORTS,
	 .offset = offsetof(struct permit, external_ports),
	 .present = offsetof(struct permit, has_external_ports),
	 .help = "ports of the external end, instead of ports"},
	{.name = NULL},
};

static const struct conf_key lifetime_keys[] = {
	{.name = "reserved",
	 .type = CONF_UINT,
	 .offset = offsetof(struct policy, lifetime.reserved) - offsetof(struct policy, lifetime),
	 .min = 2,
	 .max = 3600,
	 .preset = "30",
	 .help = "seconds asked for a reservation"},
	{.name = "enabled",
	 .type = CONF_UINT,
	 .offset = offsetof(struct policy, lifetime.enabled) - offsetof(struct policy, lifetime),
	 .min = 2,
	 .max = 86400,
	 .preset = "120",
	 .help = "seconds asked for an open pinhole; refreshed at half of it"},
	{.name = NULL},
};

static const struct conf_key rest_keys[] = {
	{.name = "line",
	 .type = CONF_LINE,
	 .offset = offsetof(struct policy, rest.line) - offsetof(struct policy, rest)},
	{.name = "listen",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy, rest.listen) - offsetof(struct policy, rest),
	 .max = 16,
	 .size = sizeof(const char *),
	 .elem = CONF_STRING,
	 .help = "\"unix:/path\" or \"address:port\""},
	{.name = "token_file",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy, rest.token_file) - offsetof(struct policy, rest),
	 .min = 1,
	 .max = 4095,
	 .help = "file with the bearer token demanded on TCP"},
	{.name = "open_loopback",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct policy, rest.open_loopback) - offsetof(struct policy, rest),
	 .preset = "false",
	 .help = "no token on loopback addresses"},
	{.name = NULL},
};

#define LIMIT(key, member, dflt, text)                                                             \
	{                                                                                          \
		.name = key, .type = CONF_UINT, .offset = offsetof(struct policy_limits, member),  \
		.min = 1, .max = 10000000, .preset = dflt, .help = text                            \
	}

static const struct conf_key limits_keys[] = {
	LIMIT("sessions", sessions, "10000", "sessions of all clients"),
	LIMIT("sessions_per_client", sessions_per_client, "50", "sessions of one client address"),
	LIMIT("connections", connections, "20000", "connections of all clients"),
	LIMIT("connections_per_client", connections_per_client, "100",
	      "connections of one client address"),
	LIMIT("bindings", bindings, "40000", "media flows of all clients"),
	LIMIT("bindings_per_client", bindings_per_client, "400",
	      "media flows of one client address"),
	{.name = NULL},
};

static const struct conf_key log_keys[] = {
	{.name = "level",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct policy, log.level) - offsetof(struct policy, log),
	 .preset = "\"info\"",
	 .names = log_levels,
	 .help = "least severe lines that are written"},
	{.name = "format",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct policy, log.format) - offsetof(struct policy, log),
	 .preset = "\"text\"",
	 .names = log_formats,
	 .help = "text, or one JSON object per line"},
	{.name = NULL},
};

static const struct conf_key policy_keys[] = {
	{.name = "identity",
	 .type = CONF_STRING,
	 .offset = offsetof(struct policy, identity),
	 .flags = CONF_REQUIRED | CONF_RESTART,
	 .min = 1,
	 .max = 63,
	 .help = "name of this one running agent: the owner of its rules at every middlebox"},
	{.name = "zones",
	 .type = CONF_MAP,
	 .offset = offsetof(struct policy, zones),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 256,
	 .sub = zone_keys,
	 .size = sizeof(struct zone),
	 .help = "names for networks"},
	{.name = "middleboxes",
	 .type = CONF_MAP,
	 .offset = offsetof(struct policy, middleboxes),
	 .max = 64,
	 .sub = middlebox_keys,
	 .size = sizeof(struct middlebox_conf),
	 .help = "SIMCO servers by name"},
	{.name = "paths",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy, paths),
	 .flags = CONF_REQUIRED,
	 .min = 1,
	 .max = 1024,
	 .sub = path_keys,
	 .size = sizeof(struct path),
	 .elem = CONF_OBJECT,
	 .help = "which middleboxes stand between two zones"},
	{.name = "permit",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy, permit),
	 .max = 4096,
	 .sub = permit_keys,
	 .size = sizeof(struct permit),
	 .elem = CONF_OBJECT,
	 .present = offsetof(struct policy, has_permit),
	 .help = "media flows that may be opened; absent: everything between the zones of a path"},
	{.name = "lifetime",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct policy, lifetime),
	 .sub = lifetime_keys,
	 .size = sizeof(((struct policy *)0)->lifetime),
	 .help = "lifetimes of policy rules; they bound the holes that a dead agent leaves"},
	{.name = "exclusive",
	 .type = CONF_BOOL,
	 .offset = offsetof(struct policy, exclusive),
	 .preset = "true",
	 .help = "delete rules of this identity that this agent does not know (after a reconnect)"},
	{.name = "rtsp",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy, rtsp),
	 .max = 64,
	 .sub = policy_rtsp_keys,
	 .size = sizeof(struct rtsp_listener_conf),
	 .elem = CONF_OBJECT,
	 .help = "RTSP listeners"},
	{.name = "resolver",
	 .type = CONF_LIST,
	 .offset = offsetof(struct policy, resolver),
	 .flags = CONF_RESTART,
	 .min = 1,
	 .max = POLICY_RESOLVERS,
	 .size = sizeof(struct addr_port),
	 .elem = CONF_ADDR_PORT,
	 .help = "DNS servers; absent: those of the host, with its search list"},
	{.name = "relay",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct policy, relay),
	 .sub = policy_relay_keys,
	 .size = sizeof(struct policy_relay),
	 .present = offsetof(struct policy, relay.present),
	 .help = "media relayed by the agent itself, where out says so; absent: never"},
	{.name = "rest",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct policy, rest),
	 .flags = CONF_RESTART,
	 .sub = rest_keys,
	 .size = sizeof(((struct policy *)0)->rest),
	 .help = "operators' interface"},
	{.name = "limits",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct policy, limits),
	 .sub = limits_keys,
	 .size = sizeof(struct policy_limits),
	 .help = "caps"},
	{.name = "log",
	 .type = CONF_OBJECT,
	 .offset = offsetof(struct policy, log),
	 .sub = log_keys,
	 .size = sizeof(((struct policy *)0)->log),
	 .help = "logging"},
	{.name = NULL},
};

const struct conf_key *policy_schema(void)
{
	return policy_keys;
}

static int policy_finish(int err, struct policy *p, struct policy **out)
{
	if (err)
		policy_free(p);
	else
		*out = p;
	return err;
}

int policy_load(const char *file, struct policy **out, struct conf_errors *errs)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (!p)
		return ERR_NOMEM;
	return policy_finish(conf_load_checked(file, policy_keys, policy_check, p, &p->owner, errs),
			     p, out);
}

int policy_parse(struct span text, const char *name, struct policy **out, struct conf_errors *errs)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (!p)
		return ERR_NOMEM;
	return policy_finish(
		conf_parse_checked(text, name, policy_keys, policy_check, p, &p->owner, errs), p,
		out);
}

void policy_free(struct policy *p)
{
	if (!p)
		return;
	conf_free(p->owner);
	free(p);
}

const struct middlebox_conf *policy_middlebox(const struct policy *p, const char *name)
{
	const struct middlebox_conf *mb = p->middleboxes.v;

	for (size_t i = 0; i < p->middleboxes.n; i++)
		if (!strcmp(mb[i].name, name))
			return &mb[i];
	return NULL;
}

const struct zone *policy_zone(const struct policy *p, const struct addr *a)
{
	const struct zone *zones = p->zones.v, *best = NULL;
	int best_len = -1;

	for (size_t i = 0; i < p->zones.n; i++) {
		const struct addr_prefix *nets = zones[i].networks.v;

		for (size_t k = 0; k < zones[i].networks.n; k++) {
			if (nets[k].len > best_len && addr_prefix_contains(&nets[k], a)) {
				best = &zones[i];
				best_len = nets[k].len;
			}
		}
	}
	return best;
}

const struct path *policy_path(const struct policy *p, const struct addr *from,
			       const struct addr *to)
{
	const struct zone *from_zone = policy_zone(p, from), *to_zone = policy_zone(p, to);
	const struct path *paths = p->paths.v;

	if (!from_zone || !to_zone)
		return NULL;
	for (size_t i = 0; i < p->paths.n; i++)
		if (paths[i].from_zone == from_zone && paths[i].to_zone == to_zone)
			return &paths[i];
	return NULL;
}

static bool port_within(const struct port_range *r, uint16_t port)
{
	return port >= r->first && port <= r->last;
}

static bool permit_matches(const struct permit *m, uint8_t protocol,
			   const struct addr_port *internal, const struct addr_port *external)
{
	const struct port_range *far = m->has_external_ports ? &m->external_ports : &m->ports;

	return (!m->protocol || m->protocol == protocol) &&
	       addr_prefix_contains(&m->internal, &internal->addr) &&
	       addr_prefix_contains(&m->external, &external->addr) &&
	       port_within(&m->ports, internal->port) && port_within(far, external->port);
}

/* An end that is no single host can never be meant by an exact pinhole. */
static bool unicast_end(const struct addr_port *e)
{
	return e->addr.version && e->port && !addr_is_any(&e->addr) && !addr_is_multicast(&e->addr);
}

bool policy_permits(const struct policy *p, uint8_t protocol, const struct addr_port *internal,
		    const struct addr_port *external)
{
	const struct permit *permits = p->permit.v;

	if (!unicast_end(internal) || !unicast_end(external))
		return false;
	if (!p->has_permit)
		return policy_path(p, &internal->addr, &external->addr) != NULL;
	for (size_t i = 0; i < p->permit.n; i++)
		if (permit_matches(&permits[i], protocol, internal, external))
			return true;
	return false;
}
