/*
 * For the other users of libevent in this folder only.
 */
#ifndef SLUICE_COMMON_LOOP_INT_H
#define SLUICE_COMMON_LOOP_INT_H

#include "common/loop.h"

struct event_base;

struct event_base *loop_base(struct loop *l);

#endif
