/*
 * Replies that the agent makes itself: a status from the failure table, a
 * reason phrase that names the cause, the detail as text/plain.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"

static const struct phrase {
	unsigned status;
	const char *text;
} phrases[] = {
	{200, "OK"},
	{400, "Bad Request"},
	{403, "Forbidden"},
	{404, "Not Found"},
	{408, "Request Time-out"},
	{413, "Request Entity Too Large"},
	{453, "Not Enough Bandwidth"},
	{454, "Session Not Found"},
	{461, "Unsupported transport"},
	{500, "Internal Server Error"},
	{501, "Not Implemented"},
	{502, "Bad Gateway"},
	{503, "Service Unavailable"},
	{504, "Gateway Time-out"},
	{505, "RTSP Version not supported"},
	{551, "Option not supported"},
};

static const char *phrase(unsigned status)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(phrases); i++)
		if (phrases[i].status == status)
			return phrases[i].text;
	return "Error";
}

static void begin(struct rtsp_txn *t, unsigned status, const char *cause)
{
	buf_reset(&t->reply);
	buf_printf(&t->reply, "RTSP/1.0 %u %s", status, phrase(status));
	if (cause != NULL)
		buf_printf(&t->reply, " (%s)", cause);
	buf_append_str(&t->reply, "\r\n");
	if (t->has_cseq)
		buf_printf(&t->reply, "CSeq: %" PRIu32 "\r\n", t->cseq);
	if (t->session_id != NULL)
		buf_printf(&t->reply, "Session: %s\r\n", t->session_id);
	if (t->close_after)
		buf_append_str(&t->reply, "Connection: close\r\n");
}

/* Without memory for a reply the connection ends. */
static void finish(struct rtsp_txn *t)
{
	rtsp_setup_abort(t);
	rtsp_txn_timer(t, 0);
	t->state = TXN_DONE;
	if (t->reply.error < 0)
		rtsp_client_kill(t->c);
}

static bool hints(const struct rtsp_txn *t)
{
	const struct rtsp_terms *terms = &t->c->terms;

	return terms->interleaved_hint ||
	       (t->u != NULL && rtsp_plan_hint(terms->plan, &t->u->route.server.addr));
}

void rtsp_reply_failure(struct rtsp_txn *t, unsigned status, const struct failure *f)
{
	const struct cause_info *info = cause_info(f->cause);
	struct failure shown = *f; /* `f` may stand in what is freed below */
	char text[320];
	int n;

	if (status == 0)
		status = info->rtsp_status;
	if (status == 0)
		status = 500;
	if (status == 503 && t->method == RTSP_SETUP && hints(t))
		status = 461; /* leads well-behaved clients to interleaving */
	failure_note(&shown, "rtsp", t->c->name);
	begin(t, status, info->name);
	if (info->retry_after && status != 461)
		buf_printf(&t->reply, "Retry-After: %u\r\n",
			   shown.retry_after > 0 ? shown.retry_after : 5);
	n = snprintf(text, sizeof(text), "sluice: %s%s%s%s: %s\r\n", info->name,
		     shown.middlebox[0] != '\0' ? " (" : "", shown.middlebox,
		     shown.middlebox[0] != '\0' ? ")" : "",
		     shown.detail[0] != '\0' ? shown.detail : info->phrase);
	if (n < 0 || (size_t)n >= sizeof(text))
		n = (int)strlen(text);
	buf_printf(&t->reply, "Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", n, text);
	finish(t);
}

void rtsp_reply_status(struct rtsp_txn *t, unsigned status, enum cause cause, const char *fmt, ...)
{
	struct failure f;
	char detail[sizeof(f.detail)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	failure_set(&f, cause, "", 0, "%s", detail);
	rtsp_reply_failure(t, status, &f);
}

void rtsp_reply_unsupported(struct rtsp_txn *t, struct span features)
{
	size_t i;

	begin(t, 551, "unsupported");
	buf_append_str(&t->reply, "Unsupported: ");
	for (i = 0; i < features.n; i++) { /* line folds become spaces */
		uint8_t c = features.p[i];

		if (c == '\r' || c == '\n' || c == '\t')
			c = ' ';
		buf_append(&t->reply, &c, 1);
	}
	buf_append_str(&t->reply, "\r\n\r\n");
	finish(t);
}

void rtsp_reply_options(struct rtsp_txn *t)
{
	begin(t, 200, NULL);
	buf_append_str(&t->reply,
		       "Public: OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, "
		       "TEARDOWN, GET_PARAMETER, SET_PARAMETER\r\n\r\n");
	finish(t);
}
