/*
 * One policy rule of a binding: its SIMCO requests and what their answers mean.
 * Every request is answered once (mb_client.h); b->calls counts those under
 * way, so a binding outlives them.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "agent/binding_int.h"
#include "common/errcode.h"

#define POLL_MS 10000 /* how often media activity is asked for */

const char *rule_state_name(enum rule_state s)
{
	static const char *const names[] = {"none",    "reserving", "reserved", "enabling",
					    "enabled", "releasing", "gone"};

	return (unsigned)s < ARRAY_LEN(names) ? names[s] : "?";
}

static uint64_t now_ms(const struct rule *r)
{
	return loop_now_ms(r->b->all->loop);
}

static uint32_t wanted_lifetime(const struct rule *r, enum rule_state s)
{
	const struct policy *p = r->b->all->policy;

	return (uint32_t)(s == RULE_ENABLED ? p->lifetime.enabled : p->lifetime.reserved);
}

/* The middlebox granted `seconds` from now; half of it, ± 10 %, is when we ask again. */
static void granted(struct rule *r, uint32_t seconds)
{
	uint64_t now = now_ms(r), half = (uint64_t)seconds * 500;

	r->expires_ms = now + (uint64_t)seconds * 1000;
	r->refresh_ms = now + half * (900 + bindings_random(r->b->all) % 201) / 1000;
	sched_rule(r);
}

/* 0, or the binding has been told that it failed. */
static int ask(struct rule *r, struct simco_msg *m, mb_reply_fn fn)
{
	int err = mb_client_request(r->mb, m, fn, r);

	if (!err)
		r->b->calls++;
	return err;
}

/* First thing of every answer. False: nobody is interested any more. */
static bool answered(struct rule *r)
{
	struct binding *b = r->b;

	b->calls--;
	if (b->all)
		return true;
	if (!b->calls)
		free(b);
	return false;
}

static void refused(struct rule *r, const struct failure *f)
{
	r->b->failure = *f;
	binding_dispatch(r->b, BINDING_IN_REFUSED);
}

/* A reply of another type than asked for is no reply (it would be libsimco's fault). */
static bool is_reply(const struct rule *r, const struct simco_msg *m, uint16_t type,
		     struct failure *f)
{
	if (m->type == type)
		return true;
	failure_set(f, CAUSE_AGENT_FAULT, mb_client_name(r->mb), 0, "unexpected %s",
		    simco_type_name(m->type));
	return false;
}

/* ---- reserve ------------------------------------------------------------------- */

static uint8_t simco_version(uint8_t ip_version)
{
	return ip_version == 6 ? SIMCO_IPV6 : SIMCO_IPV4;
}

static uint8_t wanted_parity(const struct rule *r)
{
	const struct flow *flow = &r->b->flow;

	if (flow->components == 2)
		return r->component ? SIMCO_PARITY_ODD : SIMCO_PARITY_EVEN;
	return flow->odd ? SIMCO_PARITY_ODD : SIMCO_PARITY_ANY;
}

static struct addr_port tuple_addr(const struct simco_tuple *t)
{
	struct addr_port a = {.port = t->port};

	if (t->protocols_only)
		return (struct addr_port){.port = 0};
	a.addr = t->ip_version == SIMCO_IPV6 ? addr_v6(t->addr) : addr_v4(t->addr);
	return a;
}

/* There is none: the binding fails, unless it has given up `during` that already. */
static void no_rule(struct rule *r, enum binding_state during, const struct failure *f)
{
	struct binding *b = r->b;

	r->state = RULE_GONE;
	if (b->state == during)
		refused(r, f);
	binding_settle(b);
}

/* The answer that brings the PID: is the rule ours from now on? */
static bool took_rule(struct rule *r, const struct simco_msg *m, const struct failure *f,
		      uint16_t type, enum binding_state during)
{
	struct failure wrong;

	if (!f && !is_reply(r, m, type, &wrong))
		f = &wrong;
	if (f) {
		no_rule(r, during, f);
		return false;
	}
	r->at_mb.pid = m->pid;
	if (mb_client_own(r->mb, &r->at_mb)) {
		mb_client_release_later(r->mb, m->pid);
		failure_set(&wrong, CAUSE_OVERLOADED, mb_client_name(r->mb), MB_RETRY_AFTER_S,
			    "rule %u cannot be kept", m->pid);
		no_rule(r, during, &wrong);
		return false;
	}
	r->gid = m->gid;
	return true;
}

static void on_reserved(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;
	struct binding *b = r->b;

	if (!answered(r) || !took_rule(r, m, f, SIMCO_PRR_REP, BINDING_RESERVING))
		return;
	r->state = RULE_RESERVED;
	r->outside = tuple_addr(&m->tuple[SIMCO_OUTSIDE]);
	mb_client_learn(r->mb, b->flow.ip_version, r->outside.addr.version != 0);
	granted(r, m->lifetime);
	if (b->state != BINDING_RESERVING) { /* given up meanwhile */
		rule_release(r);
	} else if (r->component + 1 < b->flow.components) {
		rule_reserve(r + b->n_hops);
	}
	binding_settle(b);
}

/* Without the extension an ARE does not say why a rule ended (RFC 4540 §5.3.19). */
static const struct {
	enum cause cause;
	const char *detail;
} ends[] = {
	[SIMCO_REASON_NONE] = {CAUSE_RULE_LOST, "the middlebox removed the rule"},
	[SIMCO_REASON_EXPIRED] = {CAUSE_RULE_LOST, "the rule's lifetime ended"},
	[SIMCO_REASON_MEDIA_TIMEOUT] = {CAUSE_MEDIA_TIMEOUT, "no media passed for too long"},
	[SIMCO_REASON_OPERATOR] = {CAUSE_OPERATOR, "the middlebox's operator ended the rule"},
	[SIMCO_REASON_DISABLED] = {CAUSE_CONFLICT, "a disable rule ended the rule"},
};

static void rule_changed(struct mb_rule *at_mb, uint32_t lifetime, uint32_t reason)
{
	struct rule *r = CONTAINER_OF(at_mb, struct rule, at_mb);

	if (reason >= ARRAY_LEN(ends))
		reason = SIMCO_REASON_NONE;
	if (!lifetime)
		rule_gone(r, ends[reason].cause, ends[reason].detail);
	else
		granted(r, lifetime);
}

void rule_reserve(struct rule *r)
{
	struct binding *b = r->b;
	uint8_t version = simco_version(b->flow.ip_version);
	struct simco_msg m = {
		.type = SIMCO_PRR_REQ,
		.lifetime = wanted_lifetime(r, RULE_RESERVED),
		.prr = {.nat_mode = SIMCO_NAT_TRADITIONAL,
			.parity = wanted_parity(r),
			.inside_version = version,
			.outside_version = version,
			.protocol = b->flow.protocol,
			.port_range = 1},
	};
	struct failure f;
	int err;

	if (r->component) { /* the neighbour of the first one (RFC 4540 §8.2.3) */
		m.has_gid = true;
		m.gid = (r - b->n_hops)->gid;
	}
	r->at_mb.changed = rule_changed;
	r->state = RULE_RESERVING;
	err = ask(r, &m, on_reserved);
	if (!err)
		return;
	r->state = RULE_GONE;
	mb_client_failure(r->mb, err, &f);
	refused(r, &f);
}

/* ---- enable -------------------------------------------------------------------- */

static void set_tuple(struct simco_tuple *t, const struct addr_port *a, uint8_t protocol,
		      uint8_t location)
{
	*t = (struct simco_tuple){
		.ip_version = simco_version(a->addr.version),
		.prefix_len = (uint8_t)(addr_len(&a->addr) * 8),
		.protocol = protocol,
		.location = location,
		.port = a->port,
		.port_range = 1,
	};
	memcpy(t->addr, a->addr.b, addr_len(&a->addr));
}

/*
 * What this middlebox sees as the internal end: the outside address of the
 * nearest translating one further in, or the host itself.
 */
static const struct addr_port *internal_end(const struct rule *r)
{
	const struct binding *b = r->b;

	for (unsigned hop = r->hop; hop-- > 0;) {
		const struct rule *inner = &b->rules[r->component * b->n_hops + hop];

		if (inner->outside.addr.version)
			return &inner->outside;
	}
	return &b->ends[r->component].internal;
}

static void on_enabled(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;
	struct binding *b = r->b;
	struct failure wrong;

	if (!answered(r))
		return;
	if (!f && !is_reply(r, m, SIMCO_PER_REP, &wrong))
		f = &wrong;
	if (r->state != RULE_ENABLING) { /* released meanwhile: that answer decides */
		binding_settle(b);
		return;
	}
	if (f && f->cause == CAUSE_RULE_LOST) {
		rule_gone(r, CAUSE_RULE_LOST, "the reservation was gone");
		return;
	}
	if (f) {
		refused(r, f);
		binding_settle(b);
		return;
	}
	r->state = RULE_ENABLED;
	r->poll_ms = now_ms(r) + POLL_MS;
	granted(r, m->lifetime);
	binding_settle(b);
}

void rule_enable(struct rule *r)
{
	struct binding *b = r->b;
	const struct flow_ends *e = &b->ends[r->component];
	struct simco_msg m = {
		.type = SIMCO_PEA_REQ,
		.pid = r->at_mb.pid,
		.lifetime = wanted_lifetime(r, RULE_ENABLED),
		.per = {.parity = SIMCO_PER_PARITY_ANY, .direction = (uint8_t)b->flow.direction},
	};
	struct failure f;
	int err;

	set_tuple(&m.tuple[SIMCO_INTERNAL], internal_end(r), b->flow.protocol, SIMCO_INTERNAL);
	set_tuple(&m.tuple[SIMCO_EXTERNAL], &e->external, b->flow.protocol, SIMCO_EXTERNAL);
	err = ask(r, &m, on_enabled);
	if (!err) {
		r->state = RULE_ENABLING;
		return;
	}
	mb_client_failure(r->mb, err, &f);
	refused(r, &f);
}

/* ---- open at once -------------------------------------------------------------- */

static void on_opened(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;
	struct binding *b = r->b;

	if (!answered(r) || !took_rule(r, m, f, SIMCO_PER_REP, BINDING_ENABLING))
		return;
	r->state = RULE_ENABLED;
	r->poll_ms = now_ms(r) + POLL_MS;
	granted(r, m->lifetime);
	if (b->state != BINDING_ENABLING) /* given up meanwhile */
		rule_release(r);
	else if (r->component + 1 < b->flow.components && !b->dropped[r->component + 1])
		rule_open(r + b->n_hops);
	binding_settle(b);
}

void rule_open(struct rule *r)
{
	struct binding *b = r->b;
	const struct flow_ends *e = &b->ends[r->component];
	struct simco_msg m = {
		.type = SIMCO_PER_REQ,
		.lifetime = wanted_lifetime(r, RULE_ENABLED),
		.per = {.parity = SIMCO_PER_PARITY_ANY, .direction = (uint8_t)b->flow.direction},
	};
	struct failure f;
	int err;

	if (r->component && !b->dropped[0]) { /* silence counts for both together */
		m.has_gid = true;
		m.gid = (r - b->n_hops)->gid;
	}
	set_tuple(&m.tuple[SIMCO_INTERNAL], &e->internal, b->flow.protocol, SIMCO_INTERNAL);
	set_tuple(&m.tuple[SIMCO_EXTERNAL], &e->external, b->flow.protocol, SIMCO_EXTERNAL);
	r->at_mb.changed = rule_changed;
	r->state = RULE_RESERVING;
	err = ask(r, &m, on_opened);
	if (!err)
		return;
	r->state = RULE_GONE;
	mb_client_failure(r->mb, err, &f);
	refused(r, &f);
}

/* ---- release ------------------------------------------------------------------- */

static void on_released(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;

	/* Without an answer nobody knows: once more when the session is back. */
	if (f && !m)
		mb_client_release_later(r->mb, r->at_mb.pid);
	r->state = RULE_GONE;
	if (answered(r))
		binding_settle(r->b);
}

void rule_release(struct rule *r)
{
	struct simco_msg m = {.type = SIMCO_PLC_REQ, .pid = r->at_mb.pid, .lifetime = 0};

	switch (r->state) {
	case RULE_NONE:
	case RULE_RESERVING: /* when its answer comes */
	case RULE_RELEASING:
	case RULE_GONE:
		return;
	case RULE_RESERVED:
	case RULE_ENABLING:
	case RULE_ENABLED:
		break;
	}
	sched_remove(r);
	mb_client_disown(r->mb, &r->at_mb);
	if (!ask(r, &m, on_released)) {
		r->state = RULE_RELEASING;
		return;
	}
	r->state = RULE_GONE;
	mb_client_release_later(r->mb, r->at_mb.pid);
}

void rule_gone(struct rule *r, enum cause cause, const char *detail)
{
	struct binding *b = r->b;

	if (r->state != RULE_RESERVED && r->state != RULE_ENABLING && r->state != RULE_ENABLED)
		return;
	sched_remove(r);
	mb_client_disown(r->mb, &r->at_mb);
	r->state = RULE_GONE;
	if (b->state < BINDING_RELEASING)
		failure_set(&b->failure, cause, mb_client_name(r->mb), 0, "%s", detail);
	binding_dispatch(b, BINDING_IN_GONE);
	binding_settle(b);
}

/* ---- while it lives -------------------------------------------------------------- */

static bool is_up(const struct rule *r)
{
	return r->state == RULE_RESERVED || r->state == RULE_ENABLING || r->state == RULE_ENABLED;
}

static void on_refreshed(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;
	uint64_t now;

	if (!answered(r))
		return;
	r->refreshing = false;
	if (!is_up(r)) {
		binding_settle(r->b);
		return;
	}
	now = now_ms(r);
	if (!f && m->lifetime) {
		granted(r, m->lifetime);
	} else if (!f || f->cause == CAUSE_RULE_LOST) {
		rule_gone(r, CAUSE_RULE_LOST, "the middlebox does not know the rule");
	} else {
		/* No answer, or not now: what it has lasts until it expires. */
		r->refresh_ms = now + 1000;
		if (m && r->expires_ms > now + 2000)
			r->refresh_ms = now + (r->expires_ms - now) / 2;
		sched_rule(r);
	}
}

void rule_refresh(struct rule *r)
{
	struct simco_msg m = {.type = SIMCO_PLC_REQ,
			      .pid = r->at_mb.pid,
			      .lifetime = wanted_lifetime(
				      r, r->state == RULE_RESERVED ? RULE_RESERVED : RULE_ENABLED)};

	if (ask(r, &m, on_refreshed))
		r->refresh_ms = now_ms(r) + 1000;
	else
		r->refreshing = true;
}

static void on_polled(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct rule *r = arg;

	if (!answered(r))
		return;
	r->polling = false;
	if (!is_up(r)) {
		binding_settle(r->b);
	} else if (f && f->cause == CAUSE_RULE_LOST) {
		rule_gone(r, CAUSE_RULE_LOST, "the middlebox does not know the rule");
	} else {
		if (!f && m->has_activity) {
			r->idle_ms = m->activity.idle_ms[1]; /* outbound */
			r->idle_at_ms = now_ms(r);
		}
		sched_rule(r);
	}
}

void rule_poll(struct rule *r)
{
	struct simco_msg m = {.type = SIMCO_PRS_REQ, .pid = r->at_mb.pid};

	r->poll_ms = now_ms(r) + POLL_MS;
	if (!ask(r, &m, on_polled))
		r->polling = true;
}
