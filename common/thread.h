/*
 * A thread beside the loop, for what would hold a turn up: it does one thing,
 * touches nothing but what it is given, rings and ends.
 */
#ifndef SLUICE_COMMON_THREAD_H
#define SLUICE_COMMON_THREAD_H

#include <pthread.h>

#include "common/base.h"

/* Starts fn(arg) with every signal blocked: signals are the loop's. 0 or ERR_NOMEM. */
int thread_start(pthread_t *thread, void *(*fn)(void *), void *arg);
/* What a thread says at its end, on an eventfd that the loop watches. */
void thread_ring(int eventfd);

#endif
