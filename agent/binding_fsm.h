/*
 * The binding machine as a table: what each input does in each state. No
 * sockets, no time, no SIMCO; binding.c carries the actions out.
 */
#ifndef SLUICE_AGENT_BINDING_FSM_H
#define SLUICE_AGENT_BINDING_FSM_H

#include "agent/binding.h"

#define BINDING_STATES (BINDING_FAILED + 1)

enum binding_input {
	BINDING_IN_RESERVE,  /* the owner asked for a binding */
	BINDING_IN_RESERVED, /* every middlebox has reserved every component */
	BINDING_IN_ENABLE,   /* the owner named the far ends */
	BINDING_IN_ENABLED,  /* every middlebox has opened every component */
	BINDING_IN_REFUSED,  /* one of them said no, or nothing */
	BINDING_IN_GONE,     /* a rule went away by itself, or the operator ended it */
	BINDING_IN_RELEASE,  /* the owner lets go */
	BINDING_IN_RELEASED, /* nothing is left anywhere and no answer is awaited */
	BINDING_INPUTS
};

enum binding_action {
	BINDING_ACT_NOTHING,	/* expected here and without consequence */
	BINDING_ACT_IMPOSSIBLE, /* cannot happen: a fault of ours, logged, ignored */
	BINDING_ACT_RESERVE,	/* PRRs */
	BINDING_ACT_HALF_BOUND, /* tell the owner */
	BINDING_ACT_ENABLE,	/* PEAs */
	BINDING_ACT_BOUND,	/* tell the owner */
	BINDING_ACT_FAIL,	/* give everything back, tell the owner */
	BINDING_ACT_LOSE,	/* the same, of a binding that the owner had */
	BINDING_ACT_RELEASE,	/* give everything back */
	BINDING_ACT_FREE,	/* tell who waits for it, forget the object */
};

struct binding_step {
	enum binding_state next;
	enum binding_action action;
};

struct binding_step binding_fsm_step(enum binding_state s, enum binding_input in);
const char *binding_input_name(enum binding_input in);

#endif
