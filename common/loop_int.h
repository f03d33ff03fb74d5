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

/*
 * True for the first who asks in a turn. Work of near a millisecond is done
 * only then; the others wait for their next event, so that short work comes
 * in between.
 */
bool loop_take_long(struct loop *l);

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
