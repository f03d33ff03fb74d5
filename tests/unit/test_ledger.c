#define _GNU_SOURCE /* unshare() */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/rule_table.h"
#include "tests/unit/quiet.h"

static const uint8_t boot[16] = {1, 2, 3};
static char file[64];

static int set_up(void **state)
{
	(void)state;
	log_set_sink(quiet, NULL);
	snprintf(file, sizeof(file), "/tmp/sluice-ledger-%ld", (long)getpid());
	unlink(file);
	return 0;
}

static int clean_up(void **state)
{
	(void)state;
	unlink(file);
	return 0;
}

static void test_mode_and_lock(void **state)
{
	struct ledger l, m;
	struct stat st;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 100), 0);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(ledger_open(&m, file, boot, 100), ERR_EXIST);
	ledger_close(&l);
	unlink(file);
	assert_int_equal(symlink("/dev/null", file), 0);
	assert_int_equal(ledger_open(&m, file, boot, 100), ERR_IO);
	unlink(file);
}

static void test_keeps(void **state)
{
	uint8_t other[16] = {9};
	struct ledger l;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 100), 0);
	assert_true(l.fresh);
	assert_int_equal(ledger_grow(&l), 0);
	assert_int_equal(ledger_high(&l), 100);
	assert_int_equal(ledger_grow(&l), ERR_LIMIT);
	l.slots[7].pid = 77;
	l.slots[7].owner = (uint16_t)ledger_owner(&l, "agent-1");
	ledger_set(&l.slots[7], SLOT_FINAL);
	assert_int_equal(ledger_owner(&l, "unused"), 1);
	ledger_close(&l);

	assert_true(ledger_usable(file, boot));
	assert_false(ledger_usable(file, other));
	assert_false(ledger_usable("/nonexistent", boot));
	/* A lower limit keeps what is there. */
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_false(l.fresh);
	assert_int_equal(l.n_slots, 100);
	assert_int_equal(l.slots[7].pid, 77);
	assert_string_equal(ledger_owner_name(&l, l.slots[7].owner), "agent-1");
	assert_string_equal(ledger_owner_name(&l, 1), ""); /* no rule of it is left */
	ledger_close(&l);
	assert_int_equal(ledger_open(&l, file, other, 10), 0);
	assert_true(l.fresh);
	assert_int_equal(ledger_high(&l), 0);
	ledger_close(&l);
}

static void test_names(void **state)
{
	struct ledger l;
	char name[300];

	(void)state;
	assert_int_equal(ledger_open(&l, NULL, boot, 100), 0);
	for (int i = 0; i < LEDGER_OWNERS; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(ledger_owner(&l, name), i);
	}
	assert_int_equal(ledger_owner(&l, "n5"), 5);
	assert_int_equal(ledger_owner(&l, "one more"), -1);
	memset(name, 'x', 256);
	name[256] = 0;
	assert_int_equal(ledger_owner(&l, name), -1);
	assert_int_equal(ledger_owner(&l, ""), -1);
	ledger_close(&l);
}

static void test_addresses(void **state)
{
	static const struct addr lost = {4, {192, 0, 2, 1}}, kept = {4, {192, 0, 2, 2}},
				 other = {6, {192, 0, 2, 2}};
	struct addr a = {4, {10}};
	struct ledger l;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_int_equal(ledger_grow(&l), 0);
	assert_int_equal(ledger_address(&l, &lost), 0);
	assert_int_equal(ledger_address(&l, &kept), 1);
	assert_int_equal(ledger_address(&l, &other), 2);
	assert_int_equal(ledger_address(&l, &kept), 1);
	l.slots[3].flags = RULE_NAT;
	l.slots[3].outside.address = 1;
	l.slots[3].inside.address = 2; /* not a twice NAT's: means nothing */
	ledger_set(&l.slots[3], SLOT_FINAL);
	ledger_close(&l);
	/* What no rule is on makes room, the others keep their numbers. */
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_int_equal(ledger_address(&l, &other), 0);
	assert_int_equal(ledger_address(&l, &kept), 1);
	for (unsigned i = 2; i < LEDGER_ADDRESSES; i++) {
		a.b[2] = (uint8_t)(i >> 8);
		a.b[3] = (uint8_t)i;
		assert_int_equal(ledger_address(&l, &a), i);
	}
	assert_int_equal(ledger_address(&l, &lost), -1);
	assert_int_equal(ledger_address(&l, &kept), 1);
	ledger_close(&l);
}

static void first_line(enum log_level level, const char *line, void *arg)
{
	char *text = arg;

	(void)level;
	if (!*text)
		snprintf(text, 200, "%s", line);
}

/* Of another layout: emptied, and so must be the kernel; its PIDs are remembered. */
static void test_other_version(void **state)
{
	const uint32_t version = 1;
	char line[200] = "";
	uint32_t pid;
	struct ledger l;
	int fd;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_int_equal(ledger_grow(&l), 0);
	pid = ledger_next_pid(&l);
	ledger_set(&l.slots[3], SLOT_FINAL);
	ledger_close(&l);
	fd = open(file, O_RDWR);
	assert_int_equal(pwrite(fd, &version, 4, 4), 4);
	close(fd);
	assert_false(ledger_usable(file, boot));
	log_set_sink(first_line, line);
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_non_null(strstr(line, "of version 1 or damaged, version 2 is needed"));
	assert_true(l.fresh);
	assert_int_equal(ledger_high(&l), 0);
	assert_true(ledger_next_pid(&l) > pid);
	ledger_close(&l);
}

/* A process that is killed never leads to a number that was given before. */
static void test_pids(void **state)
{
	struct ledger l;
	uint32_t last = 0, first;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	first = ledger_next_pid(&l);
	for (unsigned i = 0; i < 5000; i++) {
		uint32_t pid = ledger_next_pid(&l);

		assert_true(pid > first);
		last = pid;
	}
	ledger_close(&l);
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_int_equal(ledger_next_pid(&l), last + 1); /* closed in order: the next one */
	fflush(stdout);
	if (fork() == 0)
		raise(SIGKILL);
	assert_true(wait(NULL) > 0);
	ledger_close(&l);
}

/* At the end of the numbers: 0 and live ones are left out. */
static void test_pid_wrap(void **state)
{
	const uint32_t mark = UINT32_MAX - 2;
	struct rule_table t;
	struct rule *r[6];
	struct ledger l;
	int fd;

	(void)state;
	assert_int_equal(ledger_open(&l, file, boot, 10), 0);
	assert_int_equal(ledger_grow(&l), 0);
	ledger_close(&l);
	fd = open(file, O_RDWR);
	/* pid_mark and pid_next follow magic, version, sizes, boot id and high. */
	assert_int_equal(pwrite(fd, &mark, 4, 36), 4);
	assert_int_equal(pwrite(fd, &mark, 4, 40), 4);
	close(fd);
	assert_int_equal(table_rules_open(&t, file, boot, 10), 0);
	for (uint32_t s = 10; s-- > 0;)
		rule_free_slot(&t, s);
	r[0] = rule_take(&t);
	r[0]->pid = 2; /* somebody who is still remembered */
	r[0]->kind = RULE_RESERVED;
	rule_link(&t, r[0]);
	for (unsigned i = 1; i < 6; i++) {
		r[i] = rule_take(&t);
		r[i]->kind = RULE_RESERVED;
		rule_link(&t, r[i]);
	}
	assert_int_equal(r[1]->pid, UINT32_MAX);
	assert_int_equal(r[2]->pid, 1);
	assert_int_equal(r[3]->pid, 3);
	table_rules_close(&t);
}

/* In a name space of its own with 1.5 MiB of tmpfs. 0: as it should be, 77: cannot. */
static int fill_small_disk(void)
{
	char dir[] = "/tmp/sluice-ledger-XXXXXX", small[64];
	struct ledger l;
	int full;

	if (!mkdtemp(dir))
		return 77;
	if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) != 0 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("none", dir, "tmpfs", 0, "size=1536k") != 0) {
		rmdir(dir);
		return 77;
	}
	snprintf(small, sizeof(small), "%s/l", dir);
	if (ledger_open(&l, small, boot, 100000) != 0 || ledger_grow(&l) != 0)
		return 1;
	while ((full = ledger_grow(&l)) == 0)
		;
	for (uint32_t i = 0; i < ledger_high(&l); i++)
		l.slots[i].pid = i; /* no SIGBUS: the room was claimed */
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	return full == ERR_NOMEM && ledger_high(&l) > 4096 && ledger_high(&l) < 8192 ? 0 : 2;
}

/* A full file system is an error, not a signal. */
static void test_full(void **state)
{
	int status;
	pid_t child;

	(void)state;
	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(fill_small_disk());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_heap(void **state)
{
	struct rule_table t;
	struct rule *r[200];
	uint64_t last = 0;

	(void)state;
	assert_int_equal(table_rules_open(&t, NULL, boot, 200), 0);
	for (unsigned i = 0; i < 200; i++) {
		r[i] = rule_take(&t);
		assert_non_null(r[i]);
		r[i]->kind = RULE_RESERVED;
		r[i]->expires_ms = (i * 7919u) % 1000;
		rule_link(&t, r[i]);
	}
	assert_null(rule_take(&t));
	for (unsigned i = 0; i < 200; i += 3) {
		r[i]->expires_ms = (i * 104729u) % 2000;
		rule_moved(&t, r[i]);
	}
	for (unsigned i = 1; i < 200; i += 5) {
		rule_unlink(&t, r[i]);
		rule_give(&t, r[i]);
	}
	for (unsigned n = 0; rule_first(&t); n++) {
		struct rule *first = rule_first(&t);

		assert_true(first->expires_ms >= last);
		last = first->expires_ms;
		rule_unlink(&t, first);
		rule_give(&t, first);
		assert_true(n < 160);
	}
	assert_int_equal(t.n_rules, 0);
	table_rules_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_mode_and_lock, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_keeps, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_names, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_addresses, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_other_version, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_pids, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_pid_wrap, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_full, set_up, clean_up),
		cmocka_unit_test_setup_teardown(test_heap, set_up, clean_up),
	};

	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
