/*
 * The two state machines of an RTSP session as tables: that of one stream
 * (what becomes of its SETUP and its binding) and that of the whole session
 * (RFC 2326 appendix A, seen from the middle). No input, no output, no time.
 */
#ifndef SLUICE_AGENT_RTSP_FSM_H
#define SLUICE_AGENT_RTSP_FSM_H

#include "agent/rtsp/rtsp_msg.h"

enum rtsp_stream_state {
	STREAM_NEW,	    /* SETUP arrived, nothing asked yet */
	STREAM_RESERVING,   /* binding asked for */
	STREAM_OFFERED,	    /* SETUP goes or went to the server, half bound if UDP is offered */
	STREAM_DOOMED,	    /* as OFFERED, but the reservation was lost meanwhile */
	STREAM_ENABLING,    /* server chose UDP, its reply is held until the kernel is ready */
	STREAM_OPEN,	    /* pinholes open */
	STREAM_INTERLEAVED, /* media in the control connection */
	STREAM_CLOSED,
	STREAM_STATE_MAX
};

enum rtsp_stream_event {
	STREAM_EV_UDP, /* SETUP offers UDP */
	STREAM_EV_TCP, /* SETUP offers interleaving only, or that is all that is left */
	STREAM_EV_HALF_BOUND,
	STREAM_EV_BIND_FAILED, /* refused, failed, lost or too slow */
	STREAM_EV_REPLY_UDP,   /* 2xx, UDP, usable */
	STREAM_EV_REPLY_TCP,   /* 2xx, interleaved */
	STREAM_EV_REPLY_BAD,   /* 2xx that cannot be used */
	STREAM_EV_REFUSED,     /* any other final reply, or none came */
	STREAM_EV_BOUND,
	STREAM_EV_END, /* TEARDOWN accepted, connection or session over */
	STREAM_EVENT_MAX
};

enum rtsp_stream_action {
	STREAM_DO_NOTHING,
	STREAM_DO_RESERVE,	/* binding_new() */
	STREAM_DO_SEND,		/* pass the SETUP on */
	STREAM_DO_ENABLE,	/* binding_enable() */
	STREAM_DO_PASS,		/* pass the reply on, the stream is up */
	STREAM_DO_PASS_REFUSAL, /* release, pass the reply on */
	STREAM_DO_FAIL,		/* release, own error; the server knows nothing of it */
	STREAM_DO_UNDO,		/* TEARDOWN to the server, release, own error */
	STREAM_DO_END_SESSION,	/* TEARDOWN of the session, client closed */
	STREAM_DO_RELEASE,
	STREAM_DO_RELEASE_UNDO, /* the client left while its SETUP was accepted */
	STREAM_ACTION_MAX
};

struct rtsp_stream_step {
	enum rtsp_stream_state next;
	enum rtsp_stream_action action;
};

struct rtsp_stream_step rtsp_stream_step(enum rtsp_stream_state s, enum rtsp_stream_event ev);
const char *rtsp_stream_state_name(enum rtsp_stream_state s);
const char *rtsp_stream_event_name(enum rtsp_stream_event ev);

enum rtsp_session_state { SESSION_READY, SESSION_PLAYING, SESSION_RECORDING, SESSION_STATE_MAX };

/* After a 2xx to `m`. */
enum rtsp_session_state rtsp_session_step(enum rtsp_session_state s, enum rtsp_method m);
const char *rtsp_session_state_name(enum rtsp_session_state s);

#endif
