/*
 * The agent's policy: what the JSON file says, checked, and the questions the
 * rest of the agent asks of it (which zone is this address in, which path
 * leads there, is that flow permitted).
 */
#ifndef SLUICE_AGENT_POLICY_H
#define SLUICE_AGENT_POLICY_H

#include "common/addr.h"
#include "common/conf.h"

struct zone {
	const char *name;
	struct conf_list networks; /* struct addr_prefix */
	unsigned line;
};

struct policy_tls { /* all file names; version of TLS is 1.2 or later (RFC 8996) */
	bool present;
	const char *certificate, *key, *ca, *name;
};

struct middlebox_conf {
	const char *name;
	struct addr_port address;
	struct policy_tls tls;
	const char *secret_file; /* challenge/token authentication */
	unsigned line;
};

struct path {
	const char *from, *to;	  /* zone names */
	struct conf_list through; /* const char *: middlebox names, inner first; may be empty */
	/* Resolved by policy_load(): */
	const struct zone *from_zone, *to_zone;
	const struct middlebox_conf *middlebox[4];
	unsigned n_middleboxes;
	unsigned line;
};

struct permit { /* no permit list at all: everything between the zones of a path */
	struct addr_prefix internal, external;
	int protocol;			  /* 17, 6, 0 any */
	struct port_range ports;	  /* both ends */
	struct port_range external_ports; /* instead of ports for the far end, where given */
	bool has_external_ports;
};

enum rtsp_mode { RTSP_FORWARD, RTSP_REVERSE, RTSP_TRANSPARENT };
enum rtsp_out { RTSP_OUT_AUTO, RTSP_OUT_REWRITE, RTSP_OUT_TRANSPARENT, RTSP_OUT_RELAY };

struct rtsp_mount_conf {  /* a path on the agent that stands for a URL elsewhere */
	const char *path; /* "/cam1": without '/' at its end, unless it is "/" */
	const char *to;	  /* "rtsp://host[:port][/path]" or rtsps */
	int out;	  /* enum rtsp_out, where has_out */
	bool has_out;
	unsigned line;
};

struct rtsp_route_conf { /* the way out by destination; the longest prefix decides */
	struct addr_prefix to;
	int out;	       /* enum rtsp_out */
	bool interleaved_hint; /* as the listener's, for these servers */
	unsigned line;
};

struct rtsp_tls_conf { /* for clients that come with RTSPS */
	bool present;
	const char *certificate, *key;
	const char *ca; /* clients must prove themselves; NULL: they need not */
	unsigned line;
};

struct rtsp_upstream_tls_conf { /* towards rtsps:// servers */
	const char *ca;		/* NULL: the system's */
	const char *certificate, *key;
	bool verify; /* false: any certificate will do */
	unsigned line;
};

struct rtsp_listener_conf {
	struct addr_port listen;
	int mode;		     /* enum rtsp_mode */
	int out;		     /* enum rtsp_out */
	const char *zone;	     /* of its clients; empty: by client address */
	bool tproxy;		     /* IP_TRANSPARENT on the listening socket */
	struct conf_list media_from; /* struct addr_prefix: hosts allowed in source= */
	struct conf_list multicast;  /* struct addr_prefix: groups that media may come to */
	struct conf_list mounts;     /* struct rtsp_mount_conf */
	struct conf_list routes;     /* struct rtsp_route_conf */
	struct rtsp_tls_conf tls;
	struct rtsp_upstream_tls_conf upstream_tls;
	uint64_t header_bytes, body_bytes, line_bytes; /* limits */
	uint64_t connect_timeout_ms, idle_timeout_s;
	bool interleaved_hint; /* answer 461 instead of 503 when the middlebox is down */
	unsigned line;
};

#define POLICY_RESOLVERS 8

struct policy_relay {
	bool present; /* absent: nothing is ever relayed */
	struct port_range ports;
	struct conf_list addresses; /* struct addr; none: as the control connections */
	uint64_t max;		    /* relays at a time */
	unsigned line;
};

struct policy_limits {
	uint64_t sessions, sessions_per_client, connections, connections_per_client;
	uint64_t bindings, bindings_per_client; /* half binds of every module together */
};

struct policy {
	const char *identity;
	struct conf_list zones;	      /* struct zone, file order */
	struct conf_list middleboxes; /* struct middlebox_conf */
	struct conf_list paths;	      /* struct path */
	struct conf_list permit;      /* struct permit */
	bool has_permit;	      /* "permit": [] permits nothing, no key at all everything */
	struct {
		uint64_t reserved, enabled;
	} lifetime;		   /* seconds */
	bool exclusive;		   /* delete rules of ours that we do not know, after a reconnect */
	struct conf_list rtsp;	   /* struct rtsp_listener_conf */
	struct conf_list resolver; /* struct addr_port; none: those of the host */
	struct policy_relay relay;
	struct {
		struct conf_list listen;
		const char *token_file;
		bool open_loopback;
		unsigned line;
	} rest;
	struct policy_limits limits;
	struct {
		int level, format;
	} log; /* enum log_level, enum log_format */
	struct conf *owner;
};

/* 0, or ERR_* with every finding in errs. policy_free() the result. */
int policy_load(const char *file, struct policy **out, struct conf_errors *errs);
/* The same on text in memory (tests, fuzzing). */
int policy_parse(struct span text, const char *name, struct policy **out, struct conf_errors *errs);
void policy_free(struct policy *p);
const struct conf_key *policy_schema(void);

/* The middlebox of that name; NULL when there is none. */
const struct middlebox_conf *policy_middlebox(const struct policy *p, const char *name);
/* The most specific zone that contains `a`; NULL when none does. */
const struct zone *policy_zone(const struct policy *p, const struct addr *a);
/* The path from the zone of `from` to the zone of `to`; NULL when there is none. */
const struct path *policy_path(const struct policy *p, const struct addr *from,
			       const struct addr *to);
/* Does the permit list allow this flow? (decisions RTSP 12) */
bool policy_permits(const struct policy *p, uint8_t protocol, const struct addr_port *internal,
		    const struct addr_port *external);

#endif
