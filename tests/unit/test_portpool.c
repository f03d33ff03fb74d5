#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>

#include "middlebox/portpool.h"
#include "proto-simco/simco.h"

static const struct addr address = {4, {192, 0, 2, 1}};

static void open_pool(struct portpool *p, uint16_t first, uint16_t last)
{
	portpool_init(p, &address, 42);
	portpool_add(p, (struct port_range){first, last});
}

static void test_all_once(void **state)
{
	struct portpool p;
	bool seen[65536] = {false};

	(void)state;
	open_pool(&p, 16384, 16899);
	for (unsigned i = 0; i < 516; i++) {
		uint16_t port = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY);

		assert_in_range(port, 16384, 16899);
		assert_false(seen[port]);
		seen[port] = true;
	}
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY), 0);
	/* The other protocol's ports are others. */
	assert_int_not_equal(portpool_take(&p, IPPROTO_TCP, 1, SIMCO_PARITY_ANY), 0);
}

static void test_parity_and_runs(void **state)
{
	struct portpool p;

	(void)state;
	open_pool(&p, 20001, 20016);
	for (unsigned i = 0; i < 3; i++) {
		uint16_t even = portpool_take(&p, IPPROTO_UDP, 4, SIMCO_PARITY_EVEN);

		assert_int_not_equal(even, 0);
		assert_int_equal(even % 2, 0);
	}
	/* Four ports are left, not four in a row. */
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 4, SIMCO_PARITY_ANY), 0);
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ODD) % 2, 1);
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 17, SIMCO_PARITY_ANY), 0);
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 0, SIMCO_PARITY_ANY), 0);
}

/* RTP's neighbour stays free for RTCP while there is another choice. */
static void test_neighbour(void **state)
{
	struct portpool p;
	uint16_t a, b, odd;

	(void)state;
	open_pool(&p, 30000, 30005);
	a = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_EVEN);
	b = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_EVEN);
	odd = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ODD);
	assert_int_not_equal(odd, a + 1);
	assert_int_not_equal(odd, b + 1);
	assert_true(portpool_take_exact(&p, IPPROTO_UDP, (uint16_t)(a + 1), 1));
	assert_false(portpool_take_exact(&p, IPPROTO_UDP, (uint16_t)(a + 1), 1));
	/* No choice left but the other one's neighbour or the lone even port. */
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ODD), b + 1);
	/* A released even port gives up its neighbour. */
	portpool_put(&p, IPPROTO_UDP, a, 2);
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 2, SIMCO_PARITY_EVEN), a);
}

static void test_rests_long(void **state)
{
	struct portpool p;
	uint16_t port;

	(void)state;
	open_pool(&p, 40000, 40099);
	port = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY);
	portpool_put(&p, IPPROTO_UDP, port, 1);
	for (unsigned i = 0; i < 99; i++) {
		uint16_t next = portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY);

		assert_int_not_equal(next, port);
		portpool_put(&p, IPPROTO_UDP, next, 1);
	}
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY), port);
}

static bool veto_low(void *arg, uint8_t protocol, const struct addr_port *at)
{
	(void)protocol;
	return at->port < *(uint16_t *)arg;
}

static void test_veto_and_edges(void **state)
{
	struct portpool p;
	uint16_t limit = 65535;

	(void)state;
	open_pool(&p, 65534, 65535);
	p.veto = veto_low;
	p.veto_arg = &limit;
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_EVEN), 0);
	assert_int_equal(portpool_take(&p, IPPROTO_UDP, 1, SIMCO_PARITY_ANY), 65535);
	assert_false(portpool_take_exact(&p, IPPROTO_UDP, 65535, 2));
	/* Port 0 is never handed out, and what is no member can only be marked. */
	open_pool(&p, 0, 2);
	assert_int_equal(p.n_ports, 2);
	assert_false(portpool_take_exact(&p, IPPROTO_UDP, 0, 1));
	assert_false(portpool_take_exact(&p, IPPROTO_UDP, 3, 1));
	portpool_mark(&p, IPPROTO_UDP, 3, 1);
	assert_true(portpool_is_taken(&p, IPPROTO_UDP, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_once),       cmocka_unit_test(test_parity_and_runs),
		cmocka_unit_test(test_neighbour),      cmocka_unit_test(test_rests_long),
		cmocka_unit_test(test_veto_and_edges),
	};

	return cmocka_run_group_tests_name("portpool", tests, NULL, NULL);
}
