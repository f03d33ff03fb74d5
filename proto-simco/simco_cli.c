/*
 * The session machine of the agent (RFC 4540 §3, §7): sets the session up,
 * matches replies to pipelined requests by TID, ends at the first message that
 * a middlebox may not send.
 */
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "proto-simco/simco_int.h"

enum { VERSION_MAJOR = 3, VERSION_MINOR = 0 };

enum cli_phase {
	PH_OVER, /* no session: before the first start and after each end */
	PH_SE,	 /* SE sent */
	PH_SA,	 /* SA sent */
	PH_OPEN,
	PH_ST, /* ST sent */
	N_PHASES
};

enum cli_event {
	EV_SE,
	EV_SA,
	EV_ST,
	EV_POLICY, /* positive reply about policy rules */
	EV_NEGATIVE,
	EV_ARE,
	EV_END, /* BFM or AST */
	EV_GARBAGE,
	N_EVENTS
};

struct request {
	simco_reply_fn fn;
	void *arg;
	uint16_t type;
	bool done;
};

struct simco_cli {
	const struct simco_cli_ops *ops;
	void *arg;
	struct simco_cli_opts opts;
	uint8_t *challenge; /* owned */
	enum cli_phase phase;
	struct buf in; /* the incomplete message */
	struct buf out;
	uint32_t next_tid;
	uint32_t control_tid; /* of SE, SA or ST, whichever is unanswered */
	bool plain;	      /* the middlebox does not know extensions */
	bool retry;
	bool extensions_asked;
	uint32_t extensions; /* agreed on */

	/* Requests in the order of their TIDs, which follow each other. */
	struct request *ring;
	size_t head, n_ring, cap;
	uint32_t head_tid;
	size_t n_pending;
};

static int send_msg(struct simco_cli *c, struct simco_msg *m)
{
	long size;
	uint8_t *p;

	m->tid = c->next_tid;
	size = simco_encoded_size(m);
	if (size < 0)
		return SIMCO_ERR_MALFORMED;
	p = buf_reserve(&c->out, (size_t)size);
	if (p == NULL)
		return SIMCO_ERR_NOMEM;
	simco_encode(m, p, (size_t)size);
	buf_commit(&c->out, (size_t)size);
	c->next_tid++;
	return SIMCO_OK;
}

static void pop_done(struct simco_cli *c)
{
	while (c->n_ring > 0 && c->ring[c->head].done) {
		c->head = (c->head + 1) % c->cap;
		c->head_tid++;
		c->n_ring--;
	}
}

/* Takes the request out before its callback, which may send the next one. */
static void answer(struct simco_cli *c, struct request *r, const struct simco_msg *m)
{
	struct request req = *r;

	r->done = true;
	c->n_pending--;
	pop_done(c);
	if (req.fn != NULL)
		req.fn(req.arg, m);
}

/* The phase changes first, so that no callback can send on a dead session. */
static void end(struct simco_cli *c, uint16_t type)
{
	if (c->phase == PH_OVER)
		return;
	c->phase = PH_OVER;
	buf_reset(&c->in);
	while (c->n_ring > 0)
		answer(c, &c->ring[c->head], NULL);
	if (c->ops->closed != NULL)
		c->ops->closed(c->arg, type);
}

static void act_breach(struct simco_cli *c, const struct simco_msg *m ATTR_UNUSED)
{
	end(c, 0);
}

static void act_end(struct simco_cli *c, const struct simco_msg *m)
{
	end(c, m->type);
}

static void act_nothing(struct simco_cli *c ATTR_UNUSED, const struct simco_msg *m ATTR_UNUSED)
{
}

/*
 * The SE reply. While a challenge of ours is unanswered it would be a session
 * with somebody who did not prove who he is.
 */
static void act_open(struct simco_cli *c, const struct simco_msg *m)
{
	bool unproven = c->phase == PH_SE && c->opts.challenge != NULL;

	if (m->tid != c->control_tid || unproven || (m->has_extensions && !c->extensions_asked)) {
		end(c, 0);
		return;
	}
	c->extensions = m->has_extensions ? m->extensions & c->opts.extensions : 0;
	c->head_tid = c->next_tid;
	c->phase = PH_OPEN;
	if (c->ops->open != NULL)
		c->ops->open(c->arg, &m->capabilities, c->extensions);
}

/* The token of the middlebox: there exactly when we demanded it (§7.2), and right. */
static bool middlebox_proven(struct simco_cli *c, const struct simco_msg *m)
{
	if (m->has_token != (c->opts.challenge != NULL))
		return false;
	return !m->has_token ||
	       (c->ops->verify != NULL && c->ops->verify(c->arg, m->token, m->token_len));
}

/* §5.2.4 */
static void act_authenticate(struct simco_cli *c, const struct simco_msg *m)
{
	struct simco_msg req = {.type = SIMCO_SA_REQ};
	uint8_t token[SIMCO_AUTH_MAX];

	if (m->tid != c->control_tid || !middlebox_proven(c, m)) {
		end(c, 0);
		return;
	}
	if (m->has_challenge && c->ops->token != NULL) {
		req.token = token;
		req.token_len = c->ops->token(c->arg, m->challenge, m->challenge_len, token);
		req.has_token = req.token_len > 0;
	}
	if (send_msg(c, &req) != SIMCO_OK) {
		end(c, 0);
		return;
	}
	c->control_tid = req.tid;
	c->phase = PH_SA;
}

/* A refused SE or SA. 0x0312 may mean that only our extensions were not understood. */
static void act_refused(struct simco_cli *c, const struct simco_msg *m)
{
	if (m->tid != c->control_tid) {
		end(c, 0);
		return;
	}
	if (m->type == SIMCO_BADLY_FORMED_REQUEST && c->phase == PH_SE && c->extensions_asked) {
		c->plain = true;
		c->retry = true;
	}
	end(c, m->type);
}

/* TIDs of requests are consecutive, so the TID says where in the ring it is. */
static struct request *find(struct simco_cli *c, uint32_t tid)
{
	uint32_t i = tid - c->head_tid;
	struct request *r;

	if (i >= c->n_ring)
		return NULL;
	r = &c->ring[(c->head + i) % c->cap];
	return r->done ? NULL : r;
}

static void act_reply(struct simco_cli *c, const struct simco_msg *m)
{
	struct request *r = find(c, m->tid);
	bool foreign = m->has_activity && !(c->extensions & SIMCO_EXT_ACTIVITY);

	if (r == NULL || foreign || !simco_reply_fits(r->type, m->type))
		end(c, 0);
	else
		answer(c, r, m);
}

static void act_terminated(struct simco_cli *c, const struct simco_msg *m)
{
	end(c, m->tid == c->control_tid && m->type >> 8 == SIMCO_NEGATIVE ? m->type : 0);
}

/* In ST a negative reply answers an earlier request or the ST itself. */
static void act_negative_late(struct simco_cli *c, const struct simco_msg *m)
{
	if (m->tid == c->control_tid)
		act_terminated(c, m);
	else
		act_reply(c, m);
}

static void act_event(struct simco_cli *c, const struct simco_msg *m)
{
	if (m->has_reason && !(c->extensions & SIMCO_EXT_REASON))
		end(c, 0);
	else if (c->ops->event != NULL)
		c->ops->event(c->arg, m->pid, m->lifetime,
			      m->has_reason ? m->reason : SIMCO_REASON_NONE);
}

typedef void (*cli_act)(struct simco_cli *c, const struct simco_msg *m);

/* clang-format off */
static const cli_act rows[N_PHASES][N_EVENTS] = {
	[PH_OVER] = {
		[EV_SE] = act_nothing,      [EV_SA] = act_nothing,
		[EV_ST] = act_nothing,      [EV_POLICY] = act_nothing,
		[EV_NEGATIVE] = act_nothing, [EV_ARE] = act_nothing,
		[EV_END] = act_nothing,     [EV_GARBAGE] = act_nothing,
	},
	[PH_SE] = {
		[EV_SE] = act_open,         [EV_SA] = act_authenticate,
		[EV_ST] = act_breach,       [EV_POLICY] = act_breach,
		[EV_NEGATIVE] = act_refused, [EV_ARE] = act_breach,
		[EV_END] = act_end,         [EV_GARBAGE] = act_breach,
	},
	[PH_SA] = {
		[EV_SE] = act_open,         [EV_SA] = act_breach,
		[EV_ST] = act_breach,       [EV_POLICY] = act_breach,
		[EV_NEGATIVE] = act_refused, [EV_ARE] = act_breach,
		[EV_END] = act_end,         [EV_GARBAGE] = act_breach,
	},
	[PH_OPEN] = {
		[EV_SE] = act_breach,       [EV_SA] = act_breach,
		[EV_ST] = act_breach,       [EV_POLICY] = act_reply,
		[EV_NEGATIVE] = act_reply,  [EV_ARE] = act_event,
		[EV_END] = act_end,         [EV_GARBAGE] = act_breach,
	},
	[PH_ST] = {
		[EV_SE] = act_breach,       [EV_SA] = act_breach,
		[EV_ST] = act_terminated,   [EV_POLICY] = act_reply,
		[EV_NEGATIVE] = act_negative_late, [EV_ARE] = act_event,
		[EV_END] = act_end,         [EV_GARBAGE] = act_breach,
	},
};
/* clang-format on */

static enum cli_event classify(uint16_t type)
{
	switch (type >> 8) {
	case SIMCO_POSITIVE:
		return type == SIMCO_SE_REP   ? EV_SE
		       : type == SIMCO_SA_REP ? EV_SA
		       : type == SIMCO_ST_REP ? EV_ST
					      : EV_POLICY;
	case SIMCO_NEGATIVE:
		return EV_NEGATIVE;
	case SIMCO_NOTIFICATION:
		return type == SIMCO_ARE ? EV_ARE : EV_END;
	default:
		return EV_GARBAGE;
	}
}

/* Octets of the message at the front, as far as they can be known. */
static size_t message_size(struct span in)
{
	uint16_t type, length;
	uint32_t tid;

	if (simco_decode_header(in.p, in.n, &type, &length, &tid) != SIMCO_OK)
		return SIMCO_HEADER_LEN;
	return SIMCO_HEADER_LEN + (size_t)length;
}

/* Is it already clear from the header that no middlebox sends this? */
static bool hopeless(struct span in)
{
	uint16_t type, length;
	uint32_t tid;

	return simco_decode_header(in.p, in.n, &type, &length, &tid) == SIMCO_OK &&
	       (type >> 8 == SIMCO_REQUEST || simco_format_find(type) == NULL);
}

/* True when a message was there and dealt with. */
static bool consider(struct simco_cli *c, struct span in)
{
	struct simco_msg m = {.type = 0};
	enum cli_event event;
	size_t used;
	int err;

	err = hopeless(in) ? SIMCO_ERR_MALFORMED : simco_decode(&m, in.p, in.n, &used);
	if (err == SIMCO_ERR_MORE)
		return false;
	event = err == SIMCO_OK ? classify(m.type) : EV_GARBAGE;
	rows[c->phase][event](c, &m);
	return true;
}

static void keep(struct simco_cli *c, struct span in)
{
	if (buf_append_span(&c->in, in) != 0)
		end(c, 0);
}

/* Octets used: one message, what completes one, or the beginning of one. */
static size_t feed(struct simco_cli *c, struct span in)
{
	size_t missing = message_size(buf_span(&c->in)) - c->in.len;
	struct span more = span_sub(in, 0, missing);

	if (c->in.len == 0) {
		if (consider(c, in))
			return c->phase == PH_OVER ? in.n : message_size(in);
		keep(c, in);
		return in.n;
	}
	keep(c, more);
	if (c->phase != PH_OVER && consider(c, buf_span(&c->in)))
		buf_reset(&c->in);
	return more.n;
}

int simco_cli_input(struct simco_cli *c, const void *in, size_t n, size_t *used)
{
	struct span rest = span_of(in, n);

	while (c->phase != PH_OVER && rest.n > 0)
		rest = span_sub(rest, feed(c, rest), SIZE_MAX);
	*used = n;
	return c->phase == PH_OVER ? SIMCO_ERR_CLOSED : SIMCO_OK;
}

void simco_cli_end(struct simco_cli *c)
{
	end(c, 0);
}

int simco_cli_start(struct simco_cli *c)
{
	struct simco_msg m = {
		.type = SIMCO_SE_REQ,
		.version = {VERSION_MAJOR, VERSION_MINOR},
		.has_challenge = c->opts.challenge != NULL,
		.challenge = c->opts.challenge,
		.challenge_len = c->opts.challenge_len,
		.has_extensions = c->opts.extensions != 0 && !c->plain,
		.extensions = c->opts.extensions,
	};
	int err;

	if (c->phase != PH_OVER || c->n_ring > 0)
		return SIMCO_ERR_STATE;
	buf_reset(&c->in);
	buf_reset(&c->out);
	c->next_tid = 1;
	c->retry = false;
	c->extensions = 0;
	c->extensions_asked = m.has_extensions;
	err = send_msg(c, &m);
	if (err != SIMCO_OK)
		return err;
	c->control_tid = m.tid;
	c->phase = PH_SE;
	return SIMCO_OK;
}

bool simco_cli_retry(const struct simco_cli *c)
{
	return c->retry;
}

static bool ring_grow(struct simco_cli *c)
{
	size_t cap = c->cap > 0 ? c->cap * 2 : 16;
	struct request *ring;

	if (c->n_ring < c->cap)
		return true;
	ring = malloc(cap * sizeof(*ring));
	if (ring == NULL)
		return false;
	for (size_t i = 0; i < c->n_ring; i++)
		ring[i] = c->ring[(c->head + i) % c->cap];
	free(c->ring);
	c->ring = ring;
	c->head = 0;
	c->cap = cap;
	return true;
}

int simco_cli_request(struct simco_cli *c, struct simco_msg *m, simco_reply_fn fn, void *arg)
{
	int err;

	if (c->phase != PH_OPEN)
		return SIMCO_ERR_STATE;
	if (!simco_is_policy_request(m->type))
		return SIMCO_ERR_MALFORMED;
	if (c->n_ring >= c->opts.max_pending)
		return SIMCO_ERR_TOOBIG;
	if (!ring_grow(c))
		return SIMCO_ERR_NOMEM;
	err = send_msg(c, m);
	if (err != SIMCO_OK)
		return err;
	if (c->n_ring == 0)
		c->head_tid = m->tid;
	c->ring[(c->head + c->n_ring++) % c->cap] = (struct request){fn, arg, m->type, false};
	c->n_pending++;
	return SIMCO_OK;
}

int simco_cli_terminate(struct simco_cli *c)
{
	struct simco_msg m = {.type = SIMCO_ST_REQ};
	int err;

	if (c->phase != PH_OPEN)
		return SIMCO_ERR_STATE;
	err = send_msg(c, &m);
	if (err != SIMCO_OK)
		return err;
	c->control_tid = m.tid;
	c->phase = PH_ST;
	return SIMCO_OK;
}

enum simco_session_state simco_cli_state(const struct simco_cli *c)
{
	switch (c->phase) {
	case PH_SA:
		return SIMCO_NOAUTH;
	case PH_OPEN:
	case PH_ST:
		return SIMCO_OPEN;
	default:
		return SIMCO_CLOSED;
	}
}

size_t simco_cli_pending(const struct simco_cli *c)
{
	return c->n_pending;
}

const uint8_t *simco_cli_output(const struct simco_cli *c, size_t *n)
{
	struct span out = buf_span(&c->out);

	*n = out.n;
	return out.p;
}

void simco_cli_sent(struct simco_cli *c, size_t n)
{
	buf_consume(&c->out, n);
}

struct simco_cli *simco_cli_new(const struct simco_cli_ops *ops, void *arg,
				const struct simco_cli_opts *opts)
{
	struct simco_cli *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->ops = ops;
	c->arg = arg;
	c->opts = *opts;
	if (opts->challenge != NULL) {
		c->challenge = malloc(opts->challenge_len + 1);
		if (c->challenge == NULL) {
			free(c);
			return NULL;
		}
		memcpy(c->challenge, opts->challenge, opts->challenge_len);
		c->opts.challenge = c->challenge;
	}
	buf_init(&c->in, SIMCO_MESSAGE_MAX);
	buf_init(&c->out, SIZE_MAX);
	return c;
}

void simco_cli_free(struct simco_cli *c)
{
	if (c == NULL)
		return;
	c->phase = PH_OVER;
	while (c->n_ring > 0)
		answer(c, &c->ring[c->head], NULL);
	buf_fini(&c->in);
	buf_fini(&c->out);
	free(c->challenge);
	free(c->ring);
	free(c);
}
