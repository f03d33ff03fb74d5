/*
 * The parts of a Request-URI that a proxy needs (RFC 2326 §3.2).
 */
#ifndef SLUICE_AGENT_RTSP_URI_H
#define SLUICE_AGENT_RTSP_URI_H

#include "common/addr.h"
#include "common/span.h"

#define RTSP_PORT 554
#define RTSPS_PORT 322

enum rtsp_uri_form {
	RTSP_URI_ABSOLUTE, /* scheme://host... */
	RTSP_URI_ORIGIN,   /* /path */
	RTSP_URI_STAR,	   /* * */
};

struct rtsp_uri {
	enum rtsp_uri_form form;
	struct span scheme, host, path; /* host without brackets; path with its '/' */
	uint16_t port;			/* the scheme's default where absent */
	struct addr addr;		/* version 0 when host is a name */
};

/* 0 or ERR_MALFORMED. */
int rtsp_uri_parse(struct span text, struct rtsp_uri *out);
/* The same resource? Scheme and host compare without case, one trailing '/' does not count. */
bool rtsp_uri_same(struct span a, struct span b);

#endif
