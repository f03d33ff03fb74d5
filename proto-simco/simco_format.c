/*
 * The message formats of RFC 4540 §5 as one table: which attributes a message
 * type carries, in the order of its figure. Decoder, encoder, session machines,
 * names and tests all read it.
 */
#include "proto-simco/simco_int.h"

/* Mandatory, optional, tuple of a request by order, tuple of a reply by location. */
#define M(a)                                                                                       \
	{                                                                                          \
		SIMCO_ATTR_##a, 0, 0                                                               \
	}
#define O(a)                                                                                       \
	{                                                                                          \
		SIMCO_ATTR_##a, 0, SLOT_OPTIONAL                                                   \
	}
#define REQ_TUPLE(where)                                                                           \
	{                                                                                          \
		SIMCO_ATTR_TUPLE, SIMCO_##where, 0                                                 \
	}
#define REP_TUPLE(where)                                                                           \
	{                                                                                          \
		SIMCO_ATTR_TUPLE, SIMCO_##where, SLOT_REPLY                                        \
	}
#define OPT_TUPLE(where)                                                                           \
	{                                                                                          \
		SIMCO_ATTR_TUPLE, SIMCO_##where, SLOT_REPLY | SLOT_OPTIONAL                        \
	}
#define NEGATIVE(sub, text)                                                                        \
	{                                                                                          \
		.type = SIMCO_##sub, .name = text                                                  \
	}

/*
 * Sorted by type. Attributes in another order, twice, missing or foreign ones
 * do not comply with the format. The inside tuple of PER and PES replies is
 * left out on a traditional NAT (§8.3.3 against figures 31 and 35). The two
 * extension attributes come last; sessions decide whether they may appear.
 */
/* clang-format off */
static const struct simco_format formats[] = {
	/* figure 17 */
	{SIMCO_SE_REQ, "SE request", {M(VERSION), O(CHALLENGE), O(EXTENSIONS)}, {0}},
	/* figure 20 */
	{SIMCO_SA_REQ, "SA request", {O(TOKEN)}, {0}},
	/* figure 21 */
	{SIMCO_ST_REQ, "ST request", {{0}}, {0}},
	/* figure 23 */
	{SIMCO_PRR_REQ, "PRR request", {M(PRR_PARAMS), M(LIFETIME), O(GID)}, {0}},
	/* figure 24 */
	{SIMCO_PER_REQ, "PER request",
	 {M(PER_PARAMS), REQ_TUPLE(INTERNAL), REQ_TUPLE(EXTERNAL), M(LIFETIME), O(GID)}, {0}},
	/* figure 25 */
	{SIMCO_PEA_REQ, "PEA request",
	 {M(PER_PARAMS), REQ_TUPLE(INTERNAL), REQ_TUPLE(EXTERNAL), M(LIFETIME), M(PID)}, {0}},
	/* figure 29 */
	{SIMCO_PDR_REQ, "PDR request",
	 {REQ_TUPLE(INTERNAL), REQ_TUPLE(EXTERNAL), M(LIFETIME)}, {0}},
	/* figure 26 */
	{SIMCO_PLC_REQ, "PLC request", {M(PID), M(LIFETIME)}, {0}},
	/* figure 27 */
	{SIMCO_PRS_REQ, "PRS request", {M(PID)}, {0}},
	/* figure 28 */
	{SIMCO_PRL_REQ, "PRL request", {{0}}, {0}},

	/* figure 18; concludes SA, too (§7.3) */
	{SIMCO_SE_REP, "SE reply", {M(CAPABILITIES), O(EXTENSIONS)}, {SIMCO_SE_REQ, SIMCO_SA_REQ}},
	/* figure 19 */
	{SIMCO_SA_REP, "SA reply", {O(CHALLENGE), O(TOKEN)}, {SIMCO_SE_REQ}},
	/* figure 21 */
	{SIMCO_ST_REP, "ST reply", {{0}}, {SIMCO_ST_REQ}},
	/* figure 30 */
	{SIMCO_PRR_REP, "PRR reply",
	 {M(PID), M(GID), M(LIFETIME), REP_TUPLE(OUTSIDE), OPT_TUPLE(INSIDE)}, {SIMCO_PRR_REQ}},
	/* figure 31 */
	{SIMCO_PER_REP, "PER reply",
	 {M(PID), M(GID), M(LIFETIME), REP_TUPLE(OUTSIDE), OPT_TUPLE(INSIDE)},
	 {SIMCO_PER_REQ, SIMCO_PEA_REQ}},
	/* figure 38 */
	{SIMCO_PDR_REP, "PDR reply", {M(PID), M(LIFETIME)}, {SIMCO_PDR_REQ}},
	/* figure 32 */
	{SIMCO_PLC_REP, "PLC reply", {M(LIFETIME)}, {SIMCO_PLC_REQ}},
	/* figure 33 */
	{SIMCO_PRD_REP, "PRD reply", {{0}}, {SIMCO_PLC_REQ}},
	/* figure 34 */
	{SIMCO_PRS_REP, "PRS reply",
	 {M(PID), M(GID), M(LIFETIME), REP_TUPLE(OUTSIDE), OPT_TUPLE(INSIDE), M(OWNER)},
	 {SIMCO_PRS_REQ}},
	/* figure 37 */
	{SIMCO_PRL_REP, "PRL reply", {{SIMCO_ATTR_PID, 0, SLOT_OPTIONAL | SLOT_REPEATED}},
	 {SIMCO_PRL_REQ}},
	/* figure 35 */
	{SIMCO_PES_REP, "PES reply",
	 {M(PID), M(GID), M(PER_PARAMS), REP_TUPLE(INTERNAL), OPT_TUPLE(INSIDE),
	  REP_TUPLE(OUTSIDE), REP_TUPLE(EXTERNAL), M(LIFETIME), M(OWNER), O(ACTIVITY)},
	 {SIMCO_PRS_REQ}},
	/* figure 36 */
	{SIMCO_PDS_REP, "PDS reply",
	 {M(PID), REP_TUPLE(INTERNAL), REP_TUPLE(EXTERNAL), M(LIFETIME), M(OWNER)},
	 {SIMCO_PRS_REQ}},

	/* §4.2.3; figures 16, 22 and 39 */
	NEGATIVE(WRONG_BASIC_TYPE, "wrong basic request message type"),
	NEGATIVE(WRONG_SUB_TYPE, "wrong request message sub-type"),
	NEGATIVE(BADLY_FORMED_REQUEST, "badly formed request"),
	NEGATIVE(REPLY_TOO_BIG, "reply message too big"),
	NEGATIVE(NOT_APPLICABLE, "request not applicable"),
	NEGATIVE(LACK_OF_RESOURCES, "lack of resources"),
	{SIMCO_VERSION_MISMATCH, "protocol version mismatch", {M(VERSION)}, {0}},
	NEGATIVE(AUTHENTICATION_FAILED, "authentication failed"),
	NEGATIVE(NO_AUTHORIZATION, "no authorization"),
	NEGATIVE(TRANSPORT_PROBLEM, "transport protocol problem"),
	NEGATIVE(SECURITY_INSUFFICIENT, "security of underlying protocol layers insufficient"),
	NEGATIVE(TRANSACTION_NOT_SUPPORTED, "transaction not supported"),
	NEGATIVE(TRANSACTION_NOT_AUTHORIZED, "agent not authorized for this transaction"),
	NEGATIVE(NO_RESOURCES, "no resources available for this transaction"),
	NEGATIVE(NO_SUCH_RULE, "specified policy rule does not exist"),
	NEGATIVE(NO_SUCH_GROUP, "specified policy rule group does not exist"),
	NEGATIVE(RULE_NOT_AUTHORIZED, "not authorized for accessing specified policy"),
	NEGATIVE(GROUP_NOT_AUTHORIZED, "not authorized for accessing specified group"),
	NEGATIVE(ADDRESS_SPACE_UNAVAILABLE, "requested address space not available"),
	NEGATIVE(LACK_OF_ADDRESSES, "lack of IP addresses"),
	NEGATIVE(LACK_OF_PORTS, "lack of port numbers"),
	NEGATIVE(CONFIGURATION_FAILED, "middlebox configuration failed"),
	NEGATIVE(INCONSISTENT_REQUEST, "inconsistent request"),
	NEGATIVE(WILDCARDING_NOT_SUPPORTED, "requested wildcarding not supported"),
	NEGATIVE(PROTOCOL_MISMATCH, "protocol type doesn't match"),
	NEGATIVE(NAT_MODE_NOT_SUPPORTED, "NAT mode not supported"),
	NEGATIVE(IP_VERSION_MISMATCH, "IP version mismatch"),
	NEGATIVE(CONFLICT, "conflict with existing rule"),
	NEGATIVE(LIFETIME_NOT_AUTHORIZED, "not authorized to change lifetime"),
	NEGATIVE(LIFETIME_NOT_EXTENDED, "lifetime can't be extended"),
	NEGATIVE(ILLEGAL_ADDRESS, "illegal IP address"),
	NEGATIVE(PROTOCOL_NOT_SUPPORTED, "protocol type not supported"),
	NEGATIVE(ILLEGAL_PORT, "illegal port number"),
	NEGATIVE(ILLEGAL_NOSP, "illegal number of subsequent ports"),
	NEGATIVE(ALREADY_ENABLED, "already enable PID"),
	NEGATIVE(PARITY_MISMATCH, "parity doesn't match"),

	/* figures 15, 22a and 40 */
	{SIMCO_BFM, "BFM notification", {{0}}, {0}},
	{SIMCO_AST, "AST notification", {{0}}, {0}},
	{SIMCO_ARE, "ARE notification", {M(PID), M(LIFETIME), O(REASON)}, {0}},
};
/* clang-format on */

const struct simco_format *simco_format_find(uint16_t type)
{
	size_t lo = 0, hi = ARRAY_LEN(formats);

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (formats[mid].type == type)
			return &formats[mid];
		if (formats[mid].type < type)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

const struct simco_format *simco_format_at(size_t i)
{
	return i < ARRAY_LEN(formats) ? &formats[i] : NULL;
}

bool simco_is_policy_request(uint16_t type)
{
	return type >> 8 == SIMCO_REQUEST && type > SIMCO_ST_REQ && simco_format_find(type) != NULL;
}

bool simco_reply_fits(uint16_t request, uint16_t reply)
{
	const struct simco_format *f = simco_format_find(reply);

	if (f == NULL)
		return false;
	if (reply >> 8 == SIMCO_NEGATIVE)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(f->answers); i++)
		if (f->answers[i] != 0 && f->answers[i] == request)
			return true;
	return false;
}

size_t simco_request_max(void)
{
	size_t max = 0;

	for (const struct simco_format *f = formats; f->type >> 8 == SIMCO_REQUEST; f++) {
		size_t n = 0;

		for (size_t i = 0; i < SIMCO_MAX_SLOTS && f->slots[i].attr != 0; i++)
			n += SIMCO_ATTR_HEADER_LEN + simco_attr_find(f->slots[i].attr)->max;
		max = n > max ? n : max;
	}
	return max;
}
