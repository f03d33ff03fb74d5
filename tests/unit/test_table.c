/*
 * The hash table against a plain array, and SipHash's own vectors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/table.h"

#define ENTRIES 50000u

struct entry {
	uint32_t id;
	struct table_node node;
	unsigned seen;
	bool in;
};

static struct span entry_key(const struct table_node *node)
{
	const struct entry *e = CONTAINER_OF(node, struct entry, node);

	return span_of(&e->id, sizeof(e->id));
}

/* Appendix A of the SipHash paper, and the first vectors of its reference code. */
static void test_siphash(void **state)
{
	const uint64_t k[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
	uint8_t in[16];

	(void)state;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)i;
	assert_true(siphash(k, span_of(in, 15)) == 0xa129ca6149be45e5u);
	assert_true(siphash(k, SPAN_EMPTY) == 0x726fdb47dd0e0e31u);
	assert_true(siphash(k, span_of(in, 1)) == 0x74f839c593dc67fdu);
	assert_true(siphash(k, span_of(in, 8)) == 0x93f5f5799a932462u);
}

static bool count_seen(struct table_node *node, void *arg)
{
	CONTAINER_OF(node, struct entry, node)->seen++;
	++*(size_t *)arg;
	return true;
}

static bool remove_odd(struct table_node *node, void *arg)
{
	struct entry *e = CONTAINER_OF(node, struct entry, node);

	if (e->id % 2 == 1) {
		table_remove(arg, node);
		e->in = false;
	}
	return true;
}

static bool stop_after_ten(struct table_node *node, void *arg)
{
	(void)node;
	return ++*(size_t *)arg < 10;
}

static void check_all(struct table *t, struct entry *all)
{
	size_t n = 0;

	for (uint32_t i = 0; i < ENTRIES; i++) {
		struct table_node *node = table_get(t, span_of(&all[i].id, sizeof(all[i].id)));

		assert_ptr_equal(node, all[i].in ? &all[i].node : NULL);
		n += all[i].in;
	}
	assert_int_equal(t->n, n);
}

static void test_many(void **state)
{
	struct entry *all = calloc(ENTRIES, sizeof(*all));
	struct entry twin = {.id = 17};
	struct table t;
	size_t n = 0;

	(void)state;
	assert_int_equal(table_init(&t, entry_key), 0);
	assert_null(table_get(&t, span_str("none")));
	for (uint32_t i = 0; i < ENTRIES; i++) {
		all[i].id = i;
		all[i].in = true;
		assert_int_equal(table_add(&t, &all[i].node), 0);
	}
	assert_int_equal(table_add(&t, &twin.node), ERR_EXIST);
	check_all(&t, all);
	assert_true(t.n_buckets >= ENTRIES);

	table_each(&t, count_seen, &n);
	assert_int_equal(n, ENTRIES);
	for (uint32_t i = 0; i < ENTRIES; i++)
		assert_int_equal(all[i].seen, 1);

	table_each(&t, remove_odd, &t);
	check_all(&t, all);
	n = 0;
	table_each(&t, stop_after_ten, &n);
	assert_int_equal(n, 10);

	for (uint32_t i = 1; i < ENTRIES; i += 2) {
		assert_int_equal(table_add(&t, &all[i].node), 0);
		all[i].in = true;
	}
	check_all(&t, all);
	table_fini(&t);
	free(all);
}

/* Tables differ in their keys, so no peer can know where its names land. */
static void test_random_keys(void **state)
{
	struct table a, b;

	(void)state;
	assert_int_equal(table_init(&a, entry_key), 0);
	assert_int_equal(table_init(&b, entry_key), 0);
	assert_memory_not_equal(a.k, b.k, sizeof(a.k));
	table_fini(&a);
	table_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_siphash),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_random_keys),
	};

	return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
