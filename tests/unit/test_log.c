/*
 * Log lines: levels, escapes, formats, floods.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"

struct sink {
	unsigned lines;
	enum log_level level;
	char last[2048];
	char notice[2048]; /* the last report of a flood */
};

static void on_line(enum log_level level, const char *line, void *arg)
{
	struct sink *s = arg;

	s->lines++;
	s->level = level;
	snprintf(s->last, sizeof(s->last), "%s", line);
	if (strncmp(line, "log: ", 5) == 0)
		snprintf(s->notice, sizeof(s->notice), "%s", line);
}

static int set_up(void **state)
{
	static struct sink sink;

	memset(&sink, 0, sizeof(sink));
	log_set_sink(on_line, &sink);
	log_set_level(LOG_LEVEL_INFO);
	*state = &sink;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	log_set_sink(NULL, NULL);
	log_set_format(LOG_FORMAT_TEXT);
	return 0;
}

static void test_levels(void **state)
{
	struct sink *s = *state;

	log_debug("test: hidden");
	assert_int_equal(s->lines, 0);
	log_info("test: %d %s", 5, "shown");
	assert_string_equal(s->last, "test: 5 shown");
	assert_int_equal(s->level, LOG_LEVEL_INFO);
	log_set_level(LOG_LEVEL_ERR);
	log_warn("test: hidden, too");
	assert_int_equal(s->lines, 1);
	log_err("test: error");
	assert_int_equal(s->lines, 2);
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("test: now");
	assert_int_equal(s->lines, 3);
	assert_true(log_enabled(LOG_LEVEL_DEBUG));
}

static void test_escape(void **state)
{
	char dst[32], tiny[6];

	(void)state;
	assert_string_equal(log_escape(SPAN_LIT("a\r\n\x1b[\\\xff"), dst, sizeof(dst)),
			    "a\\x0d\\x0a\\x1b[\\\\\\xff");
	/* An escape is never cut in half. */
	assert_string_equal(log_escape(SPAN_LIT("ab\n"), tiny, sizeof(tiny)), "ab");
	assert_string_equal(log_escape(SPAN_LIT("a\n"), tiny, sizeof(tiny)), "a\\x0a");
	assert_string_equal(log_escape(SPAN_EMPTY, tiny, sizeof(tiny)), "");
}

static void test_no_line_breaks_pass(void **state)
{
	struct sink *s = *state;
	static char longer[5000];

	log_info("test: %s", "two\nlines\x1b");
	assert_string_equal(s->last, "test: two lines ");
	memset(longer, 'x', sizeof(longer) - 1);
	log_info("test %s", longer);
	assert_true(strlen(s->last) < 1100);
}

/* Waits for the start of a second, so that a test does not straddle two. */
static void next_second(void)
{
	struct timespec now, nap = {.tv_nsec = 1000000};
	time_t start;

	clock_gettime(CLOCK_MONOTONIC, &now);
	start = now.tv_sec;
	while (now.tv_sec == start) {
		nanosleep(&nap, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
	}
}

static void test_flood(void **state)
{
	struct sink *s = *state;

	next_second();
	for (int i = 0; i < 100; i++)
		log_info("flood: line %d", i);
	assert_int_equal(s->lines, 20);
	assert_string_equal(s->last, "flood: line 19");
	log_info("other: passes");
	assert_int_equal(s->lines, 21);
	next_second();
	log_info("another: comes first after the second");
	assert_string_equal(s->notice, "log: 80 more like \"flood: line %d\"");
	assert_int_equal(s->lines, 23);
	log_info("flood: line %d", 100);
	log_set_level(LOG_LEVEL_DEBUG);
	for (int i = 0; i < 100; i++)
		log_debug("debug: never limited %d", i);
	assert_int_equal(s->lines, 24 + 100);
}

/* What one line looks like on stderr. */
static void capture(char *dst, size_t size)
{
	int pipe_fds[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe(pipe_fds), 0);
	log_set_sink(NULL, NULL);
	dup2(pipe_fds[1], STDERR_FILENO);
	log_warn("test t1: \"quoted\" \\ caf\xc3\xa9");
	dup2(saved, STDERR_FILENO);
	close(pipe_fds[1]);
	n = read(pipe_fds[0], dst, size - 1);
	assert_true(n > 0);
	dst[n] = '\0';
	close(pipe_fds[0]);
	close(saved);
}

static void test_text_format(void **state)
{
	char line[512];

	(void)state;
	capture(line, sizeof(line));
	assert_string_equal(line, "<4>test t1: \"quoted\" \\ caf\xc3\xa9\n");
}

static void test_json_format(void **state)
{
	char line[512];

	(void)state;
	log_set_format(LOG_FORMAT_JSON);
	capture(line, sizeof(line));
	assert_int_equal(strncmp(line, "{\"time\":\"20", 11), 0);
	assert_non_null(strstr(line,
			       "Z\",\"level\":\"warning\",\"message\":\"test t1: \\\"quoted\\\" "
			       "\\\\ caf\\u00c3\\u00a9\"}\n"));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_levels), TEST(test_escape),	   TEST(test_no_line_breaks_pass),
		TEST(test_flood),  TEST(test_text_format), TEST(test_json_format),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
