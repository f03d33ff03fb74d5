/*
 * What policy says about an RTSP client, a server and media between them.
 */
#ifndef SLUICE_AGENT_RTSP_ROUTE_H
#define SLUICE_AGENT_RTSP_ROUTE_H

#include "agent/agent.h"
#include "agent/rtsp/rtsp_engine.h"

/* May this client of that listener reach that server, and how? 0 or ERR_INVALID with *f. */
int rtsp_route_find(const struct agent *a, const struct rtsp_terms *terms,
		    const struct rtsp_mount *mount, const struct addr *client,
		    const struct addr_port *server, struct rtsp_route *out, struct failure *f);
/* May media flow? An external port of 0 asks for the internal end only. */
bool rtsp_route_permits(const struct policy *p, const struct addr_port *internal,
			const struct addr_port *external);

#endif
