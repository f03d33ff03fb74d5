/*
 * Media silence over groups of any size: who counts as silent, in which slices
 * that is found out and the group ended, and what happens to it meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/log.h"
#include "tests/unit/core_kit.h"
#include "tests/unit/quiet.h"

#define LIMIT_MS 40000u /* agent 2's, see core_kit.c */
#define MEMBERS 300u
#define READS 64u /* counters in a slice */

static int set_up(void **state)
{
	(void)state;
	log_set_sink(quiet, NULL);
	return 0;
}

static void open_kit(struct kit *k)
{
	kit_open(k, FW_NAT_NONE, NULL);
	kit_stop(k);
	k->conf.max_rules = 20000;
	k->agents[0].max_rules = k->agents[2].max_rules = 20000;
	kit_start(k);
}

/* Member i of group n. */
static struct simco_msg per(unsigned n, unsigned i, uint32_t gid)
{
	struct simco_msg m = {.type = SIMCO_PER_REQ, .lifetime = 3600, .gid = gid};

	m.has_gid = gid != 0;
	m.per.direction = SIMCO_BIDIRECTIONAL;
	m.tuple[SIMCO_INTERNAL] = (struct simco_tuple){.ip_version = SIMCO_IPV4,
						       .prefix_len = 32,
						       .protocol = 17,
						       .port = (uint16_t)(5000 + i),
						       .port_range = 1,
						       .addr = {10, 1, 0, (uint8_t)n}};
	m.tuple[SIMCO_EXTERNAL] = m.tuple[SIMCO_INTERNAL];
	m.tuple[SIMCO_EXTERNAL].location = SIMCO_EXTERNAL;
	m.tuple[SIMCO_EXTERNAL].addr[0] = 198;
	return m;
}

static void traffic(struct kit *k, unsigned n, unsigned i)
{
	uint16_t port = (uint16_t)(5000 + i);
	struct fw_match m = {.protocol = 17,
			     .src = {{4, {10, 1, 0, (uint8_t)n}}, 32},
			     .dst = {{4, {198, 1, 0, (uint8_t)n}}, 32},
			     .sport = {port, port},
			     .dport = {port, port}};

	assert_true(fw_fake_traffic(k->fw, &m, 1, 100));
}

/* A group of agent a; its GID. */
static uint32_t group(struct kit *k, unsigned a, unsigned n, unsigned members)
{
	uint32_t gid = 0;

	for (unsigned i = 0; i < members; i++) {
		struct simco_msg m = per(n, i, gid);

		assert_int_equal(kit_ask(k, a, &m), SIMCO_PER_REP);
		gid = k->last.gid;
	}
	return gid;
}

static unsigned count(struct kit *k, uint32_t gid)
{
	struct rule *first = rule_by_gid(&k->core->t, gid), *m = first;
	unsigned n = 0;

	while (m) {
		n++;
		m = rule_group_next(&k->core->t, m);
		if (m == first)
			break;
	}
	return n;
}

/* Ticks with the time standing still until the present scan is over; the number of slices. */
static unsigned finish_scan(struct kit *k)
{
	unsigned slices = 0;

	for (;;) {
		unsigned reads = fw_fake_reads(k->fw), events = k->events;
		bool more = core_tick(k->core, k->now);

		assert_true(fw_fake_reads(k->fw) - reads <= READS + 2);
		assert_true(k->events - events <= 2 * SLICE_ENDS + SLICE_EVENTS);
		slices++;
		if (!more)
			return slices;
	}
}

/* To the start of the scan that comes next. */
static void to_next_scan(struct kit *k)
{
	assert_int_equal(k->core->idle_at, RULE_NONE);
	k->now = k->core->idle_next_ms;
	fw_fake_set_time(k->fw, k->now);
}

/* Lets time pass up to the scan that will find it silent. */
static void fall_silent(struct kit *k, uint64_t since)
{
	for (;;) {
		to_next_scan(k);
		if (k->now >= since + LIMIT_MS)
			return;
		finish_scan(k);
	}
}

static void test_all_silent(void **state)
{
	uint32_t gid, other;
	uint64_t began;
	struct kit k;

	(void)state;
	open_kit(&k);
	began = k.now;
	gid = group(&k, 2, 1, MEMBERS);
	other = group(&k, 0, 2, 5); /* of an agent without an idle timeout */
	kit_time(&k, LIMIT_MS - 1);
	assert_int_equal(count(&k, gid), MEMBERS);
	k.events = 0;
	fall_silent(&k, began);
	/* The first member comes first: all are read once more, and ended. */
	assert_true(finish_scan(&k) >= 2 * MEMBERS / READS + MEMBERS / SLICE_ENDS);
	assert_int_equal(count(&k, gid), 0);
	assert_int_equal(count(&k, other), 5);
	assert_int_equal(fw_fake_elements(k.fw), 10);
	assert_int_equal(k.events, MEMBERS);
	kit_close(&k);
}

/* One of them keeps all alive, wherever it stands in the group. */
static void test_one_speaks(void **state)
{
	static const unsigned who[] = {0, 128, 200, MEMBERS - 1};
	uint64_t spoke = 0;
	struct kit k;
	uint32_t gid;

	(void)state;
	open_kit(&k);
	gid = group(&k, 2, 1, MEMBERS);
	for (size_t i = 0; i < 3 * ARRAY_LEN(who); i++) {
		kit_time(&k, LIMIT_MS - 15000);
		traffic(&k, 1, who[i % ARRAY_LEN(who)]);
		spoke = k.now;
		assert_int_equal(count(&k, gid), MEMBERS);
	}
	kit_time(&k, 12000); /* it is noticed */
	assert_int_equal(count(&k, gid), MEMBERS);
	kit_time(&k, spoke + LIMIT_MS + 22000 - k.now);
	assert_int_equal(count(&k, gid), 0);
	kit_close(&k);
}

/* The notes say silence; the reading before the end does not. */
static void test_speaks_at_the_last_moment(void **state)
{
	struct kit k;
	uint32_t gid;

	(void)state;
	open_kit(&k);
	gid = group(&k, 2, 1, MEMBERS);
	fall_silent(&k, k.now);
	while (k.core->idle_walk.pass != 2) /* reading */
		assert_true(core_tick(k.core, k.now));
	traffic(&k, 1, MEMBERS - 1);
	finish_scan(&k);
	assert_int_equal(count(&k, gid), MEMBERS);
	kit_close(&k);
}

static void test_group_changes_meanwhile(void **state)
{
	struct simco_msg m, end = {.type = SIMCO_PLC_REQ};
	struct kit k;
	uint32_t gid, first;

	(void)state;
	open_kit(&k);
	gid = group(&k, 2, 1, MEMBERS);
	first = rule_by_gid(&k.core->t, gid)->pid;
	/* The next to be read leaves: this scan gives up, the next one ends them. */
	fall_silent(&k, k.now);
	while (k.core->idle_walk.pass != 2 || k.core->idle_walk.pid < first + 100)
		assert_true(core_tick(k.core, k.now));
	end.pid = k.core->idle_walk.pid;
	end.tid = 7;
	k.asked++;
	core_request(k.core, &k.session[2], &end, k.now);
	core_commit(k.core, k.now);
	finish_scan(&k);
	assert_int_equal(count(&k, gid), MEMBERS - 1);
	/* While they are being ended one joins: it stays. */
	to_next_scan(&k);
	while (count(&k, gid) > MEMBERS / 2)
		assert_true(core_tick(k.core, k.now));
	m = per(1, 1000, gid);
	m.tid = 7;
	k.asked++;
	core_request(k.core, &k.session[2], &m, k.now);
	core_commit(k.core, k.now);
	assert_int_equal(k.last.type, SIMCO_PER_REP);
	finish_scan(&k);
	assert_int_equal(count(&k, gid), 1);
	/* Then it is silent, too; the kernel refuses to end it once. */
	fw_fake_refuse(k.fw, FW_CLOSE, 1);
	kit_time(&k, 2 * LIMIT_MS);
	assert_int_equal(count(&k, gid), 0);
	kit_close(&k);
}

static void test_without_counters(void **state)
{
	struct kit k;
	uint32_t gid;

	(void)state;
	open_kit(&k);
	fw_fake_no_counters(k.fw);
	gid = group(&k, 2, 1, MEMBERS);
	kit_time(&k, 5 * LIMIT_MS);
	assert_int_equal(count(&k, gid), MEMBERS);
	kit_close(&k);
}

/* Every member is visited a fixed number of times in a scan, however large the group. */
static void test_effort(void **state)
{
	struct kit k;
	uint32_t gid;

	(void)state;
	open_kit(&k);
	gid = group(&k, 2, 1, 5000);
	traffic(&k, 1, 4999);
	to_next_scan(&k);
	assert_true(finish_scan(&k) <= 10000 / READS + 10);
	assert_int_equal(count(&k, gid), 5000);
	fall_silent(&k, k.now);
	assert_true(finish_scan(&k) <= 2 * (10000 / READS) + 5000 / SLICE_ENDS + 50);
	assert_int_equal(count(&k, gid), 0);
	kit_close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_silent),
		cmocka_unit_test(test_one_speaks),
		cmocka_unit_test(test_speaks_at_the_last_moment),
		cmocka_unit_test(test_group_changes_meanwhile),
		cmocka_unit_test(test_without_counters),
		cmocka_unit_test(test_effort),
	};

	return cmocka_run_group_tests_name("idle", tests, set_up, NULL);
}
