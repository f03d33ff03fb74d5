/*
 * The failure table. Logs, REST, metrics and every protocol use its names, so
 * an operator finds the same word wherever a failure shows up.
 */
#include "agent/failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/span.h"
#include "proto-simco/simco.h"

static const struct cause_info causes[CAUSE_MAX] = {
	/* cause                           name, phrase, RTSP, SIP, SOCKS, Retry-After */
	[CAUSE_NONE] = {"none", "No Failure", 200, 200, 0x00, false},
	[CAUSE_MIDDLEBOX_UNREACHABLE] = {"middlebox-unreachable", "Middlebox Unreachable", 503, 503,
					 0x01, true},
	[CAUSE_OVERLOADED] = {"overloaded", "Middlebox Overloaded", 453, 503, 0x01, true},
	[CAUSE_OUT_OF_PORTS] = {"out-of-ports", "Out Of Ports", 453, 503, 0x01, true},
	[CAUSE_OUT_OF_ADDRESSES] = {"out-of-addresses", "Out Of Addresses", 453, 503, 0x01, true},
	[CAUSE_QUOTA] = {"quota", "Quota Exceeded", 453, 480, 0x01, false},
	[CAUSE_POLICY_REFUSED] = {"policy-refused", "Refused By Policy", 403, 403, 0x02, false},
	[CAUSE_CONFLICT] = {"conflict", "Conflicts With A Rule", 403, 403, 0x02, false},
	[CAUSE_UNSUPPORTED] = {"unsupported", "Unsupported By Middlebox", 461, 488, 0x08, false},
	/* SIP: 580 instead where the endpoints use preconditions (RFC 3312) */
	[CAUSE_CONFIGURATION_FAILED] = {"configuration-failed", "Middlebox Configuration Failed",
					500, 500, 0x01, false},
	[CAUSE_LIFETIME_REFUSED] = {"lifetime-refused", "Lifetime Refused", 500, 500, 0x01, false},
	[CAUSE_AGENT_FAULT] = {"agent-fault", "Agent Fault", 500, 500, 0x01, false},
	[CAUSE_RULE_LOST] = {"rule-lost", "Pinhole Lost", 0, 0, 0x01, false},
	[CAUSE_MEDIA_TIMEOUT] = {"media-timeout", "Media Timeout", 0, 0, 0x01, false},
	[CAUSE_OPERATOR] = {"operator", "Ended By Operator", 0, 0, 0x01, false},
	[CAUSE_SESSION_TIMEOUT] = {"session-timeout", "Session Timeout", 0, 0, 0x01, false},
	/* SIP: 408 and SOCKS: 05 where the protocol knows that it was a timeout or a refusal */
	[CAUSE_PEER_UNREACHABLE] = {"peer-unreachable", "Peer Unreachable", 502, 503, 0x04, false},
	[CAUSE_PEER_MALFORMED] = {"peer-malformed", "Malformed Message", 400, 400, 0x01, false},
};

/* Process-wide on purpose: failures are noted where no context is at hand. */
static uint64_t counters[CAUSE_MAX];

const struct cause_info *cause_info(enum cause c)
{
	if ((unsigned)c >= CAUSE_MAX)
		c = CAUSE_AGENT_FAULT;
	return &causes[c];
}

enum cause cause_from_simco(uint16_t type)
{
	switch (type) {
	/* A session that the middlebox does not let us have is a session that is down. */
	case SIMCO_VERSION_MISMATCH:
	case SIMCO_AUTHENTICATION_FAILED:
	case SIMCO_NO_AUTHORIZATION:
	case SIMCO_TRANSPORT_PROBLEM:
	case SIMCO_SECURITY_INSUFFICIENT:
		return CAUSE_MIDDLEBOX_UNREACHABLE;
	case SIMCO_LACK_OF_RESOURCES:
		return CAUSE_OVERLOADED;
	case SIMCO_LACK_OF_ADDRESSES:
		return CAUSE_OUT_OF_ADDRESSES;
	case SIMCO_LACK_OF_PORTS:
		return CAUSE_OUT_OF_PORTS;
	case SIMCO_NO_RESOURCES:
		return CAUSE_QUOTA;
	case SIMCO_TRANSACTION_NOT_SUPPORTED:
	case SIMCO_TRANSACTION_NOT_AUTHORIZED:
	case SIMCO_RULE_NOT_AUTHORIZED:
	case SIMCO_ADDRESS_SPACE_UNAVAILABLE:
	case SIMCO_ILLEGAL_ADDRESS:
	case SIMCO_ILLEGAL_PORT:
		return CAUSE_POLICY_REFUSED;
	case SIMCO_CONFLICT:
		return CAUSE_CONFLICT;
	case SIMCO_WILDCARDING_NOT_SUPPORTED:
	case SIMCO_NAT_MODE_NOT_SUPPORTED:
	case SIMCO_IP_VERSION_MISMATCH:
	case SIMCO_PROTOCOL_NOT_SUPPORTED:
		return CAUSE_UNSUPPORTED;
	case SIMCO_CONFIGURATION_FAILED:
		return CAUSE_CONFIGURATION_FAILED;
	case SIMCO_LIFETIME_NOT_AUTHORIZED:
	case SIMCO_LIFETIME_NOT_EXTENDED:
		return CAUSE_LIFETIME_REFUSED;
	case SIMCO_NO_SUCH_RULE:
		return CAUSE_RULE_LOST;
	default:
		/*
		 * 0310-0313, 0320, 0344, 0346, 034B, 034D, 0356-0358, BFM: we
		 * sent something wrong. So is a code that we do not know.
		 */
		return CAUSE_AGENT_FAULT;
	}
}

/* Our own faults are errors, the middlebox's are warnings, what endpoints do is information. */
static enum log_level cause_level(enum cause c)
{
	switch (c) {
	case CAUSE_AGENT_FAULT:
		return LOG_LEVEL_ERR;
	case CAUSE_MIDDLEBOX_UNREACHABLE:
	case CAUSE_OVERLOADED:
	case CAUSE_OUT_OF_PORTS:
	case CAUSE_OUT_OF_ADDRESSES:
	case CAUSE_CONFIGURATION_FAILED:
	case CAUSE_LIFETIME_REFUSED:
	case CAUSE_RULE_LOST:
		return LOG_LEVEL_WARN;
	default:
		return LOG_LEVEL_INFO;
	}
}

void failure_note(const struct failure *f, const char *module, const char *id)
{
	char detail[2 * sizeof(f->detail)];

	if ((unsigned)f->cause >= CAUSE_MAX)
		return;
	counters[f->cause]++;
	if (!log_enabled(cause_level(f->cause)))
		return;
	log_at(cause_level(f->cause), "%s %s: %s%s%s%s%s%s", module, id, cause_info(f->cause)->name,
	       f->middlebox[0] ? " (" : "", f->middlebox, f->middlebox[0] ? ")" : "",
	       f->detail[0] ? ": " : "", log_escape(span_str(f->detail), detail, sizeof(detail)));
}

uint64_t failure_count(enum cause c)
{
	return (unsigned)c < CAUSE_MAX ? counters[c] : 0;
}

void failure_set(struct failure *f, enum cause c, const char *middlebox, unsigned retry_after,
		 const char *fmt, ...)
{
	va_list ap;

	*f = (struct failure){.cause = c, .retry_after = retry_after};
	if (middlebox)
		span_copy(span_str(middlebox), f->middlebox, sizeof(f->middlebox));
	va_start(ap, fmt);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
	va_end(ap);
}
