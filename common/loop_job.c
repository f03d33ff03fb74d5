/*
 * Jobs, the long work that one turn does a piece of, and how long turns take.
 */
#include <stdio.h>
#include <time.h>

#include "common/loop_int.h"

const double loop_turn_bounds[LOOP_TURN_BOUNDS] = {0.0001, 0.0005, 0.001, 0.005, 0.02};
static const uint64_t bounds_ns[LOOP_TURN_BOUNDS] = {100000, 500000, 1000000, 5000000, 20000000};

void loop_jobs_init(struct loop_jobs *js)
{
	*js = (struct loop_jobs){.tail = &js->first};
}

void loop_job_init(struct loop_job *j, struct loop *l, loop_job_fn fn, void *arg)
{
	*j = (struct loop_job){.loop = l, .fn = fn, .arg = arg};
}

void loop_job_queue(struct loop_job *j)
{
	struct loop_jobs *js = loop_jobs(j->loop);

	if (j->link != NULL)
		return;
	j->next = NULL;
	j->round = js->round;
	j->link = js->tail;
	*js->tail = j;
	js->tail = &j->next;
}

void loop_job_cancel(struct loop_job *j)
{
	if (j->link == NULL)
		return;
	*j->link = j->next;
	if (j->next != NULL)
		j->next->link = j->link;
	else
		loop_jobs(j->loop)->tail = j->link;
	j->link = NULL;
}

bool loop_jobs_wait(const struct loop_jobs *js)
{
	return js->first == NULL;
}

/* Those that are queued meanwhile come in the next turn. */
void loop_jobs_run(struct loop_jobs *js)
{
	bool worked = false;

	js->round++;
	while (!worked && js->first != NULL && js->first->round != js->round) {
		struct loop_job *j = js->first;

		loop_job_cancel(j);
		worked = j->fn(j->arg); /* which may free it */
	}
}

/* ---- How long turns take ------------------------------------------------------------- */

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t loop_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void loop_turn_begins(struct loop_jobs *js)
{
	js->began = clock_ns(CLOCK_MONOTONIC);
}

void loop_phase_ends(struct loop_jobs *js, enum loop_phase phase)
{
	if (js->watch > 0)
		js->cpu[phase + 1] = loop_cpu_ns();
}

/* Not through the log, which leaves out what comes too often. */
static void tell(struct loop_jobs *js)
{
	uint64_t us[LOOP_PHASES + 1];

	for (size_t i = 0; i < LOOP_PHASES; i++)
		us[i] = (js->cpu[i + 1] - js->cpu[i]) / 1000;
	us[LOOP_PHASES] = (js->cpu[LOOP_PHASES] - js->cpu[0]) / 1000;
	fprintf(stderr,
		"loop: a turn took %llu us of CPU time (events %llu, deferred %llu, job %llu)\n",
		(unsigned long long)us[LOOP_PHASES], (unsigned long long)us[LOOP_EVENTS],
		(unsigned long long)us[LOOP_DEFERRED], (unsigned long long)us[LOOP_JOB]);
}

void loop_turn_ends(struct loop_jobs *js)
{
	uint64_t ns = clock_ns(CLOCK_MONOTONIC) - js->began;

	js->turns.n++;
	js->turns.ns += ns;
	for (size_t i = 0; i < LOOP_TURN_BOUNDS; i++) {
		if (ns > bounds_ns[i])
			continue;
		js->turns.within[i]++;
		break;
	}
	if (js->watch == 0)
		return;
	if (js->cpu[LOOP_PHASES] - js->cpu[0] > js->watch)
		tell(js);
	js->cpu[0] = loop_cpu_ns();
}

void loop_watch(struct loop *l, uint64_t us)
{
	loop_jobs(l)->watch = us * 1000;
	loop_jobs(l)->cpu[0] = loop_cpu_ns();
}
