/*
 * Compiler attributes and the few macros that every folder uses.
 * Knows no protocol and no library.
 */
#ifndef SLUICE_COMMON_BASE_H
#define SLUICE_COMMON_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The struct that holds member `m` of type `t` at pointer `p`. */
#define CONTAINER_OF(p, t, m) ((t *)(void *)((char *)(p)-offsetof(t, m)))

#define ATTR_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define ATTR_UNUSED __attribute__((unused))
#define ATTR_NORETURN __attribute__((noreturn))

#endif
