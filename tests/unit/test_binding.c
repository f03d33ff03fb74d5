/*
 * The binding machine against a scripted middlebox and a clock of its own: this
 * file stands in for the loop and for mb_client.h, so every order of answers and
 * every time of day can be played.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/binding_fsm.h"
#include "agent/bindings.h"
#include "common/errcode.h"

/* ---- a loop with a clock of its own --------------------------------------------- */

struct loop {
	uint64_t now;
	struct loop_timer *timers;
	struct {
		loop_fn fn;
		void *arg;
	} defer[4096];
	size_t n_defer;
};

struct loop_timer {
	struct loop *l;
	struct loop_timer *next;
	loop_fn fn;
	void *arg;
	uint64_t at; /* 0: not set */
};

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now;
}

struct loop_timer *loop_timer_new(struct loop *l, loop_fn fn, void *arg)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	*t = (struct loop_timer){.l = l, .next = l->timers, .fn = fn, .arg = arg};
	l->timers = t;
	return t;
}

void loop_timer_set(struct loop_timer *t, uint64_t ms)
{
	t->at = t->l->now + ms;
}

bool loop_timer_is_set(const struct loop_timer *t)
{
	return t->at != 0;
}

void loop_timer_free(struct loop_timer *t)
{
	struct loop_timer **at = &t->l->timers;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	free(t);
}

int loop_defer(struct loop *l, loop_fn fn, void *arg)
{
	if (l->n_defer == ARRAY_LEN(l->defer))
		return ERR_NOMEM;
	l->defer[l->n_defer].fn = fn;
	l->defer[l->n_defer++].arg = arg;
	return 0;
}

void loop_undefer(struct loop *l, loop_fn fn, void *arg)
{
	for (size_t i = 0; i < l->n_defer; i++)
		if (l->defer[i].fn == fn && l->defer[i].arg == arg)
			l->defer[i].fn = NULL;
}

/* The end of a turn. */
static void turn(struct loop *l)
{
	for (size_t i = 0; i < l->n_defer; i++)
		if (l->defer[i].fn)
			l->defer[i].fn(l->defer[i].arg);
	l->n_defer = 0;
}

static void pass(struct loop *l, uint64_t ms)
{
	for (uint64_t end = l->now + ms; l->now < end;) {
		l->now += 50;
		for (struct loop_timer *t = l->timers; t; t = t->next) {
			if (t->at && t->at <= l->now) {
				t->at = 0;
				t->fn(t->arg);
			}
		}
		turn(l);
	}
}

/* ---- middleboxes that do what the test says -------------------------------------- */

struct mb_client {
	char name[16];
	bool open, missing;
	uint32_t extensions;
	struct {
		struct simco_msg m;
		mb_reply_fn fn;
		void *arg;
	} req[512];
	size_t at, n; /* unanswered: at..n-1 */
	struct mb_rule *rules[256];
	uint32_t later[256];
	size_t n_later;
	int translates; /* last learned */
};

struct mb_clients {
	struct mb_client mb[3];
};

struct mb_client *mb_clients_find(const struct mb_clients *all, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(all->mb); i++)
		if (!strcmp(all->mb[i].name, name))
			return all->mb[i].missing ? NULL : (struct mb_client *)&all->mb[i];
	return NULL;
}

const char *mb_client_name(const struct mb_client *mb)
{
	return mb->name;
}

bool mb_client_is_open(const struct mb_client *mb)
{
	return mb->open;
}

uint32_t mb_client_extensions(const struct mb_client *mb)
{
	return mb->extensions;
}

void mb_client_learn(struct mb_client *mb, uint8_t ip_version, bool translates)
{
	(void)ip_version;
	mb->translates = translates;
}

int mb_client_request(struct mb_client *mb, struct simco_msg *m, mb_reply_fn fn, void *arg)
{
	if (!mb->open)
		return ERR_CLOSED;
	assert_true(mb->n < ARRAY_LEN(mb->req));
	mb->req[mb->n].m = *m;
	mb->req[mb->n].fn = fn;
	mb->req[mb->n++].arg = arg;
	return 0;
}

void mb_client_failure(const struct mb_client *mb, int err, struct failure *f)
{
	failure_set(f, CAUSE_MIDDLEBOX_UNREACHABLE, mb->name, MB_RETRY_AFTER_S, "%s", err_str(err));
}

int mb_client_own(struct mb_client *mb, struct mb_rule *r)
{
	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++)
		if (mb->rules[i] && mb->rules[i]->pid == r->pid)
			return ERR_EXIST;
	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++) {
		if (!mb->rules[i]) {
			mb->rules[i] = r;
			return 0;
		}
	}
	return ERR_NOMEM;
}

void mb_client_disown(struct mb_client *mb, struct mb_rule *r)
{
	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++) {
		if (mb->rules[i] == r) {
			mb->rules[i] = NULL;
			return;
		}
	}
	fail_msg("disowned a rule that was not owned");
}

void mb_client_release_later(struct mb_client *mb, uint32_t pid)
{
	mb->later[mb->n_later++] = pid;
}

static size_t owned(const struct mb_client *mb)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++)
		n += mb->rules[i] != NULL;
	return n;
}

static size_t unanswered(const struct mb_client *mb)
{
	return mb->n - mb->at;
}

/* The oldest unanswered request, which must be of that type. */
static struct simco_msg *next(struct mb_client *mb, uint16_t type)
{
	assert_true(mb->at < mb->n);
	assert_int_equal(mb->req[mb->at].m.type, type);
	return &mb->req[mb->at].m;
}

static void answer(struct mb_client *mb, const struct simco_msg *m, const struct failure *f)
{
	mb_reply_fn fn = mb->req[mb->at].fn;
	void *arg = mb->req[mb->at].arg;

	mb->at++;
	fn(arg, m, f);
}

static void refuse(struct mb_client *mb, uint16_t type)
{
	struct simco_msg m = {.type = type};
	struct failure f;

	failure_set(&f, cause_from_simco(type), mb->name, 0, "%s", simco_type_name(type));
	answer(mb, &m, &f);
}

static struct addr_port ap(const char *text)
{
	struct addr_port a;

	assert_int_equal(addr_port_parse(span_str(text), &a), 0);
	return a;
}

/* outside: NULL means 'protocols only'. */
static void reserve_ok(struct mb_client *mb, uint32_t pid, uint32_t gid, const char *outside)
{
	struct simco_msg *q = next(mb, SIMCO_PRR_REQ);
	struct simco_msg m = {
		.type = SIMCO_PRR_REP, .pid = pid, .gid = gid, .lifetime = q->lifetime};
	struct simco_tuple *t = &m.tuple[SIMCO_OUTSIDE];

	t->protocols_only = !outside;
	t->ip_version = SIMCO_IPV4;
	if (outside) {
		struct addr_port a = ap(outside);

		memcpy(t->addr, a.addr.b, 4);
		t->port = a.port;
		t->port_range = 1;
	}
	answer(mb, &m, NULL);
}

static void enable_ok(struct mb_client *mb)
{
	struct simco_msg *q = next(mb, SIMCO_PEA_REQ);
	struct simco_msg m = {.type = SIMCO_PER_REP, .pid = q->pid, .lifetime = q->lifetime};

	answer(mb, &m, NULL);
}

static void change_ok(struct mb_client *mb, uint32_t lifetime)
{
	struct simco_msg m = {.lifetime = lifetime};

	assert_int_equal(next(mb, SIMCO_PLC_REQ)->lifetime, lifetime);
	m.type = lifetime ? SIMCO_PLC_REP : SIMCO_PRD_REP;
	answer(mb, &m, NULL);
}

static void session_ends(struct mb_client *mb)
{
	struct failure f;

	mb->open = false;
	failure_set(&f, CAUSE_MIDDLEBOX_UNREACHABLE, mb->name, MB_RETRY_AFTER_S,
		    "no reply in time");
	while (mb->at < mb->n)
		answer(mb, NULL, &f);
}

static void notify(struct mb_client *mb, uint32_t pid, uint32_t lifetime)
{
	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++) {
		if (mb->rules[i] && mb->rules[i]->pid == pid) {
			mb->rules[i]->changed(mb->rules[i], lifetime);
			return;
		}
	}
}

/* ---- the stage --------------------------------------------------------------------- */

static const char text[] =
	"{ \"identity\": \"a\", \"zones\": { \"in\": [\"10.0.0.0/8\"], \"out\": [\"192.0.2.0/24\"],"
	"  \"near\": [\"198.51.100.0/24\"], \"far\": [\"203.0.113.0/24\"] },"
	"\"middleboxes\": { \"m0\": { \"address\": \"10.0.0.1:1\" }, \"m1\": { \"address\": "
	"\"10.0.0.2:1\" },"
	"  \"m2\": { \"address\": \"10.0.0.3:1\" } },"
	"\"paths\": [ { \"from\": \"in\", \"to\": \"out\", \"through\": [\"m0\"] },"
	" { \"from\": \"in\", \"to\": \"near\", \"through\": [] },"
	" { \"from\": \"in\", \"to\": \"far\", \"through\": [\"m0\", \"m1\"] } ],"
	"\"limits\": { \"bindings\": 4, \"bindings_per_client\": 3 } }";

struct stage {
	struct loop loop;
	struct mb_clients mbs;
	struct policy *policy;
	struct bindings *all;
	struct mb_client *m0, *m1;
	/* what the owner heard */
	unsigned n_events;
	enum binding_event event;
	struct failure failure;
	bool release_in_callback;
	unsigned n_done;
};

static int setup(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct conf_errors errs = {.n = 0};

	s->loop.now = 1000000;
	assert_int_equal(policy_parse(span_str(text), "test", &s->policy, &errs), 0);
	conf_errors_fini(&errs);
	for (unsigned i = 0; i < ARRAY_LEN(s->mbs.mb); i++) {
		snprintf(s->mbs.mb[i].name, sizeof(s->mbs.mb[i].name), "m%u", i);
		s->mbs.mb[i].open = true;
	}
	s->m0 = &s->mbs.mb[0];
	s->m1 = &s->mbs.mb[1];
	s->all = bindings_new(&s->loop, &s->mbs, s->policy);
	assert_non_null(s->all);
	*state = s;
	return 0;
}

/* Every test ends with nothing owned and nothing unanswered, or says why not itself. */
static int teardown(void **state)
{
	struct stage *s = *state;

	bindings_free(s->all);
	for (unsigned i = 0; i < ARRAY_LEN(s->mbs.mb); i++) {
		assert_int_equal(owned(&s->mbs.mb[i]), 0);
		session_ends(&s->mbs.mb[i]);
	}
	policy_free(s->policy);
	free(s);
	return 0;
}

static void on_event(struct binding *b, enum binding_event ev, const struct failure *f, void *arg)
{
	struct stage *s = arg;

	s->n_events++;
	s->event = ev;
	assert_true((f != NULL) == (ev == BINDING_EV_FAILED || ev == BINDING_EV_LOST));
	if (f)
		s->failure = *f;
	if (s->release_in_callback)
		binding_release(b);
}

static void on_done(void *arg)
{
	struct stage *s = arg;

	s->n_done++;
}

/* A wish from 10.0.0.9 to `to`. */
static struct flow wish(struct stage *s, const char *to, unsigned components)
{
	struct addr_port client = ap("10.0.0.9:1"), far = ap(to);

	return (struct flow){
		.path = policy_path(s->policy, &client.addr, &far.addr),
		.module = "test",
		.id = "s1",
		.client = client.addr,
		.protocol = IPPROTO_UDP,
		.ip_version = 4,
		.components = components,
		.direction = FLOW_BOTH,
	};
}

static struct binding *ask(struct stage *s, const char *to, unsigned components)
{
	struct flow flow = wish(s, to, components);
	struct failure f;
	struct binding *b = binding_new(s->all, &flow, on_event, s, &f);

	assert_non_null(b);
	assert_int_equal(s->n_events, 0);
	return b;
}

static void heard(struct stage *s, enum binding_event ev)
{
	turn(&s->loop);
	assert_int_equal(s->n_events, 1);
	assert_int_equal(s->event, ev);
	s->n_events = 0;
}

static void heard_nothing(struct stage *s)
{
	turn(&s->loop);
	assert_int_equal(s->n_events, 0);
}

/* Half bound through m0 alone. */
static struct binding *half_bound(struct stage *s, unsigned components, const char *rtp,
				  const char *rtcp)
{
	struct binding *b = ask(s, "192.0.2.1:9", components);

	reserve_ok(s->m0, 100, 7, rtp);
	if (components == 2)
		reserve_ok(s->m0, 101, 7, rtcp);
	heard(s, BINDING_EV_HALF_BOUND);
	return b;
}

static int enable(struct binding *b, const char *rtp, const char *rtcp)
{
	struct flow_ends ends[FLOW_COMPONENTS] = {{.internal = ap("10.0.0.9:5000")},
						  {.internal = ap("10.0.0.9:5001")}};

	if (rtp)
		ends[0].external = ap(rtp);
	if (rtcp)
		ends[1].external = ap(rtcp);
	return binding_enable(b, ends);
}

static struct binding *bound(struct stage *s)
{
	struct binding *b = half_bound(s, 2, NULL, NULL);

	assert_int_equal(enable(b, "192.0.2.1:6000", "192.0.2.1:6001"), 0);
	enable_ok(s->m0);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	return b;
}

/* Answers every release there is; afterwards nothing is left of any binding. */
static void all_released(struct stage *s)
{
	for (unsigned i = 0; i < ARRAY_LEN(s->mbs.mb); i++)
		while (unanswered(&s->mbs.mb[i]))
			change_ok(&s->mbs.mb[i], 0);
	heard_nothing(s);
	assert_int_equal(bindings_count(s->all), 0);
}

static void is_tuple(const struct simco_tuple *t, const char *want, uint8_t location)
{
	struct addr_port a = ap(want);

	assert_false(t->protocols_only);
	assert_int_equal(t->ip_version, SIMCO_IPV4);
	assert_int_equal(t->prefix_len, 32);
	assert_int_equal(t->protocol, IPPROTO_UDP);
	assert_int_equal(t->location, location);
	assert_int_equal(t->port, a.port);
	assert_int_equal(t->port_range, 1);
	assert_memory_equal(t->addr, a.addr.b, 4);
}

static void is_enable(const struct simco_msg *m, uint32_t pid, const char *internal,
		      const char *external)
{
	assert_int_equal(m->pid, pid);
	assert_int_equal(m->lifetime, 120);
	assert_int_equal(m->per.direction, SIMCO_BIDIRECTIONAL);
	is_tuple(&m->tuple[SIMCO_INTERNAL], internal, SIMCO_INTERNAL);
	is_tuple(&m->tuple[SIMCO_EXTERNAL], external, SIMCO_EXTERNAL);
}

/* ---- the table --------------------------------------------------------------------- */

/* N nothing, ! impossible; otherwise the next state: r reserving h half b(enabling=e) ... */
static void every_pair(void **state)
{
	/* columns: RESERVE RESERVED ENABLE ENABLED REFUSED GONE RELEASE RELEASED */
	static const char *const want[BINDING_STATES] = {
		[BINDING_IDLE] = "r!!!!!x!",	   [BINDING_RESERVING] = "!h!!ffx!",
		[BINDING_HALF_BOUND] = "!!e!llx!", [BINDING_ENABLING] = "!!!bffx!",
		[BINDING_BOUND] = "!!!!llx!",	   [BINDING_RELEASING] = "!!!!NN!i",
		[BINDING_LOST] = "!!!!NNxN",	   [BINDING_FAILED] = "!!!!NNxN",
	};
	static const char letters[] = "irhebxlf"; /* in the order of enum binding_state */

	(void)state;
	for (int s = 0; s < BINDING_STATES; s++) {
		for (int in = 0; in < BINDING_INPUTS; in++) {
			struct binding_step step =
				binding_fsm_step((enum binding_state)s, (enum binding_input)in);
			char is = letters[step.next];

			if (step.action == BINDING_ACT_IMPOSSIBLE)
				is = '!';
			else if (step.action == BINDING_ACT_NOTHING)
				is = 'N';
			if (is == '!' || is == 'N')
				assert_int_equal(step.next, s);
			if (is != want[s][in])
				fail_msg("%s + %s: %c, not %c",
					 binding_state_name((enum binding_state)s),
					 binding_input_name((enum binding_input)in), is,
					 want[s][in]);
		}
	}
	assert_int_equal(binding_fsm_step(BINDING_IDLE, BINDING_INPUTS).action,
			 BINDING_ACT_IMPOSSIBLE);
	assert_string_equal(binding_state_name((enum binding_state)99), "?");
	assert_string_equal(binding_input_name((enum binding_input)99), "?");
}

/* ---- one middlebox ----------------------------------------------------------------- */

static void firewall_pair(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 2);
	struct simco_msg *m = next(s->m0, SIMCO_PRR_REQ);

	assert_int_equal(binding_state(b), BINDING_RESERVING);
	assert_int_equal(m->lifetime, 30);
	assert_int_equal(m->prr.nat_mode, SIMCO_NAT_TRADITIONAL);
	assert_int_equal(m->prr.parity, SIMCO_PARITY_EVEN);
	assert_int_equal(m->prr.inside_version, SIMCO_IPV4);
	assert_int_equal(m->prr.outside_version, SIMCO_IPV4);
	assert_int_equal(m->prr.protocol, IPPROTO_UDP);
	assert_int_equal(m->prr.port_range, 1);
	assert_false(m->has_gid);
	assert_int_equal(unanswered(s->m0), 1); /* the second waits for the group */
	reserve_ok(s->m0, 100, 7, NULL);
	heard_nothing(s);
	m = next(s->m0, SIMCO_PRR_REQ);
	assert_true(m->has_gid);
	assert_int_equal(m->gid, 7);
	assert_int_equal(m->prr.parity, SIMCO_PARITY_ODD);
	reserve_ok(s->m0, 101, 7, NULL);
	assert_int_equal(s->n_events, 0); /* not from inside an answer */
	heard(s, BINDING_EV_HALF_BOUND);
	assert_int_equal(binding_outside(b, 0).addr.version, 0);
	assert_int_equal(s->m0->translates, 0);

	assert_int_equal(enable(b, "192.0.2.1:6000", "192.0.2.1:7777"), 0);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 100, "10.0.0.9:5000", "192.0.2.1:6000");
	enable_ok(s->m0);
	heard_nothing(s);
	assert_int_equal(binding_state(b), BINDING_ENABLING);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 101, "10.0.0.9:5001", "192.0.2.1:7777");
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);

	binding_release_notify(b, on_done, s);
	assert_int_equal(unanswered(s->m0), 2);
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 100);
	change_ok(s->m0, 0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 0);
	change_ok(s->m0, 0);
	assert_int_equal(s->n_done, 0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 1);
	assert_int_equal(bindings_count(s->all), 0);
	pass(&s->loop, 5000);
	assert_int_equal(s->n_done, 1);
}

static void nat_pair(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 2, "192.0.2.99:20000", "192.0.2.99:20001");
	struct addr_port want = ap("192.0.2.99:20001"), a = binding_outside(b, 1);

	assert_true(addr_port_eq(&a, &want));
	assert_int_equal(binding_outside(b, 2).addr.version, 0);
	assert_int_equal(s->m0->translates, 1);
	assert_int_equal(enable(b, "192.0.2.1:6000", "192.0.2.1:6001"), 0);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 100, "10.0.0.9:5000", "192.0.2.1:6000");
	binding_release(b);
	enable_ok(s->m0); /* crossed with the release */
	enable_ok(s->m0);
	all_released(s);
}

static void a_pair_must_be_neighbours(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 2);

	reserve_ok(s->m0, 100, 7, "192.0.2.99:20000");
	reserve_ok(s->m0, 101, 7, "192.0.2.99:20003");
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_UNSUPPORTED);
	binding_release(b);
	all_released(s);
}

static void parity_of_one(void **state)
{
	struct stage *s = *state;
	struct flow flow = wish(s, "192.0.2.1:9", 1);
	struct failure f;
	struct binding *b = binding_new(s->all, &flow, on_event, s, &f), *c;

	assert_int_equal(next(s->m0, SIMCO_PRR_REQ)->prr.parity, SIMCO_PARITY_ANY);
	reserve_ok(s->m0, 100, 7, "192.0.2.99:20007");
	heard(s, BINDING_EV_HALF_BOUND);
	flow.odd = true;
	c = binding_new(s->all, &flow, on_event, s, &f);
	assert_int_equal(next(s->m0, SIMCO_PRR_REQ)->prr.parity, SIMCO_PARITY_ODD);
	reserve_ok(s->m0, 101, 8, "192.0.2.99:20009");
	heard(s, BINDING_EV_HALF_BOUND);
	binding_release(b);
	binding_release(c);
	all_released(s);
}

static void dropped_component(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 2, NULL, NULL);

	assert_int_equal(enable(b, "192.0.2.1:6000", NULL), 0);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 100, "10.0.0.9:5000", "192.0.2.1:6000");
	enable_ok(s->m0);
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 101);
	change_ok(s->m0, 0);
	heard(s, BINDING_EV_BOUND);
	assert_int_equal(owned(s->m0), 1);
	binding_release(b);
	assert_int_equal(unanswered(s->m0), 1);
	all_released(s);
}

static void enable_only_when_half_bound(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 2);

	assert_int_equal(enable(b, "192.0.2.1:6000", NULL), ERR_INVALID);
	reserve_ok(s->m0, 100, 7, NULL);
	reserve_ok(s->m0, 101, 7, NULL);
	heard(s, BINDING_EV_HALF_BOUND);
	assert_int_equal(enable(b, NULL, NULL), ERR_INVALID);
	assert_int_equal(enable(b, "[2001:db8::1]:6000", NULL), ERR_INVALID);
	assert_int_equal(binding_state(b), BINDING_HALF_BOUND);
	binding_release(b);
	all_released(s);
}

static void empty_path(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "198.51.100.1:9", 2);

	heard(s, BINDING_EV_HALF_BOUND);
	assert_int_equal(binding_outside(b, 0).addr.version, 0);
	assert_true(binding_idle_ms(b, 0) == UINT64_MAX);
	assert_int_equal(enable(b, "198.51.100.1:6000", "198.51.100.1:6001"), 0);
	assert_int_equal(s->n_events, 0);
	heard(s, BINDING_EV_BOUND);
	binding_release_notify(b, on_done, s);
	assert_int_equal(s->n_done, 0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 1);
	assert_int_equal(bindings_count(s->all), 0);
}

/* ---- several middleboxes ------------------------------------------------------------- */

static void nat_behind_firewall(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "203.0.113.1:9", 1);
	struct addr_port a, want = ap("192.0.2.99:20000");

	assert_int_equal(unanswered(s->m0), 1); /* in parallel */
	assert_int_equal(unanswered(s->m1), 1);
	reserve_ok(s->m1, 500, 1, NULL);
	heard_nothing(s);
	reserve_ok(s->m0, 100, 7, "192.0.2.99:20000");
	heard(s, BINDING_EV_HALF_BOUND);
	a = binding_outside(b, 0);
	assert_true(addr_port_eq(&a, &want));
	assert_int_equal(enable(b, "203.0.113.1:6000", NULL), 0);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 100, "10.0.0.9:5000", "203.0.113.1:6000");
	is_enable(next(s->m1, SIMCO_PEA_REQ), 500, "192.0.2.99:20000", "203.0.113.1:6000");
	enable_ok(s->m1);
	heard_nothing(s);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	binding_release(b);
	assert_int_equal(unanswered(s->m0), 1);
	assert_int_equal(unanswered(s->m1), 1);
	all_released(s);
}

static void firewall_behind_nat(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "203.0.113.1:9", 1);
	struct addr_port a, want = ap("203.0.113.99:30000");

	reserve_ok(s->m0, 100, 7, NULL);
	reserve_ok(s->m1, 500, 1, "203.0.113.99:30000");
	heard(s, BINDING_EV_HALF_BOUND);
	a = binding_outside(b, 0);
	assert_true(addr_port_eq(&a, &want));
	assert_int_equal(enable(b, "203.0.113.1:6000", NULL), 0);
	is_enable(next(s->m0, SIMCO_PEA_REQ), 100, "10.0.0.9:5000", "203.0.113.1:6000");
	is_enable(next(s->m1, SIMCO_PEA_REQ), 500, "10.0.0.9:5000", "203.0.113.1:6000");
	enable_ok(s->m0);
	enable_ok(s->m1);
	heard(s, BINDING_EV_BOUND);
	binding_release(b);
	all_released(s);
}

static void two_nats(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "203.0.113.1:9", 1);
	struct addr_port a, want = ap("203.0.113.99:30000");

	reserve_ok(s->m0, 100, 7, "192.0.2.99:20000");
	reserve_ok(s->m1, 500, 1, "203.0.113.99:30000");
	heard(s, BINDING_EV_HALF_BOUND);
	a = binding_outside(b, 0);
	assert_true(addr_port_eq(&a, &want));
	assert_int_equal(enable(b, "203.0.113.1:6000", NULL), 0);
	is_enable(next(s->m1, SIMCO_PEA_REQ), 500, "192.0.2.99:20000", "203.0.113.1:6000");
	binding_release(b);
	enable_ok(s->m0);
	enable_ok(s->m1);
	all_released(s);
}

/* One says no while the other has not answered: what it then grants is given back. */
static void all_or_nothing(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "203.0.113.1:9", 2);

	refuse(s->m0, SIMCO_LACK_OF_PORTS);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_OUT_OF_PORTS);
	assert_string_equal(s->failure.middlebox, "m0");
	assert_int_equal(unanswered(s->m1), 1);
	reserve_ok(s->m1, 500, 1, NULL);
	assert_int_equal(next(s->m1, SIMCO_PLC_REQ)->pid, 500);
	assert_int_equal(unanswered(s->m1), 1); /* and no second reservation */
	heard_nothing(s);
	binding_release(b);
	all_released(s);
}

static void second_middlebox_down(void **state)
{
	struct stage *s = *state;
	struct flow flow = wish(s, "203.0.113.1:9", 2);
	struct failure f;

	s->m1->open = false;
	assert_null(binding_new(s->all, &flow, on_event, s, &f));
	assert_int_equal(f.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_int_equal(f.retry_after, MB_RETRY_AFTER_S);
	assert_string_equal(f.middlebox, "m1");
	assert_int_equal(unanswered(s->m0), 0); /* nothing was asked of the first */
	s->m1->missing = true;
	assert_null(binding_new(s->all, &flow, on_event, s, &f));
	assert_int_equal(f.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_int_equal(bindings_count(s->all), 0);
	heard_nothing(s);
}

/* ---- refusals --------------------------------------------------------------------------- */

static void refused_at(struct stage *s, uint16_t type, int phase)
{
	struct binding *b = ask(s, "192.0.2.1:9", 2);
	enum cause want = cause_from_simco(type);

	if (phase > 0)
		reserve_ok(s->m0, 100, 7, NULL);
	if (phase > 1) {
		reserve_ok(s->m0, 101, 7, NULL);
		heard(s, BINDING_EV_HALF_BOUND);
		enable(b, "192.0.2.1:6000", "192.0.2.1:6001");
	}
	if (phase > 2)
		enable_ok(s->m0);
	refuse(s->m0, type);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, want);
	assert_int_equal(binding_state(b), BINDING_FAILED);
	if (phase == 2)
		enable_ok(s->m0); /* the other component, already on its way */
	binding_release(b);
	all_released(s);
	assert_int_equal(owned(s->m0), 0);
	assert_int_equal(s->m0->n_later, 0);
	s->m0->at = s->m0->n = 0;
}

static void every_refusal(void **state)
{
	struct stage *s = *state;

	for (uint16_t type = SIMCO_TRANSACTION_NOT_SUPPORTED; type <= SIMCO_PARITY_MISMATCH; type++)
		for (int phase = 0; phase < 4; phase++)
			refused_at(s, type, phase);
	refused_at(s, SIMCO_BADLY_FORMED_REQUEST, 0);
}

static void policy_refuses(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 2, NULL, NULL);

	/* no path leads from inside to inside */
	assert_int_equal(enable(b, "192.0.2.1:6000", "10.0.0.3:6001"), 0);
	assert_int_equal(s->n_events, 0);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_POLICY_REFUSED);
	assert_non_null(strstr(s->failure.detail, "10.0.0.9:5001 to 10.0.0.3:6001"));
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 100); /* no PEA was sent */
	binding_release(b);
	all_released(s);
}

static void no_path(void **state)
{
	struct stage *s = *state;
	struct flow flow = wish(s, "8.8.8.8:9", 1);
	struct failure f;

	assert_null(flow.path);
	assert_null(binding_new(s->all, &flow, on_event, s, &f));
	assert_int_equal(f.cause, CAUSE_POLICY_REFUSED);
}

static void quotas(void **state)
{
	struct stage *s = *state;
	struct flow flow = wish(s, "198.51.100.1:9", 1);
	struct binding *b[4];
	struct failure f;

	for (int i = 0; i < 3; i++)
		assert_non_null(b[i] = binding_new(s->all, &flow, on_event, s, &f));
	assert_null(binding_new(s->all, &flow, on_event, s, &f)); /* three per client */
	assert_int_equal(f.cause, CAUSE_QUOTA);
	flow.client = ap("10.0.0.10:1").addr;
	assert_non_null(b[3] = binding_new(s->all, &flow, on_event, s, &f));
	flow.client = ap("10.0.0.11:1").addr;
	assert_null(binding_new(s->all, &flow, on_event, s, &f)); /* four in all */
	assert_int_equal(f.cause, CAUSE_QUOTA);
	binding_release(b[0]);
	assert_non_null(b[0] = binding_new(s->all, &flow, on_event, s, &f));
	for (int i = 0; i < 4; i++)
		binding_release(b[i]);
	turn(&s->loop);
	assert_int_equal(s->n_events, 0); /* released before anything was heard */
	assert_int_equal(bindings_count(s->all), 0);
}

/* ---- owners ---------------------------------------------------------------------------- */

static void release_in_the_callback(void **state)
{
	struct stage *s = *state;
	struct binding *b;

	s->release_in_callback = true;
	ask(s, "192.0.2.1:9", 1);
	reserve_ok(s->m0, 100, 7, NULL);
	heard(s, BINDING_EV_HALF_BOUND);
	all_released(s);
	ask(s, "192.0.2.1:9", 1);
	refuse(s->m0, SIMCO_NO_RESOURCES);
	heard(s, BINDING_EV_FAILED);
	all_released(s);
	s->release_in_callback = false;
	b = half_bound(s, 1, NULL, NULL);
	s->release_in_callback = true;
	notify(s->m0, 100, 0);
	heard(s, BINDING_EV_LOST);
	all_released(s);
	(void)b;
}

static void release_in_every_phase(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 2);

	binding_release(b); /* PRR under way */
	assert_int_equal(bindings_count_state(s->all, BINDING_RELEASING), 1);
	reserve_ok(s->m0, 100, 7, NULL);
	all_released(s);
	b = ask(s, "192.0.2.1:9", 2);
	binding_release(b);
	refuse(s->m0, SIMCO_LACK_OF_PORTS);
	all_released(s);
	b = ask(s, "192.0.2.1:9", 1);
	reserve_ok(s->m0, 100, 7, NULL);
	binding_release(b); /* event due, not delivered */
	all_released(s);
	binding_release(NULL);
}

/* Half bound, but the owner has not heard of it: to him it failed. */
static void lost_before_it_was_told(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 1);

	reserve_ok(s->m0, 100, 7, NULL);
	notify(s->m0, 100, 0);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_RULE_LOST);
	binding_release(b);
	all_released(s);
}

static void release_waits_two_seconds_at_most(void **state)
{
	struct stage *s = *state;

	binding_release_notify(bound(s), on_done, s);
	pass(&s->loop, 1900);
	assert_int_equal(s->n_done, 0);
	pass(&s->loop, 500);
	assert_int_equal(s->n_done, 1);
	assert_int_equal(bindings_count(s->all), 1); /* still waits for the answers itself */
	all_released(s);
	assert_int_equal(s->n_done, 1);
}

/* ---- while it lives --------------------------------------------------------------------- */

static void rule_lost(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s);

	notify(s->m0, 101, 0);
	heard(s, BINDING_EV_LOST);
	assert_int_equal(s->failure.cause, CAUSE_RULE_LOST);
	assert_string_equal(s->failure.middlebox, "m0");
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 100); /* the other one goes, too */
	binding_release(b);
	all_released(s);
}

static void refreshed_at_half(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s);

	for (int round = 0; round < 4; round++) {
		pass(&s->loop, 53000);
		assert_int_equal(unanswered(s->m0), 0);
		pass(&s->loop, 14000);
		assert_int_equal(unanswered(s->m0), 2);
		change_ok(s->m0, 120);
		pass(&s->loop, 0);
		change_ok(s->m0, 120);
		heard_nothing(s);
	}
	assert_int_equal(binding_state(b), BINDING_BOUND);
	binding_release(b);
	all_released(s);
}

static void half_bound_is_refreshed(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 1, NULL, NULL);

	pass(&s->loop, 13000);
	assert_int_equal(unanswered(s->m0), 0);
	pass(&s->loop, 4500);
	change_ok(s->m0, 30);
	heard_nothing(s);
	binding_release(b);
	all_released(s);
}

static void refresh_says_gone(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s);

	pass(&s->loop, 67000);
	refuse(s->m0, SIMCO_NO_SUCH_RULE);
	heard(s, BINDING_EV_LOST);
	assert_int_equal(s->failure.cause, CAUSE_RULE_LOST);
	change_ok(s->m0, 120);
	binding_release(b);
	all_released(s);
}

/* A refused refresh costs nothing yet; what was granted lasts, and we ask again. */
static void refresh_refused(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 1, NULL, NULL);

	assert_int_equal(enable(b, "192.0.2.1:6000", NULL), 0);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	pass(&s->loop, 67000);
	refuse(s->m0, SIMCO_LIFETIME_NOT_EXTENDED);
	heard_nothing(s);
	assert_int_equal(binding_state(b), BINDING_BOUND);
	pass(&s->loop, 30000);
	change_ok(s->m0, 120);
	binding_release(b);
	all_released(s);
}

static void are_changes_the_lifetime(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 1, NULL, NULL);

	assert_int_equal(enable(b, "192.0.2.1:6000", NULL), 0);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	notify(s->m0, 100, 20);
	pass(&s->loop, 11500);
	change_ok(s->m0, 120);
	binding_release(b);
	all_released(s);
}

static void outlives_the_session(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s);

	session_ends(s->m0);
	pass(&s->loop, 100000);
	heard_nothing(s);
	assert_int_equal(binding_state(b), BINDING_BOUND);
	s->m0->open = true;
	pass(&s->loop, 2000); /* overdue: at once */
	change_ok(s->m0, 120);
	change_ok(s->m0, 120);
	heard_nothing(s);
	session_ends(s->m0);
	pass(&s->loop, 121000); /* nobody refreshed it: it is no more */
	heard(s, BINDING_EV_LOST);
	assert_int_equal(s->failure.cause, CAUSE_RULE_LOST);
	binding_release(b);
	turn(&s->loop);
	assert_int_equal(bindings_count(s->all), 0);
}

static void session_ends_while_reserving(void **state)
{
	struct stage *s = *state;
	struct binding *b = ask(s, "192.0.2.1:9", 2);

	reserve_ok(s->m0, 100, 7, NULL);
	session_ends(s->m0);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_int_equal(s->m0->n_later, 1);
	assert_int_equal(s->m0->later[0], 100);
	binding_release(b);
	turn(&s->loop);
	assert_int_equal(bindings_count(s->all), 0);
}

static void session_ends_while_enabling(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 2, NULL, NULL);

	enable(b, "192.0.2.1:6000", "192.0.2.1:6001");
	session_ends(s->m0);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_int_equal(s->m0->n_later, 2);
	binding_release(b);
	turn(&s->loop);
	assert_int_equal(bindings_count(s->all), 0);
}

static void released_while_down(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s), *c;

	session_ends(s->m0);
	binding_release_notify(b, on_done, s);
	assert_int_equal(s->n_done, 0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 1);
	assert_int_equal(s->m0->n_later, 2);
	assert_int_equal(bindings_count(s->all), 0);
	/* and when the session ends under a release */
	s->m0->open = true;
	c = bound(s);
	binding_release_notify(c, on_done, s);
	session_ends(s->m0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 2);
	assert_int_equal(s->m0->n_later, 4);
	assert_int_equal(bindings_count(s->all), 0);
}

static void activity(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 1, NULL, NULL);
	struct simco_msg m = {.type = SIMCO_PES_REP, .has_activity = true};

	s->m0->extensions = SIMCO_EXT_ACTIVITY;
	assert_int_equal(enable(b, "192.0.2.1:6000", NULL), 0);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	assert_true(binding_idle_ms(b, 0) == UINT64_MAX);
	pass(&s->loop, 10500);
	assert_int_equal(next(s->m0, SIMCO_PRS_REQ)->pid, 100);
	m.activity.idle_ms[0] = 1;
	m.activity.idle_ms[1] = 4000;
	answer(s->m0, &m, NULL);
	pass(&s->loop, 500);
	assert_int_equal(binding_idle_ms(b, 0), 4500);
	pass(&s->loop, 10500);
	next(s->m0, SIMCO_PRS_REQ);
	refuse(s->m0, SIMCO_NO_SUCH_RULE);
	heard(s, BINDING_EV_LOST);
	binding_release(b);
	turn(&s->loop);
	assert_int_equal(bindings_count(s->all), 0);
}

/* A PID that we hold already is a middlebox's fault; it must not harm the first holder. */
static void pid_given_twice(void **state)
{
	struct stage *s = *state;
	struct binding *b = half_bound(s, 1, NULL, NULL), *c = ask(s, "192.0.2.1:9", 1);

	reserve_ok(s->m0, 100, 8, NULL);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(binding_state(b), BINDING_HALF_BOUND);
	binding_release(c);
	binding_release(b);
	all_released(s);
}

/* ---- the operator ------------------------------------------------------------------------- */

static void operator_ends_one(void **state)
{
	struct stage *s = *state;
	struct binding *b = bound(s);
	struct buf out;
	struct jsonw w;

	buf_init(&out, 65536);
	jsonw_init(&w, &out);
	assert_true(bindings_rest_show(s->all, "1", &w));
	buf_append(&out, "", 1);
	assert_non_null(strstr((char *)buf_span(&out).p, "\"timeline\""));
	assert_non_null(strstr((char *)buf_span(&out).p, "half-bound"));
	assert_non_null(strstr((char *)buf_span(&out).p, "192.0.2.1:6001"));
	assert_false(bindings_rest_show(s->all, "2", &w));
	assert_false(bindings_rest_end(s->all, "x"));
	assert_true(bindings_rest_end(s->all, "1"));
	heard(s, BINDING_EV_LOST);
	assert_int_equal(s->failure.cause, CAUSE_OPERATOR);
	assert_false(bindings_rest_end(s->all, "1"));
	binding_release(b);
	all_released(s);
	buf_fini(&out);
}

static void pages(void **state)
{
	struct stage *s = *state;
	struct flow flow = wish(s, "198.51.100.1:9", 1);
	struct failure f;
	struct buf out;
	struct jsonw w;

	buf_init(&out, 65536);
	for (int i = 0; i < 3; i++)
		assert_non_null(binding_new(s->all, &flow, NULL, NULL, &f));
	jsonw_init(&w, &out);
	bindings_rest_list(s->all, 1, 1, &w);
	buf_append(&out, "", 1);
	assert_non_null(strstr((char *)buf_span(&out).p, "\"id\":2"));
	assert_null(strstr((char *)buf_span(&out).p, "\"id\":3"));
	assert_non_null(strstr((char *)buf_span(&out).p, "\"next\":2"));
	buf_reset(&out);
	jsonw_init(&w, &out);
	bindings_rest_list(s->all, 2, 1, &w);
	buf_append(&out, "", 1);
	assert_null(strstr((char *)buf_span(&out).p, "next"));
	buf_fini(&out);
}

/* The agent stops with requests under way: the answers come to nobody (run under ASan). */
static void freed_with_calls_under_way(void **state)
{
	struct stage *s = *state;

	bound(s);
	ask(s, "192.0.2.1:9", 2);
	reserve_ok(s->m0, 200, 8, NULL);
	binding_release_notify(ask(s, "203.0.113.1:9", 1), on_done, s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pair),
		T(firewall_pair),
		T(nat_pair),
		T(a_pair_must_be_neighbours),
		T(parity_of_one),
		T(dropped_component),
		T(enable_only_when_half_bound),
		T(empty_path),
		T(nat_behind_firewall),
		T(firewall_behind_nat),
		T(two_nats),
		T(all_or_nothing),
		T(second_middlebox_down),
		T(every_refusal),
		T(policy_refuses),
		T(no_path),
		T(quotas),
		T(release_in_the_callback),
		T(release_in_every_phase),
		T(lost_before_it_was_told),
		T(release_waits_two_seconds_at_most),
		T(rule_lost),
		T(refreshed_at_half),
		T(half_bound_is_refreshed),
		T(refresh_says_gone),
		T(refresh_refused),
		T(are_changes_the_lifetime),
		T(outlives_the_session),
		T(session_ends_while_reserving),
		T(session_ends_while_enabling),
		T(released_while_down),
		T(activity),
		T(pid_given_twice),
		T(operator_ends_one),
		T(pages),
		T(freed_with_calls_under_way),
	};

	return cmocka_run_group_tests_name("binding", tests, NULL, NULL);
}
