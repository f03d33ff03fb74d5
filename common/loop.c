/*
 * The event loop over libevent's event API, and the queue of deferred calls.
 */
#include "common/loop.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/loop_int.h"

#define TURN_CALLBACKS 64

struct deferred {
	loop_fn fn; /* NULL: taken back */
	void *arg;
};

struct loop_signal {
	struct loop_signal *next;
	struct event *ev;
	loop_fn fn;
	void *arg;
};

struct loop {
	struct event_base *base;
	struct event *limit; /* ends a turn that waits with a limit */
	struct event *alarm; /* of the timers */
	struct loop_timers timers;
	struct loop_jobs jobs;
	struct deferred *queue;
	size_t head, tail, room; /* queue[head..tail) has yet to run */
	struct loop_signal *signals;
	struct loop_closer *closers;
	unsigned callbacks; /* that ran in this turn */
	bool stop;
};

struct loop_io {
	struct loop *loop;
	struct event *ev;
	int fd;
	unsigned events;
	loop_io_fn fn;
	void *arg;
};

struct event_base *loop_base(struct loop *l)
{
	return l->base;
}

struct loop_timers *loop_timers(struct loop *l)
{
	return &l->timers;
}

struct loop_jobs *loop_jobs(struct loop *l)
{
	return &l->jobs;
}

void loop_count(struct loop *l)
{
	if (++l->callbacks == 1)
		loop_turn_begins(&l->jobs);
	else if (l->callbacks == TURN_CALLBACKS)
		event_base_loopbreak(l->base);
}

void loop_closer_add(struct loop *l, struct loop_closer *c)
{
	c->next = l->closers;
	c->link = &l->closers;
	if (c->next != NULL)
		c->next->link = &c->next;
	l->closers = c;
}

void loop_closer_del(struct loop_closer *c)
{
	if (c->link == NULL)
		return;
	*c->link = c->next;
	if (c->next != NULL)
		c->next->link = c->link;
	c->link = NULL;
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

static void on_alarm(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;

	(void)fd;
	(void)what;
	loop_timers_alarm(&l->timers);
}

static void on_message(int severity, const char *text)
{
	if (severity >= EVENT_LOG_WARN)
		log_warn("libevent: %s", text);
}

struct loop *loop_new(void)
{
	struct loop *l = calloc(1, sizeof(*l));
	struct event_config *conf = event_config_new();

	if (l == NULL || loop_timers_init(&l->timers) != 0 || conf == NULL)
		goto fail;
	loop_jobs_init(&l->jobs);
	if (event_config_set_flag(conf, EVENT_BASE_FLAG_NOLOCK) != 0)
		goto fail;
	l->base = event_base_new_with_config(conf);
	if (l->base == NULL)
		goto fail;
	l->limit = event_new(l->base, -1, 0, on_limit, NULL);
	l->alarm = event_new(l->base, l->timers.fd, EV_READ | EV_PERSIST, on_alarm, l);
	if (l->limit == NULL || l->alarm == NULL || event_add(l->alarm, NULL) != 0)
		goto fail;
	event_config_free(conf);
	event_set_log_callback(on_message);
	/* A peer that went away is an error of write(), not our death. */
	signal(SIGPIPE, SIG_IGN);
	return l;
fail:
	if (conf != NULL)
		event_config_free(conf);
	loop_free(l);
	return NULL;
}

void loop_free(struct loop *l)
{
	struct loop_signal *s;

	if (l == NULL)
		return;
	while (l->closers != NULL)
		l->closers->fn(l->closers);
	while ((s = l->signals) != NULL) {
		l->signals = s->next;
		event_free(s->ev);
		free(s);
	}
	if (l->limit != NULL)
		event_free(l->limit);
	if (l->alarm != NULL)
		event_free(l->alarm);
	loop_timers_fini(&l->timers);
	if (l->base != NULL) {
		/* Bufferevents let go of their memory in the loop. */
		event_base_loop(l->base, EVLOOP_NONBLOCK);
		event_base_free(l->base);
	}
	free(l->queue);
	free(l);
}

static void run_deferred(struct loop *l)
{
	while (l->head < l->tail) {
		struct deferred d = l->queue[l->head++];

		if (d.fn != NULL)
			d.fn(d.arg);
	}
	l->head = 0;
	l->tail = 0;
}

static void turn(struct loop *l, int flags)
{
	if (l->head < l->tail || !loop_jobs_wait(&l->jobs) || !loop_timers_wait(l))
		flags |= EVLOOP_NONBLOCK;
	l->callbacks = 0;
	if (event_base_loop(l->base, EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY | flags) < 0) {
		log_err("loop: waiting for events failed");
		l->stop = true;
	}
	if (l->callbacks == 0)
		loop_turn_begins(&l->jobs);
	loop_timers_run(l);
	loop_phase_ends(&l->jobs, LOOP_EVENTS);
	run_deferred(l);
	loop_phase_ends(&l->jobs, LOOP_DEFERRED);
	loop_jobs_run(&l->jobs);
	run_deferred(l);
	loop_phase_ends(&l->jobs, LOOP_JOB);
	loop_turn_ends(&l->jobs);
}

void loop_run(struct loop *l)
{
	while (!l->stop)
		turn(l, 0);
	l->stop = false;
}

static struct timeval interval(uint64_t ms)
{
	/* A year is for ever; more may overflow inside libevent. */
	const uint64_t longest = (uint64_t)365 * 86400 * 1000;

	if (ms > longest)
		ms = longest;
	return (struct timeval){.tv_sec = (time_t)(ms / 1000),
				.tv_usec = (suseconds_t)(ms % 1000 * 1000)};
}

void loop_run_once(struct loop *l, int ms)
{
	struct timeval tv;

	if (ms <= 0) {
		turn(l, ms == 0 ? EVLOOP_NONBLOCK : 0);
		return;
	}
	tv = interval((uint64_t)ms);
	event_add(l->limit, &tv);
	turn(l, 0);
	event_del(l->limit);
}

struct loop_turns loop_turns(const struct loop *l)
{
	return l->jobs.turns;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}

static void on_io(evutil_socket_t fd, short what, void *arg)
{
	struct loop_io *io = arg;
	unsigned events = 0;

	(void)fd;
	if (what & EV_READ)
		events |= LOOP_READ;
	if (what & EV_WRITE)
		events |= LOOP_WRITE;
	loop_count(io->loop);
	io->fn(events, io->arg);
}

short loop_ev(unsigned events)
{
	return (short)((events & LOOP_READ ? EV_READ : 0) | (events & LOOP_WRITE ? EV_WRITE : 0));
}

static short io_flags(unsigned events)
{
	return (short)(EV_PERSIST | loop_ev(events));
}

struct loop_io *loop_io_new(struct loop *l, int fd, unsigned events, loop_io_fn fn, void *arg)
{
	struct loop_io *io = calloc(1, sizeof(*io));

	if (io == NULL)
		return NULL;
	*io = (struct loop_io){.loop = l, .fd = fd, .events = events, .fn = fn, .arg = arg};
	io->ev = event_new(l->base, fd, io_flags(events), on_io, io);
	if (io->ev == NULL || (events != 0 && event_add(io->ev, NULL) != 0)) {
		loop_io_free(io);
		return NULL;
	}
	return io;
}

void loop_io_set(struct loop_io *io, unsigned events)
{
	if (events == io->events)
		return;
	event_del(io->ev);
	io->events = events;
	if (events == 0)
		return;
	if (event_assign(io->ev, io->loop->base, io->fd, io_flags(events), on_io, io) != 0 ||
	    event_add(io->ev, NULL) != 0)
		log_err("loop: cannot watch descriptor %d", io->fd);
}

void loop_io_free(struct loop_io *io)
{
	if (io == NULL)
		return;
	if (io->ev != NULL)
		event_free(io->ev);
	free(io);
}

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
	struct loop_signal *s = arg;

	(void)signo;
	(void)what;
	s->fn(s->arg);
}

int loop_signal(struct loop *l, int signo, loop_fn fn, void *arg)
{
	struct loop_signal *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return ERR_NOMEM;
	s->fn = fn;
	s->arg = arg;
	s->ev = evsignal_new(l->base, signo, on_signal, s);
	if (s->ev == NULL || event_add(s->ev, NULL) != 0) {
		if (s->ev != NULL)
			event_free(s->ev);
		free(s);
		return ERR_IO;
	}
	s->next = l->signals;
	l->signals = s;
	return 0;
}

/* Makes room for one more; space of calls that have run is used again first. */
static bool queue_room(struct loop *l)
{
	size_t room = l->room > 0 ? l->room * 2 : 64;
	struct deferred *q;

	if (l->tail < l->room)
		return true;
	if (l->head > 0 && l->head >= l->room / 2) {
		memmove(l->queue, l->queue + l->head, (l->tail - l->head) * sizeof(*q));
		l->tail -= l->head;
		l->head = 0;
		return true;
	}
	q = reallocarray(l->queue, room, sizeof(*q));
	if (q == NULL)
		return false;
	l->queue = q;
	l->room = room;
	return true;
}

int loop_defer(struct loop *l, loop_fn fn, void *arg)
{
	if (!queue_room(l))
		return ERR_NOMEM;
	l->queue[l->tail++] = (struct deferred){.fn = fn, .arg = arg};
	return 0;
}

void loop_undefer(struct loop *l, loop_fn fn, void *arg)
{
	for (size_t i = l->head; i < l->tail; i++) {
		if (l->queue[i].fn == fn && l->queue[i].arg == arg)
			l->queue[i].fn = NULL;
	}
}
