/*
 * Allocations that fail on demand, for programs linked with
 * --wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=reallocarray.
 */
#ifndef SLUICE_TESTS_UNIT_FAILING_ALLOC_H
#define SLUICE_TESTS_UNIT_FAILING_ALLOC_H

#include <stdbool.h>

#define ALLOC_ALL ((unsigned long)-1)

extern unsigned long alloc_allowed; /* allocations before one fails; ALLOC_ALL: none will */
extern bool alloc_failed;

/* After `n` more allocations `times` of them fail. */
void alloc_fail_after(unsigned long n, unsigned times);

#endif
