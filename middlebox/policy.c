/*
 * The schema of the middlebox's policy file, and loading it. policy_check.c
 * knows what makes sense; this file knows what is written where.
 */
#include "middlebox/policy.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/policy_int.h"

#define ROW(key, kind, s, m) .name = key, .type = kind, .offset = offsetof(s, m)
#define LIST(key, kind, s, m) ROW(key, CONF_LIST, s, m), .elem = kind
#define OBJECTS(key, s, m, rows, one)                                                              \
	ROW(key, CONF_LIST, s, m), .elem = CONF_OBJECT, .sub = rows, .size = sizeof(one)
#define LINE(s, m)                                                                                 \
	{                                                                                          \
		ROW("line", CONF_LINE, s, m)                                                       \
	}
#define END                                                                                        \
	{                                                                                          \
		.name = NULL                                                                       \
	}
/* The tables of objects that exist once count offsets from the policy itself. */
#define PART(key, rows) .name = key, .type = CONF_OBJECT, .offset = 0, .sub = rows
#define FILE_NAME .min = 1, .max = 4095

static const struct conf_enum log_levels[] = {
	{"error", LOG_LEVEL_ERR},
	{"warning", LOG_LEVEL_WARN},
	{"info", LOG_LEVEL_INFO},
	{"debug", LOG_LEVEL_DEBUG},
	{NULL, 0},
};
static const struct conf_enum log_formats[] = {
	{"text", LOG_FORMAT_TEXT}, {"json", LOG_FORMAT_JSON}, {NULL, 0}};
static const struct conf_enum protocols[] = {
	{"udp", IPPROTO_UDP}, {"tcp", IPPROTO_TCP}, {"any", 0}, {NULL, 0}};
static const struct conf_enum static_protocols[] = {
	{"udp", IPPROTO_UDP}, {"tcp", IPPROTO_TCP}, {NULL, 0}};
static const struct conf_enum verbs[] = {
	{"reserve", AGENT_MAY_RESERVE},
	{"enable", AGENT_MAY_ENABLE},
	{"disable", AGENT_MAY_DISABLE},
	{NULL, 0},
};
static const struct conf_enum fw_modes[] = {{"enforce", FW_ENFORCE}, {"mark", FW_MARK}, {NULL, 0}};
static const struct conf_enum nat_modes[] = {
	{"napt", FW_NAT_NAPT}, {"twice", FW_NAT_TWICE}, {NULL, 0}};

static const struct conf_key permit_keys[] = {
	LINE(struct mbx_permit, line),
	{ROW("internal", CONF_PREFIX, struct mbx_permit, internal), .flags = CONF_REQUIRED,
	 .help = "network of the internal end (A0)"},
	{ROW("external", CONF_PREFIX, struct mbx_permit, external), .flags = CONF_REQUIRED,
	 .help = "network of the external end (A3)"},
	{ROW("protocol", CONF_ENUM, struct mbx_permit, protocol), .names = protocols,
	 .preset = "\"any\"", .help = "protocol of the flow"},
	{ROW("ports", CONF_PORTS, struct mbx_permit, ports), .preset = "\"1-65535\"",
	 .help = "ports of both ends"},
	{ROW("external_ports", CONF_PORTS, struct mbx_permit, external_ports),
	 .present = offsetof(struct mbx_permit, has_external_ports),
	 .help = "ports of the external end, instead of ports"},
	END,
};

static const struct conf_key agent_keys[] = {
	{ROW("agent", CONF_KEY, struct mbx_agent, name)},
	LINE(struct mbx_agent, line),
	{ROW("certificate", CONF_STRING, struct mbx_agent, certificate), .min = 1, .max = 255,
	 .help = "name that its TLS certificate carries"},
	{ROW("secret_file", CONF_STRING, struct mbx_agent, secret_file), FILE_NAME,
	 .help = "file with the secret shared with it, at least 16 octets (challenge and token)"},
	{LIST("address", CONF_PREFIX, struct mbx_agent, address), .max = 64, .min = 1,
	 .present = offsetof(struct mbx_agent, has_address),
	 .help = "where its connections come from; alone it identifies an agent on plain TCP"},
	{LIST("may", CONF_ENUM, struct mbx_agent, may), .names = verbs,
	 .preset = "[\"reserve\", \"enable\"]",
	 .help = "transactions: reserve (PRR), enable (PER, PEA), disable (PDR)"},
	{ROW("pool", CONF_ADDR, struct mbx_agent, pool),
	 .present = offsetof(struct mbx_agent, has_pool),
	 .help = "its one outside address, of nat.outside; needed with nat"},
	{ROW("max_rules", CONF_UINT, struct mbx_agent, max_rules), .min = 1, .max = 4000000,
	 .preset = "10000", .help = "policy rules at once; a pair of neighbours counts as one"},
	{ROW("max_lifetime", CONF_UINT, struct mbx_agent, max_lifetime), .min = 0,
	 .max = 4294967295, .preset = "0", .help = "seconds, 0: that of simco"},
	{ROW("wildcards", CONF_BOOL, struct mbx_agent, wildcards), .preset = "false",
	 .help = "may leave addresses and ports open"},
	{LIST("owners", CONF_STRING, struct mbx_agent, owners), .max = 256,
	 .help = "other agents whose rules it may see and change"},
	{ROW("idle_timeout", CONF_UINT, struct mbx_agent, idle_timeout), .min = 0, .max = 86400,
	 .preset = "0", .help = "seconds of silence after which a group is ended, 0: never"},
	{OBJECTS("permit", struct mbx_agent, permit, permit_keys, struct mbx_permit), .max = 4096,
	 .flags = CONF_REQUIRED, .help = "flows that it may open; everything else is refused"},
	END,
};

static const struct conf_key tls_keys[] = {
	LINE(struct mbx_policy, simco.tls.line),
	{ROW("certificate", CONF_STRING, struct mbx_policy, simco.tls.certificate), FILE_NAME,
	 .flags = CONF_REQUIRED, .help = "file with the middlebox's certificate chain, PEM"},
	{ROW("key", CONF_STRING, struct mbx_policy, simco.tls.key), FILE_NAME,
	 .flags = CONF_REQUIRED, .help = "file with its private key, PEM"},
	{ROW("ca", CONF_STRING, struct mbx_policy, simco.tls.ca), FILE_NAME, .flags = CONF_REQUIRED,
	 .help = "file with the authorities that agents must come from"},
	END,
};

static const struct conf_key simco_keys[] = {
	LINE(struct mbx_policy, simco.line),
	{LIST("listen", CONF_ADDR_PORT, struct mbx_policy, simco.listen), .min = 1, .max = 16,
	 .flags = CONF_REQUIRED | CONF_RESTART,
	 .help = "where agents connect, port 7626 by custom"},
	{ROW("max_lifetime", CONF_UINT, struct mbx_policy, simco.max_lifetime), .min = 1,
	 .max = 4294967295, .preset = "3600", .help = "longest lifetime of a rule, seconds"},
	{ROW("plain", CONF_BOOL, struct mbx_policy, simco.plain), .preset = "false",
	 .help = "also accept plain TCP that does not come over loopback"},
	{PART("tls", tls_keys), .present = offsetof(struct mbx_policy, simco.tls.present),
	 .help = "mutual TLS 1.2 or later"},
	END,
};

static const struct conf_key fw_permit_keys[] = {
	LINE(struct mbx_fw_permit, line),
	{ROW("from", CONF_PREFIX, struct mbx_fw_permit, from), .flags = CONF_REQUIRED,
	 .help = "source network"},
	{ROW("to", CONF_PREFIX, struct mbx_fw_permit, to), .flags = CONF_REQUIRED,
	 .help = "destination network"},
	{ROW("protocol", CONF_STRING, struct mbx_fw_permit, protocol), .preset = "\"any\"",
	 .min = 1, .max = 8, .help = "udp, tcp, icmp, icmpv6, any, or a number from 1 to 255"},
	{ROW("ports", CONF_PORTS, struct mbx_fw_permit, ports), .preset = "\"1-65535\"",
	 .help = "destination ports, for udp and tcp"},
	END,
};

static const struct conf_key firewall_keys[] = {
	LINE(struct mbx_policy, firewall.line),
	{ROW("mode", CONF_ENUM, struct mbx_policy, firewall.mode), .names = fw_modes,
	 .preset = "\"enforce\"", .flags = CONF_RESTART,
	 .help = "enforce: drop what nothing permits; mark: set a packet mark on what is open"},
	{ROW("mark", CONF_UINT, struct mbx_policy, firewall.mark), .min = 1, .max = 4294967295,
	 .preset = "81", .flags = CONF_RESTART, .help = "packet mark in mode mark"},
	{LIST("inside", CONF_STRING, struct mbx_policy, firewall.inside), .min = 1, .max = 64,
	 .flags = CONF_REQUIRED | CONF_RESTART, .help = "interfaces of the inside"},
	{LIST("outside", CONF_STRING, struct mbx_policy, firewall.outside), .min = 1, .max = 64,
	 .flags = CONF_REQUIRED | CONF_RESTART, .help = "interfaces of the outside"},
	{OBJECTS("permit", struct mbx_policy, firewall.permit, fw_permit_keys,
		 struct mbx_fw_permit),
	 .max = 4096, .help = "static permits; replies pass, too"},
	{ROW("counters", CONF_BOOL, struct mbx_policy, firewall.counters), .preset = "true",
	 .flags = CONF_RESTART, .help = "count packets per rule"},
	{ROW("table", CONF_STRING, struct mbx_policy, firewall.table), .min = 1, .max = 31,
	 .preset = "\"sluice\"", .flags = CONF_RESTART, .help = "name of the nftables table"},
	END,
};

static const struct conf_key pool_keys[] = {
	LINE(struct mbx_pool, line),
	{ROW("address", CONF_ADDR, struct mbx_pool, address), .flags = CONF_REQUIRED,
	 .help = "an address of this host, or routed to it"},
	{ROW("ports", CONF_PORTS, struct mbx_pool, ports), .preset = "\"16384-32767\"",
	 .help = "ports handed out; nothing else on this host may use them"},
	END,
};

static const struct conf_key source_keys[] = {
	LINE(struct mbx_source, line),
	{ROW("from", CONF_PREFIX, struct mbx_source, from), .flags = CONF_REQUIRED,
	 .help = "inside network"},
	{ROW("to_address", CONF_ADDR, struct mbx_source, to_address), .flags = CONF_REQUIRED,
	 .help = "outside address that its permitted connections come from"},
	{ROW("ports", CONF_PORTS, struct mbx_source, ports), .preset = "\"40000-65535\"",
	 .help = "their outside ports"},
	END,
};

static const struct conf_key static_keys[] = {
	LINE(struct mbx_static, line),
	{ROW("protocol", CONF_ENUM, struct mbx_static, protocol), .names = static_protocols,
	 .flags = CONF_REQUIRED, .help = "udp or tcp"},
	{ROW("outside", CONF_ADDR_PORT, struct mbx_static, outside), .flags = CONF_REQUIRED,
	 .help = "what the outside sends to"},
	{ROW("inside", CONF_ADDR_PORT, struct mbx_static, inside), .flags = CONF_REQUIRED,
	 .help = "where it is delivered"},
	END,
};

static const struct conf_key nat_keys[] = {
	LINE(struct mbx_policy, nat.line),
	{ROW("mode", CONF_ENUM, struct mbx_policy, nat.mode), .names = nat_modes,
	 .flags = CONF_REQUIRED | CONF_RESTART,
	 .help = "napt: inside addresses are translated; twice: outside ones, too"},
	{OBJECTS("outside", struct mbx_policy, nat.outside, pool_keys, struct mbx_pool), .min = 1,
	 .max = 256, .flags = CONF_REQUIRED, .help = "outside addresses (A2)"},
	{OBJECTS("inside", struct mbx_policy, nat.inside, pool_keys, struct mbx_pool), .max = 256,
	 .help = "inside addresses (A1), mode twice only"},
	{OBJECTS("source", struct mbx_policy, nat.source, source_keys, struct mbx_source),
	 .max = 256, .help = "translation of everything else that is permitted"},
	{OBJECTS("static", struct mbx_policy, nat.statics, static_keys, struct mbx_static),
	 .max = 1024, .help = "fixed translations from the outside to a host inside"},
	END,
};

#define LIMIT(key, m, lo, hi, def, text)                                                           \
	{                                                                                          \
		ROW(key, CONF_UINT, struct mbx_policy, limits.m), .min = lo, .max = hi,            \
								  .preset = def, .help = text      \
	}
static const struct conf_key limits_keys[] = {
	LIMIT("sessions", sessions, 1, 100000, "256", "SIMCO connections"),
	LIMIT("sessions_per_agent", sessions_per_agent, 1, 100000, "16",
	      "SIMCO sessions of one agent"),
	LIMIT("output_bytes", output_bytes, 262144, 1073741824, "4194304",
	      "octets queued for an agent that reads slowly, then it is cut off"),
	LIMIT("half_open_seconds", half_open_seconds, 1, 60, "10",
	      "until a connection must have become a session"),
	{ROW("rules", CONF_UINT, struct mbx_policy, limits.rules), .min = 16, .max = 4000000,
	 .preset = "100000", .flags = CONF_RESTART, .help = "policy rules in all"},
	END,
};

static const struct conf_key rest_keys[] = {
	LINE(struct mbx_policy, rest.line),
	{LIST("listen", CONF_STRING, struct mbx_policy, rest.listen), .max = 16,
	 .preset = "[\"unix:/run/sluice/middlebox.sock\"]", .flags = CONF_RESTART,
	 .help = "\"unix:/path\" or \"address:port\""},
	{ROW("token_file", CONF_STRING, struct mbx_policy, rest.token_file), FILE_NAME,
	 .flags = CONF_RESTART, .help = "file with the bearer token that TCP needs"},
	{ROW("open_loopback", CONF_BOOL, struct mbx_policy, rest.open_loopback), .preset = "false",
	 .flags = CONF_RESTART, .help = "no token on loopback"},
	END,
};

static const struct conf_key log_keys[] = {
	{ROW("level", CONF_ENUM, struct mbx_policy, log.level), .names = log_levels,
	 .preset = "\"info\"", .help = "least important lines to write"},
	{ROW("format", CONF_ENUM, struct mbx_policy, log.format), .names = log_formats,
	 .preset = "\"text\"", .help = "text or one JSON object per line"},
	END,
};

static const struct conf_key policy_keys[] = {
	{PART("simco", simco_keys), .flags = CONF_REQUIRED, .help = "the SIMCO server"},
	{ROW("agents", CONF_MAP, struct mbx_policy, agents), .sub = agent_keys,
	 .size = sizeof(struct mbx_agent), .min = 1, .flags = CONF_REQUIRED,
	 .help = "who may open the firewall, by name; the name owns the rules"},
	{PART("firewall", firewall_keys), .flags = CONF_REQUIRED, .help = "packet filter"},
	{PART("nat", nat_keys), .present = offsetof(struct mbx_policy, nat.present),
	 .help = "address translation; absent: pure firewall"},
	{PART("limits", limits_keys), .help = "what protects this host"},
	{ROW("ledger", CONF_STRING, struct mbx_policy, ledger), FILE_NAME,
	 .preset = "\"/run/sluice/middlebox.ledger\"", .flags = CONF_RESTART,
	 .help = "file on tmpfs that lets rules survive the daemon"},
	{PART("rest", rest_keys), .help = "status and administration over HTTP"},
	{PART("log", log_keys), .help = "log lines on stderr"},
	END,
};

const struct conf_key *mbx_policy_schema(void)
{
	return policy_keys;
}

const struct mbx_agent *mbx_policy_agent(const struct mbx_policy *p, const char *name)
{
	const struct mbx_agent *a = p->agents.v;

	for (size_t i = 0; i < p->agents.n; i++)
		if (strcmp(a[i].name, name) == 0)
			return &a[i];
	return NULL;
}

/* ---- Secrets ------------------------------------------------------------------ */

static int read_secret(struct mbx_policy *p, struct mbx_agent *a, struct conf_errors *errs)
{
	uint8_t text[MBX_SECRET_MAX + 1], *copy = NULL;
	char key[128];
	int fd = open(a->secret_file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	struct span s;
	int rc = ERR_INVALID;

	snprintf(key, sizeof(key), "agents.%s", a->name);
	if (fd >= 0)
		close(fd);
	s = n > 0 ? span_trim(span_of(text, (size_t)n)) : SPAN_EMPTY;
	if (n < 0) {
		conf_error(errs, a->line, key, "cannot read secret_file %s", a->secret_file);
	} else if (s.n < MBX_SECRET_MIN || n > (ssize_t)MBX_SECRET_MAX) {
		conf_error(errs, a->line, key,
			   "the secret in %s must have between %u and %u octets", a->secret_file,
			   MBX_SECRET_MIN, MBX_SECRET_MAX);
	} else {
		copy = conf_alloc(p->owner, s.n);
		rc = copy == NULL ? ERR_NOMEM : 0;
	}
	if (copy != NULL) {
		memcpy(copy, s.p, s.n);
		a->secret = span_of(copy, s.n);
	}
	explicit_bzero(text, sizeof(text));
	return rc;
}

/* A token names no agent, so no two agents may share a secret. */
static int read_secrets(struct mbx_policy *p, struct conf_errors *errs)
{
	struct mbx_agent *a = p->agents.v;
	int rc = 0, one;

	for (size_t i = 0; i < p->agents.n; i++) {
		if (a[i].secret_file == NULL)
			continue;
		one = read_secret(p, &a[i], errs);
		rc = one != 0 ? one : rc;
		for (size_t k = 0; one == 0 && k < i; k++) {
			if (a[k].secret.n == 0 || !span_eq(a[k].secret, a[i].secret))
				continue;
			conf_error(errs, a[i].line, "agents", "%s has the same secret as %s",
				   a[i].name, a[k].name);
			rc = ERR_INVALID;
		}
	}
	return rc;
}

/* ---- Loading -------------------------------------------------------------------- */

static int finish(struct mbx_policy *p, int rc, struct mbx_policy **out, struct conf_errors *errs)
{
	if (rc == 0)
		rc = read_secrets(p, errs);
	if (rc == 0)
		rc = mbx_policy_fill(p);
	if (rc != 0)
		mbx_policy_free(p);
	else
		*out = p;
	return rc;
}

int mbx_policy_load(const char *file, struct mbx_policy **out, struct conf_errors *errs)
{
	struct mbx_policy *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return ERR_NOMEM;
	return finish(p, conf_load_checked(file, policy_keys, mbx_policy_check, p, &p->owner, errs),
		      out, errs);
}

int mbx_policy_parse(struct span text, const char *name, struct mbx_policy **out,
		     struct conf_errors *errs)
{
	struct mbx_policy *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return ERR_NOMEM;
	return finish(
		p,
		conf_parse_checked(text, name, policy_keys, mbx_policy_check, p, &p->owner, errs),
		out, errs);
}

void mbx_policy_free(struct mbx_policy *p)
{
	struct mbx_agent *a;

	if (p == NULL)
		return;
	a = p->agents.v;
	for (size_t i = 0; p->owner != NULL && i < p->agents.n; i++)
		if (a[i].secret.n > 0)
			explicit_bzero((void *)(uintptr_t)a[i].secret.p, a[i].secret.n);
	conf_free(p->owner);
	free(p);
}
