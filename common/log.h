/*
 * Log lines on stderr (systemd "<N>" priorities) or as JSON lines. A line
 * starts with the module and the id it speaks of, e.g. "rtsp c12: ...".
 * Octets of a peer are escaped by LOG_SPAN users through log_escape().
 */
#ifndef SLUICE_COMMON_LOG_H
#define SLUICE_COMMON_LOG_H

#include "common/base.h"
#include "common/span.h"

enum log_level { LOG_LEVEL_ERR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

typedef void (*log_sink_fn)(enum log_level level, const char *line, void *arg);

void log_set_level(enum log_level level);
void log_set_format(enum log_format format);
/* Replaces stderr; NULL restores it. Tests and fuzzers use it. */
void log_set_sink(log_sink_fn fn, void *arg);
bool log_enabled(enum log_level level);

/* Printable form of peer octets in dst[size], always NUL-terminated; dst. */
const char *log_escape(struct span s, char *dst, size_t size);

/* A flood of equal call sites is limited; what was left out is counted. */
void log_at(enum log_level level, const char *fmt, ...) ATTR_PRINTF(2, 3);
#define log_err(...) log_at(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_at(LOG_LEVEL_DEBUG, __VA_ARGS__);                                      \
	} while (0)

#endif
