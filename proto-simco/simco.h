/*
 * libsimco: SIMCO 3.0 (RFC 4540) for agents and middleboxes.
 *
 * Sans-I/O: the caller moves octets and tells the time. Names and order follow
 * RFC 4540. Where the text is silent the readings of ARCHITECTURE.md
 * ("Readings of RFC 4540") apply.
 */
#ifndef SIMCO_H
#define SIMCO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIMCO_PORT 7626			/* §3 */
#define SIMCO_HEADER_LEN 8		/* §4.2 */
#define SIMCO_MESSAGE_MAX 65536		/* header and payload */
#define SIMCO_RECEIVE_TIMEOUT_MS 60000u /* §6(2) */

/* Results of library calls; the values agree with nothing else. */
enum simco_err {
	SIMCO_OK = 0,
	SIMCO_ERR_MORE = -1,	  /* incomplete: feed more octets */
	SIMCO_ERR_MALFORMED = -2, /* attributes do not comply with the message type */
	SIMCO_ERR_TOOBIG = -3,	  /* does not fit into a message or the output limit */
	SIMCO_ERR_NOMEM = -4,
	SIMCO_ERR_STATE = -5,  /* not now */
	SIMCO_ERR_CLOSED = -6, /* the session is over: send the output, then close */
};

/* §4.2.1 */
enum simco_basic {
	SIMCO_REQUEST = 0x01,
	SIMCO_POSITIVE = 0x02,
	SIMCO_NEGATIVE = 0x03,
	SIMCO_NOTIFICATION = 0x04,
};

/* Message types as the RFC writes them in §5: basic type and sub-type. */
#define SIMCO_TYPE(basic, sub) ((uint16_t)((basic) << 8 | (sub)))
enum simco_type {
	SIMCO_SE_REQ = 0x0101,
	SIMCO_SA_REQ = 0x0102,
	SIMCO_ST_REQ = 0x0103,
	SIMCO_PRR_REQ = 0x0111,
	SIMCO_PER_REQ = 0x0112,
	SIMCO_PEA_REQ = 0x0113,
	SIMCO_PDR_REQ = 0x0114,
	SIMCO_PLC_REQ = 0x0115,
	SIMCO_PRS_REQ = 0x0121,
	SIMCO_PRL_REQ = 0x0122,

	SIMCO_SE_REP = 0x0201,
	SIMCO_SA_REP = 0x0202,
	SIMCO_ST_REP = 0x0203,
	SIMCO_PRR_REP = 0x0211,
	SIMCO_PER_REP = 0x0212, /* also answers a PEA, §5.3.10 */
	SIMCO_PDR_REP = 0x0214,
	SIMCO_PLC_REP = 0x0215,
	SIMCO_PRD_REP = 0x0216,
	SIMCO_PRS_REP = 0x0221,
	SIMCO_PRL_REP = 0x0222,
	SIMCO_PES_REP = 0x0223,
	SIMCO_PDS_REP = 0x0224,

	/* §4.2.3 */
	SIMCO_WRONG_BASIC_TYPE = 0x0310,
	SIMCO_WRONG_SUB_TYPE = 0x0311,
	SIMCO_BADLY_FORMED_REQUEST = 0x0312,
	SIMCO_REPLY_TOO_BIG = 0x0313,
	SIMCO_NOT_APPLICABLE = 0x0320,
	SIMCO_LACK_OF_RESOURCES = 0x0321,
	SIMCO_VERSION_MISMATCH = 0x0322,
	SIMCO_AUTHENTICATION_FAILED = 0x0323,
	SIMCO_NO_AUTHORIZATION = 0x0324,
	SIMCO_TRANSPORT_PROBLEM = 0x0325,
	SIMCO_SECURITY_INSUFFICIENT = 0x0326,
	SIMCO_TRANSACTION_NOT_SUPPORTED = 0x0340,
	SIMCO_TRANSACTION_NOT_AUTHORIZED = 0x0341,
	SIMCO_NO_RESOURCES = 0x0342,
	SIMCO_NO_SUCH_RULE = 0x0343,
	SIMCO_NO_SUCH_GROUP = 0x0344,
	SIMCO_RULE_NOT_AUTHORIZED = 0x0345,
	SIMCO_GROUP_NOT_AUTHORIZED = 0x0346,
	SIMCO_ADDRESS_SPACE_UNAVAILABLE = 0x0347,
	SIMCO_LACK_OF_ADDRESSES = 0x0348,
	SIMCO_LACK_OF_PORTS = 0x0349,
	SIMCO_CONFIGURATION_FAILED = 0x034A,
	SIMCO_INCONSISTENT_REQUEST = 0x034B,
	SIMCO_WILDCARDING_NOT_SUPPORTED = 0x034C,
	SIMCO_PROTOCOL_MISMATCH = 0x034D,
	SIMCO_NAT_MODE_NOT_SUPPORTED = 0x034E,
	SIMCO_IP_VERSION_MISMATCH = 0x034F,
	SIMCO_CONFLICT = 0x0350,
	SIMCO_LIFETIME_NOT_AUTHORIZED = 0x0351,
	SIMCO_LIFETIME_NOT_EXTENDED = 0x0352,
	SIMCO_ILLEGAL_ADDRESS = 0x0353,
	SIMCO_PROTOCOL_NOT_SUPPORTED = 0x0354,
	SIMCO_ILLEGAL_PORT = 0x0355,
	SIMCO_ILLEGAL_NOSP = 0x0356,
	SIMCO_ALREADY_ENABLED = 0x0357,
	SIMCO_PARITY_MISMATCH = 0x0358,

	/* §4.2.4 */
	SIMCO_BFM = 0x0401,
	SIMCO_AST = 0x0402,
	SIMCO_ARE = 0x0403,
};

/* §4.3 */
enum simco_attr {
	SIMCO_ATTR_VERSION = 0x0001,
	SIMCO_ATTR_CHALLENGE = 0x0002,
	SIMCO_ATTR_TOKEN = 0x0003,
	SIMCO_ATTR_CAPABILITIES = 0x0004,
	SIMCO_ATTR_PID = 0x0005,
	SIMCO_ATTR_GID = 0x0006,
	SIMCO_ATTR_LIFETIME = 0x0007,
	SIMCO_ATTR_OWNER = 0x0008,
	SIMCO_ATTR_TUPLE = 0x0009,
	SIMCO_ATTR_PRR_PARAMS = 0x000A,
	SIMCO_ATTR_PER_PARAMS = 0x000B,
	/* Extensions, negotiated in SE; never sent to a peer that did not ask. */
	SIMCO_ATTR_EXTENSIONS = 0x8000, /* 32-bit mask */
	SIMCO_ATTR_ACTIVITY = 0x8001,	/* see struct simco_activity */
	SIMCO_ATTR_REASON = 0x8002,	/* enum simco_reason, 32 bits */
};

#define SIMCO_AUTH_MAX 4096	       /* §4.3.2 */
#define SIMCO_OWNER_MAX 255	       /* §4.3.7 */
#define SIMCO_PIDS_MAX 8191	       /* PID attributes in one message */
#define SIMCO_EXT_ACTIVITY 0x00000001u /* PES carries SIMCO_ATTR_ACTIVITY */
#define SIMCO_EXT_REASON 0x00000002u   /* an ARE with lifetime 0 carries SIMCO_ATTR_REASON */

/* Why a rule ended, where no request of the asked session did it. */
enum simco_reason {
	SIMCO_REASON_NONE = 0, /* a request of another session, or not told */
	SIMCO_REASON_EXPIRED = 1,
	SIMCO_REASON_MEDIA_TIMEOUT = 2, /* silence over the whole group */
	SIMCO_REASON_OPERATOR = 3,
	SIMCO_REASON_DISABLED = 4, /* a policy disable rule */
};

/* §4.3.3 MB type */
#define SIMCO_MB_FIREWALL 0x80
#define SIMCO_MB_NAT 0x40
#define SIMCO_MB_PDR 0x10
#define SIMCO_MB_TWICE_NAT 0x04
#define SIMCO_MB_PROTOCOL_TRANSLATION 0x02
#define SIMCO_MB_PORT_TRANSLATION 0x01

/* §4.3.8 */
enum simco_location {
	SIMCO_INTERNAL = 0, /* A0 */
	SIMCO_INSIDE = 1,   /* A1 */
	SIMCO_OUTSIDE = 2,  /* A2 */
	SIMCO_EXTERNAL = 3, /* A3 */
};

enum { SIMCO_IP_ANY = 0, SIMCO_IPV4 = 1, SIMCO_IPV6 = 2 };
enum { SIMCO_NAT_TRADITIONAL = 1, SIMCO_NAT_TWICE = 2 };		    /* §4.3.9 NM */
enum { SIMCO_PARITY_ANY = 0, SIMCO_PARITY_ODD = 1, SIMCO_PARITY_EVEN = 2 }; /* §4.3.9 PP */
enum { SIMCO_PER_PARITY_ANY = 0, SIMCO_PER_PARITY_SAME = 3 };		    /* §4.3.10 */
enum { SIMCO_INBOUND = 1, SIMCO_OUTBOUND = 2, SIMCO_BIDIRECTIONAL = 3 };    /* §4.3.10 */

struct simco_version {
	uint8_t major, minor;
};

struct simco_capabilities { /* §4.3.3 */
	uint8_t mb_type;
	bool internal_wildcard, external_wildcard, port_wildcard, persistent;
	uint8_t inside_versions, outside_versions; /* bit 0 IPv4, bit 1 IPv6 */
	uint32_t max_lifetime;			   /* seconds */
};

struct simco_tuple {	     /* §4.3.8 */
	bool protocols_only; /* first field 0x1: addresses and ports wildcarded */
	uint8_t ip_version;  /* SIMCO_IPV4 or SIMCO_IPV6; SIMCO_IP_ANY only in a reply that
			      * is 'protocols only' (it repeats IPo, §8.2.2) */
	uint8_t prefix_len;  /* 'protocols only': irrelevant (§8.3.1) */
	uint8_t protocol;    /* IANA number, 0: any */
	uint8_t location;    /* encoding a reply, the index in simco_msg.tuple counts */
	uint16_t port;	     /* 0: wildcarded */
	uint16_t port_range;
	uint8_t addr[16]; /* network order, IPv4 in the first four */
};

struct simco_prr_params { /* §4.3.9 */
	uint8_t nat_mode, parity, inside_version, outside_version, protocol;
	uint16_t port_range;
};

struct simco_per_params { /* §4.3.10 */
	uint8_t parity, direction;
};

/*
 * Per direction: [0] inbound, [1] outbound. On the wire 48 octets: packets,
 * octets, idle_ms of inbound, then of outbound.
 */
struct simco_activity {
	uint64_t packets[2], octets[2];
	uint64_t idle_ms[2]; /* since the last packet; UINT64_MAX: none seen */
};

/*
 * One message, decoded. Which members carry meaning follows from `type` (the
 * tables of §5) and, for optional attributes, from the has_ flags. Pointers are
 * borrowed from the input of simco_decode() resp. must live until simco_encode().
 */
struct simco_msg {
	uint16_t type; /* enum simco_type */
	uint32_t tid;

	bool has_challenge, has_token, has_gid, has_inside, has_extensions, has_activity,
		has_reason;

	struct simco_version version;
	const uint8_t *challenge;
	size_t challenge_len;
	const uint8_t *token;
	size_t token_len;
	struct simco_capabilities capabilities;
	uint32_t pid, gid, lifetime;
	const uint8_t *owner;
	size_t owner_len;
	/*
	 * In a request [SIMCO_INTERNAL] is the first tuple and [SIMCO_EXTERNAL]
	 * the second, whatever their location fields say (§8.3.1 checks those);
	 * in a reply: by location.
	 */
	struct simco_tuple tuple[4];
	struct simco_prr_params prr;
	struct simco_per_params per;
	uint32_t extensions;
	struct simco_activity activity;
	uint32_t reason;	  /* enum simco_reason; others may come */
	const uint8_t *pids;	  /* PRL reply, decoding: n_pids PID attributes as on the wire */
	const uint32_t *pid_list; /* PRL reply, encoding: n_pids values */
	size_t n_pids;		  /* at most SIMCO_PIDS_MAX */
};

/* Reads only the header of a complete or incomplete message. SIMCO_OK or SIMCO_ERR_MORE. */
int simco_decode_header(const void *in, size_t n, uint16_t *type, uint16_t *length, uint32_t *tid);

/*
 * Decodes one message at the front of in[n]. SIMCO_OK with *used set;
 * SIMCO_ERR_MORE when the message is incomplete; SIMCO_ERR_TOOBIG when its
 * header announces more than SIMCO_MESSAGE_MAX; SIMCO_ERR_MALFORMED when its
 * type is unknown or its attributes do not comply with its type (then *used,
 * out->type and out->tid are set, so that 0x0312 can be sent). Both directions.
 */
int simco_decode(struct simco_msg *out, const void *in, size_t n, size_t *used);

/* i-th PID of a PRL reply, i < m->n_pids. */
uint32_t simco_msg_pid(const struct simco_msg *m, size_t i);

/* Encodes into out[n]. Octets written, or SIMCO_ERR_TOOBIG / SIMCO_ERR_MALFORMED. */
long simco_encode(const struct simco_msg *m, void *out, size_t n);
/* Octets that simco_encode() would write, or a negative error. */
long simco_encoded_size(const struct simco_msg *m);

/* "PRR request", "lack of port numbers", ...; never NULL. */
const char *simco_type_name(uint16_t type);
const char *simco_attr_name(uint16_t attr);
const char *simco_location_name(uint8_t location); /* "internal", ... */
const char *simco_err_name(int err);

/* ---- Session machine, middlebox side (§6, §7) -------------------------------- */

enum simco_session_state { SIMCO_CLOSED, SIMCO_NOAUTH, SIMCO_OPEN }; /* §7.1 */
const char *simco_state_name(enum simco_session_state state);

/* Unanswered policy requests of one session before simco_srv_input() stops. */
#define SIMCO_SRV_PENDING_MAX 1024

struct simco_srv;

/* What the middlebox decides about an SE or SA request. */
struct simco_admission {
	uint16_t refuse;       /* 0, or SIMCO_LACK_OF_RESOURCES..._SECURITY_INSUFFICIENT */
	bool challenge_agent;  /* ask the agent to authenticate itself (SE only) */
	uint8_t challenge[64]; /* the challenge to send then (SA: the one that was sent) */
	size_t challenge_len;
	uint8_t token[SIMCO_AUTH_MAX];		/* answer to the agent's challenge */
	size_t token_len;			/* 0: cannot authenticate (decisions 13) */
	struct simco_capabilities capabilities; /* sent when the session opens */
	uint32_t extensions; /* supported ones; the reply carries the common mask */
};

struct simco_srv_ops {
	/*
	 * SE in CLOSED: fill *adm (all zero). The challenge of the agent is
	 * m->challenge. The machine checks the version itself, in the order of
	 * §7.2: after a refusal for resources, transport or security, before
	 * any other.
	 */
	void (*establish)(void *arg, const struct simco_msg *m, struct simco_admission *adm);
	/*
	 * SA in NOAUTH: m->token (if m->has_token) answers adm->challenge. Set
	 * adm->refuse to 0x0323 or 0x0324, or leave it 0; capabilities and
	 * extensions are preset to those of establish() and may be changed.
	 */
	void (*authenticate)(void *arg, const struct simco_msg *m, struct simco_admission *adm);
	/*
	 * A well-formed policy request in OPEN. Must be answered by exactly one
	 * simco_srv_reply() in the order of the requests, now or later. `m` is
	 * borrowed for the call.
	 */
	void (*request)(void *arg, const struct simco_msg *m);
	/* State changed (for logs and tables). May be NULL. */
	void (*state)(void *arg, enum simco_session_state state);
};

/*
 * `ops` is borrowed for the life of the machine. `max_output`: octets queued for
 * a slow reader before the session is cut. The timer of §6(2) starts at once:
 * a connection without a session may not idle. NULL: no memory.
 */
struct simco_srv *simco_srv_new(const struct simco_srv_ops *ops, void *arg, size_t max_output,
				uint64_t now_ms);
void simco_srv_free(struct simco_srv *s);
/*
 * Feeds octets; *used tells how many were consumed (incomplete messages are,
 * the machine keeps them). It stops early at a message that the machine answers
 * itself (session control, protocol errors) while policy requests are
 * unanswered, so that replies keep the order of requests, and at
 * SIMCO_SRV_PENDING_MAX unanswered requests: feed the rest again after the
 * replies. SIMCO_OK, or SIMCO_ERR_CLOSED: send simco_srv_output(), then close
 * the connection. No op may free the machine.
 */
int simco_srv_input(struct simco_srv *s, const void *in, size_t n, size_t *used, uint64_t now_ms);
/*
 * Answers the oldest unanswered policy request; reply->tid is set by the
 * machine, the activity extension left out where it was not negotiated. A reply
 * that fits no message becomes 0x0313. SIMCO_OK; SIMCO_ERR_CLOSED when the
 * output limit or memory is exhausted: the session is cut; SIMCO_ERR_STATE when
 * there is no such request; SIMCO_ERR_MALFORMED when `reply` cannot be encoded
 * or does not answer that request (nothing was sent then).
 */
int simco_srv_reply(struct simco_srv *s, struct simco_msg *reply);
/* From a callback of simco_srv_input(): it shall return after this message. */
void simco_srv_pause(struct simco_srv *s);
/*
 * ARE (§5.3.19). Only in OPEN; after the replies given so far. As
 * simco_srv_reply(). `reason` (enum simco_reason) goes with lifetime 0 where the
 * extension is on.
 */
int simco_srv_event(struct simco_srv *s, uint32_t pid, uint32_t lifetime, uint32_t reason);
/* AST and CLOSED (§7.5); the caller has answered every request before. */
void simco_srv_terminate(struct simco_srv *s);
/*
 * Absolute ms of the next simco_srv_timeout(), UINT64_MAX: none (§6(2)). Ask
 * again after input and after replies.
 */
uint64_t simco_srv_deadline(const struct simco_srv *s);
/* As simco_srv_input() without octets. */
int simco_srv_timeout(struct simco_srv *s, uint64_t now_ms);
enum simco_session_state simco_srv_state(const struct simco_srv *s);
uint32_t simco_srv_extensions(const struct simco_srv *s); /* negotiated mask */
size_t simco_srv_pending(const struct simco_srv *s);	  /* unanswered policy requests */
/* Octets to send; simco_srv_sent() drops them. */
const uint8_t *simco_srv_output(const struct simco_srv *s, size_t *n);
void simco_srv_sent(struct simco_srv *s, size_t n);

/* ---- Session machine, agent side --------------------------------------------- */

struct simco_cli;

/* `m` is the positive or negative reply; NULL when the session ended before it came. */
typedef void (*simco_reply_fn)(void *arg, const struct simco_msg *m);

struct simco_cli_ops {
	/* OPEN reached. */
	void (*open)(void *arg, const struct simco_capabilities *caps, uint32_t extensions);
	/*
	 * The session is over: `type` is the negative reply or notification
	 * that ended it, 0 for anything else (also after our own ST, and when
	 * the middlebox sent what it may not). Outstanding requests were
	 * answered with NULL before.
	 */
	void (*closed)(void *arg, uint16_t type);
	/* ARE; lifetime 0: the rule is gone, for `reason` where the extension is on. */
	void (*event)(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason);
	/* Computes the token for a challenge. Length, 0: cannot (SA goes without). */
	size_t (*token)(void *arg, const uint8_t *challenge, size_t n,
			uint8_t token[SIMCO_AUTH_MAX]);
	/* Verifies the middlebox's token for our challenge. */
	bool (*verify)(void *arg, const uint8_t *token, size_t n);
};

struct simco_cli_opts {
	const uint8_t *challenge; /* demand that the middlebox authenticates itself; NULL: no */
	size_t challenge_len;
	uint32_t extensions; /* asked for; dropped and retried on 0x0312 */
	size_t max_pending;  /* requests in flight, at least 1 */
};

/* Borrows `ops` and copies *opts with the challenge. NULL: no memory. */
struct simco_cli *simco_cli_new(const struct simco_cli_ops *ops, void *arg,
				const struct simco_cli_opts *opts);
void simco_cli_free(struct simco_cli *c); /* outstanding requests get NULL */
/*
 * Queues the SE request of a fresh connection. After a session ended the same
 * machine may be started again on the next connection. SIMCO_OK,
 * SIMCO_ERR_STATE while a session is on, SIMCO_ERR_NOMEM.
 */
int simco_cli_start(struct simco_cli *c);
/*
 * The session ended only because the middlebox does not know our extensions
 * (0x0312, after which it closes, §6(5)): connect again at once and call
 * simco_cli_start(), which then asks without them.
 */
bool simco_cli_retry(const struct simco_cli *c);
/*
 * Feeds octets; all are consumed. SIMCO_OK, or SIMCO_ERR_CLOSED: close the
 * connection. When the peer closes, call simco_cli_end(). Callbacks may send
 * requests; they may not free the machine or start it again.
 */
int simco_cli_input(struct simco_cli *c, const void *in, size_t n, size_t *used);
void simco_cli_end(struct simco_cli *c);
/*
 * Sends a policy request; the machine chooses the TID. SIMCO_OK, SIMCO_ERR_STATE
 * (not open), SIMCO_ERR_TOOBIG (too many pending), SIMCO_ERR_MALFORMED (cannot
 * be encoded), SIMCO_ERR_NOMEM; `fn` is called exactly once after SIMCO_OK.
 */
int simco_cli_request(struct simco_cli *c, struct simco_msg *m, simco_reply_fn fn, void *arg);
/* ST (§7.4): `closed` follows. */
int simco_cli_terminate(struct simco_cli *c);
enum simco_session_state simco_cli_state(const struct simco_cli *c);
size_t simco_cli_pending(const struct simco_cli *c);
const uint8_t *simco_cli_output(const struct simco_cli *c, size_t *n);
void simco_cli_sent(struct simco_cli *c, size_t n);

#ifdef __cplusplus
}
#endif

#endif
