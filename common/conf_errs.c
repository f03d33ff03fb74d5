/*
 * Findings of a policy file: kept in file order, printed one per line.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf_int.h"

static void ATTR_PRINTF(5, 0) error_put(struct conf_errors *errs, unsigned line, unsigned column,
					const char *key, const char *fmt, va_list ap)
{
	struct conf_error *e;
	size_t at = errs->n;

	if (errs->n >= CONF_ERRORS_MAX)
		return;
	if ((errs->n & (errs->n - 1)) == 0) {
		size_t cap = errs->n == 0 ? 1 : errs->n * 2;
		void *v = realloc(errs->v, cap * sizeof(*errs->v));

		if (v == NULL) {
			errs->lost = true;
			return;
		}
		errs->v = v;
	}
	while (at > 0 && (errs->v[at - 1].line > line ||
			  (errs->v[at - 1].line == line && errs->v[at - 1].column > column)))
		at--;
	if (errs->n + 1 == CONF_ERRORS_MAX)
		at = errs->n; /* the line that says "more" stays last */
	memmove(&errs->v[at + 1], &errs->v[at], (errs->n - at) * sizeof(*errs->v));
	errs->n++;
	e = &errs->v[at];
	memset(e, 0, sizeof(*e));
	e->line = line;
	e->column = column;
	if (errs->n == CONF_ERRORS_MAX) {
		snprintf(e->text, sizeof(e->text), "more errors follow, not shown");
		return;
	}
	snprintf(e->key, sizeof(e->key), "%s", key != NULL ? key : "");
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
}

void conf_error_at(struct conf_errors *errs, unsigned line, unsigned column, const char *key,
		   const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_put(errs, line, column, key, fmt, ap);
	va_end(ap);
}

void conf_error(struct conf_errors *errs, unsigned line, const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_put(errs, line, 0, key, fmt, ap);
	va_end(ap);
}

void conf_errors_print(const struct conf_errors *errs, FILE *to)
{
	for (size_t i = 0; i < errs->n; i++) {
		const struct conf_error *e = &errs->v[i];

		fprintf(to, "%s:", errs->file != NULL ? errs->file : "-");
		if (e->line != 0)
			fprintf(to, "%u:%u:", e->line, e->column != 0 ? e->column : 1);
		fprintf(to, " %s%s%s\n", e->key, e->key[0] != '\0' ? ": " : "", e->text);
	}
}

void conf_errors_fini(struct conf_errors *errs)
{
	free(errs->v);
	errs->v = NULL;
	errs->n = 0;
}
