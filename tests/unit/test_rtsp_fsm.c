/*
 * The state tables: every pair leads somewhere sensible.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/rtsp/rtsp_fsm.h"

/* What must hold for every pair, whatever the table says in detail. */
static void test_every_pair(void **state ATTR_UNUSED)
{
	int s, ev;

	for (s = 0; s < STREAM_STATE_MAX; s++) {
		for (ev = 0; ev < STREAM_EVENT_MAX; ev++) {
			struct rtsp_stream_step step = rtsp_stream_step((enum rtsp_stream_state)s,
									(enum rtsp_stream_event)ev);

			assert_true(step.next < STREAM_STATE_MAX);
			assert_true(step.action < STREAM_ACTION_MAX);
			/* an ended stream does nothing any more */
			if (s == STREAM_CLOSED)
				assert_true(step.next == STREAM_CLOSED &&
					    step.action == STREAM_DO_NOTHING);
			/* nothing is passed to the client before the kernel has it */
			if (step.next == STREAM_OPEN && s != STREAM_OPEN)
				assert_true(s == STREAM_ENABLING && ev == STREAM_EV_BOUND);
			/* nothing is opened before the reply names the transport */
			if (step.action == STREAM_DO_ENABLE)
				assert_true(s == STREAM_OFFERED && ev == STREAM_EV_REPLY_UDP);
			/* an accepted SETUP that fails is undone at the server */
			if (step.next == STREAM_CLOSED &&
			    (ev == STREAM_EV_REPLY_UDP || ev == STREAM_EV_REPLY_BAD) &&
			    s != STREAM_CLOSED)
				assert_int_equal(step.action, STREAM_DO_UNDO);
		}
		assert_int_equal(rtsp_stream_step((enum rtsp_stream_state)s, STREAM_EV_END).next,
				 STREAM_CLOSED);
	}
}

static void test_names(void **state ATTR_UNUSED)
{
	int i;

	for (i = 0; i < STREAM_STATE_MAX; i++)
		assert_string_not_equal(rtsp_stream_state_name((enum rtsp_stream_state)i), "?");
	for (i = 0; i < STREAM_EVENT_MAX; i++)
		assert_string_not_equal(rtsp_stream_event_name((enum rtsp_stream_event)i), "?");
	for (i = 0; i < SESSION_STATE_MAX; i++)
		assert_string_not_equal(rtsp_session_state_name((enum rtsp_session_state)i), "?");
	for (i = 1; i < RTSP_METHOD_MAX; i++)
		assert_string_not_equal(rtsp_method_name((enum rtsp_method)i), "?");
	assert_string_equal(rtsp_stream_state_name(STREAM_STATE_MAX), "?");
}

static void test_session(void **state ATTR_UNUSED)
{
	int s;

	for (s = 0; s < SESSION_STATE_MAX; s++) {
		enum rtsp_session_state from = (enum rtsp_session_state)s;

		assert_int_equal(rtsp_session_step(from, RTSP_PLAY), SESSION_PLAYING);
		assert_int_equal(rtsp_session_step(from, RTSP_RECORD), SESSION_RECORDING);
		assert_int_equal(rtsp_session_step(from, RTSP_PAUSE), SESSION_READY);
		assert_int_equal(rtsp_session_step(from, RTSP_OPTIONS), from);
		assert_int_equal(rtsp_session_step(from, RTSP_SETUP), from);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_pair),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_session),
	};

	return cmocka_run_group_tests_name("rtsp_fsm", tests, NULL, NULL);
}
