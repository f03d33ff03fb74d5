/*
 * RTSP messages and interleaved frames as they stand on the wire (RFC 2326 §4,
 * §6, §7, §10.12). The decoder hands out spans and offsets into its input and
 * changes nothing, so that a proxy can forward the original octets.
 */
#ifndef SLUICE_AGENT_RTSP_MSG_H
#define SLUICE_AGENT_RTSP_MSG_H

#include "common/base.h"
#include "common/errcode.h"
#include "common/span.h"

#define RTSP_MAX_HEADERS 96
#define RTSP_DATA_HEADER 4 /* '$', channel, 16-bit length */
#define RTSP_DATA_MAX (RTSP_DATA_HEADER + 65535)
#define RTSP_SESSION_TIMEOUT 60 /* seconds, RFC 2326 §12.37 */

enum rtsp_kind { RTSP_REQUEST, RTSP_RESPONSE, RTSP_DATA };

enum rtsp_method {
	RTSP_OTHER, /* unknown: passed like any other */
	RTSP_ANNOUNCE,
	RTSP_DESCRIBE,
	RTSP_GET_PARAMETER,
	RTSP_OPTIONS,
	RTSP_PAUSE,
	RTSP_PLAY,
	RTSP_RECORD,
	RTSP_REDIRECT,
	RTSP_SETUP,
	RTSP_SET_PARAMETER,
	RTSP_TEARDOWN,
	RTSP_METHOD_MAX
};

struct rtsp_header {
	struct span name;
	struct span value; /* trimmed; line folds are still inside */
	size_t off;	   /* of the field in the message */
	size_t len;	   /* of the field with its line ends */
	size_t value_off;  /* of `value` in the message */
};

/* A decoded message; everything borrows from the octets given to the decoder. */
struct rtsp_msg {
	enum rtsp_kind kind;
	struct span raw; /* start line to last octet of the body; offsets count from here */
	/* requests */
	enum rtsp_method method_id;
	struct span method, uri;
	/* responses */
	unsigned status;
	struct span reason;
	/* both */
	unsigned major, minor;
	struct rtsp_header headers[RTSP_MAX_HEADERS];
	size_t n_headers;
	size_t header_end; /* offset of the empty line: the place to insert fields */
	struct span body;
	/* interleaved data */
	uint8_t channel;
};

struct rtsp_limits {
	size_t line, header, body; /* octets */
};

/* What is remembered between calls about an incomplete message. */
struct rtsp_parser {
	struct rtsp_limits limits;
	size_t scanned;	   /* octets already searched for the end of the header */
	size_t line_start; /* of the line being searched */
	size_t lines;
	size_t need; /* whole message, once known */
};

void rtsp_parser_init(struct rtsp_parser *p, const struct rtsp_limits *limits);
/*
 * Decodes the message at the start of `in`. After ERR_MORE the same octets and
 * more are given again. Empty lines before a message are skipped (RFC 2068 §4.1).
 * `*used` is always set: octets that are done with (0 after an error).
 *
 * Lines end with CRLF or LF (RFC 2326 §4). A bare CR, a NUL or another control
 * character is an error, because what follows it means different things to
 * different servers. 0, ERR_MORE, ERR_MALFORMED, ERR_TOOBIG; after the last two
 * the framing is lost, `m` holds what was understood so far (for CSeq).
 */
int rtsp_msg_decode(struct rtsp_parser *p, struct span in, struct rtsp_msg *m, size_t *used);

/* NULL when absent. */
const struct rtsp_header *rtsp_msg_find(const struct rtsp_msg *m, const char *name);
size_t rtsp_msg_count(const struct rtsp_msg *m, const char *name);
/* The one CSeq. 0, ERR_NOENT, ERR_MALFORMED (also when there are several). */
int rtsp_msg_cseq(const struct rtsp_msg *m, uint32_t *out);
/*
 * The one Session: id without parameters, and timeout= in seconds (the default
 * where it is absent or bad; *given tells). 0, ERR_NOENT, ERR_MALFORMED.
 */
int rtsp_msg_session(const struct rtsp_msg *m, struct span *id, unsigned *timeout, bool *given);

const char *rtsp_method_name(enum rtsp_method m);
/* True for an octet of an RFC 2326 token. */
bool rtsp_is_token(uint8_t c);

#endif
