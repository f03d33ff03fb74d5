/*
 * Both session machines with the n-th allocation failing, for every n: an error
 * comes back, nothing leaks (sanitizers), every request is answered once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto-simco/simco.h"
#include "tests/unit/failing_alloc.h"
#include "tests/unit/simco_golden.h"

static unsigned asked, answered, closed;

static void on_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	(void)arg;
	(void)m;
	adm->capabilities = golden_find(SIMCO_SE_REP)->msg.capabilities;
}

static void on_request(void *arg, const struct simco_msg *m)
{
	(void)arg;
	(void)m;
}

static void on_closed(void *arg, uint16_t type)
{
	(void)arg;
	(void)type;
	closed++;
}

static void on_reply(void *arg, const struct simco_msg *m)
{
	(void)arg;
	(void)m;
	answered++;
}

static const struct simco_srv_ops srv_ops = {on_establish, NULL, on_request, NULL};
static const struct simco_cli_ops cli_ops = {.closed = on_closed};

/* Odd pieces, so that incomplete messages are kept. False when an end is closed. */
static bool shuttle(struct simco_cli *c, struct simco_srv *s)
{
	for (bool moved = true; moved;) {
		size_t n, used;
		const uint8_t *o = simco_cli_output(c, &n);
		int err = SIMCO_OK;

		moved = n > 0;
		if (n > 0) {
			err = simco_srv_input(s, o, n < 13 ? n : 13, &used, 0);
			simco_cli_sent(c, used);
		}
		o = simco_srv_output(s, &n);
		if (err == SIMCO_OK && n > 0) {
			err = simco_cli_input(c, o, n < 7 ? n : 7, &used);
			simco_srv_sent(s, used);
			moved = true;
		}
		if (err != SIMCO_OK) {
			assert_int_equal(err, SIMCO_ERR_CLOSED);
			simco_cli_end(c);
			return false;
		}
	}
	return true;
}

static void ask(struct simco_cli *c)
{
	struct simco_msg m = {.type = SIMCO_PRL_REQ};
	int err = simco_cli_request(c, &m, on_reply, NULL);

	asked += err == SIMCO_OK;
	assert_true(err == SIMCO_OK || err == SIMCO_ERR_NOMEM || err == SIMCO_ERR_STATE);
}

static void scenario(struct simco_cli *c, struct simco_srv *s)
{
	uint32_t pids[40] = {0};
	struct simco_msg reply = {.type = SIMCO_PRL_REP, .pid_list = pids, .n_pids = 40};

	if (simco_cli_start(c) != SIMCO_OK || !shuttle(c, s))
		return;
	for (int i = 0; i < 40; i++)
		ask(c);
	if (!shuttle(c, s))
		return;
	while (simco_srv_pending(s) > 0)
		if (simco_srv_reply(s, &reply) != SIMCO_OK)
			break;
	shuttle(c, s);
}

static void test_every_allocation(void **state)
{
	static const uint8_t challenge[3];
	const struct simco_cli_opts opts = {.max_pending = 64};
	const struct simco_cli_opts with = {
		.max_pending = 64, .challenge = challenge, .challenge_len = 3};
	unsigned long n = 0;

	(void)state;
	do {
		struct simco_srv *s;
		struct simco_cli *c;

		asked = answered = closed = 0;
		alloc_fail_after(n++, 1);
		simco_cli_free(simco_cli_new(&cli_ops, NULL, &with));
		s = simco_srv_new(&srv_ops, NULL, 65536, 0);
		c = simco_cli_new(&cli_ops, NULL, &opts);
		if (s != NULL && c != NULL)
			scenario(c, s);
		simco_cli_free(c);
		simco_srv_free(s);
		alloc_allowed = ALLOC_ALL;
		assert_int_equal(answered, asked);
		assert_true(closed <= 1);
	} while (alloc_failed);
	assert_int_equal(asked, 40);
	assert_true(n > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation)};

	return cmocka_run_group_tests_name("simco_oom", tests, NULL, NULL);
}
