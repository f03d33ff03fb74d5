/*
 * See stage.h.
 */
#include "tests/unit/stage.h"

/* ---- a loop with a clock of its own --------------------------------------------- */

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
void turn(struct loop *l)
{
	for (size_t i = 0; i < l->n_defer; i++)
		if (l->defer[i].fn)
			l->defer[i].fn(l->defer[i].arg);
	l->n_defer = 0;
}

void pass(struct loop *l, uint64_t ms)
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

size_t owned(const struct mb_client *mb)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++)
		n += mb->rules[i] != NULL;
	return n;
}

size_t unanswered(const struct mb_client *mb)
{
	return mb->n - mb->at;
}

/* The oldest unanswered request, which must be of that type. */
struct simco_msg *next(struct mb_client *mb, uint16_t type)
{
	assert_true(mb->at < mb->n);
	assert_int_equal(mb->req[mb->at].m.type, type);
	return &mb->req[mb->at].m;
}

void answer(struct mb_client *mb, const struct simco_msg *m, const struct failure *f)
{
	mb_reply_fn fn = mb->req[mb->at].fn;
	void *arg = mb->req[mb->at].arg;

	mb->at++;
	fn(arg, m, f);
}

void refuse(struct mb_client *mb, uint16_t type)
{
	struct simco_msg m = {.type = type};
	struct failure f;

	failure_set(&f, cause_from_simco(type), mb->name, 0, "%s", simco_type_name(type));
	answer(mb, &m, &f);
}

struct addr_port ap(const char *text)
{
	struct addr_port a;

	assert_int_equal(addr_port_parse(span_str(text), &a), 0);
	return a;
}

/* outside: NULL means 'protocols only'. */
void reserve_ok(struct mb_client *mb, uint32_t pid, uint32_t gid, const char *outside)
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

void enable_ok(struct mb_client *mb)
{
	struct simco_msg *q = next(mb, SIMCO_PEA_REQ);
	struct simco_msg m = {.type = SIMCO_PER_REP, .pid = q->pid, .lifetime = q->lifetime};

	answer(mb, &m, NULL);
}

void change_ok(struct mb_client *mb, uint32_t lifetime)
{
	struct simco_msg m = {.lifetime = lifetime};

	assert_int_equal(next(mb, SIMCO_PLC_REQ)->lifetime, lifetime);
	m.type = lifetime ? SIMCO_PLC_REP : SIMCO_PRD_REP;
	answer(mb, &m, NULL);
}

void session_ends(struct mb_client *mb)
{
	struct failure f;

	mb->open = false;
	failure_set(&f, CAUSE_MIDDLEBOX_UNREACHABLE, mb->name, MB_RETRY_AFTER_S,
		    "no reply in time");
	while (mb->at < mb->n)
		answer(mb, NULL, &f);
}

void notify(struct mb_client *mb, uint32_t pid, uint32_t lifetime)
{
	for (size_t i = 0; i < ARRAY_LEN(mb->rules); i++) {
		if (mb->rules[i] && mb->rules[i]->pid == pid) {
			mb->rules[i]->changed(mb->rules[i], lifetime, 0);
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

int setup(void **state)
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
int teardown(void **state)
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

void on_event(struct binding *b, enum binding_event ev, const struct failure *f, void *arg)
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

void on_done(void *arg)
{
	struct stage *s = arg;

	s->n_done++;
}

/* A wish from 10.0.0.9 to `to`. */
struct flow wish(struct stage *s, const char *to, unsigned components)
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

struct binding *ask(struct stage *s, const char *to, unsigned components)
{
	struct flow flow = wish(s, to, components);
	struct failure f;
	struct binding *b = binding_new(s->all, &flow, on_event, s, &f);

	assert_non_null(b);
	assert_int_equal(s->n_events, 0);
	return b;
}

void heard(struct stage *s, enum binding_event ev)
{
	turn(&s->loop);
	assert_int_equal(s->n_events, 1);
	assert_int_equal(s->event, ev);
	s->n_events = 0;
}

void heard_nothing(struct stage *s)
{
	turn(&s->loop);
	assert_int_equal(s->n_events, 0);
}

/* Half bound through m0 alone. */
struct binding *half_bound(struct stage *s, unsigned components, const char *rtp, const char *rtcp)
{
	struct binding *b = ask(s, "192.0.2.1:9", components);

	reserve_ok(s->m0, 100, 7, rtp);
	if (components == 2)
		reserve_ok(s->m0, 101, 7, rtcp);
	heard(s, BINDING_EV_HALF_BOUND);
	return b;
}

int enable(struct binding *b, const char *rtp, const char *rtcp)
{
	struct flow_ends ends[FLOW_COMPONENTS] = {{.internal = ap("10.0.0.9:5000")},
						  {.internal = ap("10.0.0.9:5001")}};

	if (rtp)
		ends[0].external = ap(rtp);
	if (rtcp)
		ends[1].external = ap(rtcp);
	return binding_enable(b, ends);
}

struct binding *bound(struct stage *s)
{
	struct binding *b = half_bound(s, 2, NULL, NULL);

	assert_int_equal(enable(b, "192.0.2.1:6000", "192.0.2.1:6001"), 0);
	enable_ok(s->m0);
	enable_ok(s->m0);
	heard(s, BINDING_EV_BOUND);
	return b;
}

/* Answers every release there is; afterwards nothing is left of any binding. */
void all_released(struct stage *s)
{
	for (unsigned i = 0; i < ARRAY_LEN(s->mbs.mb); i++)
		while (unanswered(&s->mbs.mb[i]))
			change_ok(&s->mbs.mb[i], 0);
	heard_nothing(s);
	assert_int_equal(bindings_count(s->all), 0);
}

void is_tuple(const struct simco_tuple *t, const char *want, uint8_t location)
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

void is_enable(const struct simco_msg *m, uint32_t pid, const char *internal, const char *external)
{
	assert_int_equal(m->pid, pid);
	assert_int_equal(m->lifetime, 120);
	assert_int_equal(m->per.direction, SIMCO_BIDIRECTIONAL);
	is_tuple(&m->tuple[SIMCO_INTERNAL], internal, SIMCO_INTERNAL);
	is_tuple(&m->tuple[SIMCO_EXTERNAL], external, SIMCO_EXTERNAL);
}
