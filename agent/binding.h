/*
 * The half bind. A session protocol reserves an outside address before the
 * far end is known (HALF_BOUND), hands it to the far end, and completes the
 * binding with the exact remote once the answer names it (BOUND). RTSP, SIP
 * and SOCKS drive this machine; none of them knows SIMCO.
 *
 * A binding covers one flow of one or two components (RTP, and RTCP as the
 * neighbouring port) over a path of one or more middleboxes; all or nothing.
 */
#ifndef SLUICE_AGENT_BINDING_H
#define SLUICE_AGENT_BINDING_H

#include "agent/failure.h"
#include "common/addr.h"
#include "common/base.h"
#include "common/jsonw.h"

struct bindings; /* all of one agent */
struct binding;
struct path; /* agent/policy.h: ordered middleboxes between two zones */

#define FLOW_COMPONENTS 2 /* [0] RTP, [1] RTCP */

enum flow_direction { FLOW_INBOUND = 1, FLOW_OUTBOUND = 2, FLOW_BOTH = 3 };

/* What a session protocol wishes; protocol-neutral. */
struct flow {
	const struct path *path;
	const char *module;  /* "rtsp", "sip", "socks"; static */
	char id[64];	     /* session id for logs and REST */
	struct addr client;  /* for quotas and REST */
	uint8_t protocol;    /* IPPROTO_UDP, IPPROTO_TCP */
	uint8_t ip_version;  /* 4 or 6 */
	unsigned components; /* 1 or 2 */
	bool odd;	     /* single component with odd parity wanted */
	enum flow_direction direction;
	/*
	 * The owner has asked policy itself, since the ends that middleboxes see
	 * are not the client's own (a relay's, a group).
	 */
	bool vetted;
	/*
	 * The internal ends are multicast groups: nothing is reserved and nothing
	 * translated, binding_enable() may follow binding_new() at once. Inbound
	 * only; an external port of 0 means any.
	 */
	bool group;
};

/* Both ends of one component, as far as they are known. */
struct flow_ends {
	struct addr_port internal; /* A0 */
	struct addr_port external; /* A3; version 0: this component is dropped (rtcp-mux) */
};

enum binding_state {
	BINDING_IDLE,
	BINDING_RESERVING,
	BINDING_HALF_BOUND,
	BINDING_ENABLING,
	BINDING_BOUND,
	BINDING_RELEASING,
	BINDING_LOST, /* was bound, the middlebox took it away */
	BINDING_FAILED,
};

enum binding_event {
	BINDING_EV_HALF_BOUND, /* binding_outside() is valid */
	BINDING_EV_BOUND,      /* the kernel of every middlebox has the pinholes */
	BINDING_EV_FAILED,     /* reservation or enabling failed; everything is released */
	BINDING_EV_LOST, /* BOUND or HALF_BOUND and gone: rule-lost, media-timeout, operator */
};

/*
 * Never called from inside binding_new/enable/release. After FAILED or LOST the
 * owner still calls binding_release() to let go of the object; it may do so
 * inside the callback.
 */
typedef void (*binding_event_fn)(struct binding *b, enum binding_event ev, const struct failure *f,
				 void *arg);

/*
 * Step one: reserves. NULL with *f filled when refused at once (quota, policy,
 * no memory, middlebox down); nothing stays reserved then. `flow` is copied.
 */
struct binding *binding_new(struct bindings *all, const struct flow *flow, binding_event_fn fn,
			    void *arg, struct failure *f);
/*
 * Step two, in HALF_BOUND: completes every component with exact ends. A
 * component whose external version is 0 is released. 0, ERR_INVALID (wrong
 * state or versions).
 */
int binding_enable(struct binding *b, const struct flow_ends ends[FLOW_COMPONENTS]);
/* Gives everything back and forgets the owner. NULL is fine. No callback comes any more. */
void binding_release(struct binding *b);
/*
 * The same, and calls done(arg) once when every middlebox has confirmed that
 * the pinholes are closed, or 2 s later; never from inside this call. With it
 * a TEARDOWN is answered only after the media has been cut.
 */
void binding_release_notify(struct binding *b, void (*done)(void *arg), void *arg);

enum binding_state binding_state(const struct binding *b);
const char *binding_state_name(enum binding_state s);
/*
 * The outside address and port of component `i`, as the far end must see it;
 * version 0 when no middlebox of the path translates (use A0 itself).
 */
struct addr_port binding_outside(const struct binding *b, unsigned i);
/*
 * Media activity (SIMCO activity extension): milliseconds since the last packet
 * from the internal side of component i, UINT64_MAX unknown.
 */
uint64_t binding_idle_ms(const struct binding *b, unsigned i);

#endif
