/*
 * The allocator's functions as the linker wraps them.
 */
#include "tests/unit/failing_alloc.h"

#include <stddef.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);

unsigned long alloc_allowed = ALLOC_ALL;
bool alloc_failed;

static unsigned burst; /* how many fail then */

void alloc_fail_after(unsigned long n, unsigned times)
{
	alloc_allowed = n;
	burst = times;
	alloc_failed = false;
}

static bool fails(void)
{
	if (alloc_allowed == ALLOC_ALL)
		return false;
	if (alloc_allowed > 0) {
		alloc_allowed--;
		return false;
	}
	alloc_failed = true;
	if (burst > 0)
		burst--;
	if (burst == 0)
		alloc_allowed = ALLOC_ALL;
	return true;
}

void *__wrap_malloc(size_t n)
{
	return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	return fails() ? NULL : __real_reallocarray(p, n, size);
}
