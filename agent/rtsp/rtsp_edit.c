/*
 * Edits on original octets.
 */
#include "agent/rtsp/rtsp_edit.h"

#include "common/errcode.h"

#define ARENA_MAX 65536

void rtsp_edits_init(struct rtsp_edits *e)
{
	e->n = 0;
	e->error = 0;
	buf_init(&e->arena, ARENA_MAX);
}

void rtsp_edits_fini(struct rtsp_edits *e)
{
	buf_fini(&e->arena);
}

/* Insertion sort, stable: edits come nearly in order. */
static struct rtsp_edit *add(struct rtsp_edits *e, size_t off, size_t del)
{
	size_t i;

	if (e->n == RTSP_MAX_EDITS) {
		e->error = ERR_TOOBIG;
		return NULL;
	}
	for (i = e->n++; i > 0 && e->v[i - 1].off > off; i--)
		e->v[i] = e->v[i - 1];
	e->v[i] = (struct rtsp_edit){.off = off, .del = del, .text = e->arena.len};
	return &e->v[i];
}

void rtsp_edit_replace(struct rtsp_edits *e, size_t off, size_t del, struct span text)
{
	struct rtsp_edit *edit = add(e, off, del);
	int err;

	if (edit == NULL)
		return;
	err = buf_append_span(&e->arena, text);
	if (err < 0)
		e->error = err;
	else
		edit->text_len = text.n;
}

void rtsp_edit_printf(struct rtsp_edits *e, size_t off, size_t del, const char *fmt, ...)
{
	struct rtsp_edit *edit = add(e, off, del);
	va_list ap;
	int err;

	if (edit == NULL)
		return;
	va_start(ap, fmt);
	err = buf_vprintf(&e->arena, fmt, ap);
	va_end(ap);
	if (err < 0)
		e->error = err;
	else
		edit->text_len = e->arena.len - edit->text;
}

int rtsp_edits_apply(struct rtsp_edits *e, struct span original, struct buf *out)
{
	struct span arena = buf_span(&e->arena);
	size_t at = 0, i;

	if (e->error < 0)
		return e->error;
	for (i = 0; i < e->n; i++) {
		const struct rtsp_edit *d = &e->v[i];

		if (d->off < at || d->off > original.n || d->del > original.n - d->off)
			return ERR_INVALID;
		buf_append_span(out, span_sub(original, at, d->off - at));
		buf_append_span(out, span_sub(arena, d->text, d->text_len));
		at = d->off + d->del;
	}
	buf_append_span(out, span_sub(original, at, original.n - at));
	return out->error;
}
