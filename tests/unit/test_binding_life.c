/*
 * Bindings over time: owners that come and go, refreshes, lost rules and sessions,
 * the operator.
 */
#include "tests/unit/stage.h"

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

	return cmocka_run_group_tests_name("binding_life", tests, NULL, NULL);
}
