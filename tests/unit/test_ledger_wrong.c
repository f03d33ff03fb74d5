/*
 * A ledger that says nonsense: of expiry times that nobody was granted, and of
 * anything at all. The middlebox starts, and no rule is open for longer than
 * the longest lifetime.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/unit/core_kit.h"

static char file[64];

static void silent(enum log_level level, const char *line, void *arg)
{
	(void)arg;
	if (getenv("VERBOSE") != NULL)
		fprintf(stderr, "# %d %s\n", (int)level, line);
}

static struct simco_msg open_one(void)
{
	return (struct simco_msg){
		.type = SIMCO_PER_REQ,
		.lifetime = 60,
		.per = {.direction = SIMCO_BIDIRECTIONAL},
		.tuple = {{.ip_version = SIMCO_IPV4,
			   .prefix_len = 32,
			   .protocol = 17,
			   .location = SIMCO_INTERNAL,
			   .addr = {10, 1, 0, 1},
			   .port = 5000,
			   .port_range = 1},
			  [SIMCO_EXTERNAL] = {.ip_version = SIMCO_IPV4,
					      .prefix_len = 32,
					      .protocol = 17,
					      .location = SIMCO_EXTERNAL,
					      .addr = {198, 1, 0, 1},
					      .port = 6000,
					      .port_range = 1}},
	};
}

static void test_expiry_far_ahead(void **state)
{
	static const uint64_t times[] = {UINT64_MAX, UINT64_MAX / 2, UINT64_MAX - 10000, 1ull << 32,
					 1000000 + 86400000};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		struct simco_msg m = open_one(), ask = {.type = SIMCO_PRS_REQ};
		struct kit k;

		kit_open(&k, FW_NAT_NAPT, file);
		assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
		ask.pid = k.last.pid;
		rule_by_pid(&k.core->t, ask.pid)->expires_ms = times[i];
		kit_stop(&k);
		kit_start(&k);
		assert_int_equal(kit_ask(&k, 0, &ask), SIMCO_PES_REP);
		assert_true(k.last.lifetime <= k.conf.max_lifetime);
		kit_time(&k, k.conf.max_lifetime * 1000ull);
		assert_int_equal(k.core->t.n_rules, 0);
		assert_int_equal(fw_fake_elements(k.fw), 0);
		assert_int_equal(fw_fake_bindings(k.fw), 0);
		kit_close(&k);
	}
}

/* Octets of slots, and of what stands between them and the header. */
static void spoil(const struct kit *k, struct kit_input *in)
{
	int fd = open(file, O_RDWR);
	unsigned n = 1u + in->next(in) % 40;
	struct stat st;
	off_t slots;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	slots = st.st_size - (off_t)(k->conf.max_rules * sizeof(struct rule));
	while (n-- > 0) {
		off_t r = in->next(in) << 16 | in->next(in) << 8 | in->next(in);
		off_t at = in->next(in) % 4 ? slots + r % (off_t)(60 * sizeof(struct rule))
					    : 4096 + r % (slots - 4096);
		uint8_t v = in->next(in);

		if (pwrite(fd, &v, 1, at) != 1)
			fail();
	}
	close(fd);
}

static void on_difference(const char *text, void *arg)
{
	(void)arg;
	fprintf(stderr, "# %s\n", text);
}

static void test_spoilt(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 150; seed++) {
		struct kit_input in = kit_random(seed);
		struct kit k;

		kit_open(&k, (enum fw_nat_mode)(seed % 3), file);
		for (unsigned i = 0; i < 120; i++)
			kit_step(&k, &in);
		kit_check(&k);
		kit_stop(&k);
		spoil(&k, &in);
		kit_start(&k);
		for (unsigned i = 0; i < 40; i++) {
			struct simco_msg m = open_one();

			(void)kit_ask(&k, i % KIT_AGENTS, &m);
		}
		assert_int_equal(core_audit(k.core, k.now, on_difference, NULL), 0);
		kit_time(&k, k.conf.max_lifetime * 1000ull + 1001);
		assert_int_equal(k.core->t.n_rules, 0);
		kit_close(&k);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_expiry_far_ahead),
		cmocka_unit_test(test_spoilt),
	};

	snprintf(file, sizeof(file), "/tmp/sluice-wrong-%d", (int)getpid());
	log_set_sink(silent, NULL);
	return cmocka_run_group_tests_name("ledger_wrong", tests, NULL, NULL);
}
