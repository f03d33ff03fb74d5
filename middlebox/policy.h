/*
 * The middlebox's policy: what the JSON file says, checked, and in the form in
 * which the core and the firewall driver want it.
 */
#ifndef SLUICE_MIDDLEBOX_POLICY_H
#define SLUICE_MIDDLEBOX_POLICY_H

#include "common/conf.h"
#include "middlebox/core.h"
#include "middlebox/fw.h"

struct mbx_permit { /* agents.NAME.permit */
	struct addr_prefix internal, external;
	int protocol; /* 17, 6, 0 both */
	struct port_range ports, external_ports;
	bool has_external_ports;
	unsigned line;
};

struct mbx_agent { /* agents.NAME */
	const char *name;
	const char *certificate; /* name that its certificate proves */
	const char *secret_file;
	struct conf_list address; /* struct addr_prefix: where its connections come from */
	bool has_address;
	struct conf_list may; /* int: AGENT_MAY_* */
	struct addr pool;
	bool has_pool;
	uint64_t max_rules, max_lifetime, idle_timeout;
	bool wildcards;
	struct conf_list owners; /* const char * */
	struct conf_list permit; /* struct mbx_permit */
	unsigned line;
	struct span secret; /* content of secret_file, owned by the policy */
};

struct mbx_fw_permit { /* firewall.permit */
	struct addr_prefix from, to;
	const char *protocol;
	struct port_range ports;
	unsigned line;
};

struct mbx_pool { /* nat.outside, nat.inside */
	struct addr address;
	struct port_range ports;
	unsigned line;
};

struct mbx_source { /* nat.source */
	struct addr_prefix from;
	struct addr to_address;
	struct port_range ports;
	unsigned line;
};

struct mbx_static { /* nat.static */
	int protocol;
	struct addr_port outside, inside;
	unsigned line;
};

struct mbx_policy {
	struct {
		struct conf_list listen; /* struct addr_port */
		uint64_t max_lifetime;
		bool plain;
		struct {
			unsigned line;
			bool present;
			const char *certificate, *key, *ca;
		} tls;
		unsigned line;
	} simco;
	struct conf_list agents; /* struct mbx_agent */
	struct {
		unsigned line;
		int mode; /* enum fw_mode */
		uint64_t mark;
		struct conf_list inside, outside; /* const char * */
		struct conf_list permit;	  /* struct mbx_fw_permit */
		bool counters;
		const char *table;
	} firewall;
	struct {
		unsigned line;
		bool present;
		int mode;			  /* enum fw_nat_mode */
		struct conf_list outside, inside; /* struct mbx_pool */
		struct conf_list source;	  /* struct mbx_source */
		struct conf_list statics;	  /* struct mbx_static */
	} nat;
	struct {
		uint64_t sessions, sessions_per_agent, output_bytes, half_open_seconds, rules;
	} limits;
	const char *ledger;
	struct {
		unsigned line;
		struct conf_list listen; /* const char * */
		const char *token_file;
		bool open_loopback;
	} rest;
	struct {
		int level, format;
	} log;

	/* Derived; point into the same memory. */
	struct core_conf core; /* without boot_id */
	struct fw_config fw;
	struct conf *owner;
};

/*
 * 0, or ERR_* with every finding in errs; mbx_policy_free() the result. Reads
 * the secrets, too.
 */
int mbx_policy_load(const char *file, struct mbx_policy **out, struct conf_errors *errs);
/* The same on text in memory (tests, fuzzing); secret files are read as well. */
int mbx_policy_parse(struct span text, const char *name, struct mbx_policy **out,
		     struct conf_errors *errs);
void mbx_policy_free(struct mbx_policy *p); /* NULL is fine */
const struct conf_key *mbx_policy_schema(void);

/* NULL when there is none. */
const struct mbx_agent *mbx_policy_agent(const struct mbx_policy *p, const char *name);

/* What deserves a warning at start on this host: one callback per finding. */
void mbx_policy_warnings(const struct mbx_policy *p, void (*fn)(const char *text, void *arg),
			 void *arg);

#endif
