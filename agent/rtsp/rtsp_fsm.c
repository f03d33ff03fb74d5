/*
 * State tables of the RTSP proxy.
 */
#include "agent/rtsp/rtsp_fsm.h"

#define STAY(s)                                                                                    \
	{                                                                                          \
		STREAM_##s, STREAM_DO_NOTHING                                                      \
	}
#define GO(s, a)                                                                                   \
	{                                                                                          \
		STREAM_##s, STREAM_DO_##a                                                          \
	}

/*
 * Every pair is filled. Late events (a binding reports after the stream is
 * closed, a server answers twice) stay where they are.
 */
static const struct rtsp_stream_step table[STREAM_STATE_MAX][STREAM_EVENT_MAX] =
	{
		[STREAM_NEW] =
			{
				[STREAM_EV_UDP] = GO(RESERVING, RESERVE),
				[STREAM_EV_TCP] = GO(OFFERED, SEND),
				[STREAM_EV_HALF_BOUND] = STAY(NEW),
				[STREAM_EV_BIND_FAILED] = GO(CLOSED, FAIL),
				[STREAM_EV_REPLY_UDP] = STAY(NEW),
				[STREAM_EV_REPLY_TCP] = STAY(NEW),
				[STREAM_EV_REPLY_BAD] = STAY(NEW),
				[STREAM_EV_REFUSED] = GO(CLOSED, FAIL),
				[STREAM_EV_BOUND] = STAY(NEW),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_RESERVING] =
			{
				[STREAM_EV_UDP] = STAY(RESERVING),
				[STREAM_EV_TCP] = GO(OFFERED, SEND),
				[STREAM_EV_HALF_BOUND] = GO(OFFERED, SEND),
				[STREAM_EV_BIND_FAILED] = GO(CLOSED, FAIL),
				[STREAM_EV_REPLY_UDP] = STAY(RESERVING),
				[STREAM_EV_REPLY_TCP] = STAY(RESERVING),
				[STREAM_EV_REPLY_BAD] = STAY(RESERVING),
				[STREAM_EV_REFUSED] = GO(CLOSED, FAIL),
				[STREAM_EV_BOUND] = STAY(RESERVING),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_OFFERED] =
			{
				[STREAM_EV_UDP] = STAY(OFFERED),
				[STREAM_EV_TCP] = STAY(OFFERED),
				[STREAM_EV_HALF_BOUND] = STAY(OFFERED),
				[STREAM_EV_BIND_FAILED] = STAY(DOOMED),
				[STREAM_EV_REPLY_UDP] = GO(ENABLING, ENABLE),
				[STREAM_EV_REPLY_TCP] = GO(INTERLEAVED, PASS),
				[STREAM_EV_REPLY_BAD] = GO(CLOSED, UNDO),
				[STREAM_EV_REFUSED] = GO(CLOSED, PASS_REFUSAL),
				[STREAM_EV_BOUND] = STAY(OFFERED),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_DOOMED] =
			{
				[STREAM_EV_UDP] = STAY(DOOMED),
				[STREAM_EV_TCP] = STAY(DOOMED),
				[STREAM_EV_HALF_BOUND] = STAY(DOOMED),
				[STREAM_EV_BIND_FAILED] = STAY(DOOMED),
				[STREAM_EV_REPLY_UDP] = GO(CLOSED, UNDO),
				[STREAM_EV_REPLY_TCP] = GO(INTERLEAVED, PASS),
				[STREAM_EV_REPLY_BAD] = GO(CLOSED, UNDO),
				[STREAM_EV_REFUSED] = GO(CLOSED, PASS_REFUSAL),
				[STREAM_EV_BOUND] = STAY(DOOMED),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_ENABLING] =
			{
				[STREAM_EV_UDP] = STAY(ENABLING),
				[STREAM_EV_TCP] = STAY(ENABLING),
				[STREAM_EV_HALF_BOUND] = STAY(ENABLING),
				[STREAM_EV_BIND_FAILED] = GO(CLOSED, UNDO),
				[STREAM_EV_REPLY_UDP] = STAY(ENABLING),
				[STREAM_EV_REPLY_TCP] = STAY(ENABLING),
				[STREAM_EV_REPLY_BAD] = STAY(ENABLING),
				[STREAM_EV_REFUSED] = GO(CLOSED, UNDO),
				[STREAM_EV_BOUND] = GO(OPEN, PASS),
				[STREAM_EV_END] = GO(CLOSED, RELEASE_UNDO),
			},
		[STREAM_OPEN] =
			{
				[STREAM_EV_UDP] = STAY(OPEN),
				[STREAM_EV_TCP] = STAY(OPEN),
				[STREAM_EV_HALF_BOUND] = STAY(OPEN),
				[STREAM_EV_BIND_FAILED] = GO(CLOSED, END_SESSION),
				[STREAM_EV_REPLY_UDP] = STAY(OPEN),
				[STREAM_EV_REPLY_TCP] = STAY(OPEN),
				[STREAM_EV_REPLY_BAD] = STAY(OPEN),
				[STREAM_EV_REFUSED] = STAY(OPEN),
				[STREAM_EV_BOUND] = STAY(OPEN),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_INTERLEAVED] =
			{
				[STREAM_EV_UDP] = STAY(INTERLEAVED),
				[STREAM_EV_TCP] = STAY(INTERLEAVED),
				[STREAM_EV_HALF_BOUND] = STAY(INTERLEAVED),
				[STREAM_EV_BIND_FAILED] = STAY(INTERLEAVED),
				[STREAM_EV_REPLY_UDP] = STAY(INTERLEAVED),
				[STREAM_EV_REPLY_TCP] = STAY(INTERLEAVED),
				[STREAM_EV_REPLY_BAD] = STAY(INTERLEAVED),
				[STREAM_EV_REFUSED] = STAY(INTERLEAVED),
				[STREAM_EV_BOUND] = STAY(INTERLEAVED),
				[STREAM_EV_END] = GO(CLOSED, RELEASE),
			},
		[STREAM_CLOSED] =
			{
				[STREAM_EV_UDP] = STAY(CLOSED),
				[STREAM_EV_TCP] = STAY(CLOSED),
				[STREAM_EV_HALF_BOUND] = STAY(CLOSED),
				[STREAM_EV_BIND_FAILED] = STAY(CLOSED),
				[STREAM_EV_REPLY_UDP] = STAY(CLOSED),
				[STREAM_EV_REPLY_TCP] = STAY(CLOSED),
				[STREAM_EV_REPLY_BAD] = STAY(CLOSED),
				[STREAM_EV_REFUSED] = STAY(CLOSED),
				[STREAM_EV_BOUND] = STAY(CLOSED),
				[STREAM_EV_END] = STAY(CLOSED),
			},
};

struct rtsp_stream_step rtsp_stream_step(enum rtsp_stream_state s, enum rtsp_stream_event ev)
{
	return table[s][ev];
}

const char *rtsp_stream_state_name(enum rtsp_stream_state s)
{
	static const char *const names[STREAM_STATE_MAX] = {
		"new",	    "reserving", "offered",	"doomed",
		"enabling", "open",	 "interleaved", "closed",
	};

	return (unsigned)s < STREAM_STATE_MAX ? names[s] : "?";
}

const char *rtsp_stream_event_name(enum rtsp_stream_event ev)
{
	static const char *const names[STREAM_EVENT_MAX] = {
		"udp",	     "tcp",	  "half-bound", "bind-failed", "reply-udp",
		"reply-tcp", "reply-bad", "refused",	"bound",       "end",
	};

	return (unsigned)ev < STREAM_EVENT_MAX ? names[ev] : "?";
}

/* RFC 2326 §A.2: the server's table; SETUP in Playing changes nothing. */
enum rtsp_session_state rtsp_session_step(enum rtsp_session_state s, enum rtsp_method m)
{
	switch (m) {
	case RTSP_PLAY:
		return SESSION_PLAYING;
	case RTSP_RECORD:
		return SESSION_RECORDING;
	case RTSP_PAUSE:
		return SESSION_READY;
	default:
		return s;
	}
}

const char *rtsp_session_state_name(enum rtsp_session_state s)
{
	static const char *const names[SESSION_STATE_MAX] = {"ready", "playing", "recording"};

	return (unsigned)s < SESSION_STATE_MAX ? names[s] : "?";
}
