/*
 * The Transport header (RFC 2326 §12.39): a tokeniser that remembers where
 * everything stands, so that a proxy can patch ports in place.
 */
#ifndef SLUICE_AGENT_RTSP_TRANSPORT_H
#define SLUICE_AGENT_RTSP_TRANSPORT_H

#include "agent/rtsp/rtsp_edit.h"
#include "agent/rtsp/rtsp_msg.h"

#define RTSP_MAX_SPECS 12
#define RTSP_MAX_PARAMS 20

enum rtsp_delivery {
	RTSP_UDP,	  /* unicast over UDP: needs pinholes */
	RTSP_INTERLEAVED, /* in the control connection (RFC 2326 §10.12) */
	RTSP_MULTICAST,
	RTSP_UNKNOWN,
};

struct rtsp_param {
	struct span name, value; /* value without its quotes */
	bool has_value;
	size_t off, len;	     /* from the ';' to the end of the value */
	size_t value_off, value_len; /* with quotes */
};

/* One transport-spec. Offsets count from the start of the message. */
struct rtsp_spec {
	struct span protocol; /* "RTP/AVP/UDP" */
	enum rtsp_delivery delivery;
	bool rtcp_mux; /* RTCP-mux: one port for both */
	bool record;   /* mode contains RECORD */
	struct rtsp_param params[RTSP_MAX_PARAMS];
	size_t n_params;
	size_t off, len;
	size_t header; /* index of the header field it stands in */
};

struct rtsp_transport {
	struct rtsp_spec specs[RTSP_MAX_SPECS];
	size_t n;
};

struct rtsp_ports {
	uint16_t first, last; /* last == first: a single one */
};

/*
 * All Transport headers of a message. 0, ERR_NOENT when there is none,
 * ERR_MALFORMED, ERR_TOOBIG.
 */
int rtsp_transport_parse(const struct rtsp_msg *m, struct rtsp_transport *out);
/* One header value that starts at offset `base` of the message; appends to `out`. */
int rtsp_transport_parse_value(struct span value, size_t base, size_t header,
			       struct rtsp_transport *out);
/* NULL when absent. */
const struct rtsp_param *rtsp_spec_param(const struct rtsp_spec *s, const char *name);
/* "A", "A-B"; 1..65535 each, any order. 0 or ERR_MALFORMED. */
int rtsp_ports_parse(struct span text, struct rtsp_ports *out);
/* "A", "A-B"; channels 0..255. 0 or ERR_MALFORMED. */
int rtsp_channels_parse(struct span text, uint8_t *first, uint8_t *last);
/* A profile and lower transport that are the same thing ("RTP/AVP" is "RTP/AVP/UDP"). */
bool rtsp_protocol_same(struct span a, struct span b);

/* Removes a parameter with its ';'. */
void rtsp_param_delete(struct rtsp_edits *e, const struct rtsp_param *p);
/*
 * Removes every spec whose bit in `keep` is 0, with the commas; fields that
 * become empty go away.
 */
void rtsp_transport_keep(struct rtsp_edits *e, const struct rtsp_msg *m,
			 const struct rtsp_transport *t, uint32_t keep);
/* Is spec `i` in `keep`? */
static inline bool rtsp_kept(uint32_t keep, size_t i)
{
	return (keep >> i & 1u) != 0;
}

#endif
