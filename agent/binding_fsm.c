/*
 * The table of the binding machine. Every pair is written down; a pair that
 * cannot happen says so.
 */
#include "agent/binding_fsm.h"

#define NEVER(s)                                                                                   \
	{                                                                                          \
		s, BINDING_ACT_IMPOSSIBLE                                                          \
	}
#define IGNORE(s)                                                                                  \
	{                                                                                          \
		s, BINDING_ACT_NOTHING                                                             \
	}
#define GO(s, a)                                                                                   \
	{                                                                                          \
		BINDING_##s, BINDING_ACT_##a                                                       \
	}

/* FAILED, LOST and RELEASING are giving back already: late answers mean nothing to them. */
#define WINDING_UP(s)                                                                              \
	[BINDING_IN_RESERVE] = NEVER(s), [BINDING_IN_RESERVED] = NEVER(s),                         \
	[BINDING_IN_ENABLE] = NEVER(s), [BINDING_IN_ENABLED] = NEVER(s),                           \
	[BINDING_IN_REFUSED] = IGNORE(s), [BINDING_IN_GONE] = IGNORE(s)

static const struct binding_step steps[BINDING_STATES][BINDING_INPUTS] =
	{
		[BINDING_IDLE] =
			{
				[BINDING_IN_RESERVE] = GO(RESERVING, RESERVE),
				[BINDING_IN_RESERVED] = NEVER(BINDING_IDLE),
				[BINDING_IN_ENABLE] = NEVER(BINDING_IDLE),
				[BINDING_IN_ENABLED] = NEVER(BINDING_IDLE),
				[BINDING_IN_REFUSED] = NEVER(BINDING_IDLE),
				[BINDING_IN_GONE] = NEVER(BINDING_IDLE),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = NEVER(BINDING_IDLE),
			},
		[BINDING_RESERVING] =
			{
				[BINDING_IN_RESERVE] = NEVER(BINDING_RESERVING),
				[BINDING_IN_RESERVED] = GO(HALF_BOUND, HALF_BOUND),
				[BINDING_IN_ENABLE] = NEVER(BINDING_RESERVING),
				[BINDING_IN_ENABLED] = NEVER(BINDING_RESERVING),
				[BINDING_IN_REFUSED] = GO(FAILED, FAIL),
				[BINDING_IN_GONE] = GO(FAILED, FAIL),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = NEVER(BINDING_RESERVING),
			},
		[BINDING_HALF_BOUND] =
			{
				[BINDING_IN_RESERVE] = NEVER(BINDING_HALF_BOUND),
				[BINDING_IN_RESERVED] = NEVER(BINDING_HALF_BOUND),
				[BINDING_IN_ENABLE] = GO(ENABLING, ENABLE),
				[BINDING_IN_ENABLED] = NEVER(BINDING_HALF_BOUND),
				/* a refused refresh: the reservation will not last */
				[BINDING_IN_REFUSED] = GO(LOST, LOSE),
				[BINDING_IN_GONE] = GO(LOST, LOSE),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = NEVER(BINDING_HALF_BOUND),
			},
		[BINDING_ENABLING] =
			{
				[BINDING_IN_RESERVE] = NEVER(BINDING_ENABLING),
				[BINDING_IN_RESERVED] = NEVER(BINDING_ENABLING),
				[BINDING_IN_ENABLE] = NEVER(BINDING_ENABLING),
				[BINDING_IN_ENABLED] = GO(BOUND, BOUND),
				[BINDING_IN_REFUSED] = GO(FAILED, FAIL),
				[BINDING_IN_GONE] = GO(FAILED, FAIL),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = NEVER(BINDING_ENABLING),
			},
		[BINDING_BOUND] =
			{
				[BINDING_IN_RESERVE] = NEVER(BINDING_BOUND),
				[BINDING_IN_RESERVED] = NEVER(BINDING_BOUND),
				[BINDING_IN_ENABLE] = NEVER(BINDING_BOUND),
				[BINDING_IN_ENABLED] = NEVER(BINDING_BOUND),
				[BINDING_IN_REFUSED] = GO(LOST, LOSE),
				[BINDING_IN_GONE] = GO(LOST, LOSE),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = NEVER(BINDING_BOUND),
			},
		[BINDING_RELEASING] =
			{
				WINDING_UP(BINDING_RELEASING),
				[BINDING_IN_RELEASE] = NEVER(BINDING_RELEASING),
				[BINDING_IN_RELEASED] = GO(IDLE, FREE),
			},
		[BINDING_LOST] =
			{
				WINDING_UP(BINDING_LOST),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = IGNORE(BINDING_LOST),
			},
		[BINDING_FAILED] =
			{
				WINDING_UP(BINDING_FAILED),
				[BINDING_IN_RELEASE] = GO(RELEASING, RELEASE),
				[BINDING_IN_RELEASED] = IGNORE(BINDING_FAILED),
			},
};

struct binding_step binding_fsm_step(enum binding_state s, enum binding_input in)
{
	if ((unsigned)s >= BINDING_STATES || (unsigned)in >= BINDING_INPUTS)
		return (struct binding_step){s, BINDING_ACT_IMPOSSIBLE};
	return steps[s][in];
}

const char *binding_state_name(enum binding_state s)
{
	static const char *const names[BINDING_STATES] = {
		"idle",	 "reserving", "half-bound", "enabling",
		"bound", "releasing", "lost",	    "failed",
	};

	return (unsigned)s < BINDING_STATES ? names[s] : "?";
}

const char *binding_input_name(enum binding_input in)
{
	static const char *const names[BINDING_INPUTS] = {
		"reserve", "reserved", "enable",  "enabled",
		"refused", "gone",     "release", "released",
	};

	return (unsigned)in < BINDING_INPUTS ? names[in] : "?";
}
