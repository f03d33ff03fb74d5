/*
 * The operator's routes of the agent.
 */
#ifndef SLUICE_AGENT_AGENT_REST_H
#define SLUICE_AGENT_AGENT_REST_H

#include "common/rest.h"

/* For rest_new(); the argument is the struct agent. */
extern const struct rest_route agent_routes[];

#endif
