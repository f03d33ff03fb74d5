/*
 * Lifetimes of all rules: a wheel of slots and one timer. Whatever is due in one
 * tick leaves in one write per middlebox.
 */
#include <stdlib.h>

#include "agent/binding_int.h"
#include "common/errcode.h"

void sched_remove(struct rule *r)
{
	if (!r->prev)
		return;
	*r->prev = r->next;
	if (r->next)
		r->next->prev = r->prev;
	r->prev = NULL;
	r->b->all->n_scheduled--;
}

static void push(struct rule **head, struct rule *r)
{
	r->next = *head;
	if (*head)
		(*head)->prev = &r->next;
	*head = r;
	r->prev = head;
}

static void put(struct rule *r, uint64_t due_ms)
{
	struct bindings *all = r->b->all;
	uint64_t tick = due_ms / SCHED_TICK_MS + 1; /* never early */

	sched_remove(r);
	if (tick <= all->wheel_tick)
		tick = all->wheel_tick + 1;
	r->due_ms = due_ms;
	push(&all->wheel[tick % SCHED_SLOTS], r);
	all->n_scheduled++;
	sched_wake(all);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool wants_poll(const struct rule *r)
{
	/* The innermost middlebox sees what the client sends; one answer is enough. */
	return r->state == RULE_ENABLED && !r->hop && !r->polling &&
	       (mb_client_extensions(r->mb) & SIMCO_EXT_ACTIVITY);
}

void sched_rule(struct rule *r)
{
	uint64_t due = r->expires_ms;

	if (!r->refreshing)
		due = min_u64(due, r->refresh_ms);
	if (wants_poll(r))
		due = min_u64(due, r->poll_ms);
	put(r, due);
}

static void due(struct rule *r, uint64_t now)
{
	if (now >= r->expires_ms) {
		rule_gone(r, CAUSE_RULE_LOST, "could not be refreshed in time");
		return;
	}
	if (!mb_client_is_open(r->mb)) {
		put(r, min_u64(now + 1000, r->expires_ms));
		return;
	}
	if (now >= r->refresh_ms && !r->refreshing && r->state != RULE_ENABLING)
		rule_refresh(r);
	if (wants_poll(r) && now >= r->poll_ms)
		rule_poll(r);
	if (r->state == RULE_ENABLING && r->refresh_ms <= now)
		r->refresh_ms = now + 1000; /* its answer brings a new lifetime */
	sched_rule(r);
}

/* Rules of the slot that belong to a later turn of the wheel go back into it. */
static void run_slot(struct bindings *all, uint64_t tick, uint64_t now)
{
	struct rule **slot = &all->wheel[tick % SCHED_SLOTS], *list = *slot, *later = NULL, *r;

	*slot = NULL;
	if (list)
		list->prev = &list;
	while ((r = list)) {
		if (r->due_ms > now) {
			sched_remove(r);
			all->n_scheduled++;
			push(&later, r);
			continue;
		}
		sched_remove(r);
		due(r, now);
	}
	while ((r = later)) {
		sched_remove(r);
		all->n_scheduled++;
		push(slot, r);
	}
}

static void on_timer(void *arg)
{
	struct bindings *all = arg;
	uint64_t now = loop_now_ms(all->loop), tick = now / SCHED_TICK_MS;

	/* Asleep for longer than a turn: every slot once is enough. */
	if (tick - all->wheel_tick > SCHED_SLOTS)
		all->wheel_tick = tick - SCHED_SLOTS;
	while (all->wheel_tick < tick)
		run_slot(all, ++all->wheel_tick, now);
	bindings_run_deferred(all);
	if (all->n_scheduled || all->waiting)
		loop_timer_set(all->timer, SCHED_TICK_MS);
}

void sched_wake(struct bindings *all)
{
	if (loop_timer_is_set(all->timer))
		return;
	if (!all->n_scheduled)
		all->wheel_tick = loop_now_ms(all->loop) / SCHED_TICK_MS;
	loop_timer_set(all->timer, SCHED_TICK_MS);
}

int sched_init(struct bindings *all)
{
	all->wheel_tick = loop_now_ms(all->loop) / SCHED_TICK_MS;
	all->timer = loop_timer_new(all->loop, on_timer, all);
	return all->timer ? 0 : ERR_NOMEM;
}

void sched_fini(struct bindings *all)
{
	loop_timer_free(all->timer);
}
