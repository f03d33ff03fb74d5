/*
 * Sessions as JSON for the REST interface.
 */
#include <inttypes.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"

static void timeline_json(const struct rtsp_engine *e, const struct rtsp_timeline *l,
			  struct jsonw *w)
{
	uint64_t now = rtsp_now(e);
	unsigned i, first = l->n > RTSP_TIMELINE ? l->n - RTSP_TIMELINE : 0;

	jsonw_array(w, "timeline");
	for (i = first; i < l->n; i++) {
		jsonw_object(w, NULL);
		jsonw_uint(w, "ms_ago", now - l->v[i % RTSP_TIMELINE].ms);
		jsonw_str(w, "event", l->v[i % RTSP_TIMELINE].what);
		jsonw_object_end(w);
	}
	jsonw_array_end(w);
}

static void component_json(const struct rtsp_stream *st, unsigned i, struct jsonw *w)
{
	const struct rtsp_io *io = st->e->io;
	struct addr_port outside = {0};
	uint64_t idle = UINT64_MAX;

	if (st->binding != NULL) {
		outside = io->outside(st->binding, i);
		idle = rtsp_relay_idle_ms(st, i);
	}
	jsonw_object(w, NULL);
	jsonw_addr_port(w, "client", &st->ends[i].internal);
	if (outside.addr.version != 0)
		jsonw_addr_port(w, "outside", &outside);
	jsonw_addr_port(w, "server", &st->ends[i].external);
	if (idle != UINT64_MAX)
		jsonw_uint(w, "client_idle_ms", idle);
	rtsp_relay_json(st, i, w);
	jsonw_object_end(w);
}

static void stream_json(const struct rtsp_stream *st, struct jsonw *w)
{
	unsigned i;

	jsonw_object(w, NULL);
	jsonw_str(w, "uri", st->uri);
	jsonw_str(w, "state", rtsp_stream_state_name(st->state));
	jsonw_str(w, "transport", st->protocol);
	jsonw_str(w, "mode", st->record ? "record" : "play");
	if (st->state == STREAM_INTERLEAVED) {
		if (st->has_channels) {
			jsonw_uint(w, "channel_first", st->channel_first);
			jsonw_uint(w, "channel_last", st->channel_last);
		}
	} else {
		jsonw_str(w, "binding",
			  st->binding != NULL ? st->e->io->binding_state(st->binding) : NULL);
		jsonw_array(w, "components");
		for (i = 0; i < st->components; i++)
			component_json(st, i, w);
		jsonw_array_end(w);
	}
	timeline_json(st->e, &st->timeline, w);
	jsonw_object_end(w);
}

static const char *way_in(enum rtsp_mode mode)
{
	switch (mode) {
	case RTSP_FORWARD:
		return "forward";
	case RTSP_REVERSE:
		return "reverse";
	case RTSP_TRANSPARENT:
		return "transparent";
	}
	return "?";
}

static void session_json(const struct rtsp_session *s, struct jsonw *w)
{
	uint64_t now = rtsp_now(s->e);
	const struct rtsp_stream *st;

	jsonw_object(w, NULL);
	jsonw_str(w, "id", s->name);
	jsonw_str(w, "module", "rtsp");
	jsonw_str(w, "session", s->id);
	jsonw_addr(w, "client", &s->client);
	jsonw_addr_port(w, "server", &s->server);
	jsonw_str(w, "way_in", way_in(s->mode));
	jsonw_str(w, "way_out", s->relay ? "relay" : s->rewrite ? "rewrite" : "transparent");
	jsonw_str(w, "state", rtsp_session_state_name(s->state));
	jsonw_uint(w, "timeout", s->timeout_s);
	jsonw_uint(w, "age_ms", now - s->started_ms);
	jsonw_uint(w, "last_request_ms", now - s->seen_ms);
	jsonw_array(w, "streams");
	for (st = s->streams; st != NULL; st = st->next)
		stream_json(st, w);
	jsonw_array_end(w);
	timeline_json(s->e, &s->timeline, w);
	jsonw_object_end(w);
}

uint64_t rtsp_engine_list(struct rtsp_engine *e, uint64_t after, unsigned limit, struct jsonw *w)
{
	const struct rtsp_session *s;
	uint64_t last = 0;

	for (s = e->sessions; s != NULL; s = s->next) {
		if (s->serial <= after)
			continue;
		if (limit-- == 0)
			return last;
		session_json(s, w);
		last = s->serial;
	}
	return 0;
}

static struct rtsp_session *by_name(const struct rtsp_engine *e, const char *id)
{
	struct rtsp_session *s;

	for (s = e->sessions; s != NULL && strcmp(s->name, id) != 0; s = s->next)
		;
	return s;
}

bool rtsp_engine_show(struct rtsp_engine *e, const char *id, struct jsonw *w)
{
	const struct rtsp_session *s = by_name(e, id);

	if (s != NULL)
		session_json(s, w);
	return s != NULL;
}

bool rtsp_engine_end(struct rtsp_engine *e, const char *id)
{
	struct rtsp_session *s = by_name(e, id);
	struct failure f;

	if (s == NULL)
		return false;
	failure_set(&f, CAUSE_OPERATOR, "", 0, "ended by the operator");
	rtsp_engine_enter(e);
	rtsp_session_end_hard(s, &f);
	rtsp_engine_leave(e);
	return true;
}
