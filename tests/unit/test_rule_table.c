/*
 * The table's slots and what they cost: room at the end comes back after a
 * peak, and a rule takes no more memory than was promised.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/nat.h"
#include "middlebox/rule_table.h"
#include "middlebox/tuple.h"
#include "tests/unit/quiet.h"

#define MANY 100000u
#define FIREWALL_OCTETS 232.0 /* 192 in the ledger; measured: 220 */
#define NAT_OCTETS 292.0      /* a binding of 48 for each; measured: 279 */

static const uint8_t boot[16] = {1, 2, 3};
static char file[64];

static int set_up(void **state)
{
	(void)state;
	log_set_sink(quiet, NULL);
	snprintf(file, sizeof(file), "/tmp/sluice-table-%ld", (long)getpid());
	unlink(file);
	return 0;
}

static int clean_up(void **state)
{
	(void)state;
	unlink(file);
	return 0;
}

/* An enabled rule of its own flow. */
static struct rule *add(struct rule_table *t, uint32_t n)
{
	struct addr in = {4, {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
	struct addr ex = {4, {198, 18, 0, (uint8_t)n}};
	struct rule *r = rule_take(t);

	assert_non_null(r);
	r->kind = RULE_ENABLED;
	r->direction = SIMCO_BIDIRECTIONAL;
	r->in = tuple_exact(&in, 17, 5000, 1);
	r->ex = tuple_exact(&ex, 17, (uint16_t)(1 + n % 65535), 1);
	r->expires_ms = 1000 + n;
	ledger_set(r, SLOT_FINAL);
	rule_link(t, r);
	rule_link_tuples(t, r);
	return r;
}

static void end(struct rule_table *t, struct rule *r)
{
	rule_unlink_tuples(t, r);
	rule_unlink(t, r);
	rule_give(t, r);
}

static void test_lowest_first(void **state)
{
	struct rule_table t;
	struct rule *r[300];

	(void)state;
	assert_int_equal(table_rules_open(&t, NULL, boot, 300), 0);
	for (uint32_t i = 0; i < 300; i++) {
		r[i] = add(&t, i);
		assert_int_equal(rule_slot(&t, r[i]), i);
	}
	assert_null(rule_take(&t));
	end(&t, r[200]);
	end(&t, r[7]);
	end(&t, r[64]);
	assert_int_equal(rule_slot(&t, add(&t, 1000)), 7);
	assert_int_equal(rule_slot(&t, add(&t, 1001)), 64);
	assert_int_equal(rule_slot(&t, add(&t, 1002)), 200);
	assert_null(rule_take(&t));
	table_rules_close(&t);
}

static void trim(struct rule_table *t)
{
	while (rule_trim(t))
		;
}

static long long file_octets(void)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	return (long long)st.st_blocks * 512;
}

/* Rules that were there before a peak stay at the front; what lies behind them goes. */
static void shrinks(const char *name)
{
	const uint32_t limit = 5 * LEDGER_CHUNK + 100;
	struct rule **r = calloc(limit, sizeof(struct rule *));
	long long peak = 0, least = 0;
	struct rule_table t;

	assert_non_null(r);
	assert_int_equal(table_rules_open(&t, name, boot, limit), 0);
	for (uint32_t i = 0; i < limit; i++)
		r[i] = add(&t, i);
	trim(&t);
	assert_int_equal(ledger_high(&t.led), limit);
	if (name)
		peak = file_octets();
	for (uint32_t i = limit; i-- > LEDGER_CHUNK + 1;)
		end(&t, r[i]);
	assert_true(rule_trim(&t)); /* a chunk at a time */
	assert_int_equal(ledger_high(&t.led), 5 * LEDGER_CHUNK);
	trim(&t);
	assert_int_equal(ledger_high(&t.led), 3 * LEDGER_CHUNK); /* one in reserve */
	end(&t, r[LEDGER_CHUNK]);
	trim(&t);
	assert_int_equal(ledger_high(&t.led), 2 * LEDGER_CHUNK);
	if (name)
		least = file_octets();
	assert_true(!name || peak - least >= (long long)(3 * LEDGER_CHUNK * sizeof(struct rule)));
	for (uint32_t i = 0; i < LEDGER_CHUNK; i++)
		assert_int_equal(r[i]->expires_ms, 1000 + i);
	/* And up again to the limit, over what was cut. */
	for (uint32_t i = LEDGER_CHUNK; i < limit; i++)
		assert_int_equal(rule_slot(&t, add(&t, i)), i);
	assert_null(rule_take(&t));
	assert_int_equal(t.n_rules, limit);
	table_rules_close(&t);
	free(r);
}

static void test_shrinks(void **state)
{
	(void)state;
	shrinks(NULL);
	shrinks(file);
}

/* A limit that was raised: the end of the ledger is not the end of a chunk. */
static void test_odd_end(void **state)
{
	struct rule_table t;

	(void)state;
	assert_int_equal(table_rules_open(&t, file, boot, 100), 0);
	add(&t, 0);
	table_rules_close(&t);
	assert_int_equal(table_rules_open(&t, file, boot, 3 * LEDGER_CHUNK), 0);
	for (uint32_t s = 1; s < 100; s++)
		rule_free_slot(&t, s);
	trim(&t);
	assert_int_equal(ledger_high(&t.led), 100);
	for (uint32_t s = 1; s < 3 * LEDGER_CHUNK; s++)
		assert_int_equal(rule_slot(&t, add(&t, s)), s);
	assert_null(rule_take(&t));
	for (uint32_t s = 3 * LEDGER_CHUNK; s-- > 1;)
		end(&t, rule_at(&t, s));
	trim(&t);
	assert_int_equal(ledger_high(&t.led), 2 * LEDGER_CHUNK);
	table_rules_close(&t);
}

/* ---- memory ------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Resident set in KiB, counted page by page. */
static long resident(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	char line[256];
	long kib = 0;

	while (f && kib == 0 && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "Rss:", 4) == 0)
			kib = strtol(line + 4, NULL, 10);
	}
	if (f)
		fclose(f);
	return kib;
}

static double octets(long before)
{
	return (double)(resident() - before) * 1024 / MANY;
}

/* Index arrays, heap and slots: all that a million rules multiply. */
static void test_octets_firewall(void **state)
{
	long before = resident();
	struct rule_table t;

	(void)state;
	if (SANITIZED || before == 0)
		skip();
	assert_int_equal(table_rules_open(&t, NULL, boot, MANY), 0);
	for (uint32_t i = 0; i < MANY; i++)
		add(&t, i);
	print_message("# %.1f octets a rule\n", octets(before));
	assert_true(octets(before) <= FIREWALL_OCTETS);
	table_rules_close(&t);
}

static void test_octets_nat(void **state)
{
	struct fw_pool pools[2] = {{{4, {192, 0, 2, 1}}, {1024, 65535}},
				   {{4, {192, 0, 2, 2}}, {1024, 65535}}};
	long before = resident();
	struct rule_table t;
	struct nat n;

	(void)state;
	if (SANITIZED || before == 0)
		skip();
	assert_int_equal(table_rules_open(&t, NULL, boot, MANY), 0);
	assert_int_equal(nat_init(&n, FW_NAT_NAPT, &t.led, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(nat_add_pool(&n, &pools[i], false), 0);
		n.pools[i]->veto = NULL;
	}
	for (uint32_t i = 0; i < MANY; i++) {
		struct portpool *p = n.pools[i % 2];
		struct rule *r = add(&t, i);

		r->flags = RULE_NAT;
		r->outside.address = p->id;
		r->outside.first = portpool_take(p, 17, 1, SIMCO_PARITY_ANY);
		assert_int_not_equal(r->outside.first, 0);
		assert_int_equal(nat_bind(&n, r), 0);
	}
	print_message("# %.1f octets a rule\n", octets(before));
	assert_true(octets(before) <= NAT_OCTETS);
	for (uint32_t i = 0; i < MANY; i++) {
		struct rule *r = rule_at(&t, i);

		nat_unbind(&n, r, true);
		end(&t, r);
	}
	trim(&t);
	assert_true(octets(before) <= NAT_OCTETS - 192 - 48);
	/* And from nothing again. */
	add(&t, 1)->flags = RULE_NAT;
	assert_int_equal(nat_bind(&n, rule_at(&t, 0)), 0);
	assert_int_equal(n.n_bindings, 1);
	nat_fini(&n);
	table_rules_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_octets_firewall, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_octets_nat, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_lowest_first, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_shrinks, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_odd_end, set_up, clean_up),
	};

	return cmocka_run_group_tests_name("rule_table", tests, NULL, NULL);
}
