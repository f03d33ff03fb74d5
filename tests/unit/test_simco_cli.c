/*
 * The agent's session machine: every phase and event, every split point,
 * pipelining, and both machines wired to each other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto-simco/simco.h"
#include "tests/unit/simco_golden.h"

struct rig {
	struct simco_cli *cli;
	unsigned n_open, n_closed, n_events, n_answers, n_nulls;
	uint16_t closed_type, last_answer;
	uint32_t extensions, last_pid, last_reason;
	bool verify, resend;
	size_t token_len;
	char order[64]; /* tags of the answered requests */
};

struct tagged {
	struct rig *rig;
	char tag;
};

static void on_open(void *arg, const struct simco_capabilities *caps, uint32_t extensions)
{
	struct rig *r = arg;

	assert_int_equal(caps->max_lifetime, 3600);
	assert_int_equal(simco_cli_state(r->cli), SIMCO_OPEN);
	r->n_open++;
	r->extensions = extensions;
}

static void on_closed(void *arg, uint16_t type)
{
	struct rig *r = arg;

	assert_int_equal(simco_cli_pending(r->cli), 0);
	r->n_closed++;
	r->closed_type = type;
}

static void on_event(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	struct rig *r = arg;

	(void)lifetime;
	r->n_events++;
	r->last_pid = pid;
	r->last_reason = reason;
}

static size_t on_token(void *arg, const uint8_t *challenge, size_t n, uint8_t token[SIMCO_AUTH_MAX])
{
	struct rig *r = arg;

	assert_memory_equal(challenge, "123", n);
	memset(token, 't', r->token_len);
	return r->token_len;
}

static bool on_verify(void *arg, const uint8_t *token, size_t n)
{
	struct rig *r = arg;

	assert_memory_equal(token, "ok", n);
	return r->verify;
}

static const struct simco_cli_ops ops = {on_open, on_closed, on_event, on_token, on_verify};

static void on_reply(void *arg, const struct simco_msg *m);

static int request(struct rig *r, uint16_t type, char tag)
{
	struct simco_msg m = golden_find(type)->msg;
	struct tagged *t = malloc(sizeof(*t));
	int err;

	assert_non_null(t);
	*t = (struct tagged){r, tag};
	err = simco_cli_request(r->cli, &m, on_reply, t);
	if (err != SIMCO_OK)
		free(t);
	return err;
}

static void on_reply(void *arg, const struct simco_msg *m)
{
	struct tagged *t = arg;
	struct rig *r = t->rig;
	char tag = t->tag;

	free(t);
	r->n_answers++;
	r->n_nulls += m == NULL;
	r->last_answer = m != NULL ? m->type : 0;
	if (r->n_answers < sizeof(r->order))
		r->order[r->n_answers - 1] = tag;
	if (r->resend)
		request(r, SIMCO_PRL_REQ, tag);
	if (m == NULL)
		assert_int_equal(request(r, SIMCO_PRL_REQ, 'x'), SIMCO_ERR_STATE);
}

static struct rig *rig_new(const char *challenge, uint32_t extensions, size_t max_pending)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct simco_cli_opts opts = {
		.challenge = (const uint8_t *)challenge,
		.challenge_len = challenge != NULL ? strlen(challenge) : 0,
		.extensions = extensions,
		.max_pending = max_pending,
	};

	assert_non_null(r);
	r->verify = true;
	r->token_len = 4;
	r->cli = simco_cli_new(&ops, r, &opts);
	assert_non_null(r->cli);
	assert_int_equal(simco_cli_state(r->cli), SIMCO_CLOSED);
	assert_int_equal(simco_cli_start(r->cli), SIMCO_OK);
	assert_int_equal(simco_cli_start(r->cli), SIMCO_ERR_STATE);
	return r;
}

static void rig_free(struct rig *r)
{
	simco_cli_free(r->cli);
	free(r);
}

static int feed(struct rig *r, const char *hex)
{
	uint8_t octets[1024];
	size_t n = golden_octets(hex, octets, sizeof(octets)), used;
	int err = simco_cli_input(r->cli, octets, n, &used);

	assert_int_equal(used, n);
	return err;
}

/* The next message that the agent sends. */
static uint16_t take(struct rig *r, struct simco_msg *m)
{
	static struct simco_msg dummy;
	size_t n, used;
	const uint8_t *p = simco_cli_output(r->cli, &n);

	if (n == 0)
		return 0;
	m = m != NULL ? m : &dummy;
	assert_int_equal(simco_decode(m, p, n, &used), SIMCO_OK);
	simco_cli_sent(r->cli, used);
	return m->type;
}

#define SE_REP "0201 000c 00000001 0004 0008 d1 3f 0000 00000e10 "
#define SA_REP "0202 0007 00000001 0002 0003 313233 "

enum { SE, SA, OPEN, ST, OVER, N_PHASES };
static const char *const phases[] = {"SE", "SA", "OPEN", "ST", "OVER"};

/* In OPEN and ST a PRS request with TID 2 is unanswered; ST has TID 3. */
static struct rig *rig_in(int phase)
{
	struct rig *r = rig_new(NULL, 0, 8);

	if (phase == SE)
		return r;
	if (phase == SA) {
		assert_int_equal(feed(r, SA_REP), SIMCO_OK);
		assert_int_equal(simco_cli_state(r->cli), SIMCO_NOAUTH);
		return r;
	}
	assert_int_equal(feed(r, SE_REP), SIMCO_OK);
	assert_int_equal(request(r, SIMCO_PRS_REQ, 'a'), SIMCO_OK);
	if (phase == ST) {
		assert_int_equal(simco_cli_terminate(r->cli), SIMCO_OK);
		assert_int_equal(simco_cli_terminate(r->cli), SIMCO_ERR_STATE);
		assert_int_equal(request(r, SIMCO_PRS_REQ, 'b'), SIMCO_ERR_STATE);
	}
	if (phase == OVER) {
		simco_cli_end(r->cli);
		assert_int_equal(r->n_nulls, 1);
		assert_int_equal(r->n_closed, 1);
	}
	return r;
}

#define STAYS 0xffff

/* What ends the session with which type; STAYS where it goes on. */
struct step {
	const char *name, *hex;
	uint16_t ends[N_PHASES - 1];
};

/* clang-format off */
static const struct step steps[] = {
	{"SE reply", SE_REP, {STAYS, 0, 0, 0}},
	{"SE reply to SA", "0201 000c 00000002 0004 0008 d1 3f 0000 00000e10", {0, STAYS, 0, 0}},
	{"SE reply with extensions nobody asked for",
	 "0201 0014 00000001 0004 0008 d1 3f 0000 00000e10 8000 0004 00000001", {0, 0, 0, 0}},
	{"SA reply", SA_REP, {STAYS, 0, 0, 0}},
	{"SA reply with a token nobody asked for", "0202 0006 00000001 0003 0002 6f6b",
	 {0, 0, 0, 0}},
	{"SA reply to something else", "0202 0007 00000007 0002 0003 313233", {0, 0, 0, 0}},
	{"ST reply", "0203 0000 00000003", {0, 0, 0, 0}},
	{"PDS reply", "0224 0039 00000002 0005 0004 0000002b "
	 "0009 000c 01 20 11 00 1388 0001 0a010002 0009 000c 01 20 11 03 1770 0001 c6336401 "
	 "0007 0004 0000003c 0008 0005 6167656e74", {0, 0, STAYS, STAYS}},
	{"reply that does not fit the request", "0222 0000 00000002", {0, 0, 0, 0}},
	{"reply with unknown TID", "0222 0000 00000009", {0, 0, 0, 0}},
	{"negative reply", "0343 0000 00000002", {0, 0x343, STAYS, STAYS}},
	{"negative reply to SE", "0324 0000 00000001", {0x324, 0, 0, 0}},
	{"version mismatch", "0322 0008 00000001 0001 0004 0200 0000", {0x322, 0, 0, 0}},
	{"negative reply to ST", "0311 0000 00000003", {0, 0, 0, 0x311}},
	{"negative reply with unknown TID", "0343 0000 00000063", {0, 0, 0, 0}},
	{"unknown negative reply", "0399 0000 00000002", {0, 0, 0, 0}},
	{"ARE", "0403 0010 00000001 0005 0004 0000002a 0007 0004 00000000", {0, 0, STAYS, STAYS}},
	{"AST", "0402 0000 00000001", {0x402, 0x402, 0x402, 0x402}},
	{"BFM", "0401 0000 00000001", {0x401, 0x401, 0x401, 0x401}},
	{"request", "0121 0008 00000008 0005 0004 0000002a", {0, 0, 0, 0}},
	{"request, incomplete", "0121 0008 00000008", {0, 0, 0, 0}},
	{"unknown type, incomplete", "0225 0008 00000008", {0, 0, 0, 0}},
	{"length past 65,528", "0222 fff9 00000002", {0, 0, 0, 0}},
	{"malformed reply", "0215 0004 00000002 0007 0000", {0, 0, 0, 0}},
	{"malformed ARE", "0403 0000 00000001", {0, 0, 0, 0}},
	{"activity nobody asked for", "0223 0078 00000002 0005 0004 0000002a 0006 0004 00000007 "
	 "000b 0004 00 03 0000 0009 0004 11 20 11 00 0009 000c 01 20 11 02 4000 0001 c0000201 "
	 "0009 0004 11 20 11 03 0007 0004 00000078 0008 0000 8001 0030"
	 "000000000000000200000001000000000000000000000000"
	 "000000000000000000000000000000000000000000000000", {0, 0, 0, 0}},
};
/* clang-format on */

static void walk(const struct step *st, int phase)
{
	struct rig *r = rig_in(phase);
	int err = feed(r, st->hex);

	if (phase == OVER) {
		assert_int_equal(err, SIMCO_ERR_CLOSED);
		assert_int_equal(r->n_closed, 1);
	} else if (st->ends[phase] == STAYS) {
		if (err != SIMCO_OK || r->n_closed != 0)
			fail_msg("%s in %s ends the session", st->name, phases[phase]);
	} else {
		if (err != SIMCO_ERR_CLOSED || r->n_closed != 1 ||
		    r->closed_type != st->ends[phase])
			fail_msg("%s in %s: closed %u, 0x%04x", st->name, phases[phase],
				 r->n_closed, r->closed_type);
		assert_int_equal(simco_cli_state(r->cli), SIMCO_CLOSED);
		assert_int_equal(r->n_nulls, phase == OPEN || phase == ST ? 1 : 0);
		simco_cli_end(r->cli);
		assert_int_equal(r->n_closed, 1);
	}
	rig_free(r);
}

static void test_every_pair(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		for (int p = SE; p < N_PHASES; p++)
			walk(&steps[i], p);
}

static void test_terminate(void **state)
{
	struct rig *r = rig_in(ST);

	(void)state;
	assert_int_equal(feed(r, "0343 0000 00000002"), SIMCO_OK);
	assert_int_equal(r->last_answer, SIMCO_NO_SUCH_RULE);
	assert_int_equal(feed(r, "0203 0000 00000003"), SIMCO_ERR_CLOSED);
	assert_int_equal(r->closed_type, 0);
	assert_int_equal(r->n_closed, 1);
	assert_int_equal(r->n_nulls, 0);
	rig_free(r);
}

/* The same callbacks in the same order wherever the octets are cut. */
static void test_split(void **state)
{
	static const char *const in =
		SE_REP "0403 0010 00000001 0005 0004 0000002a 0007 0004 00000000 "
		       "0222 0018 00000003 0005 0004 00000001 0005 0004 deadbeef 0005 0004 00000003"
		       "0343 0000 00000002 0358 0000 00000004 0203 0000 00000005";
	uint8_t o[512];
	size_t n = golden_octets(in, o, sizeof(o)), se = 20, used;

	(void)state;
	for (size_t chunk = 0; chunk < 2 * n; chunk++) {
		struct rig *r = rig_new(NULL, 0, 8);
		/* First cut at every point, then chunks of every size. */
		size_t step = chunk < n ? chunk : chunk - n + 1;
		bool once = chunk < n;
		size_t at = 0;

		for (unsigned i = 0; at < n; i++) {
			size_t piece = once && i > 0 ? n - at : step;

			if (at < se && at + piece > se)
				piece = se - at; /* requests are sent when open */
			if (piece > n - at)
				piece = n - at;
			simco_cli_input(r->cli, o + at, piece, &used);
			assert_int_equal(used, piece);
			at += piece;
			if (at == se && r->n_answers == 0 && simco_cli_pending(r->cli) == 0) {
				assert_int_equal(r->n_open, 1);
				request(r, SIMCO_PRS_REQ, 'a');
				request(r, SIMCO_PRL_REQ, 'b');
				request(r, SIMCO_PLC_REQ, 'c');
				simco_cli_terminate(r->cli);
			}
		}
		assert_string_equal(r->order, "bac");
		assert_int_equal(r->n_events, 1);
		assert_int_equal(r->n_closed, 1);
		assert_int_equal(r->closed_type, 0);
		assert_int_equal(r->n_nulls, 0);
		rig_free(r);
	}
}

/* Cut off anywhere: every request is answered with NULL, then `closed`. */
static void test_truncated(void **state)
{
	uint8_t o[64];
	size_t n = golden_octets("0222 0010 00000003 0005 0004 00000001 0005 0004 deadbeef", o,
				 sizeof(o));

	(void)state;
	for (size_t cut = 0; cut < n; cut++) {
		struct rig *r = rig_in(OPEN);
		size_t used;

		request(r, SIMCO_PRL_REQ, 'b');
		assert_int_equal(simco_cli_input(r->cli, o, cut, &used), SIMCO_OK);
		simco_cli_end(r->cli);
		assert_int_equal(r->n_nulls, 2);
		assert_int_equal(r->n_closed, 1);
		assert_string_equal(r->order, "ab");
		rig_free(r);
	}
}

static void test_pending_cap(void **state)
{
	struct rig *r = rig_new(NULL, 0, 3);
	struct simco_msg m = {.type = SIMCO_SE_REQ};

	(void)state;
	assert_int_equal(request(r, SIMCO_PRS_REQ, 'a'), SIMCO_ERR_STATE);
	feed(r, SE_REP);
	for (char tag = 'a'; tag < 'd'; tag++)
		assert_int_equal(request(r, SIMCO_PRS_REQ, tag), SIMCO_OK);
	assert_int_equal(request(r, SIMCO_PRS_REQ, 'd'), SIMCO_ERR_TOOBIG);
	feed(r, "0343 0000 00000002");
	assert_int_equal(request(r, SIMCO_PRS_REQ, 'd'), SIMCO_OK);
	assert_int_equal(simco_cli_pending(r->cli), 3);
	feed(r, "0343 0000 00000003 0343 0000 00000004");

	/* Session control is not the caller's, nor is what cannot be encoded. */
	assert_int_equal(simco_cli_request(r->cli, &m, on_reply, NULL), SIMCO_ERR_MALFORMED);
	m = golden_find(SIMCO_PER_REQ)->msg;
	m.per.direction = 0;
	assert_int_equal(simco_cli_request(r->cli, &m, on_reply, NULL), SIMCO_ERR_MALFORMED);
	assert_int_equal(simco_cli_pending(r->cli), 1);
	rig_free(r);
}

/* A callback sends the next request; the ring wraps and grows. */
static void test_request_in_callback(void **state)
{
	struct rig *r = rig_new(NULL, 0, 64);
	uint32_t tid = 2;

	(void)state;
	feed(r, SE_REP);
	r->resend = true;
	for (int i = 0; i < 40; i++)
		assert_int_equal(request(r, SIMCO_PRL_REQ, 'a'), SIMCO_OK);
	for (int i = 0; i < 200; i++) {
		uint8_t o[8] = {0x02, 0x22, 0, 0, 0, 0, (uint8_t)(tid >> 8), (uint8_t)tid};
		size_t used;

		tid++;
		assert_int_equal(simco_cli_input(r->cli, o, 8, &used), SIMCO_OK);
		assert_int_equal(simco_cli_pending(r->cli), 40);
	}
	assert_int_equal(r->n_answers, 200);
	r->resend = false;
	rig_free(r); /* answers the rest with NULL */
}

static void test_retry_without_extensions(void **state)
{
	struct rig *r = rig_new(NULL, SIMCO_EXT_ACTIVITY, 8);
	struct simco_msg m;

	(void)state;
	assert_int_equal(take(r, &m), SIMCO_SE_REQ);
	assert_true(m.has_extensions);
	assert_int_equal(feed(r, "0312 0000 00000001"), SIMCO_ERR_CLOSED);
	assert_int_equal(r->closed_type, SIMCO_BADLY_FORMED_REQUEST);
	assert_true(simco_cli_retry(r->cli));

	assert_int_equal(simco_cli_start(r->cli), SIMCO_OK);
	assert_false(simco_cli_retry(r->cli));
	assert_int_equal(take(r, &m), SIMCO_SE_REQ);
	assert_false(m.has_extensions);
	assert_int_equal(feed(r, SE_REP), SIMCO_OK);
	assert_int_equal(r->n_open, 1);
	assert_int_equal(r->extensions, 0);
	rig_free(r);

	/* Without extensions 0x0312 is final. */
	r = rig_new(NULL, 0, 8);
	assert_int_equal(feed(r, "0312 0000 00000001"), SIMCO_ERR_CLOSED);
	assert_false(simco_cli_retry(r->cli));
	rig_free(r);
}

static void test_authentication(void **state)
{
	struct rig *r = rig_new("hello", 0, 8);
	struct simco_msg m;

	(void)state;
	/* Both: SA reply with challenge and token, SA with a token, SE reply. */
	assert_int_equal(take(r, &m), SIMCO_SE_REQ);
	assert_int_equal(m.challenge_len, 5);
	assert_memory_equal(m.challenge, "hello", 5);
	assert_int_equal(feed(r, SA_REP), SIMCO_ERR_CLOSED); /* no token: not proven */
	rig_free(r);

	r = rig_new("hello", 0, 8);
	assert_int_equal(feed(r, "0202 000d 00000001 0002 0003 313233 0003 0002 6f6b"), SIMCO_OK);
	assert_int_equal(take(r, &m), SIMCO_SE_REQ);
	assert_int_equal(take(r, &m), SIMCO_SA_REQ);
	assert_int_equal(m.token_len, 4);
	assert_int_equal(m.tid, 2);
	assert_int_equal(feed(r, "0201 000c 00000002 0004 0008 d1 3f 0000 00000e10"), SIMCO_OK);
	assert_int_equal(r->n_open, 1);
	rig_free(r);

	/* The middlebox does not prove itself: wrong token, or an SE reply at once. */
	r = rig_new("hello", 0, 8);
	r->verify = false;
	assert_int_equal(feed(r, "0202 0006 00000001 0003 0002 6f6b"), SIMCO_ERR_CLOSED);
	assert_int_equal(r->closed_type, 0);
	rig_free(r);
	r = rig_new("hello", 0, 8);
	assert_int_equal(feed(r, SE_REP), SIMCO_ERR_CLOSED);
	assert_int_equal(r->n_open, 0);
	rig_free(r);

	/* We cannot: SA without a token, the middlebox refuses. */
	r = rig_new(NULL, 0, 8);
	r->token_len = 0;
	assert_int_equal(feed(r, SA_REP), SIMCO_OK);
	take(r, &m);
	assert_int_equal(take(r, &m), SIMCO_SA_REQ);
	assert_false(m.has_token);
	assert_int_equal(feed(r, "0323 0000 00000002"), SIMCO_ERR_CLOSED);
	assert_int_equal(r->closed_type, SIMCO_AUTHENTICATION_FAILED);
	rig_free(r);
}

/* A new session on a new connection starts clean. */
static void test_restart(void **state)
{
	struct rig *r = rig_in(OPEN);
	struct simco_msg m;

	(void)state;
	feed(r, "0222 0010 0000"); /* half a message */
	simco_cli_end(r->cli);
	assert_int_equal(simco_cli_start(r->cli), SIMCO_OK);
	assert_int_equal(take(r, &m), SIMCO_SE_REQ);
	assert_int_equal(m.tid, 1);
	assert_int_equal(feed(r, SE_REP), SIMCO_OK);
	assert_int_equal(request(r, SIMCO_PRS_REQ, 'b'), SIMCO_OK);
	assert_int_equal(feed(r, "0343 0000 00000002"), SIMCO_OK);
	assert_int_equal(r->last_answer, SIMCO_NO_SUCH_RULE);
	rig_free(r);
}

/* ---- both machines, wired to each other -------------------------------------- */

struct pair {
	struct rig *agent;
	struct simco_srv *srv;
};

static void srv_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	(void)arg;
	(void)m;
	adm->capabilities = golden_find(SIMCO_SE_REP)->msg.capabilities;
	adm->extensions = SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON;
}

static void srv_request(void *arg, const struct simco_msg *m)
{
	(void)arg;
	(void)m;
}

static const struct simco_srv_ops srv_ops = {srv_establish, NULL, srv_request, NULL};

/* Carries octets both ways, a few at a time, until nothing moves. */
static void shuttle(struct pair *p)
{
	for (bool moved = true; moved;) {
		size_t n, used;
		const uint8_t *o = simco_cli_output(p->agent->cli, &n);

		moved = n > 0;
		if (n > 0) {
			simco_srv_input(p->srv, o, n < 13 ? n : 13, &used, 0);
			simco_cli_sent(p->agent->cli, used);
			moved = used > 0;
		}
		o = simco_srv_output(p->srv, &n);
		if (n > 0) {
			simco_cli_input(p->agent->cli, o, n < 7 ? n : 7, &used);
			simco_srv_sent(p->srv, used);
			moved = true;
		}
	}
}

static void test_pair(void **state)
{
	struct pair p = {.agent = rig_new(NULL, SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON, 600)};
	struct simco_msg reply = golden_find(SIMCO_PES_REP)->msg;

	(void)state;
	p.srv = simco_srv_new(&srv_ops, &p, 1 << 20, 0);
	assert_non_null(p.srv);
	shuttle(&p);
	assert_int_equal(p.agent->extensions, SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON);
	for (int i = 0; i < 500; i++)
		assert_int_equal(request(p.agent, SIMCO_PRS_REQ, 'a'), SIMCO_OK);
	shuttle(&p);
	assert_int_equal(simco_srv_pending(p.srv), 500);
	for (int i = 0; i < 500; i++) {
		reply.has_activity = true;
		assert_int_equal(simco_srv_reply(p.srv, &reply), SIMCO_OK);
	}
	assert_int_equal(simco_srv_event(p.srv, 77, 0, SIMCO_REASON_OPERATOR), SIMCO_OK);
	shuttle(&p);
	assert_int_equal(p.agent->n_answers, 500);
	assert_int_equal(p.agent->last_answer, SIMCO_PES_REP);
	assert_int_equal(p.agent->last_pid, 77);
	assert_int_equal(p.agent->last_reason, SIMCO_REASON_OPERATOR);
	assert_int_equal(simco_cli_terminate(p.agent->cli), SIMCO_OK);
	shuttle(&p);
	assert_int_equal(simco_srv_state(p.srv), SIMCO_CLOSED);
	assert_int_equal(p.agent->n_closed, 1);
	simco_srv_free(p.srv);
	rig_free(p.agent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_pair),
		cmocka_unit_test(test_terminate),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_pending_cap),
		cmocka_unit_test(test_request_in_callback),
		cmocka_unit_test(test_retry_without_extensions),
		cmocka_unit_test(test_authentication),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_pair),
	};

	return cmocka_run_group_tests_name("simco_cli", tests, NULL, NULL);
}
