/*
 * The event loop. loop.c is the only file that knows libevent's event API; the timers are
 * loop_timer.c's.
 *
 * One loop per daemon, one thread. A *turn* is: wait, run every ready
 * callback, then run everything deferred in this turn. The middlebox commits
 * to the kernel in the deferred part, so one turn becomes one batch.
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

#endif
