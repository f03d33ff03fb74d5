/*
 * The RTSP proxy (RFC 2326): listeners, connections, sessions. Knows bindings
 * and policy, nothing of SIMCO.
 */
#ifndef SLUICE_AGENT_RTSP_RTSP_H
#define SLUICE_AGENT_RTSP_RTSP_H

#include "agent/agent.h"

struct rtsp;

/* Opens every listener of the policy. NULL after logging. Borrows the agent. */
struct rtsp *rtsp_new(struct agent *a);
/* Applies a changed policy: listeners are added and removed, live sessions keep their terms. 0 or
 * ERR_*. */
int rtsp_reload(struct rtsp *r);
/* Stops accepting, sends TEARDOWN for every session, releases bindings; done() afterwards. */
void rtsp_shutdown(struct rtsp *r, loop_fn done, void *arg);
void rtsp_free(struct rtsp *r);

size_t rtsp_n_sessions(const struct rtsp *r);
size_t rtsp_n_connections(const struct rtsp *r);
/*
 * Sessions after `after`, at most `limit`, as array elements; returns the cursor
 * of the next page, 0 when there is none. One session by id; DELETE ends one
 * with cause `operator`.
 */
uint64_t rtsp_rest_list(struct rtsp *r, uint64_t after, unsigned limit, struct jsonw *w);
bool rtsp_rest_show(struct rtsp *r, const char *id, struct jsonw *w);
bool rtsp_rest_end(struct rtsp *r, const char *id);

#endif
