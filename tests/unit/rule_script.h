/*
 * Runs a conformance script against a core in memory: requests of agents,
 * replies and events expected, time, restarts, and what the kernel (a fake)
 * lets pass. Syntax: tests/conformance/rules/README.
 */
#ifndef SLUICE_TESTS_RULE_SCRIPT_H
#define SLUICE_TESTS_RULE_SCRIPT_H

#include <stdbool.h>

/* True when everything was as expected; else the reason is on stderr. */
bool rule_script_run(const char *path);

#endif
