/*
 * The one failure table of the agent: every cause, its name in logs, REST and
 * metrics, and what each protocol tells its endpoints.
 */
#ifndef SLUICE_AGENT_FAILURE_H
#define SLUICE_AGENT_FAILURE_H

#include "common/base.h"

enum cause {
	CAUSE_NONE,
	CAUSE_MIDDLEBOX_UNREACHABLE,
	CAUSE_OVERLOADED,
	CAUSE_OUT_OF_PORTS,
	CAUSE_OUT_OF_ADDRESSES,
	CAUSE_QUOTA,
	CAUSE_POLICY_REFUSED,
	CAUSE_CONFLICT,
	CAUSE_UNSUPPORTED,
	CAUSE_CONFIGURATION_FAILED,
	CAUSE_LIFETIME_REFUSED,
	CAUSE_AGENT_FAULT,
	CAUSE_RULE_LOST,
	CAUSE_MEDIA_TIMEOUT,
	CAUSE_OPERATOR,
	CAUSE_SESSION_TIMEOUT,
	CAUSE_PEER_UNREACHABLE,
	CAUSE_PEER_MALFORMED,
	CAUSE_MAX
};

/* One failure as it travels from the binding to an endpoint. */
struct failure {
	enum cause cause;
	char middlebox[64];   /* name in the policy, empty when none is involved */
	char detail[160];     /* safe to show to an endpoint */
	unsigned retry_after; /* seconds, 0: none */
};

/* A row of the table. */
struct cause_info {
	const char *name;     /* "middlebox-unreachable" */
	const char *phrase;   /* short English text for reason phrases */
	uint16_t rtsp_status; /* 0: no reply, the session is ended */
	uint16_t sip_status;  /* 0: as described in ARCHITECTURE.md */
	uint8_t socks_reply;
	bool retry_after; /* replies carry Retry-After */
};

const struct cause_info *cause_info(enum cause c);
/* The cause that a SIMCO negative reply (0x03xx) stands for. */
enum cause cause_from_simco(uint16_t type);
/* Counts a failure for metrics and logs it at the right level. */
void failure_note(const struct failure *f, const char *module, const char *id);
uint64_t failure_count(enum cause c);
void failure_set(struct failure *f, enum cause c, const char *middlebox, unsigned retry_after,
		 const char *fmt, ...) ATTR_PRINTF(5, 6);

#endif
