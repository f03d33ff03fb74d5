/*
 * The failure table: every SIMCO refusal has its cause, every cause its row.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "agent/failure.h"
#include "common/log.h"
#include "proto-simco/simco.h"

static void every_code_of_rfc4540(void **state)
{
	static const struct {
		uint16_t type;
		enum cause cause;
	} want[] = {
		{0x0310, CAUSE_AGENT_FAULT},
		{0x0311, CAUSE_AGENT_FAULT},
		{0x0312, CAUSE_AGENT_FAULT},
		{0x0313, CAUSE_AGENT_FAULT},
		{0x0320, CAUSE_AGENT_FAULT},
		{0x0321, CAUSE_OVERLOADED},
		{0x0322, CAUSE_MIDDLEBOX_UNREACHABLE},
		{0x0323, CAUSE_MIDDLEBOX_UNREACHABLE},
		{0x0324, CAUSE_MIDDLEBOX_UNREACHABLE},
		{0x0325, CAUSE_MIDDLEBOX_UNREACHABLE},
		{0x0326, CAUSE_MIDDLEBOX_UNREACHABLE},
		{0x0340, CAUSE_POLICY_REFUSED},
		{0x0341, CAUSE_POLICY_REFUSED},
		{0x0342, CAUSE_QUOTA},
		{0x0343, CAUSE_RULE_LOST},
		{0x0344, CAUSE_AGENT_FAULT},
		{0x0345, CAUSE_POLICY_REFUSED},
		{0x0346, CAUSE_AGENT_FAULT},
		{0x0347, CAUSE_POLICY_REFUSED},
		{0x0348, CAUSE_OUT_OF_ADDRESSES},
		{0x0349, CAUSE_OUT_OF_PORTS},
		{0x034A, CAUSE_CONFIGURATION_FAILED},
		{0x034B, CAUSE_AGENT_FAULT},
		{0x034C, CAUSE_UNSUPPORTED},
		{0x034D, CAUSE_AGENT_FAULT},
		{0x034E, CAUSE_UNSUPPORTED},
		{0x034F, CAUSE_UNSUPPORTED},
		{0x0350, CAUSE_CONFLICT},
		{0x0351, CAUSE_LIFETIME_REFUSED},
		{0x0352, CAUSE_LIFETIME_REFUSED},
		{0x0353, CAUSE_POLICY_REFUSED},
		{0x0354, CAUSE_UNSUPPORTED},
		{0x0355, CAUSE_POLICY_REFUSED},
		{0x0356, CAUSE_AGENT_FAULT},
		{0x0357, CAUSE_AGENT_FAULT},
		{0x0358, CAUSE_AGENT_FAULT},
		{SIMCO_BFM, CAUSE_AGENT_FAULT},
		{0x03FF, CAUSE_AGENT_FAULT}, /* not in the RFC */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_int_equal(cause_from_simco(want[i].type), want[i].cause);
}

static void every_cause_has_a_row(void **state)
{
	(void)state;
	for (int c = 0; c < CAUSE_MAX; c++) {
		const struct cause_info *info = cause_info((enum cause)c);

		assert_non_null(info->name);
		assert_non_null(info->phrase);
		for (int k = 0; k < c; k++)
			assert_string_not_equal(info->name, cause_info((enum cause)k)->name);
		/* Reason phrases are sent as they stand. */
		assert_null(strpbrk(info->phrase, "\r\n\""));
	}
	assert_ptr_equal(cause_info((enum cause)999), cause_info(CAUSE_AGENT_FAULT));
}

static void rtsp_column(void **state)
{
	static const struct {
		enum cause cause;
		unsigned status;
	} want[] = {
		{CAUSE_MIDDLEBOX_UNREACHABLE, 503},
		{CAUSE_OVERLOADED, 453},
		{CAUSE_OUT_OF_PORTS, 453},
		{CAUSE_OUT_OF_ADDRESSES, 453},
		{CAUSE_QUOTA, 453},
		{CAUSE_POLICY_REFUSED, 403},
		{CAUSE_CONFLICT, 403},
		{CAUSE_UNSUPPORTED, 461},
		{CAUSE_CONFIGURATION_FAILED, 500},
		{CAUSE_LIFETIME_REFUSED, 500},
		{CAUSE_AGENT_FAULT, 500},
		{CAUSE_RULE_LOST, 0},
		{CAUSE_MEDIA_TIMEOUT, 0},
		{CAUSE_OPERATOR, 0},
		{CAUSE_SESSION_TIMEOUT, 0},
		{CAUSE_PEER_UNREACHABLE, 502},
		{CAUSE_PEER_MALFORMED, 400},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_int_equal(cause_info(want[i].cause)->rtsp_status, want[i].status);
	assert_true(cause_info(CAUSE_MIDDLEBOX_UNREACHABLE)->retry_after);
	assert_false(cause_info(CAUSE_QUOTA)->retry_after);
}

static void keep_line(enum log_level level, const char *line, void *arg)
{
	(void)level;
	strncpy(arg, line, 399);
}

static void noting_counts_and_logs(void **state)
{
	struct failure f;
	char line[400] = "";
	uint64_t before = failure_count(CAUSE_OUT_OF_PORTS);

	(void)state;
	log_set_sink(keep_line, line);
	failure_set(&f, CAUSE_OUT_OF_PORTS, "edge", 5, "lack of %s", "ports\r\nX: y");
	assert_int_equal(f.retry_after, 5);
	assert_string_equal(f.middlebox, "edge");
	failure_note(&f, "rtsp", "c12");
	log_set_sink(NULL, NULL);
	assert_int_equal(failure_count(CAUSE_OUT_OF_PORTS), before + 1);
	assert_non_null(strstr(line, "rtsp c12: out-of-ports (edge): lack of ports"));
	assert_null(strchr(line, '\r'));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_code_of_rfc4540),
		cmocka_unit_test(every_cause_has_a_row),
		cmocka_unit_test(rtsp_column),
		cmocka_unit_test(noting_counts_and_logs),
	};

	return cmocka_run_group_tests_name("failure", tests, NULL, NULL);
}
