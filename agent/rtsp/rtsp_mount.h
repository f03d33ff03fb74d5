/*
 * Mounts of a reverse proxy: which URL stands behind a path, and the way back
 * for every URL that a server's messages show. Works on octets and edits only;
 * knows no connections.
 */
#ifndef SLUICE_AGENT_RTSP_MOUNT_H
#define SLUICE_AGENT_RTSP_MOUNT_H

#include "agent/rtsp/rtsp_edit.h"
#include "agent/rtsp/rtsp_msg.h"
#include "agent/rtsp/rtsp_uri.h"

#define RTSP_FRONT_MAX 300 /* octets, with NUL */

struct rtsp_mount {
	char *path;	     /* "/cam1"; "" stands for everything */
	char *to;	     /* as configured */
	struct rtsp_uri uri; /* of `to`; its path without a '/' at the end */
	size_t head;	     /* octets of `to` up to there */
	bool tls;	     /* rtsps */
	int out;	     /* enum rtsp_out, where has_out */
	bool has_out;
};

struct rtsp_mounts {
	struct rtsp_mount *v;
	size_t n;
};

/* Who is talked to and under which name the client knows us. */
struct rtsp_view {
	const struct rtsp_mounts *mounts;
	const struct rtsp_mount *mount; /* of the request; NULL: unknown */
	struct addr_port server;	/* spoken to */
	const char *front;		/* "rtsp://agent:8554", as the client says it */
};

/* Adds one; both strings are copied. 0, ERR_INVALID or ERR_NOMEM. */
int rtsp_mounts_add(struct rtsp_mounts *ms, const char *path, const char *to);
void rtsp_mounts_fini(struct rtsp_mounts *ms);

/*
 * The longest mount that the path of a request lies under; NULL when there is
 * none, or when dot segments could lead out of it.
 */
const struct rtsp_mount *rtsp_mount_find(const struct rtsp_mounts *ms, struct span path);
/* The URL at the server for a URI of the client. 0, ERR_NOENT or ERR_NOMEM. */
int rtsp_mount_url(const struct rtsp_mounts *ms, struct span uri, struct buf *out);
/* scheme://authority of an absolute URI, without user information. False when it has none. */
bool rtsp_mount_front(struct span uri, char front[RTSP_FRONT_MAX]);

/*
 * A client's request (or its response to a server's): its URI, and what else
 * names the agent, become the server's.
 */
void rtsp_mount_to_server(const struct rtsp_view *v, const struct rtsp_msg *m,
			  struct rtsp_edits *e);
/*
 * A server's response or request: URLs of servers behind mounts become the
 * agent's, in Content-Base, Content-Location, Location, RTP-Info and SDP.
 */
void rtsp_mount_to_client(const struct rtsp_view *v, const struct rtsp_msg *m,
			  struct rtsp_edits *e);

#endif
