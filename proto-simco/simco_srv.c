/*
 * The session machine of the middlebox (RFC 4540 §6 and §7).
 *
 * Readings where the text is silent or contradicts itself:
 *  - 'A session is established' of §6 means state OPEN (§7.1). What fails
 *    before closes the connection; a bad length there gets BFM alone.
 *  - §6(4) against §7.2-7.4: SE in OPEN or NOAUTH and SA in OPEN get 0x0320,
 *    ST works in OPEN and NOAUTH, SA and ST in CLOSED get 0x0311.
 *  - The sub-type of §6(4), 'policy rule deletion (0x15)', is 0x16: PLC works.
 *  - §6(1): a header is inconsistent when its length is more than any request
 *    can have. A wrong basic type is 0x0310, whatever else is wrong with it.
 *  - §6(2): the timer counts from the last octet, also for an incomplete
 *    header; without a session it runs from the beginning.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "proto-simco/simco_int.h"

enum { VERSION_MAJOR = 3, VERSION_MINOR = 0 };

enum srv_event {
	EV_SE,
	EV_SA,
	EV_ST,
	EV_POLICY,
	EV_BAD_BASIC,  /* §6(3) */
	EV_BAD_SUB,    /* §6(4) */
	EV_BAD_FORM,   /* §6(5) */
	EV_BAD_LENGTH, /* §6(1) */
	EV_TIMEOUT,    /* §6(2) */
	EV_TERMINATE,  /* §7.5 */
	N_EVENTS
};

struct pending {
	uint32_t tid;
	uint16_t type;
};

struct simco_srv {
	const struct simco_srv_ops *ops;
	void *arg;
	enum simco_session_state state;
	bool over;     /* the connection is to be closed */
	bool stopped;  /* input waits for replies */
	bool paused;   /* input ends after this message */
	struct buf in; /* the incomplete message */
	struct buf out;
	size_t longest; /* length field that a request can have */
	uint64_t last_octet_ms;
	uint32_t notification_tid;

	struct pending *ring;
	size_t head, n_pending, cap;

	bool extensions_asked;
	uint32_t extensions;
	struct simco_capabilities capabilities;
	uint8_t challenge[64];
	size_t challenge_len;
};

static void set_state(struct simco_srv *s, enum simco_session_state state)
{
	if (s->state == state)
		return;
	s->state = state;
	if (s->ops->state != NULL)
		s->ops->state(s->arg, state);
}

/* Nothing more is sent or read. */
static void end(struct simco_srv *s)
{
	if (s->over)
		return;
	s->over = true;
	s->n_pending = 0;
	buf_reset(&s->in);
	set_state(s, SIMCO_CLOSED);
}

/* A message that cannot be queued ends the session; one that cannot be encoded does not. */
static int send_msg(struct simco_srv *s, const struct simco_msg *m)
{
	long size = simco_encoded_size(m);
	uint8_t *p;

	if (size < 0)
		return (int)size;
	p = buf_reserve(&s->out, (size_t)size);
	if (p == NULL) {
		end(s);
		return SIMCO_ERR_CLOSED;
	}
	simco_encode(m, p, (size_t)size);
	buf_commit(&s->out, (size_t)size);
	return SIMCO_OK;
}

/* A message of the machine itself; the caller of the library can make it impossible. */
static bool send_own(struct simco_srv *s, const struct simco_msg *m)
{
	if (send_msg(s, m) == SIMCO_OK)
		return true;
	end(s);
	return false;
}

/* §4.2.5: the TIDs of notifications are unique within the session. */
static void notify(struct simco_srv *s, uint16_t type)
{
	send_own(s, &(struct simco_msg){.type = type, .tid = ++s->notification_tid});
}

static void act_refuse(struct simco_srv *s, const struct simco_msg *m, uint16_t code)
{
	send_own(s, &(struct simco_msg){
			    .type = code,
			    .tid = m->tid,
			    .version = {VERSION_MAJOR, VERSION_MINOR},
		    });
}

static void act_refuse_close(struct simco_srv *s, const struct simco_msg *m, uint16_t code)
{
	act_refuse(s, m, code);
	end(s);
}

static void act_bfm_close(struct simco_srv *s, const struct simco_msg *m ATTR_UNUSED,
			  uint16_t code ATTR_UNUSED)
{
	notify(s, SIMCO_BFM);
	end(s);
}

static void act_bfm_ast_close(struct simco_srv *s, const struct simco_msg *m ATTR_UNUSED,
			      uint16_t code ATTR_UNUSED)
{
	notify(s, SIMCO_BFM);
	notify(s, SIMCO_AST);
	end(s);
}

/* §7.5 */
static void act_ast_close(struct simco_srv *s, const struct simco_msg *m ATTR_UNUSED,
			  uint16_t code ATTR_UNUSED)
{
	notify(s, SIMCO_AST);
	end(s);
}

static void act_close(struct simco_srv *s, const struct simco_msg *m ATTR_UNUSED,
		      uint16_t code ATTR_UNUSED)
{
	end(s);
}

/* The SE reply goes out before anybody learns that the session is open. */
static void open_session(struct simco_srv *s, uint32_t tid)
{
	struct simco_msg m = {
		.type = SIMCO_SE_REP,
		.tid = tid,
		.capabilities = s->capabilities,
		.has_extensions = s->extensions_asked,
		.extensions = s->extensions,
	};

	if (send_own(s, &m))
		set_state(s, SIMCO_OPEN);
}

/* What may be refused before the version is looked at (§7.2). */
static bool before_version(uint16_t refuse)
{
	return refuse == SIMCO_LACK_OF_RESOURCES || refuse == SIMCO_TRANSPORT_PROBLEM ||
	       refuse == SIMCO_SECURITY_INSUFFICIENT;
}

static bool version_supported(const struct simco_msg *m)
{
	return m->version.major == VERSION_MAJOR && m->version.minor == VERSION_MINOR;
}

static void demand_authentication(struct simco_srv *s, const struct simco_msg *m,
				  const struct simco_admission *adm)
{
	struct simco_msg rep = {
		.type = SIMCO_SA_REP,
		.tid = m->tid,
		.has_challenge = adm->challenge_agent,
		.challenge = adm->challenge,
		.challenge_len = adm->challenge_len,
		.has_token = m->has_challenge,
		.token = adm->token,
		.token_len = adm->token_len,
	};

	assert(adm->challenge_len <= sizeof(s->challenge));
	memcpy(s->challenge, adm->challenge, adm->challenge_len);
	s->challenge_len = adm->challenge_len;
	if (send_own(s, &rep))
		set_state(s, SIMCO_NOAUTH);
}

/* §7.2 */
static void act_establish(struct simco_srv *s, const struct simco_msg *m, uint16_t code ATTR_UNUSED)
{
	struct simco_admission adm;

	memset(&adm, 0, sizeof(adm));
	s->ops->establish(s->arg, m, &adm);
	if (s->over)
		return;
	if (!version_supported(m) && !before_version(adm.refuse))
		adm.refuse = SIMCO_VERSION_MISMATCH;
	if (adm.refuse != 0) {
		act_refuse_close(s, m, adm.refuse);
		return;
	}
	s->capabilities = adm.capabilities;
	s->extensions_asked = m->has_extensions;
	s->extensions = m->extensions & adm.extensions;
	if (m->has_challenge || adm.challenge_agent)
		demand_authentication(s, m, &adm);
	else
		open_session(s, m->tid);
}

/* §7.3 */
static void act_authenticate(struct simco_srv *s, const struct simco_msg *m,
			     uint16_t code ATTR_UNUSED)
{
	struct simco_admission adm;

	memset(&adm, 0, sizeof(adm));
	memcpy(adm.challenge, s->challenge, s->challenge_len);
	adm.challenge_len = s->challenge_len;
	adm.capabilities = s->capabilities;
	adm.extensions = s->extensions;
	s->ops->authenticate(s->arg, m, &adm);
	if (s->over)
		return;
	if (adm.refuse != 0) {
		act_refuse_close(s, m, adm.refuse);
		return;
	}
	s->capabilities = adm.capabilities;
	s->extensions &= adm.extensions;
	open_session(s, m->tid);
}

/* §7.4 */
static void act_terminate(struct simco_srv *s, const struct simco_msg *m, uint16_t code ATTR_UNUSED)
{
	send_own(s, &(struct simco_msg){.type = SIMCO_ST_REP, .tid = m->tid});
	end(s);
}

static bool ring_push(struct simco_srv *s, const struct simco_msg *m)
{
	if (s->n_pending == s->cap) {
		size_t cap = s->cap > 0 ? s->cap * 2 : 16;
		struct pending *ring = malloc(cap * sizeof(*ring));

		if (ring == NULL)
			return false;
		for (size_t i = 0; i < s->n_pending; i++)
			ring[i] = s->ring[(s->head + i) % s->cap];
		free(s->ring);
		s->ring = ring;
		s->head = 0;
		s->cap = cap;
	}
	s->ring[(s->head + s->n_pending++) % s->cap] = (struct pending){m->tid, m->type};
	return true;
}

/* §6(6): the request goes to the rule machine. */
static void act_request(struct simco_srv *s, const struct simco_msg *m, uint16_t code ATTR_UNUSED)
{
	if (ring_push(s, m))
		s->ops->request(s->arg, m);
	else
		end(s);
}

/* What happens in a state on an event; `parse`: only when the attributes comply. */
struct srv_row {
	void (*act)(struct simco_srv *s, const struct simco_msg *m, uint16_t code);
	uint16_t code;
	bool parse;
};

/* clang-format off */
static const struct srv_row rows[][N_EVENTS] = {
	[SIMCO_CLOSED] = {
		[EV_SE]         = {act_establish, 0, true},
		[EV_SA]         = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_ST]         = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_POLICY]     = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_BAD_BASIC]  = {act_refuse_close, SIMCO_WRONG_BASIC_TYPE, false},
		[EV_BAD_SUB]    = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_BAD_FORM]   = {act_refuse_close, SIMCO_BADLY_FORMED_REQUEST, false},
		[EV_BAD_LENGTH] = {act_bfm_close, 0, false},
		[EV_TIMEOUT]    = {act_bfm_close, 0, false},
		[EV_TERMINATE]  = {act_close, 0, false},
	},
	[SIMCO_NOAUTH] = {
		[EV_SE]         = {act_refuse, SIMCO_NOT_APPLICABLE, true},
		[EV_SA]         = {act_authenticate, 0, true},
		[EV_ST]         = {act_terminate, 0, true},
		[EV_POLICY]     = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_BAD_BASIC]  = {act_refuse_close, SIMCO_WRONG_BASIC_TYPE, false},
		[EV_BAD_SUB]    = {act_refuse_close, SIMCO_WRONG_SUB_TYPE, false},
		[EV_BAD_FORM]   = {act_refuse_close, SIMCO_BADLY_FORMED_REQUEST, false},
		[EV_BAD_LENGTH] = {act_bfm_close, 0, false},
		[EV_TIMEOUT]    = {act_bfm_close, 0, false},
		[EV_TERMINATE]  = {act_ast_close, 0, false},
	},
	[SIMCO_OPEN] = {
		[EV_SE]         = {act_refuse, SIMCO_NOT_APPLICABLE, true},
		[EV_SA]         = {act_refuse, SIMCO_NOT_APPLICABLE, true},
		[EV_ST]         = {act_terminate, 0, true},
		[EV_POLICY]     = {act_request, 0, true},
		[EV_BAD_BASIC]  = {act_refuse, SIMCO_WRONG_BASIC_TYPE, false},
		[EV_BAD_SUB]    = {act_refuse, SIMCO_WRONG_SUB_TYPE, false},
		[EV_BAD_FORM]   = {act_refuse, SIMCO_BADLY_FORMED_REQUEST, false},
		[EV_BAD_LENGTH] = {act_bfm_ast_close, 0, false},
		[EV_TIMEOUT]    = {act_bfm_ast_close, 0, false},
		[EV_TERMINATE]  = {act_ast_close, 0, false},
	},
};
/* clang-format on */

static enum srv_event classify(uint16_t type)
{
	if (type >> 8 != SIMCO_REQUEST)
		return EV_BAD_BASIC;
	switch (type) {
	case SIMCO_SE_REQ:
		return EV_SE;
	case SIMCO_SA_REQ:
		return EV_SA;
	case SIMCO_ST_REQ:
		return EV_ST;
	default:
		return simco_is_policy_request(type) ? EV_POLICY : EV_BAD_SUB;
	}
}

/* Replies keep the order of requests, and unanswered requests are bounded. */
static bool must_wait(const struct simco_srv *s, const struct srv_row *row)
{
	if (row->act == act_request)
		return s->n_pending >= SIMCO_SRV_PENDING_MAX;
	return s->n_pending > 0;
}

enum progress { INCOMPLETE, WAIT, DONE };

/* Looks at the message at the front of `in`, acts on it when it is complete. */
static enum progress consider(struct simco_srv *s, struct span in)
{
	const struct srv_row *row;
	struct simco_msg m = {.type = 0};
	uint16_t length;
	size_t used;

	if (simco_decode_header(in.p, in.n, &m.type, &length, &m.tid) != SIMCO_OK)
		return INCOMPLETE;
	if (length > s->longest) {
		row = &rows[s->state][EV_BAD_LENGTH];
	} else if (in.n - SIMCO_HEADER_LEN < length) {
		return INCOMPLETE;
	} else {
		row = &rows[s->state][classify(m.type)];
		if (row->parse && simco_decode(&m, in.p, in.n, &used) != SIMCO_OK)
			row = &rows[s->state][EV_BAD_FORM];
	}
	if (must_wait(s, row))
		return WAIT;
	row->act(s, &m, row->code);
	return DONE;
}

static size_t message_size(struct span in)
{
	uint16_t type, length;
	uint32_t tid;

	if (simco_decode_header(in.p, in.n, &type, &length, &tid) != SIMCO_OK)
		return SIMCO_HEADER_LEN;
	return SIMCO_HEADER_LEN + (size_t)length;
}

static bool keep(struct simco_srv *s, struct span in)
{
	if (buf_append_span(&s->in, in) == 0)
		return true;
	end(s);
	return false;
}

/* A message, or the beginning of one, straight from the input. Octets used. */
static size_t feed_fresh(struct simco_srv *s, struct span in)
{
	switch (consider(s, in)) {
	case INCOMPLETE:
		return keep(s, in) ? in.n : 0;
	case WAIT:
		return 0;
	default:
		return s->over ? in.n : message_size(in);
	}
}

/*
 * Completes the header or the message begun earlier. When that has to wait, its
 * last octets stay with the caller, so that there is always something to feed
 * again.
 */
static size_t feed_more(struct simco_srv *s, struct span in)
{
	size_t missing = message_size(buf_span(&s->in)) - s->in.len;
	struct span more = span_sub(in, 0, missing);

	if (!keep(s, more))
		return 0;
	switch (consider(s, buf_span(&s->in))) {
	case INCOMPLETE:
		break;
	case WAIT:
		s->in.len -= more.n;
		return 0;
	default:
		buf_reset(&s->in);
	}
	return more.n;
}

int simco_srv_input(struct simco_srv *s, const void *in, size_t n, size_t *used, uint64_t now_ms)
{
	struct span rest = span_of(in, n);

	s->stopped = s->paused = false;
	while (!s->over && !s->paused && rest.n > 0) {
		size_t took = s->in.len > 0 ? feed_more(s, rest) : feed_fresh(s, rest);

		if (took == 0) {
			s->stopped = true;
			break;
		}
		s->last_octet_ms = now_ms;
		rest = span_sub(rest, took, SIZE_MAX);
	}
	/* Requests after ST, or after whatever else ended the session, are ignored (§7.4). */
	*used = s->over ? n : n - rest.n;
	return s->over ? SIMCO_ERR_CLOSED : SIMCO_OK;
}

int simco_srv_reply(struct simco_srv *s, struct simco_msg *reply)
{
	struct pending req;
	int err;

	if (s->over || s->n_pending == 0)
		return SIMCO_ERR_STATE;
	req = s->ring[s->head];
	if (!simco_reply_fits(req.type, reply->type))
		return SIMCO_ERR_MALFORMED;
	reply->tid = req.tid;
	if (!(s->extensions & SIMCO_EXT_ACTIVITY))
		reply->has_activity = false;
	err = send_msg(s, reply);
	if (err == SIMCO_ERR_TOOBIG)
		err = send_msg(s, &(struct simco_msg){.type = SIMCO_REPLY_TOO_BIG, .tid = req.tid});
	if (err == SIMCO_OK) {
		s->head = (s->head + 1) % s->cap;
		s->n_pending--;
	}
	return err;
}

int simco_srv_event(struct simco_srv *s, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	struct simco_msg m = {
		.type = SIMCO_ARE, .pid = pid, .lifetime = lifetime, .reason = reason};

	if (s->state != SIMCO_OPEN)
		return SIMCO_ERR_STATE;
	m.has_reason = lifetime == 0 && (s->extensions & SIMCO_EXT_REASON);
	m.tid = ++s->notification_tid;
	return send_msg(s, &m);
}

static void spontaneous(struct simco_srv *s, enum srv_event event)
{
	const struct srv_row *row = &rows[s->state][event];

	if (!s->over)
		row->act(s, NULL, row->code);
}

void simco_srv_terminate(struct simco_srv *s)
{
	spontaneous(s, EV_TERMINATE);
}

/* While replies are due the agent is not the one to wait for. */
uint64_t simco_srv_deadline(const struct simco_srv *s)
{
	if (s->over || s->stopped || s->n_pending > 0)
		return UINT64_MAX;
	if (s->state == SIMCO_OPEN && s->in.len == 0)
		return UINT64_MAX;
	return s->last_octet_ms + SIMCO_RECEIVE_TIMEOUT_MS;
}

int simco_srv_timeout(struct simco_srv *s, uint64_t now_ms)
{
	if (now_ms >= simco_srv_deadline(s))
		spontaneous(s, EV_TIMEOUT);
	return s->over ? SIMCO_ERR_CLOSED : SIMCO_OK;
}

enum simco_session_state simco_srv_state(const struct simco_srv *s)
{
	return s->state;
}

uint32_t simco_srv_extensions(const struct simco_srv *s)
{
	return s->extensions;
}

void simco_srv_pause(struct simco_srv *s)
{
	s->paused = true;
}

size_t simco_srv_pending(const struct simco_srv *s)
{
	return s->n_pending;
}

const uint8_t *simco_srv_output(const struct simco_srv *s, size_t *n)
{
	struct span out = buf_span(&s->out);

	*n = out.n;
	return out.p;
}

void simco_srv_sent(struct simco_srv *s, size_t n)
{
	buf_consume(&s->out, n);
}

struct simco_srv *simco_srv_new(const struct simco_srv_ops *ops, void *arg, size_t max_output,
				uint64_t now_ms)
{
	struct simco_srv *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->ops = ops;
	s->arg = arg;
	s->longest = simco_request_max();
	s->last_octet_ms = now_ms;
	buf_init(&s->in, SIMCO_HEADER_LEN + s->longest);
	buf_init(&s->out, max_output);
	return s;
}

void simco_srv_free(struct simco_srv *s)
{
	if (s == NULL)
		return;
	buf_fini(&s->in);
	buf_fini(&s->out);
	free(s->ring);
	free(s);
}
