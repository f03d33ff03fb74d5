/*
 * The event loop: turns, the deferred phase, timers, descriptors, signals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base.h"
#include "common/loop.h"

/* Writes down what ran, one letter each. */
struct diary {
	struct loop *loop;
	char text[64];
	size_t n;
	int fd;
	struct loop_timer *timer;
	struct loop_io *io;
};

static void note(struct diary *d, char c)
{
	assert_true(d->n < sizeof(d->text) - 1);
	d->text[d->n++] = c;
}

static int set_up(void **state)
{
	struct diary *d = calloc(1, sizeof(*d));

	d->loop = loop_new();
	*state = d;
	return d->loop == NULL;
}

static int tear_down(void **state)
{
	struct diary *d = *state;

	loop_free(d->loop);
	free(d);
	return 0;
}

static void note_a(void *arg)
{
	note(arg, 'a');
}

static void note_b(void *arg)
{
	note(arg, 'b');
}

static void note_and_stop(void *arg)
{
	struct diary *d = arg;

	note(d, 's');
	loop_stop(d->loop);
}

static void note_and_defer(void *arg)
{
	struct diary *d = arg;

	note(d, 'd');
	assert_int_equal(loop_defer(d->loop, note_b, d), 0);
}

static void undefer_b(void *arg)
{
	struct diary *d = arg;

	note(d, 'u');
	loop_undefer(d->loop, note_b, d);
}

static void test_defer_order(void **state)
{
	struct diary *d = *state;

	loop_defer(d->loop, note_and_defer, d);
	loop_defer(d->loop, note_a, d);
	assert_int_equal(d->n, 0);
	loop_run_once(d->loop, -1); /* must not wait: something is deferred */
	assert_string_equal(d->text, "dab");
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "dab");
}

static void test_undefer(void **state)
{
	struct diary *d = *state;

	loop_defer(d->loop, note_b, d);
	loop_defer(d->loop, note_a, d);
	loop_defer(d->loop, undefer_b, d);
	loop_defer(d->loop, note_b, d);
	loop_undefer(d->loop, note_a, d);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "bu");
}

static void again(void *arg)
{
	struct diary *d = arg;

	if (++d->n < 1000)
		loop_defer(d->loop, again, d);
}

static void test_defer_many(void **state)
{
	struct diary *d = *state;

	loop_defer(d->loop, again, d);
	loop_run_once(d->loop, 0);
	assert_int_equal(d->n, 1000);
}

static void on_readable(unsigned events, void *arg)
{
	struct diary *d = arg;
	char c;

	assert_int_equal(events, LOOP_READ);
	assert_int_equal(read(d->fd, &c, 1), 1);
	note(d, c);
	loop_defer(d->loop, note_a, d);
}

/* All that is ready runs before anything deferred: one turn, one batch. */
static void test_turn_is_a_batch(void **state)
{
	struct diary *d = *state, other = {.loop = d->loop};
	int a[2], b[2];
	struct loop_io *io_a, *io_b;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	d->fd = a[0];
	other.fd = b[0];
	io_a = loop_io_new(d->loop, a[0], LOOP_READ, on_readable, d);
	io_b = loop_io_new(d->loop, b[0], LOOP_READ, on_readable, &other);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "y", 1), 1);
	loop_defer(d->loop, note_b, d);
	loop_run_once(d->loop, 1000);
	assert_string_equal(d->text, "xba");
	assert_string_equal(other.text, "ya");
	loop_io_free(io_a);
	loop_io_free(io_b);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

static void on_event(unsigned events, void *arg)
{
	struct diary *d = arg;

	if (events & LOOP_READ)
		note(d, 'r');
	if (events & LOOP_WRITE)
		note(d, 'w');
}

static void test_io_set(void **state)
{
	struct diary *d = *state;
	int fds[2];
	struct loop_io *io;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	io = loop_io_new(d->loop, fds[0], 0, on_event, d);
	loop_run_once(d->loop, 0);
	loop_io_set(io, LOOP_WRITE);
	loop_run_once(d->loop, 0);
	loop_run_once(d->loop, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	loop_io_set(io, LOOP_READ | LOOP_WRITE);
	loop_run_once(d->loop, 0);
	loop_io_set(io, LOOP_READ);
	loop_run_once(d->loop, 0);
	loop_io_set(io, 0);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "wwrwr");
	loop_io_free(io);
	loop_io_free(NULL);
	close(fds[0]);
	close(fds[1]);
	assert_null(loop_io_new(d->loop, fds[0], LOOP_READ, on_event, d));
}

static void free_own_io(unsigned events, void *arg)
{
	struct diary *d = arg;

	(void)events;
	note(d, 'f');
	loop_io_free(d->io);
	d->io = NULL;
}

static void test_free_io_in_callback(void **state)
{
	struct diary *d = *state;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	d->io = loop_io_new(d->loop, fds[0], LOOP_WRITE, free_own_io, d);
	loop_run_once(d->loop, 0);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "f");
	close(fds[0]);
	close(fds[1]);
}

static void test_timers(void **state)
{
	struct diary *d = *state;
	struct loop_timer *a = loop_timer_new(d->loop, note_a, d);
	struct loop_timer *b = loop_timer_new(d->loop, note_b, d);
	struct loop_timer *s = loop_timer_new(d->loop, note_and_stop, d);
	uint64_t start = loop_now_ms(d->loop);

	assert_false(loop_timer_is_set(a));
	loop_timer_set(b, 40);
	loop_timer_set(a, 20);
	loop_timer_set(s, 80);
	assert_true(loop_timer_is_set(a));
	loop_run(d->loop);
	assert_string_equal(d->text, "abs");
	assert_true(loop_now_ms(d->loop) >= start + 80);
	assert_false(loop_timer_is_set(a));
	/* Cleared, moved later, moved earlier. */
	loop_timer_set(a, 5);
	loop_timer_clear(a);
	loop_timer_set(b, 5);
	loop_timer_set(b, 60);
	loop_timer_set(s, 10000);
	loop_timer_set(s, 30);
	loop_run(d->loop);
	assert_string_equal(d->text, "abss");
	assert_true(loop_timer_is_set(b));
	loop_timer_set(s, UINT64_MAX);
	loop_timer_free(a);
	loop_timer_free(b);
	loop_timer_free(s);
	loop_timer_free(NULL);
}

/* A timer must never be early by the clock that deadlines are kept in. */
static void test_never_early(void **state)
{
	struct diary *d = *state;
	struct loop_timer *s = loop_timer_new(d->loop, note_and_stop, d);

	for (uint64_t ms = 0; ms < 20; ms++) {
		uint64_t start = loop_now_ms(d->loop);

		d->n = 0;
		loop_timer_set(s, ms);
		loop_run(d->loop);
		assert_true(loop_now_ms(d->loop) >= start + ms);
	}
	loop_timer_free(s);
}

static void rearm(void *arg)
{
	struct diary *d = arg;

	note(d, 't');
	if (d->n < 3)
		loop_timer_set(d->timer, 1);
	else
		loop_timer_free(d->timer);
}

static void test_rearm_and_free_in_callback(void **state)
{
	struct diary *d = *state;

	d->timer = loop_timer_new(d->loop, rearm, d);
	loop_timer_set(d->timer, 1);
	for (int i = 0; i < 50 && d->n < 3; i++)
		loop_run_once(d->loop, 20);
	assert_string_equal(d->text, "ttt");
}

static void test_wait_limit(void **state)
{
	struct diary *d = *state;
	uint64_t start = loop_now_ms(d->loop), took;

	loop_run_once(d->loop, 0);
	loop_run_once(d->loop, 30);
	took = loop_now_ms(d->loop) - start;
	assert_true(took >= 20 && took < 2000);
}

static void test_signal(void **state)
{
	struct diary *d = *state;

	assert_int_equal(loop_signal(d->loop, SIGUSR1, note_a, d), 0);
	assert_int_equal(loop_signal(d->loop, SIGUSR2, note_and_stop, d), 0);
	raise(SIGUSR1);
	loop_run_once(d->loop, 1000);
	assert_string_equal(d->text, "a");
	raise(SIGUSR2);
	loop_run(d->loop);
	assert_string_equal(d->text, "as");
}

#define TIMERS 5000

static void count(void *arg)
{
	++*(unsigned *)arg;
}

static void test_thousands_of_timers(void **state)
{
	struct diary *d = *state;
	static struct loop_timer *timers[TIMERS];
	unsigned fired = 0;

	for (size_t i = 0; i < TIMERS; i++) {
		timers[i] = loop_timer_new(d->loop, count, &fired);
		loop_timer_set(timers[i], i % 50);
	}
	usleep(60000);
	for (int i = 0; i < 1000 && fired < TIMERS; i++) {
		unsigned before = fired;

		/* However much is ready, a turn ends, so that deferred calls run. */
		loop_run_once(d->loop, 50);
		assert_true(fired - before <= 128);
	}
	assert_int_equal(fired, TIMERS);
	for (size_t i = 0; i < TIMERS; i++)
		loop_timer_free(timers[i]);
}

struct watched {
	struct loop *loop;
	struct loop_timer *timer;
	uint64_t due; /* 0: must not fire */
	unsigned *left;
};

static void on_watched(void *arg)
{
	struct watched *w = arg;
	uint64_t now = loop_now_ms(w->loop);

	assert_true(w->due != 0 && now >= w->due);
	assert_true(now < w->due + 2000);
	assert_false(loop_timer_is_set(w->timer));
	w->due = 0;
	--*w->left;
}

/* Set, moved both ways, cleared, freed: each that is left fires once, and not early. */
static void test_timers_in_any_order(void **state)
{
	struct diary *d = *state;
	static struct watched w[300];
	unsigned left = 0;

	srand(1);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i] = (struct watched){.loop = d->loop, .left = &left};
		w[i].timer = loop_timer_new(d->loop, on_watched, &w[i]);
	}
	for (unsigned n = 0; n < 20000; n++) {
		struct watched *x = &w[(size_t)rand() % ARRAY_LEN(w)];
		uint64_t ms = (uint64_t)rand() % 40, now = loop_now_ms(d->loop);

		if (n % 64 == 0)
			loop_run_once(d->loop, 0);
		left -= x->due != 0;
		if (ms == 0) {
			loop_timer_clear(x->timer);
			x->due = 0;
		} else if (ms == 1) {
			loop_timer_free(x->timer);
			x->timer = loop_timer_new(d->loop, on_watched, x);
			x->due = 0;
		} else {
			loop_timer_set(x->timer, ms);
			x->due = now + ms;
			left++;
		}
	}
	for (int i = 0; i < 500 && left > 0; i++)
		loop_run_once(d->loop, -1);
	assert_int_equal(left, 0);
	for (size_t i = 0; i < ARRAY_LEN(w); i++)
		loop_timer_free(w[i].timer);
}

static void set_again(void *arg)
{
	struct diary *d = arg;

	note(d, 'z');
	loop_timer_set(d->timer, 0);
}

/* What sets itself for at once has one run in a turn, and the others have theirs. */
static void test_at_once_is_once_a_turn(void **state)
{
	struct diary *d = *state;
	struct loop_timer *a = loop_timer_new(d->loop, note_a, d);

	d->timer = loop_timer_new(d->loop, set_again, d);
	loop_timer_set(d->timer, 0);
	loop_run_once(d->loop, 1000);
	assert_string_equal(d->text, "z");
	loop_timer_set(a, 0);
	loop_run_once(d->loop, 1000);
	assert_string_equal(d->text, "zza");
	loop_timer_free(a);
	loop_timer_free(d->timer);
}

static void free_other(void *arg)
{
	struct diary *d = arg;

	note(d, 'f');
	loop_timer_free(d->timer);
	d->timer = NULL;
}

/* Two are due, the first ends the second. */
static void test_freed_while_due(void **state)
{
	struct diary *d = *state;
	struct loop_timer *f = loop_timer_new(d->loop, free_other, d);

	d->timer = loop_timer_new(d->loop, note_b, d);
	loop_timer_set(f, 1);
	loop_timer_set(d->timer, 2);
	usleep(4000);
	loop_run_once(d->loop, 1000);
	assert_string_equal(d->text, "f");
	loop_timer_free(f);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

/* ---- Jobs ---- */

struct worker {
	struct diary *d;
	struct loop_job job;
	char letter;
	unsigned pieces; /* left */
	bool idle;	 /* has nothing worth a turn */
};

static bool work(void *arg)
{
	struct worker *w = arg;

	note(w->d, w->letter);
	if (w->pieces > 0 && --w->pieces > 0)
		loop_job_queue(&w->job);
	return !w->idle;
}

static void worker_init(struct worker *w, struct diary *d, char letter, unsigned pieces)
{
	*w = (struct worker){.d = d, .letter = letter, .pieces = pieces};
	loop_job_init(&w->job, d->loop, work, w);
}

/* One piece of one job in a turn, by turns, after what was deferred; no waiting meanwhile. */
static void test_jobs_take_turns(void **state)
{
	struct diary *d = *state;
	struct worker x, y;

	worker_init(&x, d, 'x', 3);
	worker_init(&y, d, 'y', 2);
	loop_job_queue(&x.job);
	loop_job_queue(&y.job);
	loop_job_queue(&x.job); /* is there already */
	loop_defer(d->loop, note_a, d);
	loop_run_once(d->loop, -1);
	assert_string_equal(d->text, "ax");
	loop_run_once(d->loop, -1);
	assert_string_equal(d->text, "axy");
	for (int i = 0; i < 3; i++)
		loop_run_once(d->loop, -1);
	assert_string_equal(d->text, "axyxyx");
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "axyxyx");
}

/* Who has nothing to do lets the next one work, but does not get two goes in a turn. */
static void test_idle_job(void **state)
{
	struct diary *d = *state;
	struct worker x, y;

	worker_init(&x, d, 'x', 9);
	worker_init(&y, d, 'y', 9);
	x.idle = true;
	loop_job_queue(&x.job);
	loop_job_queue(&y.job);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "xy");
	y.idle = true;
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "xyxy");
	loop_job_cancel(&x.job);
	loop_job_cancel(&x.job);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "xyxyy");
	loop_job_queue(&x.job);
	loop_job_cancel(&y.job);
	loop_run_once(d->loop, 0);
	assert_string_equal(d->text, "xyxyyx");
	loop_job_cancel(&x.job);
}

/* What a job defers still runs in its turn. */
static bool deferring(void *arg)
{
	struct diary *d = arg;

	note(d, 'j');
	loop_defer(d->loop, note_b, d);
	return true;
}

static void test_job_defers(void **state)
{
	struct diary *d = *state;
	struct loop_job job;

	loop_job_init(&job, d->loop, deferring, d);
	loop_job_queue(&job);
	loop_run_once(d->loop, -1);
	assert_string_equal(d->text, "jb");
}

static void test_turns_are_counted(void **state)
{
	struct diary *d = *state;
	struct loop_turns t;
	uint64_t sum = 0;

	for (int i = 0; i < 5; i++)
		loop_run_once(d->loop, 0);
	loop_defer(d->loop, note_a, d);
	loop_run_once(d->loop, -1);
	t = loop_turns(d->loop);
	assert_int_equal(t.n, 6);
	for (unsigned i = 0; i < LOOP_TURN_BOUNDS; i++)
		sum += t.within[i];
	assert_true(sum <= t.n && t.ns > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_defer_order),
		TEST(test_undefer),
		TEST(test_defer_many),
		TEST(test_turn_is_a_batch),
		TEST(test_jobs_take_turns),
		TEST(test_idle_job),
		TEST(test_job_defers),
		TEST(test_turns_are_counted),
		TEST(test_io_set),
		TEST(test_free_io_in_callback),
		TEST(test_timers),
		TEST(test_never_early),
		TEST(test_rearm_and_free_in_callback),
		TEST(test_wait_limit),
		TEST(test_signal),
		TEST(test_thousands_of_timers),
		TEST(test_timers_in_any_order),
		TEST(test_at_once_is_once_a_turn),
		TEST(test_freed_while_due),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
