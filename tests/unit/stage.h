/*
 * A stage for the binding machine: a loop with a clock of its own and
 * middleboxes that do what the test says. They stand in for common/loop.c and
 * agent/mb_client.c, so every order of answers and every time can be played.
 */
#ifndef SLUICE_TESTS_UNIT_STAGE_H
#define SLUICE_TESTS_UNIT_STAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/binding_fsm.h"
#include "agent/bindings.h"
#include "common/errcode.h"

struct loop {
	uint64_t now;
	struct loop_timer *timers;
	struct {
		loop_fn fn;
		void *arg;
	} defer[4096];
	size_t n_defer;
};

struct mb_client {
	char name[16];
	bool open, missing;
	uint32_t extensions;
	struct {
		struct simco_msg m;
		mb_reply_fn fn;
		void *arg;
	} req[512];
	size_t at, n; /* unanswered: at..n-1 */
	struct mb_rule *rules[256];
	uint32_t later[256];
	size_t n_later;
	int translates; /* last learned */
};

struct mb_clients {
	struct mb_client mb[3];
};

struct stage {
	struct loop loop;
	struct mb_clients mbs;
	struct policy *policy;
	struct bindings *all;
	struct mb_client *m0, *m1;
	/* what the owner heard */
	unsigned n_events;
	enum binding_event event;
	struct failure failure;
	bool release_in_callback;
	unsigned n_done;
};

/* The end of a turn. */
void turn(struct loop *l);
/* Time goes by. */
void pass(struct loop *l, uint64_t ms);
size_t owned(const struct mb_client *mb);
size_t unanswered(const struct mb_client *mb);
/* The oldest unanswered request, which must be of that type. */
struct simco_msg *next(struct mb_client *mb, uint16_t type);
void answer(struct mb_client *mb, const struct simco_msg *m, const struct failure *f);
void refuse(struct mb_client *mb, uint16_t type);
struct addr_port ap(const char *text);
/* outside: NULL means 'protocols only'. */
void reserve_ok(struct mb_client *mb, uint32_t pid, uint32_t gid, const char *outside);
void enable_ok(struct mb_client *mb);
void change_ok(struct mb_client *mb, uint32_t lifetime);
/* Whatever is unanswered stays so. */
void session_ends(struct mb_client *mb);
/* An ARE. */
void notify(struct mb_client *mb, uint32_t pid, uint32_t lifetime);
/* Around each test; it must end with nothing owned. */
int setup(void **state);
int teardown(void **state);
void on_event(struct binding *b, enum binding_event ev, const struct failure *f, void *arg);
void on_done(void *arg);
/* A wish from 10.0.0.9 to `to`. */
struct flow wish(struct stage *s, const char *to, unsigned components);
/* The same, asked for. */
struct binding *ask(struct stage *s, const char *to, unsigned components);
/* The owner is told exactly this in this turn. */
void heard(struct stage *s, enum binding_event ev);
void heard_nothing(struct stage *s);
/* Half bound through m0 alone: PIDs 100 and 101. */
struct binding *half_bound(struct stage *s, unsigned components, const char *rtp, const char *rtcp);
/* Far ends; NULL: the component is dropped. */
int enable(struct binding *b, const char *rtp, const char *rtcp);
struct binding *bound(struct stage *s);
/* Answers every release there is; afterwards nothing is left of any binding. */
void all_released(struct stage *s);
void is_tuple(const struct simco_tuple *t, const char *want, uint8_t location);
void is_enable(const struct simco_msg *m, uint32_t pid, const char *internal, const char *external);

#endif
