/*
 * Bindings: the machine's actions, its owners, quotas, and when owners hear of
 * things. What goes to a middlebox is in binding_rule.c, lifetimes are in
 * binding_sched.c.
 */
#include "agent/binding.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/binding_int.h"
#include "common/errcode.h"
#include "common/log.h"

uint64_t bindings_random(struct bindings *all)
{
	/* xorshift64: spreads refreshes, nothing depends on it being unguessable */
	all->random ^= all->random << 13;
	all->random ^= all->random >> 7;
	all->random ^= all->random << 17;
	return all->random;
}

static struct span quota_key(const struct table_node *node)
{
	const struct quota *q = CONTAINER_OF(node, struct quota, node);

	return span_of(&q->client, sizeof(q->client));
}

static struct quota *quota_get(const struct bindings *all, const struct addr *client)
{
	struct table_node *node = table_get(&all->quotas, span_of(client, sizeof(*client)));

	return node ? CONTAINER_OF(node, struct quota, node) : NULL;
}

/* 0, ERR_LIMIT or ERR_NOMEM. */
static int quota_take(struct bindings *all, const struct addr *client)
{
	const struct policy_limits *lim = &all->policy->limits;
	struct quota *q = quota_get(all, client);

	if (all->n_owned >= lim->bindings || (q && q->n >= lim->bindings_per_client))
		return ERR_LIMIT;
	if (!q) {
		q = calloc(1, sizeof(*q));
		if (!q)
			return ERR_NOMEM;
		q->client = *client;
		if (table_add(&all->quotas, &q->node)) {
			free(q);
			return ERR_NOMEM;
		}
	}
	q->n++;
	all->n_owned++;
	return 0;
}

static void quota_give(struct bindings *all, const struct addr *client)
{
	struct quota *q = quota_get(all, client);

	all->n_owned--;
	if (q && !--q->n) {
		table_remove(&all->quotas, &q->node);
		free(q);
	}
}

static bool quota_free(struct table_node *node, void *arg)
{
	table_remove(arg, node);
	free(CONTAINER_OF(node, struct quota, node));
	return true;
}

/* ---- telling owners ------------------------------------------------------------ */

static void deferred(void *arg)
{
	struct bindings *all = arg;

	all->deferred = false;
	bindings_run_deferred(all);
}

static void defer(struct bindings *all)
{
	if (all->deferred)
		return;
	if (loop_defer(all->loop, deferred, all))
		sched_wake(all); /* no memory now: the timer does it */
	else
		all->deferred = true;
}

/* A binding that was ready for an owner who did not hear of it yet has, to the owner, failed. */
static void tell(struct binding *b, enum binding_event ev)
{
	struct bindings *all = b->all;

	if (!b->fn)
		return;
	if (b->has_event && ev == BINDING_EV_LOST)
		ev = BINDING_EV_FAILED;
	b->event = ev;
	if (b->has_event)
		return;
	b->has_event = true;
	b->event_next = NULL;
	*all->events_tail = b;
	all->events_tail = &b->event_next;
	defer(all);
}

static void untell(struct binding *b)
{
	struct bindings *all = b->all;

	if (!b->has_event)
		return;
	b->has_event = false;
	for (struct binding **at = &all->events; *at; at = &(*at)->event_next) {
		if (*at != b)
			continue;
		*at = b->event_next;
		if (!*at)
			all->events_tail = at;
		return;
	}
}

static void deliver_events(struct bindings *all)
{
	struct binding *b;

	while ((b = all->events)) {
		bool bad = b->event == BINDING_EV_FAILED || b->event == BINDING_EV_LOST;

		all->events = b->event_next;
		if (!all->events)
			all->events_tail = &all->events;
		b->has_event = false;
		if (b->fn)
			b->fn(b, b->event, bad ? &b->failure : NULL, b->arg);
	}
}

static void wait_remove(struct binding *b)
{
	struct bindings *all = b->all;

	if (!b->waiting)
		return;
	b->waiting = false;
	for (struct binding **at = &all->waiting; *at; at = &(*at)->wait_next) {
		if (*at != b)
			continue;
		*at = b->wait_next;
		if (!*at)
			all->waiting_tail = at;
		return;
	}
}

static void notify_done(struct binding *b)
{
	void (*done)(void *arg) = b->done;

	wait_remove(b);
	b->done = NULL;
	if (done)
		done(b->done_arg);
}

static void unlink_binding(struct binding *b)
{
	struct bindings *all = b->all;

	*(b->prev ? &b->prev->next : &all->first) = b->next;
	*(b->next ? &b->next->prev : &all->last) = b->prev;
	all->n--;
	all->n_state[b->state]--;
}

static void reap(struct bindings *all)
{
	struct binding *b;

	while ((b = all->dead)) {
		all->dead = b->event_next;
		notify_done(b);
		free(b);
	}
}

void bindings_run_deferred(struct bindings *all)
{
	uint64_t now = loop_now_ms(all->loop);

	deliver_events(all);
	reap(all);
	while (all->waiting && now >= all->waiting->done_ms)
		notify_done(all->waiting);
}

/* ---- the machine ---------------------------------------------------------------- */

static void set_state(struct binding *b, enum binding_state s, enum binding_input in)
{
	struct bindings *all = b->all;

	log_debug("binding %llu: %s --%s--> %s", (unsigned long long)b->id,
		  binding_state_name(b->state), binding_input_name(in), binding_state_name(s));
	all->n_state[b->state]--;
	all->n_state[s]++;
	b->state = s;
	if (b->n_timeline < BINDING_TIMELINE) {
		b->timeline[b->n_timeline].state = s;
		b->timeline[b->n_timeline++].at_ms = loop_now_ms(all->loop);
	}
}

static void release_all(struct binding *b)
{
	for (unsigned i = 0; i < b->n_rules; i++)
		rule_release(&b->rules[i]);
}

/* The second component follows when the first one's group is known. */
static void act_reserve(struct binding *b)
{
	for (unsigned hop = 0; hop < b->n_hops && b->state == BINDING_RESERVING; hop++)
		if (!b->flow.group)
			rule_reserve(&b->rules[hop]);
}

static bool permitted(struct binding *b)
{
	const struct policy *p = b->all->policy;
	char from[ADDR_PORT_STRLEN], to[ADDR_PORT_STRLEN];

	for (unsigned i = 0; i < b->flow.components; i++) {
		const struct flow_ends *e = &b->ends[i];

		if (b->flow.vetted || b->dropped[i] ||
		    policy_permits(p, b->flow.protocol, &e->internal, &e->external))
			continue;
		failure_set(&b->failure, CAUSE_POLICY_REFUSED, NULL, 0, "%s to %s is not permitted",
			    addr_port_str(&e->internal, from), addr_port_str(&e->external, to));
		return false;
	}
	return true;
}

static void act_enable(struct binding *b)
{
	if (!permitted(b)) {
		binding_dispatch(b, BINDING_IN_REFUSED);
		return;
	}
	for (unsigned i = 0; i < b->n_rules && b->state == BINDING_ENABLING; i++) {
		struct rule *r = &b->rules[i];

		if (b->dropped[r->component])
			rule_release(r);
		else if (!b->flow.group)
			rule_enable(r);
		else if (!r->component || b->dropped[0]) /* the second follows the first */
			rule_open(r);
	}
}

/* Nothing refers to it any more; whoever waits hears of it at the end of the turn. */
static void act_free(struct binding *b)
{
	struct bindings *all = b->all;

	unlink_binding(b);
	b->event_next = all->dead;
	all->dead = b;
	defer(all);
}

void binding_dispatch(struct binding *b, enum binding_input in)
{
	struct binding_step step = binding_fsm_step(b->state, in);

	if (step.action == BINDING_ACT_IMPOSSIBLE) {
		log_err("binding %llu: %s in state %s", (unsigned long long)b->id,
			binding_input_name(in), binding_state_name(b->state));
		return;
	}
	if (step.next != b->state)
		set_state(b, step.next, in);
	switch (step.action) {
	case BINDING_ACT_NOTHING:
	case BINDING_ACT_IMPOSSIBLE:
		return;
	case BINDING_ACT_RESERVE:
		act_reserve(b);
		break;
	case BINDING_ACT_HALF_BOUND:
		tell(b, BINDING_EV_HALF_BOUND);
		return;
	case BINDING_ACT_ENABLE:
		act_enable(b);
		break;
	case BINDING_ACT_BOUND:
		tell(b, BINDING_EV_BOUND);
		return;
	case BINDING_ACT_FAIL:
		release_all(b);
		tell(b, BINDING_EV_FAILED);
		return;
	case BINDING_ACT_LOSE:
		release_all(b);
		tell(b, BINDING_EV_LOST);
		return;
	case BINDING_ACT_RELEASE:
		release_all(b);
		break;
	case BINDING_ACT_FREE:
		act_free(b);
		return;
	}
	binding_settle(b);
}

static bool all_rules(const struct binding *b, enum rule_state s)
{
	for (unsigned i = 0; i < b->n_rules; i++)
		if (!b->dropped[b->rules[i].component] && b->rules[i].state != s)
			return false;
	return true;
}

static bool nothing_left(const struct binding *b)
{
	for (unsigned i = 0; i < b->n_rules; i++)
		if (b->rules[i].state != RULE_NONE && b->rules[i].state != RULE_GONE)
			return false;
	return !b->calls;
}

/* Where a middlebox gave a port for both, they must be neighbours (RFC 3550 §11). */
static bool pairs_are_neighbours(struct binding *b)
{
	for (unsigned hop = 0; hop < b->n_hops && b->flow.components == 2; hop++) {
		const struct addr_port *rtp = &b->rules[hop].outside;
		const struct addr_port *rtcp = &b->rules[b->n_hops + hop].outside;

		if (rtp->addr.version == rtcp->addr.version &&
		    (!rtp->addr.version || (addr_eq(&rtp->addr, &rtcp->addr) && !(rtp->port & 1) &&
					    rtcp->port == rtp->port + 1)))
			continue;
		failure_set(&b->failure, CAUSE_UNSUPPORTED, mb_client_name(b->rules[hop].mb), 0,
			    "reserves no pairs of ports");
		return false;
	}
	return true;
}

void binding_settle(struct binding *b)
{
	switch (b->state) {
	case BINDING_RESERVING:
		if (b->flow.group || all_rules(b, RULE_RESERVED))
			binding_dispatch(b, pairs_are_neighbours(b) ? BINDING_IN_RESERVED
								    : BINDING_IN_REFUSED);
		return;
	case BINDING_ENABLING:
		if (all_rules(b, RULE_ENABLED))
			binding_dispatch(b, BINDING_IN_ENABLED);
		return;
	case BINDING_RELEASING:
		if (nothing_left(b))
			binding_dispatch(b, BINDING_IN_RELEASED);
		return;
	default:
		return;
	}
}

/* ---- the owner's side ------------------------------------------------------------ */

static struct binding *alloc_binding(struct bindings *all, const struct flow *flow,
				     binding_event_fn fn, void *arg)
{
	unsigned hops = flow->path->n_middleboxes, n = hops * flow->components;
	struct binding *b = calloc(1, sizeof(*b) + n * sizeof(b->rules[0]));

	if (!b)
		return NULL;
	b->all = all;
	b->id = ++all->next_id;
	b->flow = *flow;
	b->flow.path = NULL;
	span_copy(span_str(flow->path->from), b->from, sizeof(b->from));
	span_copy(span_str(flow->path->to), b->to, sizeof(b->to));
	b->fn = fn;
	b->arg = arg;
	b->n_hops = hops;
	b->n_rules = n;
	for (unsigned i = 0; i < n; i++) {
		struct rule *r = &b->rules[i];

		r->b = b;
		r->component = i / hops;
		r->hop = i % hops;
		r->mb = mb_clients_find(all->mbs, flow->path->middlebox[r->hop]->name);
		r->idle_ms = UINT64_MAX;
	}
	return b;
}

static void link_binding(struct binding *b)
{
	struct bindings *all = b->all;

	b->prev = all->last;
	*(all->last ? &all->last->next : &all->first) = b;
	all->last = b;
	all->n++;
	all->n_state[b->state]++;
}

/* Refusals that need no middlebox. */
static int check_wish(const struct bindings *all, const struct flow *flow, struct failure *f)
{
	if (!flow->path) {
		failure_set(f, CAUSE_POLICY_REFUSED, NULL, 0, "no path leads there");
		return ERR_PERM;
	}
	if (flow->components < 1 || flow->components > FLOW_COMPONENTS ||
	    (flow->ip_version != 4 && flow->ip_version != 6)) {
		failure_set(f, CAUSE_AGENT_FAULT, NULL, 0, "impossible flow");
		return ERR_INVALID;
	}
	for (unsigned i = 0; i < flow->path->n_middleboxes; i++) {
		const char *name = flow->path->middlebox[i]->name;
		struct mb_client *mb = mb_clients_find(all->mbs, name);

		if (mb && mb_client_is_open(mb))
			continue;
		if (mb)
			mb_client_failure(mb, ERR_CLOSED, f);
		else
			failure_set(f, CAUSE_MIDDLEBOX_UNREACHABLE, name, 0, "not in the policy");
		return ERR_CLOSED;
	}
	return 0;
}

static void disown(struct binding *b)
{
	b->fn = NULL;
	untell(b);
	if (b->owned)
		quota_give(b->all, &b->flow.client);
	b->owned = false;
}

struct binding *binding_new(struct bindings *all, const struct flow *flow, binding_event_fn fn,
			    void *arg, struct failure *f)
{
	struct binding *b;
	int err;

	if (check_wish(all, flow, f))
		return NULL;
	err = quota_take(all, &flow->client);
	if (err == ERR_LIMIT) {
		failure_set(f, CAUSE_QUOTA, NULL, 0, "too many media flows");
		return NULL;
	}
	b = err ? NULL : alloc_binding(all, flow, fn, arg);
	if (!b) {
		if (!err)
			quota_give(all, &flow->client);
		failure_set(f, CAUSE_OVERLOADED, NULL, MB_RETRY_AFTER_S, "no memory");
		return NULL;
	}
	b->owned = true;
	link_binding(b);
	binding_dispatch(b, BINDING_IN_RESERVE);
	if (b->state != BINDING_FAILED)
		return b;
	*f = b->failure;
	binding_release(b);
	return NULL;
}

static bool ends_fit(const struct binding *b, const struct flow_ends ends[FLOW_COMPONENTS])
{
	unsigned used = 0;

	for (unsigned i = 0; i < b->flow.components; i++) {
		if (!ends[i].external.addr.version)
			continue;
		if (ends[i].external.addr.version != b->flow.ip_version ||
		    ends[i].internal.addr.version != b->flow.ip_version)
			return false;
		used++;
	}
	return used > 0;
}

int binding_enable(struct binding *b, const struct flow_ends ends[FLOW_COMPONENTS])
{
	if (b->state != BINDING_HALF_BOUND || !ends_fit(b, ends))
		return ERR_INVALID;
	untell(b);
	for (unsigned i = 0; i < b->flow.components; i++) {
		b->ends[i] = ends[i];
		b->dropped[i] = !ends[i].external.addr.version;
	}
	binding_dispatch(b, BINDING_IN_ENABLE);
	return 0;
}

void binding_release_notify(struct binding *b, void (*done)(void *arg), void *arg)
{
	struct bindings *all = b->all;

	if (done) {
		b->done = done;
		b->done_arg = arg;
		b->done_ms = loop_now_ms(all->loop) + BINDING_RELEASE_MS;
		b->waiting = true;
		b->wait_next = NULL;
		*all->waiting_tail = b;
		all->waiting_tail = &b->wait_next;
		sched_wake(all);
	}
	disown(b);
	binding_dispatch(b, BINDING_IN_RELEASE);
}

void binding_release(struct binding *b)
{
	if (b)
		binding_release_notify(b, NULL, NULL);
}

enum binding_state binding_state(const struct binding *b)
{
	return b->state;
}

/* The outermost translation is what the far end sees. */
struct addr_port binding_outside(const struct binding *b, unsigned i)
{
	if (i < b->flow.components)
		for (unsigned hop = b->n_hops; hop-- > 0;) {
			const struct rule *r = &b->rules[i * b->n_hops + hop];

			if (r->outside.addr.version)
				return r->outside;
		}
	return (struct addr_port){.port = 0};
}

uint64_t binding_idle_ms(const struct binding *b, unsigned i)
{
	const struct rule *r;

	if (i >= b->flow.components || !b->n_hops)
		return UINT64_MAX;
	r = &b->rules[i * b->n_hops];
	if (r->idle_ms == UINT64_MAX)
		return UINT64_MAX;
	return r->idle_ms + loop_now_ms(b->all->loop) - r->idle_at_ms;
}

/* ---- all of them ------------------------------------------------------------------ */

struct bindings *bindings_new(struct loop *l, struct mb_clients *mbs, const struct policy *p)
{
	struct bindings *all = calloc(1, sizeof(*all));

	if (!all)
		return NULL;
	all->loop = l;
	all->mbs = mbs;
	all->policy = p;
	all->events_tail = &all->events;
	all->waiting_tail = &all->waiting;
	if (getrandom(&all->random, sizeof(all->random), GRND_NONBLOCK) < 0 || !all->random)
		all->random = 88172645463325252u;
	if (!table_init(&all->quotas, quota_key)) {
		if (!sched_init(all))
			return all;
		table_fini(&all->quotas);
	}
	free(all);
	return NULL;
}

void bindings_set_policy(struct bindings *all, const struct policy *p)
{
	all->policy = p;
}

/* Answers that are still to come find all == NULL and free it with the last one. */
static void abandon(struct binding *b)
{
	for (unsigned i = 0; i < b->n_rules; i++) {
		struct rule *r = &b->rules[i];

		sched_remove(r);
		if (r->state == RULE_RESERVED || r->state == RULE_ENABLING ||
		    r->state == RULE_ENABLED)
			mb_client_disown(r->mb, &r->at_mb);
	}
	b->all = NULL;
	if (!b->calls)
		free(b);
}

void bindings_free(struct bindings *all)
{
	struct binding *b;

	if (!all)
		return;
	loop_undefer(all->loop, deferred, all);
	while ((b = all->dead)) {
		all->dead = b->event_next;
		free(b);
	}
	while ((b = all->first)) {
		all->first = b->next;
		abandon(b);
	}
	sched_fini(all);
	table_each(&all->quotas, quota_free, &all->quotas);
	table_fini(&all->quotas);
	free(all);
}

size_t bindings_count(const struct bindings *all)
{
	return all->n;
}

size_t bindings_count_state(const struct bindings *all, enum binding_state s)
{
	return all->n_state[s];
}
