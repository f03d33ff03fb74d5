/*
 * The event loop. loop.c is the only file that knows libevent's event API; the timers are
 * loop_timer.c's.
 *
 * One loop per daemon, one thread. A *turn* is: wait, run every ready
 * callback, then run everything deferred in this turn, then one job. The
 * middlebox commits to the kernel in the deferred part, so one turn becomes one
 * batch. Who asks for something waits for the rest of the turn that is running
 * and for one turn; so each should stay well below a millisecond.
 */
#ifndef SLUICE_COMMON_LOOP_H
#define SLUICE_COMMON_LOOP_H

#include "common/base.h"

struct loop;
struct loop_io;
struct loop_timer;

#define LOOP_READ 1u
#define LOOP_WRITE 2u

typedef void (*loop_io_fn)(unsigned events, void *arg);
typedef void (*loop_fn)(void *arg);

/* NULL on failure. Also makes the process ignore SIGPIPE. */
struct loop *loop_new(void);
/* Everything registered must have been freed before. */
void loop_free(struct loop *l);
/* Runs turns until loop_stop(). */
void loop_run(struct loop *l);
/* One turn; waits at most `ms` (0: does not wait, -1: for ever). */
void loop_run_once(struct loop *l, int ms);
void loop_stop(struct loop *l);

/*
 * Milliseconds of CLOCK_BOOTTIME: monotonic, counts while suspended, the same
 * for every process on the host, so it may stand in the ledger.
 */
uint64_t loop_now_ms(const struct loop *l);

/* Level-triggered; does not own fd. NULL on failure. */
struct loop_io *loop_io_new(struct loop *l, int fd, unsigned events, loop_io_fn fn, void *arg);
void loop_io_set(struct loop_io *io, unsigned events);
void loop_io_free(struct loop_io *io); /* NULL is fine */

/*
 * One-shot timer, created unarmed. NULL on failure. It follows loop_now_ms(): what came due while
 * the host was suspended runs when it wakes.
 */
struct loop_timer *loop_timer_new(struct loop *l, loop_fn fn, void *arg);
/* (Re)arms it `ms` from now. */
void loop_timer_set(struct loop_timer *t, uint64_t ms);
void loop_timer_clear(struct loop_timer *t);
bool loop_timer_is_set(const struct loop_timer *t);
void loop_timer_free(struct loop_timer *t); /* NULL is fine */

/* Calls fn in the loop (not in signal context) for every `signo`. 0 or ERR_*. */
int loop_signal(struct loop *l, int signo, loop_fn fn, void *arg);

/*
 * Runs fn(arg) once at the end of this turn, in the order of deferring; what a
 * deferred call defers runs in the same phase, after it. 0 or ERR_NOMEM.
 */
int loop_defer(struct loop *l, loop_fn fn, void *arg);
/* Takes back every deferred call of fn(arg) that has not run yet. */
void loop_undefer(struct loop *l, loop_fn fn, void *arg);

/*
 * Long work is a job: a piece of it, below half a millisecond, is done at the end of a turn, when
 * the replies of that turn are out. One job works in a turn; those that wait take turns.
 */
struct loop_job {
	struct loop *loop;
	/* Does a piece. False: there was nothing worth a turn, the next job may work. */
	bool (*fn)(void *arg);
	void *arg;
	struct loop_job *next, **link; /* link NULL: not queued */
	uint64_t round;		       /* of the loop's, when it was queued */
};

typedef bool (*loop_job_fn)(void *arg);

void loop_job_init(struct loop_job *j, struct loop *l, loop_job_fn fn, void *arg);
/* To the end of the queue, also from inside fn; stays where it is when it is queued. */
void loop_job_queue(struct loop_job *j);
void loop_job_cancel(struct loop_job *j); /* fine when it is not queued, or all zero */

/* How long turns took, by the clock, from the first callback to the end. */
#define LOOP_TURN_BOUNDS 5
extern const double loop_turn_bounds[LOOP_TURN_BOUNDS]; /* seconds */

struct loop_turns {
	uint64_t n, ns;
	uint64_t within[LOOP_TURN_BOUNDS]; /* at most that bound, and above the one before it */
};

struct loop_turns loop_turns(const struct loop *l);
/* Tells stderr of every turn that takes more CPU time than this; a system call a turn. For tests.
 */
void loop_watch(struct loop *l, uint64_t us);
/* CPU time of this thread. */
uint64_t loop_cpu_ns(void);

#endif
