/*
 * The core as a whole: random requests in every NAT mode with all invariants
 * checked, crashes at every operation of a commit, capabilities, REST.
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
#include "tests/unit/quiet.h"

static const enum fw_nat_mode modes[] = {FW_NAT_NONE, FW_NAT_NAPT, FW_NAT_TWICE};

static char file[64], copy[64];

static int set_up(void **state)
{
	(void)state;
	log_set_sink(quiet, NULL);
	snprintf(file, sizeof(file), "/tmp/sluice-core-%ld", (long)getpid());
	snprintf(copy, sizeof(copy), "/tmp/sluice-core-%ld-copy", (long)getpid());
	unlink(file);
	unlink(copy);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(file);
	unlink(copy);
	return 0;
}

static void test_random(void **state)
{
	unsigned steps = getenv("SLUICE_LONG") ? 400000 : 12000;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		struct kit_input in = kit_random(i + 1);
		struct kit k;

		kit_open(&k, modes[i], file);
		for (unsigned n = 0; n < steps; n++) {
			kit_step(&k, &in);
			if (n % 64 == 0)
				kit_check(&k);
		}
		assert_true(k.n_pids > steps / 16);
		kit_check(&k);
		kit_end_all(&k);
		kit_close(&k);
	}
}

/* ---- crashes ------------------------------------------------------------------ */

/* What a killed process leaves behind: the ledger's octets and the kernel. */
struct crash {
	struct kit *k;
	unsigned count, tried, every;
	uint32_t highest;
};

static void copy_file(const char *from, const char *to)
{
	static uint8_t mem[65536];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	struct stat st;
	ssize_t n;

	assert_true(in >= 0 && out >= 0 && fstat(in, &st) == 0);
	assert_int_equal(ftruncate(out, st.st_size), 0);
	/* Of the names only the first are used. */
	for (off_t at = 0; (n = pread(in, mem, sizeof(mem), at)) > 0; at += n)
		assert_int_equal(pwrite(out, mem, (size_t)n, at), n);
	close(in);
	close(out);
}

static void come_back(struct crash *w)
{
	struct kit *k = calloc(1, sizeof(*k));
	struct simco_msg m = {.type = SIMCO_PRR_REQ, .lifetime = 30, .prr = {1, 0, 1, 1, 17, 1}};

	*k = *w->k;
	copy_file(file, copy);
	snprintf(k->file, sizeof(k->file), "%s", copy);
	k->conf.ledger_file = k->file;
	k->asked = k->answered;
	k->fw = fw_fake_copy(w->k->fw);
	kit_start(k);
	kit_check(k);
	if (kit_ask(k, 0, &m) == SIMCO_PRR_REP)
		assert_true(k->last.pid > w->k->last_pid);
	kit_check(k);
	kit_end_all(k);
	kit_close(k);
	free(k);
	w->tried++;
}

static void before_op(const struct fw_op *op, void *arg)
{
	struct crash *w = arg;

	(void)op;
	if (w->count++ % w->every == 0)
		come_back(w);
}

static void crash_mode(enum fw_nat_mode mode, unsigned steps, unsigned every)
{
	struct kit_input in = kit_random(77 + mode);
	struct crash w = {.every = every};
	struct kit k;

	kit_open(&k, mode, file);
	w.k = &k;
	fw_fake_on_op(k.fw, before_op, &w);
	for (unsigned n = 0; n < steps; n++) {
		kit_step(&k, &in);
		if (n % 16 == 0) {
			kit_check(&k);
			come_back(&w);
		}
	}
	assert_true(w.tried > 50);
	fw_fake_on_op(k.fw, NULL, NULL);
	kit_end_all(&k);
	kit_close(&k);
}

static void test_crash_anywhere(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		crash_mode(modes[i], getenv("SLUICE_LONG") ? 4000 : 400, 5);
}

/* Another boot: nothing of it lives, its PIDs are not used again. */
static void test_other_boot(void **state)
{
	struct kit k;
	struct simco_msg m = {.type = SIMCO_PRR_REQ, .lifetime = 30, .prr = {1, 0, 1, 1, 17, 1}};
	uint8_t other[16] = {1};
	uint32_t pid;

	(void)state;
	kit_open(&k, FW_NAT_NONE, file);
	assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PRR_REP);
	pid = k.last.pid;
	assert_true(core_ledger_usable(file, k.conf.boot_id));
	assert_false(core_ledger_usable(file, other));
	kit_stop(&k);
	k.conf.boot_id[0] = 1;
	kit_start(&k);
	assert_int_equal(core_stats(k.core).rules, 0);
	assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PRR_REP);
	assert_true(k.last.pid > pid);
	kit_close(&k);
}

static void test_one_holder(void **state)
{
	struct kit k;

	(void)state;
	kit_open(&k, FW_NAT_NONE, file);
	assert_null(core_new(&k.conf, k.fw, &(struct core_ops){0}, NULL, k.now));
	kit_close(&k);
}

/* Rubbish in the ledger is left out, never followed. */
static void test_damaged_ledger(void **state)
{
	struct kit_input in = kit_random(5);
	struct kit k;
	int fd;

	(void)state;
	for (unsigned round = 0; round < 40; round++) {
		kit_open(&k, modes[round % 3], file);
		for (unsigned n = 0; n < 200; n++)
			kit_step(&k, &in);
		kit_check(&k);
		kit_stop(&k);
		fd = open(file, O_RDWR);
		for (unsigned n = 0; n < 64; n++) {
			off_t at = 4096 + 1024 * 256 + in.next(&in) * 100 + in.next(&in);
			uint8_t v = in.next(&in);

			assert_int_equal(pwrite(fd, &v, 1, at), 1);
		}
		close(fd);
		kit_start(&k);
		core_commit(k.core, k.now);
		kit_time(&k, 400000);
		kit_close(&k);
	}
}

/* ---- what is announced and shown ---------------------------------------------- */

static void test_capabilities(void **state)
{
	struct simco_capabilities caps;
	struct kit k;

	(void)state;
	kit_open(&k, FW_NAT_NONE, NULL);
	caps = core_capabilities(k.core, "a");
	assert_int_equal(caps.mb_type, SIMCO_MB_FIREWALL | SIMCO_MB_PDR);
	assert_true(caps.internal_wildcard && caps.external_wildcard && caps.port_wildcard);
	assert_int_equal(caps.inside_versions, 3);
	assert_int_equal(caps.max_lifetime, 3600);
	caps = core_capabilities(k.core, "b");
	assert_false(caps.internal_wildcard || caps.external_wildcard || caps.port_wildcard);
	kit_close(&k);
	kit_open(&k, FW_NAT_NAPT, NULL);
	caps = core_capabilities(k.core, "a");
	assert_int_equal(caps.mb_type, 0xD1); /* the example of §4.3.3 */
	assert_false(caps.internal_wildcard);
	assert_true(caps.external_wildcard);
	kit_close(&k);
	kit_open(&k, FW_NAT_TWICE, NULL);
	caps = core_capabilities(k.core, "a");
	assert_int_equal(caps.mb_type, 0xD1 | SIMCO_MB_TWICE_NAT);
	kit_close(&k);
}

static struct simco_tuple end(uint8_t a, uint8_t d, uint16_t port, uint8_t location)
{
	return (struct simco_tuple){.ip_version = SIMCO_IPV4,
				    .prefix_len = 32,
				    .protocol = 17,
				    .location = location,
				    .port = port,
				    .port_range = 1,
				    .addr = {a, 1, 0, d}};
}

static struct simco_msg per(uint8_t d, uint16_t port, uint32_t lifetime)
{
	struct simco_msg m = {.type = SIMCO_PER_REQ, .lifetime = lifetime, .per = {0, 3}};

	m.tuple[SIMCO_INTERNAL] = end(10, d, port, SIMCO_INTERNAL);
	m.tuple[SIMCO_EXTERNAL] = end(198, d, 6000, SIMCO_EXTERNAL);
	return m;
}

static void test_rest(void **state)
{
	struct buf out;
	struct jsonw w;
	struct kit k;
	struct simco_msg m = per(9, 5000, 120);
	uint32_t pid;

	(void)state;
	kit_open(&k, FW_NAT_NAPT, NULL);
	assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
	pid = k.last.pid;
	m = (struct simco_msg){.type = SIMCO_PRR_REQ, .lifetime = 30, .prr = {1, 0, 1, 1, 17, 1}};
	assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PRR_REP);
	buf_init(&out, 65536);
	jsonw_init(&w, &out);
	assert_true(core_rest_rule(k.core, pid, k.now, &w));
	assert_false(core_rest_rule(k.core, 4711, k.now, &w));
	assert_int_equal(buf_append(&out, "", 1), 0);
	assert_non_null(strstr((const char *)buf_span(&out).p, "\"internal\":\"10.1.0.9:5000\""));
	assert_non_null(strstr((const char *)buf_span(&out).p, "\"external\":\"198.1.0.9:6000\""));
	assert_non_null(strstr((const char *)buf_span(&out).p, "\"lifetime\":120"));
	assert_non_null(strstr((const char *)buf_span(&out).p, "\"packets\":0"));
	buf_reset(&out);
	jsonw_init(&w, &out);
	jsonw_array(&w, NULL);
	assert_int_equal(core_rest_rules(k.core, 0, 1, k.now, &w), pid);
	assert_int_equal(core_rest_rules(k.core, pid, 10, k.now, &w), k.last.pid);
	assert_int_equal(core_rest_rules(k.core, k.last.pid, 10, k.now, &w), 0);
	/* The rule at the end of a page may go meanwhile. */
	assert_int_equal(core_rest_rules(k.core, 0, 1, k.now, &w), pid);
	assert_int_equal(core_end_rule(k.core, pid, k.now), 0);
	assert_int_equal(core_rest_rules(k.core, pid, 10, k.now, &w), k.last.pid);
	jsonw_array_end(&w);
	buf_fini(&out);
	kit_close(&k);
}

static void test_activity(void **state)
{
	struct kit k;
	struct simco_msg m = per(9, 5000, 120), s = {.type = SIMCO_PRS_REQ};
	struct fw_match in = {.protocol = 17,
			      .src = {{4, {198, 1, 0, 9}}, 32},
			      .dst = {{4, {10, 1, 0, 9}}, 32},
			      .sport = {6000, 6000},
			      .dport = {5000, 5000}};

	(void)state;
	kit_open(&k, FW_NAT_NAPT, NULL);
	assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
	s.pid = k.last.pid;
	assert_true(fw_fake_traffic(k.fw, &in, 3, 300));
	assert_int_equal(kit_ask(&k, 0, &s), SIMCO_PES_REP);
	assert_true(k.last.has_activity);
	assert_int_equal(k.last.activity.packets[0], 3);
	assert_int_equal(k.last.activity.octets[0], 300);
	assert_int_equal(k.last.activity.idle_ms[0], 0);
	assert_true(k.last.activity.idle_ms[1] == UINT64_MAX);
	kit_time(&k, 2000);
	assert_int_equal(kit_ask(&k, 0, &s), SIMCO_PES_REP);
	assert_int_equal(k.last.activity.idle_ms[0], 2000);
	/* A session without the extension never gets it. */
	core_session_extensions(k.core, &k.session[0], 0);
	assert_int_equal(kit_ask(&k, 0, &s), SIMCO_PES_REP);
	assert_false(k.last.has_activity);
	kit_close(&k);
}

static void note_text(const char *text, void *arg)
{
	snprintf(arg, 256, "%s", text);
}

/* Finds nothing, then exactly what was done behind our back; in pages the same. */
static void expect_difference(struct kit *k, size_t n, const char *want)
{
	char text[256] = "";
	uint32_t at = 0;

	assert_int_equal(core_audit(k->core, k->now, note_text, text), n);
	assert_non_null(strstr(text, want));
	text[0] = 0;
	do {
		at = core_audit_page(k->core, at, k->now, note_text, text);
	} while (at);
	assert_non_null(strstr(text, want));
}

static void test_audit(void **state)
{
	struct addr_port inside = {{4, {10, 1, 0, 9}}, 5000};
	struct simco_msg m = per(9, 5000, 120);
	struct fw_op op = {.type = FW_BIND, .lifetime_ms = 130000};
	uint32_t pids[20];
	struct kit k;
	int result;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		kit_open(&k, modes[i], NULL);
		for (unsigned n = 0; n < ARRAY_LEN(pids); n++) {
			m = per(9, (uint16_t)(5000 + n), 120);
			assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
			pids[n] = k.last.pid;
		}
		expect_difference(&k, 0, "");
		rule_match(rule_by_pid(&k.core->t, pids[0]), SIMCO_INBOUND, 0, &op.match);
		op.type = FW_OPEN;
		fw_fake_remove(k.fw, &op);
		expect_difference(&k, 1,
				  "open 198.1.0.9 port 6000 -> 10.1.0.9 port 5000 is missing");
		fw_commit(k.fw, &op, 1, &result, 1);
		expect_difference(&k, 0, "");
		op.lifetime_ms = 1000;
		fw_commit(k.fw, &op, 1, &result, 1);
		expect_difference(&k, 1, "too early");
		op.lifetime_ms = 990000;
		fw_commit(k.fw, &op, 1, &result, 1);
		expect_difference(&k, 1, "too long");
		op.lifetime_ms = 130000;
		fw_commit(k.fw, &op, 1, &result, 1);
		if (modes[i] == FW_NAT_NONE) {
			kit_close(&k);
			continue;
		}
		op.type = FW_BIND;
		nat_binding(&k.core->nat, rule_by_pid(&k.core->t, pids[0]), 0, &op.binding);
		assert_true(addr_port_eq(&op.binding.inside, &inside));
		fw_fake_remove(k.fw, &op);
		expect_difference(&k, 1, "mapping 10.1.0.9:5000 <-> 192.0.2.1:");
		expect_difference(&k, 1, "is missing");
		op.binding.outside.port ^= 1;
		fw_commit(k.fw, &op, 1, &result, 1);
		expect_difference(&k, 1, "has another address");
		kit_close(&k);
	}
}

static void test_quarantine(void **state)
{
	struct kit k;
	struct simco_msg m = {.type = SIMCO_PRR_REQ, .lifetime = 30, .prr = {1, 0, 1, 1, 17, 1}};
	struct addr_port port = {{4, {192, 0, 2, 2}}, 20000};

	(void)state;
	kit_open(&k, FW_NAT_NAPT, NULL);
	fw_fake_quarantine(k.fw, &port);
	for (unsigned i = 0; i < 31; i++) {
		assert_int_equal(kit_ask(&k, 2, &m), SIMCO_PRR_REP);
		assert_int_not_equal(k.last.tuple[SIMCO_OUTSIDE].port, 20000);
	}
	assert_int_equal(kit_ask(&k, 2, &m), SIMCO_LACK_OF_PORTS);
	fw_fake_quarantine(k.fw, NULL);
	assert_int_equal(kit_ask(&k, 2, &m), SIMCO_PRR_REP);
	assert_int_equal(k.last.tuple[SIMCO_OUTSIDE].port, 20000);
	kit_close(&k);
}

/* A sweep over many rules goes in slices and answers when the last is gone. */
static void test_long_sweep(void **state)
{
	struct kit k;
	struct simco_msg m, d = {.type = SIMCO_PDR_REQ, .lifetime = 60, .tid = 7};
	unsigned slices = 0;
	uint32_t last;

	(void)state;
	kit_open(&k, FW_NAT_NONE, NULL);
	kit_stop(&k);
	k.conf.max_rules = 20000;
	k.agents[0].max_rules = 20000;
	kit_start(&k);
	for (unsigned i = 0; i < 10000; i++) {
		m = per((uint8_t)i, (uint16_t)(5000 + i), 600);
		assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
	}
	last = k.last.pid;
	/* §8.7: a list of more than 8,191 rules does not fit. */
	assert_int_equal(kit_ask(&k, 0, &(struct simco_msg){.type = SIMCO_PRL_REQ}),
			 SIMCO_REPLY_TOO_BIG);
	d.tuple[SIMCO_INTERNAL] = (struct simco_tuple){
		.protocols_only = true, .ip_version = SIMCO_IPV4, .protocol = 17};
	d.tuple[SIMCO_EXTERNAL] = d.tuple[SIMCO_INTERNAL];
	d.tuple[SIMCO_EXTERNAL].location = SIMCO_EXTERNAL;
	k.events = 0;
	k.asked++;
	core_request(k.core, &k.session[2], &d, k.now);
	core_commit(k.core, k.now);
	/* What it is about to end cannot be prolonged any more, but ended it can. */
	m = (struct simco_msg){.type = SIMCO_PLC_REQ, .pid = last, .lifetime = 100, .tid = 7};
	k.asked++;
	core_request(k.core, &k.session[0], &m, k.now);
	core_commit(k.core, k.now);
	assert_int_equal(k.last.type, SIMCO_LIFETIME_NOT_EXTENDED);
	m.lifetime = 0;
	k.asked++;
	core_request(k.core, &k.session[0], &m, k.now);
	core_commit(k.core, k.now);
	assert_int_equal(k.last.type, SIMCO_PRD_REP);
	/* The agent's next request waits behind it; others do not. */
	assert_int_not_equal(k.asked, k.answered);
	d = (struct simco_msg){.type = SIMCO_PRL_REQ, .tid = 7};
	k.asked++;
	core_request(k.core, &k.session[2], &d, k.now);
	k.asked++;
	core_request(k.core, &k.session[1], &d, k.now);
	core_commit(k.core, k.now);
	assert_int_equal(k.last.type, SIMCO_PRL_REP);
	while (core_deadline(k.core) == 0) {
		unsigned before = k.events;

		core_tick(k.core, k.now);
		assert_true(k.events - before <= 260);
		slices++;
	}
	assert_int_equal(k.asked, k.answered);
	assert_int_equal(k.last.type, SIMCO_PRL_REP);
	assert_true(slices > 300);
	/* Every end is heard of by the owner; the first was ended by PLC. */
	assert_int_equal(k.events, 9999);
	assert_int_equal(fw_fake_elements(k.fw), 0);
	assert_int_equal(core_stats(k.core).rules, 1);
	kit_close(&k);
}

static void count_close(const struct fw_op *op, void *arg)
{
	*(unsigned *)arg += op->type == FW_CLOSE;
}

/* Disable rules of one turn share its slices; each is answered when its last rule is gone. */
static void test_many_sweeps(void **state)
{
	struct simco_msg m, d = {.type = SIMCO_PDR_REQ, .lifetime = 60, .tid = 7};
	unsigned closes = 0, slices = 0;
	struct kit k;

	(void)state;
	kit_open(&k, FW_NAT_NONE, NULL);
	kit_stop(&k);
	k.conf.max_rules = 20000;
	k.agents[0].max_rules = 20000;
	kit_start(&k);
	for (unsigned i = 0; i < 2000; i++) {
		m = per((uint8_t)(i % 8), (uint16_t)(5000 + i), 600);
		assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
	}
	fw_fake_on_op(k.fw, count_close, &closes);
	for (unsigned i = 0; i < 8; i++) {
		m = per((uint8_t)i, 0, 60);
		d.tuple[SIMCO_INTERNAL] = m.tuple[SIMCO_INTERNAL];
		d.tuple[SIMCO_EXTERNAL] = (struct simco_tuple){.protocols_only = true,
							       .ip_version = SIMCO_IPV4,
							       .protocol = 17,
							       .location = SIMCO_EXTERNAL};
		k.asked++;
		core_request(k.core, &k.session[2], &d, k.now);
	}
	core_commit(k.core, k.now);
	assert_int_equal(fw_fake_blocked(k.fw), 16);
	do {
		assert_true(closes <= 2 * SLICE_ENDS);
		closes = 0;
		slices++;
		core_tick(k.core, k.now);
	} while (core_deadline(k.core) == 0);
	assert_true(slices >= 2000 / SLICE_ENDS);
	assert_int_equal(k.asked, k.answered);
	assert_int_equal(k.last.type, SIMCO_PDR_REP);
	assert_int_equal(fw_fake_elements(k.fw), 0);
	kit_close(&k);
}

/* What expires together is ended in slices at a distance, and without it where that made it late.
 */
static void test_expiry_keeps_distance(void **state)
{
	unsigned closes = 0, slices = 0;
	struct simco_msg m;
	struct kit k;

	(void)state;
	kit_open(&k, FW_NAT_NONE, NULL);
	kit_stop(&k);
	k.conf.expire_every_ms = 2;
	k.conf.max_rules = 20000;
	k.agents[0].max_rules = 20000;
	kit_start(&k);
	for (unsigned i = 0; i < 320; i++) {
		m = per((uint8_t)(i % 8), (uint16_t)(5000 + i), i < 160 ? 60 : 600);
		assert_int_equal(kit_ask(&k, 0, &m), SIMCO_PER_REP);
	}
	fw_fake_on_op(k.fw, count_close, &closes);
	k.now += 60000;
	while (closes < 2 * 160) {
		unsigned before = closes;

		assert_true(core_deadline(k.core) <= k.now);
		assert_false(core_tick(k.core, k.now));
		assert_int_equal(closes - before, 2 * SLICE_ENDS);
		assert_false(core_tick(k.core, k.now)); /* too early */
		assert_int_equal(closes - before, 2 * SLICE_ENDS);
		k.now += 2;
		slices++;
	}
	assert_int_equal(slices, 160 / SLICE_ENDS);
	k.now += 600000; /* as after a suspend */
	while (core_tick(k.core, k.now))
		;
	assert_int_equal(fw_fake_elements(k.fw), 0);
	kit_close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_crash_anywhere),
		cmocka_unit_test(test_other_boot),
		cmocka_unit_test(test_one_holder),
		cmocka_unit_test(test_damaged_ledger),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_rest),
		cmocka_unit_test(test_activity),
		cmocka_unit_test(test_quarantine),
		cmocka_unit_test(test_long_sweep),
		cmocka_unit_test(test_audit),
		cmocka_unit_test(test_many_sweeps),
		cmocka_unit_test(test_expiry_keeps_distance),
	};

	return cmocka_run_group_tests_name("core", tests, set_up, tear_down);
}
