/*
 * A list of changes to a message, by octet offset into the original. Whatever
 * is not edited goes out exactly as it came in.
 */
#ifndef SLUICE_AGENT_RTSP_EDIT_H
#define SLUICE_AGENT_RTSP_EDIT_H

#include "common/base.h"
#include "common/buf.h"
#include "common/span.h"

#define RTSP_MAX_EDITS 192

struct rtsp_edits {
	struct rtsp_edit {
		size_t off, del;       /* original octets that go away; del 0 inserts */
		size_t text, text_len; /* what comes instead, in `arena` */
	} v[RTSP_MAX_EDITS];
	size_t n;
	struct buf arena;
	int error; /* sticky: ERR_TOOBIG, ERR_NOMEM, ERR_INVALID (overlap) */
};

void rtsp_edits_init(struct rtsp_edits *e);
void rtsp_edits_fini(struct rtsp_edits *e);
/* Edits may be added in any order; those at one place apply in the order of adding. */
void rtsp_edit_replace(struct rtsp_edits *e, size_t off, size_t del, struct span text);
void rtsp_edit_printf(struct rtsp_edits *e, size_t off, size_t del, const char *fmt, ...)
	ATTR_PRINTF(4, 5);
/* Appends the edited message to `out`. 0, or the first error of edits or buffer. */
int rtsp_edits_apply(struct rtsp_edits *e, struct span original, struct buf *out);

#endif
