/*
 * Names to addresses without blocking: /etc/hosts, then the DNS, A and AAAA.
 * Answers are kept for their TTL; equal questions that are out are asked once.
 * Knows nothing of zones or policy: callers judge every address they get, the
 * loopback addresses of "localhost" included.
 */
#ifndef SLUICE_AGENT_RESOLVE_H
#define SLUICE_AGENT_RESOLVE_H

#include "common/addr.h"
#include "common/loop.h"

#define RESOLVER_MAX_SERVERS 8
#define RESOLVER_MAX_ADDRS 16 /* of one name; what comes beyond is left out */

struct resolver;
struct resolver_query;

struct resolver_limits {
	unsigned timeout_ms;  /* of a lookup, all servers and repeats together */
	unsigned max_lookups; /* different questions out at a time */
	unsigned max_waiting; /* callers waiting for them */
	unsigned max_cached;  /* names */
	unsigned max_ttl;     /* seconds an answer is kept at most */
};

extern const struct resolver_limits resolver_default_limits;

/*
 * 0 and 1..RESOLVER_MAX_ADDRS addresses, borrowed for the call, or none and
 *   ERR_NOENT        no such name, or no address of that version
 *   ERR_TIMEOUT      no answer in time
 *   ERR_UNREACHABLE  no server could be reached or none would answer
 *   ERR_MALFORMED    the answer made no sense
 *   ERR_INVALID      not a host name
 *   ERR_LIMIT        too many lookups
 *   ERR_NOMEM
 * The query is gone when this is called. It may look up and cancel, but not
 * free the resolver.
 */
typedef void (*resolver_fn)(int err, const struct addr *addrs, size_t n, void *arg);

/*
 * Without servers those of /etc/resolv.conf are asked, with its search list.
 * Given servers are asked for names exactly as they are. NULL on failure.
 */
struct resolver *resolver_new(struct loop *l, const struct addr_port *servers, size_t n);
struct resolver *resolver_new_limited(struct loop *l, const struct addr_port *servers, size_t n,
				      const struct resolver_limits *limits);
/* Queries still waiting are dropped; their callbacks are not called. */
void resolver_free(struct resolver *r); /* NULL is fine */

/*
 * ip_version 4, 6 or 0: both, of which the one that this host has a route to
 * comes first, IPv6 before IPv4. Numeric names are answered without asking
 * anyone. fn is called exactly once, never within this call, unless the query
 * is cancelled. NULL when there is no memory: then fn is never called.
 */
struct resolver_query *resolver_lookup(struct resolver *r, const char *name, uint8_t ip_version,
				       resolver_fn fn, void *arg);
/* Takes the query back, which must not have been answered; NULL is fine. */
void resolver_cancel(struct resolver_query *q);

#endif
