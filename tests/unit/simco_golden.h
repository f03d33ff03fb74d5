/*
 * Every message of RFC 4540 §5 as octets, written down field by field from the
 * figures, beside the struct that means the same.
 */
#ifndef TEST_SIMCO_GOLDEN_H
#define TEST_SIMCO_GOLDEN_H

#include "proto-simco/simco.h"

struct golden {
	const char *hex; /* pairs of digits; white space is skipped */
	struct simco_msg msg;
};

/* NULL past the end. */
const struct golden *golden_at(size_t i);
/* The first one of that type, NULL when there is none. */
const struct golden *golden_find(uint16_t type);
/* Octets written to out[size]; fails the test when they do not fit. */
size_t golden_octets(const char *hex, uint8_t *out, size_t size);

#endif
