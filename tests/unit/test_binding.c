/*
 * The binding machine: its table, its requests in their order, its refusals.
 */
#include "tests/unit/stage.h"

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

/* ---- groups -------------------------------------------------------------------------- */

static struct flow_ends to_group(const char *group, const char *server)
{
	return (struct flow_ends){.internal = ap(group), .external = ap(server)};
}

static struct binding *group_wish(struct stage *s)
{
	struct flow flow = wish(s, "192.0.2.1:9", 2);
	struct failure f;
	struct binding *b;

	flow.direction = FLOW_INBOUND;
	flow.group = flow.vetted = true;
	b = binding_new(s->all, &flow, on_event, s, &f);
	assert_non_null(b);
	return b;
}

static void open_ok(struct mb_client *mb, uint32_t pid, uint32_t gid)
{
	struct simco_msg *q = next(mb, SIMCO_PER_REQ);
	struct simco_msg m = {
		.type = SIMCO_PER_REP, .pid = pid, .gid = gid, .lifetime = q->lifetime};

	answer(mb, &m, NULL);
}

/* Nothing is reserved; the second rule joins the group of the first one. */
static void group_pair(void **state)
{
	struct stage *s = *state;
	struct flow_ends ends[2] = {to_group("232.1.2.3:5000", "192.0.2.1:0"),
				    to_group("232.1.2.3:5001", "192.0.2.1:0")};
	struct binding *b = group_wish(s);
	struct simco_msg *m;

	assert_int_equal(unanswered(s->m0), 0);
	heard(s, BINDING_EV_HALF_BOUND);
	assert_int_equal(binding_outside(b, 0).addr.version, 0);
	assert_int_equal(binding_enable(b, ends), 0);
	m = next(s->m0, SIMCO_PER_REQ);
	assert_int_equal(m->per.direction, SIMCO_INBOUND);
	assert_int_equal(m->lifetime, 120);
	assert_false(m->has_gid);
	is_tuple(&m->tuple[SIMCO_INTERNAL], "232.1.2.3:5000", SIMCO_INTERNAL);
	assert_int_equal(m->tuple[SIMCO_EXTERNAL].port, 0);
	assert_int_equal(unanswered(s->m0), 1);
	open_ok(s->m0, 100, 7);
	heard_nothing(s);
	m = next(s->m0, SIMCO_PER_REQ);
	assert_true(m->has_gid);
	assert_int_equal(m->gid, 7);
	is_tuple(&m->tuple[SIMCO_INTERNAL], "232.1.2.3:5001", SIMCO_INTERNAL);
	open_ok(s->m0, 101, 7);
	heard(s, BINDING_EV_BOUND);
	assert_int_equal(owned(s->m0), 2);
	binding_release(b);
	assert_int_equal(unanswered(s->m0), 2);
	all_released(s);
}

/* One port only, enabled before the owner heard anything, given up at once. */
static void group_in_a_hurry(void **state)
{
	struct stage *s = *state;
	struct flow_ends ends[2] = {to_group("232.1.2.3:5000", "192.0.2.1:0"),
				    {.internal.port = 0}};
	struct binding *b = group_wish(s);

	assert_int_equal(binding_enable(b, ends), 0);
	heard_nothing(s);
	binding_release_notify(b, on_done, s);
	turn(&s->loop);
	assert_int_equal(s->n_done, 0);
	open_ok(s->m0, 100, 7); /* only now there is something to give back */
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 100);
	change_ok(s->m0, 0);
	turn(&s->loop);
	assert_int_equal(s->n_done, 1);
	assert_int_equal(bindings_count(s->all), 0);
}

static void group_refused(void **state)
{
	struct stage *s = *state;
	struct flow_ends ends[2] = {to_group("232.1.2.3:5000", "192.0.2.1:0"),
				    to_group("232.1.2.3:5001", "192.0.2.1:0")};
	struct binding *b = group_wish(s);

	assert_int_equal(binding_enable(b, ends), 0);
	open_ok(s->m0, 100, 7);
	refuse(s->m0, SIMCO_WILDCARDING_NOT_SUPPORTED);
	heard(s, BINDING_EV_FAILED);
	assert_int_equal(s->failure.cause, CAUSE_UNSUPPORTED);
	assert_int_equal(next(s->m0, SIMCO_PLC_REQ)->pid, 100);
	binding_release(b);
	all_released(s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pair),
		T(group_pair),
		T(group_in_a_hurry),
		T(group_refused),
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
	};

	return cmocka_run_group_tests_name("binding", tests, NULL, NULL);
}
