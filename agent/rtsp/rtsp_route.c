/*
 * Routes: the policy's answer to "this client, that server".
 */
#include "agent/rtsp/rtsp_route.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"

/* Is this an address of our own host? */
static bool is_own(const struct addr *a)
{
	struct ifaddrs *all, *i;
	struct addr_port own;
	bool found = false;

	if (getifaddrs(&all) < 0)
		return false;
	for (i = all; i != NULL && !found; i = i->ifa_next)
		found = i->ifa_addr != NULL && addr_from_sockaddr(i->ifa_addr, &own) == 0 &&
			addr_eq(&own.addr, a);
	freeifaddrs(all);
	return found;
}

static int refuse(struct failure *f, const char *why, const struct addr_port *server)
{
	char text[ADDR_PORT_STRLEN];

	failure_set(f, CAUSE_POLICY_REFUSED, "", 0, "%s: %s", addr_port_str(server, text), why);
	return ERR_INVALID;
}

/* The address of ours that packets to `to` leave with. */
static int own_addr_towards(const struct addr *to, struct addr *out)
{
	struct addr_port at = {.addr = *to, .port = 9}, own;
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&at, &sa);
	int err = ERR_IO, fd;

	fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_from_errno(errno);
	if (connect(fd, (struct sockaddr *)&sa, len) != 0) { /* sends nothing */
		err = err_from_errno(errno);
	} else {
		len = sizeof(sa);
		if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0)
			err = addr_from_sockaddr((struct sockaddr *)&sa, &own);
	}
	close(fd);
	if (err == 0)
		*out = own.addr;
	return err;
}

static int relay_addr(const struct policy_relay *conf, const struct addr *to, struct addr *out)
{
	const struct addr *a = conf->addresses.v;
	size_t i;

	for (i = 0; i < conf->addresses.n; i++) {
		if (a[i].version != to->version)
			continue;
		*out = a[i];
		return 0;
	}
	return own_addr_towards(to, out);
}

/*
 * No server sends media to another host than the one that asked, so control
 * leaves from the address that media is to arrive at.
 */
static int relayed(const struct policy *p, const struct addr *client, struct rtsp_route *r,
		   struct rtsp_route *out, struct failure *f)
{
	int err;

	if (!p->relay.present) {
		failure_set(f, CAUSE_UNSUPPORTED, "", 0, "media is not relayed here");
		return ERR_UNSUPPORTED;
	}
	err = relay_addr(&p->relay, client, &r->relay_local[RELAY_CLIENT]);
	if (err == 0)
		err = relay_addr(&p->relay, &r->server.addr, &r->relay_local[RELAY_FAR]);
	if (err < 0) {
		failure_set(f, CAUSE_PEER_UNREACHABLE, "", 0, "no address to relay on: %s",
			    err_str(err));
		return err;
	}
	r->relay = r->rewrite = true;
	r->from.addr = r->relay_local[RELAY_FAR];
	*out = *r;
	return 0;
}

int rtsp_route_find(const struct agent *a, const struct rtsp_terms *terms,
		    const struct rtsp_mount *mount, const struct addr *client,
		    const struct addr_port *server, struct rtsp_route *out, struct failure *f)
{
	const struct path *path;
	struct rtsp_route r = {.server = *server};
	enum rtsp_out way;

	if (addr_is_any(&server->addr) || addr_is_multicast(&server->addr))
		return refuse(f, "not a server's address", server);
	/* A proxy must not become a way to its own host, or around inside. */
	if (addr_is_loopback(&server->addr) || is_own(&server->addr))
		return refuse(f, "the proxy's own host", server);
	if (terms->mode == RTSP_FORWARD &&
	    policy_zone(a->policy, client) == policy_zone(a->policy, &server->addr))
		return refuse(f, "in the client's own zone", server);
	path = policy_path(a->policy, client, &server->addr);
	if (path == NULL)
		return refuse(f, "no path leads there", server);
	if (terms->zone[0] != '\0' && strcmp(terms->zone, path->from) != 0)
		return refuse(f, "this listener serves another zone", server);
	way = rtsp_plan_out(terms->plan, mount, &server->addr, terms->out);
	if (way == RTSP_OUT_RELAY)
		return relayed(a->policy, client, &r, out, f);
	r.automatic = way == RTSP_OUT_AUTO;
	r.rewrite = way == RTSP_OUT_REWRITE || client->version != server->addr.version ||
		    (way == RTSP_OUT_AUTO &&
		     agent_path_state(a, path, server->addr.version).translates);
	if (!r.rewrite)
		r.from.addr = *client;
	*out = r;
	return 0;
}

bool rtsp_route_permits(const struct policy *p, const struct addr_port *internal,
			const struct addr_port *external)
{
	const struct permit *m = p->permit.v;
	size_t i;

	if (external->port != 0)
		return policy_permits(p, IPPROTO_UDP, internal, external);
	if (!p->has_permit)
		return true;
	for (i = 0; i < p->permit.n; i++)
		if ((m[i].protocol == 0 || m[i].protocol == IPPROTO_UDP) &&
		    addr_prefix_contains(&m[i].internal, &internal->addr) &&
		    addr_prefix_contains(&m[i].external, &external->addr) &&
		    internal->port >= m[i].ports.first && internal->port <= m[i].ports.last)
			return true;
	return false;
}
