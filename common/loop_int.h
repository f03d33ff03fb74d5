/*
 * For the other users of libevent in this folder only.
 */
#ifndef SLUICE_COMMON_LOOP_INT_H
#define SLUICE_COMMON_LOOP_INT_H

#include "common/loop.h"

struct event_base;

struct event_base *loop_base(struct loop *l);
/* LOOP_READ and LOOP_WRITE as libevent's EV_READ and EV_WRITE. */
short loop_ev(unsigned events);

/*
 * Counts a callback. A turn that runs too many ends early, so that under any
 * load the deferred calls get their time; the rest runs in the next turn.
 */
void loop_count(struct loop *l);

/* What a turn consists of. */
enum loop_phase { LOOP_EVENTS, LOOP_DEFERRED, LOOP_JOB, LOOP_PHASES };

/* loop_job.c: the jobs that wait, and how turns went. */
struct loop_jobs {
	struct loop_job *first, **tail;
	uint64_t round; /* times that they were run */
	struct loop_turns turns;
	uint64_t began; /* ns; the first callback of this turn, 0: none yet */
	uint64_t watch; /* ns, see loop_watch(); 0: not */
	uint64_t
		cpu[LOOP_PHASES + 1]; /* loop_cpu_ns() at the end of each; the turn's begin first */
};

struct loop_jobs *loop_jobs(struct loop *l);
void loop_jobs_init(struct loop_jobs *js);
bool loop_jobs_wait(const struct loop_jobs *js); /* false: the loop must not wait, there is work */
void loop_jobs_run(struct loop_jobs *js);
void loop_turn_begins(struct loop_jobs *js); /* something happens after a wait */
void loop_phase_ends(struct loop_jobs *js, enum loop_phase phase);
void loop_turn_ends(struct loop_jobs *js);

/* loop_timer.c: the timers of a loop. */
struct loop_timers {
	struct loop_timer **heap; /* by the time that each is looked at */
	size_t n, room, n_timers; /* in the heap, room in it, that exist */
	int fd;			  /* a timerfd, readable when the first is due */
	uint64_t alarm_ms;	  /* what it is set to, UINT64_MAX: nothing */
	bool at_once;		  /* something is or may be due */
};

struct loop_timers *loop_timers(struct loop *l);
int loop_timers_init(struct loop_timers *ts); /* 0 or ERR_* */
void loop_timers_fini(struct loop_timers *ts);
/* Before the loop waits. False: it must not, a timer is due. */
bool loop_timers_wait(struct loop *l);
/* The timerfd is readable. */
void loop_timers_alarm(struct loop_timers *ts);
/* Runs what is due, a bounded number of timers. */
void loop_timers_run(struct loop *l);

/*
 * Something that nobody owns any more but that still works in the loop, such
 * as a stream that sends its last octets. loop_free() calls fn, which must end
 * with loop_closer_del().
 */
struct loop_closer {
	struct loop_closer *next, **link;
	void (*fn)(struct loop_closer *c);
};

void loop_closer_add(struct loop *l, struct loop_closer *c);
void loop_closer_del(struct loop_closer *c); /* fine when not added */

#endif
