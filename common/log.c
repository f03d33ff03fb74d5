/*
 * Log lines: one write per line, control characters never reach the output,
 * a flood from one call site is counted instead of written.
 */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/buf.h"

#define LINE_MAX_OCTETS 1024
#define FLOOD_SITES 64
#define FLOOD_PER_SECOND 20

/* A call site is known by the address of its format string. */
struct flood_site {
	const char *fmt;
	enum log_level level;
	int64_t since; /* start of the second that is counted */
	unsigned seen;
	unsigned left_out;
};

/* The log is the one place every module reaches without a context. */
static struct {
	enum log_level level;
	enum log_format format;
	log_sink_fn sink;
	void *sink_arg;
	struct flood_site sites[FLOOD_SITES];
	unsigned flooded; /* sites with left_out > 0 */
} the_log = {.level = LOG_LEVEL_INFO};

void log_set_level(enum log_level level)
{
	the_log.level = level;
}

void log_set_format(enum log_format format)
{
	the_log.format = format;
}

void log_set_sink(log_sink_fn fn, void *arg)
{
	the_log.sink = fn;
	the_log.sink_arg = arg;
}

bool log_enabled(enum log_level level)
{
	return level <= the_log.level;
}

const char *log_escape(struct span s, char *dst, size_t size)
{
	static const char hex[] = "0123456789abcdef";
	size_t at = 0;

	if (size == 0)
		return dst;
	for (size_t i = 0; i < s.n; i++) {
		uint8_t c = s.p[i];
		size_t need = c == '\\' ? 2 : (c < 0x20 || c >= 0x7f) ? 4 : 1;

		if (need > size - 1 - at)
			break;
		if (need > 1)
			dst[at++] = '\\';
		if (need == 4) {
			dst[at++] = 'x';
			dst[at++] = hex[c >> 4];
			dst[at++] = hex[c & 15];
		} else {
			dst[at++] = (char)c;
		}
	}
	dst[at] = '\0';
	return dst;
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERR:
		return "error";
	case LOG_LEVEL_WARN:
		return "warning";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "info";
}

static void json_line(struct buf *out, enum log_level level, const char *line)
{
	struct timespec now;
	struct tm tm;
	char stamp[32];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	buf_printf(out, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"message\":\"", stamp,
		   now.tv_nsec / 1000000, level_name(level));
	for (const char *p = line; *p != '\0'; p++) {
		unsigned c = (unsigned char)*p;

		if (c == '"' || c == '\\')
			buf_printf(out, "\\%c", *p);
		else if (c < 0x20 || c >= 0x7f)
			buf_printf(out, "\\u%04x", c);
		else
			buf_append(out, p, 1);
	}
	buf_append_str(out, "\"}\n");
}

static void emit(enum log_level level, char *line)
{
	struct buf out;
	struct span s;
	ssize_t n = 0;

	for (char *p = line; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	}
	if (the_log.sink != NULL) {
		the_log.sink(level, line, the_log.sink_arg);
		return;
	}
	buf_init(&out, 8 * LINE_MAX_OCTETS);
	if (the_log.format == LOG_FORMAT_JSON)
		json_line(&out, level, line);
	else if (isatty(STDERR_FILENO))
		buf_printf(&out, "%s\n", line);
	else
		buf_printf(&out, "<%d>%s\n", (int)level, line);
	s = buf_span(&out);
	if (s.n > 0)
		n = write(STDERR_FILENO, s.p, s.n);
	(void)n; /* nobody is left to tell when even stderr fails */
	buf_fini(&out);
}

static int64_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void flood_report(struct flood_site *site)
{
	char line[LINE_MAX_OCTETS];
	char fmt[128];

	if (site->left_out == 0)
		return;
	log_escape(span_str(site->fmt), fmt, sizeof(fmt));
	snprintf(line, sizeof(line), "log: %u more like \"%s\"", site->left_out, fmt);
	site->left_out = 0;
	the_log.flooded--;
	emit(site->level, line);
}

/* Whether this line is one too many; reports what earlier seconds left out. */
static bool flood_hit(enum log_level level, const char *fmt)
{
	struct flood_site *site = &the_log.sites[((uintptr_t)fmt >> 2) % FLOOD_SITES];
	int64_t now = now_seconds();

	for (size_t i = 0; the_log.flooded > 0 && i < FLOOD_SITES; i++) {
		if (the_log.sites[i].since != now)
			flood_report(&the_log.sites[i]);
	}
	if (site->fmt != fmt || site->since != now) {
		flood_report(site);
		*site = (struct flood_site){.fmt = fmt, .level = level, .since = now};
	}
	if (site->seen < FLOOD_PER_SECOND) {
		site->seen++;
		return false;
	}
	if (site->left_out++ == 0)
		the_log.flooded++;
	return true;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_OCTETS];
	va_list ap;

	if (!log_enabled(level))
		return;
	/* Who asks for debug lines wants them all. */
	if (level != LOG_LEVEL_DEBUG && flood_hit(level, fmt))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	emit(level, line);
}
