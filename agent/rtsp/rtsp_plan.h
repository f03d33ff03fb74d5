/*
 * Where the requests of a listener may go: its mounts, its routes, and TLS
 * towards servers. Shared by the connections that began under it, so that a
 * reload changes nothing for them.
 */
#ifndef SLUICE_AGENT_RTSP_PLAN_H
#define SLUICE_AGENT_RTSP_PLAN_H

#include "agent/policy.h"
#include "agent/rtsp/rtsp_mount.h"

struct tls_ctx; /* common/tls.h */

struct rtsp_plan {
	unsigned refs;
	struct rtsp_mounts mounts;
	struct rtsp_route_conf *routes;
	size_t n_routes;
	struct tls_ctx *tls; /* towards rtsps:// servers; NULL: there are none */
};

/* One reference. NULL after logging. */
struct rtsp_plan *rtsp_plan_new(const struct rtsp_listener_conf *conf);
struct rtsp_plan *rtsp_plan_ref(struct rtsp_plan *p); /* NULL is fine, also below */
void rtsp_plan_unref(struct rtsp_plan *p);
/* The way out to a server: as its mount says, else its route, else the listener. */
enum rtsp_out rtsp_plan_out(const struct rtsp_plan *p, const struct rtsp_mount *mount,
			    const struct addr *server, enum rtsp_out otherwise);
/* Whether the server's route wants 461 instead of 503 while a middlebox is unreachable. */
bool rtsp_plan_hint(const struct rtsp_plan *p, const struct addr *server);

#endif
