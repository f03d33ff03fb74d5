/*
 * Every script of tests/conformance/rules is one test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/rule_script.h"

#define MAX_SCRIPTS 256

static void test_script(void **state)
{
	assert_true(rule_script_run(*state));
}

static int by_name(const void *a, const void *b)
{
	const struct CMUnitTest *x = a, *y = b;

	return strcmp(x->name, y->name);
}

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[MAX_SCRIPTS];
	const char *top = getenv("SRCDIR");
	char dir[512], path[1024];
	size_t n = 0;
	DIR *d;

	if (argc > 1)
		return rule_script_run(argv[1]) ? 0 : 1;
	snprintf(dir, sizeof(dir), "%s/tests/conformance/rules", top ? top : ".");
	d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d)) && n < MAX_SCRIPTS;) {
		const char *end = strrchr(e->d_name, '.');

		if (!end || strcmp(end, ".script") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		tests[n++] = (struct CMUnitTest){.name = strdup(e->d_name),
						 .test_func = test_script,
						 .initial_state = strdup(path)};
	}
	if (d)
		closedir(d);
	if (n == 0) {
		printf("Bail out! no scripts in %s\n", dir);
		return 1;
	}
	qsort(tests, n, sizeof(tests[0]), by_name);
	n = (size_t)_cmocka_run_group_tests("rule_scripts", tests, n, NULL, NULL);
	for (size_t i = 0; tests[i].name; i++) {
		free((void *)(uintptr_t)tests[i].name);
		free(tests[i].initial_state);
	}
	return (int)n;
}
