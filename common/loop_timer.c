/*
 * The loop's timers. They follow CLOCK_BOOTTIME, like every deadline that is
 * kept anywhere: what expired while the host was suspended is due at once when
 * it wakes. epoll's timeouts and so libevent's timers do not count that time.
 *
 * The timers stand in a heap; one timerfd wakes the loop for the first of them.
 * A timer that is only moved later, as most are, keeps its place until it is
 * reached, so that neither heap nor timerfd are touched.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/loop_int.h"

#define RUNS_PER_TURN 128
#define NOWHERE SIZE_MAX

struct loop_timer {
	struct loop *loop;
	uint64_t due; /* when fn runs; meaningless unless set */
	uint64_t at;  /* its place in the heap: never after `due` */
	size_t pos;   /* in the heap, or NOWHERE */
	/* Among those that run in this turn; link NULL: not one of them. */
	struct loop_timer *next, **link;
	bool set;
	loop_fn fn;
	void *arg;
};

uint64_t loop_now_ms(const struct loop *l)
{
	struct timespec now;

	(void)l; /* the vDSO is cheap enough to ask it every time */
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int loop_timers_init(struct loop_timers *ts)
{
	*ts = (struct loop_timers){.alarm_ms = UINT64_MAX};
	ts->fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
	return ts->fd < 0 ? err_from_errno(errno) : 0;
}

void loop_timers_fini(struct loop_timers *ts)
{
	if (ts->fd >= 0)
		close(ts->fd);
	free(ts->heap);
	*ts = (struct loop_timers){.fd = -1};
}

static void put(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	ts->heap[pos] = t;
	t->pos = pos;
}

static void sift_up(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	for (; pos > 0 && ts->heap[(pos - 1) / 2]->at > t->at; pos = (pos - 1) / 2)
		put(ts, pos, ts->heap[(pos - 1) / 2]);
	put(ts, pos, t);
}

static void sift_down(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	for (size_t child; (child = 2 * pos + 1) < ts->n; pos = child) {
		if (child + 1 < ts->n && ts->heap[child + 1]->at < ts->heap[child]->at)
			child++;
		if (ts->heap[child]->at >= t->at)
			break;
		put(ts, pos, ts->heap[child]);
	}
	put(ts, pos, t);
}

static void heap_remove(struct loop_timers *ts, struct loop_timer *t)
{
	size_t pos = t->pos;
	struct loop_timer *last;

	if (pos == NOWHERE)
		return;
	t->pos = NOWHERE;
	last = ts->heap[--ts->n];
	if (last == t)
		return;
	if (pos > 0 && ts->heap[(pos - 1) / 2]->at > last->at)
		sift_up(ts, pos, last);
	else
		sift_down(ts, pos, last);
}

/* There is room for every timer that exists. */
static void heap_place(struct loop_timers *ts, struct loop_timer *t)
{
	t->at = t->due;
	if (t->pos == NOWHERE)
		sift_up(ts, ts->n++, t);
	else
		sift_up(ts, t->pos, t); /* it only ever moves to the front */
}

static void take_back(struct loop_timer *t)
{
	if (t->link == NULL)
		return;
	*t->link = t->next;
	if (t->next != NULL)
		t->next->link = t->link;
	t->link = NULL;
}

struct loop_timer *loop_timer_new(struct loop *l, loop_fn fn, void *arg)
{
	struct loop_timers *ts = loop_timers(l);
	struct loop_timer *t, **heap;
	size_t room;

	if (ts->n_timers == ts->room) {
		room = ts->room > 0 ? ts->room * 2 : 64;
		heap = reallocarray(ts->heap, room, sizeof(struct loop_timer *));
		if (heap == NULL)
			return NULL;
		ts->heap = heap;
		ts->room = room;
	}
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return NULL;
	*t = (struct loop_timer){.loop = l, .fn = fn, .arg = arg, .pos = NOWHERE};
	ts->n_timers++;
	return t;
}

void loop_timer_set(struct loop_timer *t, uint64_t ms)
{
	uint64_t now = loop_now_ms(t->loop);

	take_back(t);
	t->due = ms > UINT64_MAX - now ? UINT64_MAX : now + ms;
	t->set = true;
	if (t->pos == NOWHERE || t->at > t->due)
		heap_place(loop_timers(t->loop), t);
	if (ms == 0)
		loop_timers(t->loop)->at_once = true;
}

void loop_timer_clear(struct loop_timer *t)
{
	take_back(t);
	heap_remove(loop_timers(t->loop), t);
	t->set = false;
}

bool loop_timer_is_set(const struct loop_timer *t)
{
	return t->set;
}

void loop_timer_free(struct loop_timer *t)
{
	if (t == NULL)
		return;
	loop_timer_clear(t);
	loop_timers(t->loop)->n_timers--;
	free(t);
}

/* The timerfd goes off at `ms`, at once when that is past. */
static void set_alarm(struct loop_timers *ts, uint64_t ms)
{
	/* Centuries are for ever; more may overflow inside the kernel. */
	uint64_t most = (uint64_t)INT64_MAX / 1000000;
	struct itimerspec at = {0};

	ts->alarm_ms = ms;
	ms = ms > most ? most : ms;
	at.it_value.tv_sec = (time_t)(ms / 1000);
	at.it_value.tv_nsec = (long)(ms % 1000 * 1000000);
	if (timerfd_settime(ts->fd, TFD_TIMER_ABSTIME, &at, NULL) != 0)
		log_err("loop: cannot set an alarm: %s", strerror(errno));
}

bool loop_timers_wait(struct loop *l)
{
	struct loop_timers *ts = loop_timers(l);

	if (ts->at_once)
		return false;
	if (ts->n == 0 || ts->heap[0]->at >= ts->alarm_ms)
		return true;
	if (ts->heap[0]->at <= loop_now_ms(l)) {
		ts->at_once = true;
		return false;
	}
	set_alarm(ts, ts->heap[0]->at);
	return true;
}

void loop_timers_alarm(struct loop_timers *ts)
{
	uint64_t times;

	if (read(ts->fd, &times, sizeof(times)) < 0)
		return;
	ts->alarm_ms = UINT64_MAX;
	ts->at_once = true;
}

/*
 * Those that are due leave the heap first: what they set anew, even for at
 * once, has its turn after everybody else.
 */
void loop_timers_run(struct loop *l)
{
	struct loop_timers *ts = loop_timers(l);
	struct loop_timer *t, *ready = NULL, **tail = &ready;
	uint64_t now;

	if (!ts->at_once)
		return;
	ts->at_once = false;
	now = loop_now_ms(l);
	for (unsigned n = 0; ts->n > 0 && ts->heap[0]->at <= now && n < RUNS_PER_TURN;) {
		t = ts->heap[0];
		heap_remove(ts, t);
		if (t->due > now) {
			heap_place(ts, t);
			continue;
		}
		t->link = tail;
		t->next = NULL;
		*tail = t;
		tail = &t->next;
		n++;
	}
	while ((t = ready) != NULL) {
		take_back(t);
		t->set = false;
		t->fn(t->arg);
	}
}
