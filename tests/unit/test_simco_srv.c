/*
 * The middlebox's session machine: every state and event, every split point,
 * every truncation, order of replies, limits.
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

#define NOW 1000000u

struct rig {
	struct simco_srv *srv;
	struct simco_admission admission; /* what establish() answers */
	uint16_t sa_refuse;
	bool answer_at_once;
	unsigned n_requests, n_establish, n_authenticate, n_state;
	uint16_t last_request;
	uint8_t seen_challenge[64]; /* by authenticate() */
	size_t seen_challenge_len;
};

static struct simco_msg positive_reply(uint16_t request)
{
	static const uint16_t answers[][2] = {
		{SIMCO_PRR_REQ, SIMCO_PRR_REP}, {SIMCO_PER_REQ, SIMCO_PER_REP},
		{SIMCO_PEA_REQ, SIMCO_PER_REP}, {SIMCO_PDR_REQ, SIMCO_PDR_REP},
		{SIMCO_PLC_REQ, SIMCO_PLC_REP}, {SIMCO_PRS_REQ, SIMCO_PES_REP},
		{SIMCO_PRL_REQ, SIMCO_PRL_REP},
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		if (answers[i][0] == request)
			return golden_find(answers[i][1])->msg;
	return (struct simco_msg){.type = SIMCO_NO_RESOURCES};
}

static void on_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	struct rig *r = arg;

	assert_int_equal(m->type, SIMCO_SE_REQ);
	assert_int_equal(adm->refuse, 0);
	r->n_establish++;
	*adm = r->admission;
}

static void on_authenticate(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	struct rig *r = arg;

	assert_int_equal(m->type, SIMCO_SA_REQ);
	r->n_authenticate++;
	memcpy(r->seen_challenge, adm->challenge, adm->challenge_len);
	r->seen_challenge_len = adm->challenge_len;
	adm->refuse = r->sa_refuse;
}

static void on_request(void *arg, const struct simco_msg *m)
{
	struct rig *r = arg;
	struct simco_msg reply = positive_reply(m->type);

	r->n_requests++;
	r->last_request = m->type;
	if (r->answer_at_once)
		assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
}

static void on_state(void *arg, enum simco_session_state state)
{
	struct rig *r = arg;

	assert_int_equal(simco_srv_state(r->srv), state);
	r->n_state++;
}

static const struct simco_srv_ops ops = {on_establish, on_authenticate, on_request, on_state};

static struct rig *rig_new(size_t max_output)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->admission.capabilities = golden_find(SIMCO_SE_REP)->msg.capabilities;
	r->srv = simco_srv_new(&ops, r, max_output, NOW);
	assert_non_null(r->srv);
	return r;
}

static void rig_free(struct rig *r)
{
	simco_srv_free(r->srv);
	free(r);
}

/* Feeds hex; asserts that all of it is used. */
static int feed(struct rig *r, const char *hex)
{
	uint8_t octets[1024];
	size_t n = golden_octets(hex, octets, sizeof(octets)), used;
	int err = simco_srv_input(r->srv, octets, n, &used, NOW);

	assert_int_equal(used, n);
	return err;
}

static int feed_type(struct rig *r, uint16_t type)
{
	return feed(r, golden_find(type)->hex);
}

/* Takes the next message out of the output; type 0 when there is none. */
static uint16_t take(struct rig *r, uint32_t *tid)
{
	struct simco_msg m;
	size_t n, used;
	const uint8_t *p = simco_srv_output(r->srv, &n);

	if (n == 0)
		return 0;
	assert_int_equal(simco_decode(&m, p, n, &used), SIMCO_OK);
	simco_srv_sent(r->srv, used);
	if (tid != NULL)
		*tid = m.tid;
	return m.type;
}

static void expect(struct rig *r, uint16_t type)
{
	assert_int_equal(take(r, NULL), type);
}

static void open_session(struct rig *r)
{
	assert_int_equal(feed_type(r, SIMCO_SE_REQ), SIMCO_OK);
	expect(r, SIMCO_SE_REP);
	assert_int_equal(simco_srv_state(r->srv), SIMCO_OPEN);
}

static void noauth_session(struct rig *r)
{
	r->admission.challenge_agent = true;
	r->admission.challenge_len = 2;
	memcpy(r->admission.challenge, "ch", 2);
	assert_int_equal(feed_type(r, SIMCO_SE_REQ), SIMCO_OK);
	expect(r, SIMCO_SA_REP);
	assert_int_equal(simco_srv_state(r->srv), SIMCO_NOAUTH);
}

/* What a stimulus gives in each state: messages, then open (+) or closed (-). */
struct step {
	const char *name;
	const char *hex; /* NULL: see `timeout` and `terminate` */
	bool timeout, terminate;
	struct {
		uint16_t out[2];
		bool closes;
	} in[3];
};

/* clang-format off */
static const struct step steps[] = {
	{"SE", "0101 0008 00000001 0001 0004 0300 0000", false, false,
	 {{{SIMCO_SE_REP}, false}, {{0x0320}, false}, {{0x0320}, false}}},
	{"SE of version 2.0", "0101 0008 00000001 0001 0004 0200 0000", false, false,
	 {{{0x0322}, true}, {{0x0320}, false}, {{0x0320}, false}}},
	{"SE of version 3.1", "0101 0008 00000001 0001 0004 0301 0000", false, false,
	 {{{0x0322}, true}, {{0x0320}, false}, {{0x0320}, false}}},
	{"SA", "0102 0000 00000001", false, false,
	 {{{0x0311}, true}, {{SIMCO_SE_REP}, false}, {{0x0320}, false}}},
	{"ST", "0103 0000 00000001", false, false,
	 {{{0x0311}, true}, {{SIMCO_ST_REP}, true}, {{SIMCO_ST_REP}, true}}},
	{"PRS", "0121 0008 00000001 0005 0004 0000002a", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{SIMCO_PES_REP}, false}}},
	{"PLC", "0115 0010 00000001 0005 0004 0000002a 0007 0004 00000000", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{SIMCO_PLC_REP}, false}}},
	{"PRD", "0116 0000 00000001", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{0x0311}, false}}},
	{"PES", "0123 0000 00000001", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{0x0311}, false}}},
	{"unknown sub-type", "01ff 0000 00000001", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{0x0311}, false}}},
	{"wrong basic type", "0201 0000 00000001", false, false,
	 {{{0x0310}, true}, {{0x0310}, true}, {{0x0310}, false}}},
	{"wrong basic type 0", "0001 0004 00000001 00000000", false, false,
	 {{{0x0310}, true}, {{0x0310}, true}, {{0x0310}, false}}},
	{"malformed SE", "0101 0000 00000001", false, false,
	 {{{0x0312}, true}, {{0x0312}, true}, {{0x0312}, false}}},
	{"malformed SA", "0102 0001 00000001 00", false, false,
	 {{{0x0311}, true}, {{0x0312}, true}, {{0x0312}, false}}},
	{"malformed ST", "0103 0001 00000001 00", false, false,
	 {{{0x0311}, true}, {{0x0312}, true}, {{0x0312}, false}}},
	{"malformed PRS", "0121 0000 00000001", false, false,
	 {{{0x0311}, true}, {{0x0311}, true}, {{0x0312}, false}}},
	{"length of no request", "0101 ffff 00000001", false, false,
	 {{{SIMCO_BFM}, true}, {{SIMCO_BFM}, true}, {{SIMCO_BFM, SIMCO_AST}, true}}},
	{"length and basic type wrong", "4745 5420 2f20 4854", false, false,
	 {{{SIMCO_BFM}, true}, {{SIMCO_BFM}, true}, {{SIMCO_BFM, SIMCO_AST}, true}}},
	{"timeout in the header", "0101 00", true, false,
	 {{{SIMCO_BFM}, true}, {{SIMCO_BFM}, true}, {{SIMCO_BFM, SIMCO_AST}, true}}},
	{"timeout in the payload", "0101 0008 00000001 00", true, false,
	 {{{SIMCO_BFM}, true}, {{SIMCO_BFM}, true}, {{SIMCO_BFM, SIMCO_AST}, true}}},
	{"nothing comes", "", true, false,
	 {{{SIMCO_BFM}, true}, {{SIMCO_BFM}, true}, {{0}, false}}},
	{"termination", "", false, true,
	 {{{0}, true}, {{SIMCO_AST}, true}, {{SIMCO_AST}, true}}},
};
/* clang-format on */

static void walk(const struct step *st, enum simco_session_state state)
{
	struct rig *r = rig_new(65536);
	bool closes = st->in[state].closes;
	int err;

	r->answer_at_once = true;
	if (state == SIMCO_NOAUTH)
		noauth_session(r);
	else if (state == SIMCO_OPEN)
		open_session(r);
	err = feed(r, st->hex);
	if (st->timeout) {
		assert_int_equal(err, SIMCO_OK);
		assert_int_equal(simco_srv_timeout(r->srv, NOW + 59999), SIMCO_OK);
		err = simco_srv_timeout(r->srv, NOW + 60000);
	}
	if (st->terminate) {
		simco_srv_terminate(r->srv);
		err = simco_srv_timeout(r->srv, NOW);
	}
	if (err != (closes ? SIMCO_ERR_CLOSED : SIMCO_OK))
		fail_msg("%s in %s: %s", st->name, simco_state_name(state), simco_err_name(err));
	for (size_t i = 0; i < 2; i++) {
		uint16_t got = take(r, NULL);

		if (got != st->in[state].out[i])
			fail_msg("%s in %s: sent 0x%04x", st->name, simco_state_name(state), got);
	}
	assert_int_equal(take(r, NULL), 0);
	if (closes) {
		assert_int_equal(simco_srv_state(r->srv), SIMCO_CLOSED);
		/* Whatever comes now is ignored (§7.4). */
		assert_int_equal(feed_type(r, SIMCO_SE_REQ), SIMCO_ERR_CLOSED);
		assert_int_equal(take(r, NULL), 0);
		assert_true(simco_srv_deadline(r->srv) == UINT64_MAX);
	}
	rig_free(r);
}

static void test_every_pair(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		for (unsigned s = SIMCO_CLOSED; s <= SIMCO_OPEN; s++)
			walk(&steps[i], s);
}

/* A session with everything in it, as the agent would send it. */
static size_t transcript(uint8_t *out, size_t size)
{
	static const uint16_t types[] = {SIMCO_SE_REQ,	SIMCO_PRR_REQ, SIMCO_PER_REQ, SIMCO_PEA_REQ,
					 SIMCO_SE_REQ,	SIMCO_PDR_REQ, SIMCO_PLC_REQ, SIMCO_PRS_REQ,
					 SIMCO_PRL_REQ, SIMCO_SA_REQ};
	size_t n = 0;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		n += golden_octets(golden_find(types[i])->hex, out + n, size - n);
	n += golden_octets("0116 0000 00000055", out + n, size - n);
	n += golden_octets("0121 0005 00000056 0005 0001 00", out + n, size - n);
	n += golden_octets("0301 0000 00000057", out + n, size - n);
	n += golden_octets("0121 0008 00000058 0005 0004 00000001", out + n, size - n);
	n += golden_octets("0103 0000 00000059", out + n, size - n);
	return n;
}

/* Feeds what was not used again after the replies, as a connection would. */
static void drive(struct rig *r, const uint8_t *p, size_t n)
{
	while (n > 0) {
		size_t used;

		simco_srv_input(r->srv, p, n, &used, NOW);
		p += used;
		n -= used;
		assert_true(n == 0 || simco_srv_pending(r->srv) > 0);
		while (simco_srv_pending(r->srv) > 0 && n > 0) {
			struct simco_msg reply = {.type = SIMCO_NO_SUCH_RULE};

			assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
		}
	}
}

static size_t output(struct rig *r, uint8_t *out, size_t size)
{
	size_t n;
	const uint8_t *p = simco_srv_output(r->srv, &n);

	assert_true(n <= size);
	memcpy(out, p, n);
	return n;
}

static void split(bool at_once)
{
	uint8_t in[2048], want[2048], got[2048];
	size_t n = transcript(in, sizeof(in)), n_want = 0;

	for (size_t cut = 0; cut <= n; cut++) {
		struct rig *r = rig_new(65536);

		r->answer_at_once = at_once;
		drive(r, in, cut);
		drive(r, in + cut, n - cut);
		if (cut == 0)
			n_want = output(r, want, sizeof(want));
		assert_int_equal(simco_srv_timeout(r->srv, NOW), SIMCO_ERR_CLOSED);
		assert_int_equal(output(r, got, sizeof(got)), n_want);
		assert_memory_equal(got, want, n_want);
		rig_free(r);
	}
	for (size_t chunk = 1; chunk < 20; chunk++) {
		struct rig *r = rig_new(65536);

		r->answer_at_once = at_once;
		for (size_t at = 0; at < n; at += chunk)
			drive(r, in + at, n - at < chunk ? n - at : chunk);
		assert_int_equal(output(r, got, sizeof(got)), n_want);
		assert_memory_equal(got, want, n_want);
		rig_free(r);
	}
}

static void test_split(void **state)
{
	(void)state;
	split(true);
	split(false);
}

/* The transcript ends anywhere, then nothing comes for 60 s (§6(2)). */
static void test_truncated(void **state)
{
	uint8_t in[2048];
	size_t n = transcript(in, sizeof(in));

	(void)state;
	for (size_t cut = 0; cut < n; cut++) {
		struct rig *r = rig_new(65536);
		uint64_t deadline;
		uint16_t type = 0, last = 0;

		r->answer_at_once = true;
		drive(r, in, cut);
		deadline = simco_srv_deadline(r->srv);
		if (deadline != UINT64_MAX) {
			assert_true(deadline == NOW + SIMCO_RECEIVE_TIMEOUT_MS);
			assert_int_equal(simco_srv_timeout(r->srv, deadline), SIMCO_ERR_CLOSED);
			while ((type = take(r, NULL)) != 0)
				last = type;
			/* Before the SE is complete there is no session to terminate. */
			assert_int_equal(last, cut < 16 ? SIMCO_BFM : SIMCO_AST);
		} else {
			assert_int_equal(simco_srv_timeout(r->srv, UINT64_MAX - 1), SIMCO_OK);
			assert_int_equal(simco_srv_state(r->srv), SIMCO_OPEN);
		}
		rig_free(r);
	}
}

/* The timer counts from the last octet. */
static void test_timer(void **state)
{
	struct rig *r = rig_new(65536);
	uint8_t o[64];
	size_t n = golden_octets(golden_find(SIMCO_SE_REQ)->hex, o, sizeof(o)), used;

	(void)state;
	assert_true(simco_srv_deadline(r->srv) == NOW + 60000);
	for (size_t i = 0; i < n; i++) {
		uint64_t now = NOW + 59000 * (i + 1);

		assert_int_equal(simco_srv_input(r->srv, o + i, 1, &used, now), SIMCO_OK);
		assert_int_equal(used, 1);
		if (i + 1 < n)
			assert_true(simco_srv_deadline(r->srv) == now + 60000);
	}
	expect(r, SIMCO_SE_REP);
	assert_true(simco_srv_deadline(r->srv) == UINT64_MAX);
	rig_free(r);
}

/* While the agent waits for us, its silence is not its fault. */
static void test_timer_rests(void **state)
{
	struct rig *r = rig_new(65536);
	struct simco_msg reply = {.type = SIMCO_NO_SUCH_RULE};

	(void)state;
	open_session(r);
	feed_type(r, SIMCO_PRS_REQ);
	feed(r, "0121 00");
	assert_true(simco_srv_deadline(r->srv) == UINT64_MAX);
	assert_int_equal(simco_srv_timeout(r->srv, NOW + 600000), SIMCO_OK);
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
	assert_true(simco_srv_deadline(r->srv) == NOW + 60000);
	assert_int_equal(simco_srv_timeout(r->srv, NOW + 600000), SIMCO_ERR_CLOSED);
	expect(r, SIMCO_NO_SUCH_RULE);
	expect(r, SIMCO_BFM);
	expect(r, SIMCO_AST);
	rig_free(r);
}

/* What the machine answers itself waits for the replies before it. */
static void test_pause(void **state)
{
	static const char *const waiting[] = {
		"0116 0000 00000099",			  /* 0x0311 */
		"0201 0000 00000099",			  /* 0x0310 */
		"0121 0000 00000099",			  /* 0x0312 */
		"0101 0008 00000099 0001 0004 0300 0000", /* 0x0320 */
		"0103 0000 00000099",			  /* ST */
		"0101 ffff 00000099",			  /* BFM, AST */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(waiting) / sizeof(waiting[0]); i++) {
		uint8_t o[64];
		size_t n = golden_octets(waiting[i], o, sizeof(o));

		for (size_t cut = 0; cut < n; cut++) {
			struct rig *r = rig_new(65536);
			struct simco_msg reply = {.type = SIMCO_NO_SUCH_RULE};
			size_t used, rest;

			open_session(r);
			feed_type(r, SIMCO_PRS_REQ);
			feed_type(r, SIMCO_PLC_REQ);
			assert_int_equal(simco_srv_input(r->srv, o, cut, &used, NOW), SIMCO_OK);
			rest = cut - used;
			simco_srv_input(r->srv, o + cut - rest, n - cut + rest, &used, NOW);
			assert_true(used < n - cut + rest);
			rest = n - cut + rest - used;
			assert_int_equal(take(r, NULL), 0);
			assert_true(simco_srv_deadline(r->srv) == UINT64_MAX);

			assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
			simco_srv_input(r->srv, o + n - rest, rest, &used, NOW);
			assert_true(used < rest);
			rest -= used;
			assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
			simco_srv_input(r->srv, o + n - rest, rest, &used, NOW);
			assert_int_equal(used, rest);
			expect(r, SIMCO_NO_SUCH_RULE);
			expect(r, SIMCO_NO_SUCH_RULE);
			assert_int_not_equal(take(r, NULL), 0);
			rig_free(r);
		}
	}
}

static void test_reply_order(void **state)
{
	struct rig *r = rig_new(65536);
	struct simco_msg reply = {.type = SIMCO_NO_SUCH_RULE};
	uint32_t tid = 0;

	(void)state;
	open_session(r);
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_ERR_STATE);
	feed(r, "0121 0008 00000011 0005 0004 00000001");
	feed(r, "0122 0000 00000022");
	assert_int_equal(simco_srv_pending(r->srv), 2);
	/* A PRL reply does not answer a PRS request. */
	reply = (struct simco_msg){.type = SIMCO_PRL_REP};
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_ERR_MALFORMED);
	/* What cannot be encoded is not sent. */
	reply = golden_find(SIMCO_PES_REP)->msg;
	reply.per.direction = 7;
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_ERR_MALFORMED);
	reply.per.direction = SIMCO_INBOUND;
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
	assert_int_equal(take(r, &tid), SIMCO_PES_REP);
	assert_int_equal(tid, 0x11);
	/* 8,192 rules do not fit a message: 0x0313. */
	reply = (struct simco_msg){.type = SIMCO_PRL_REP,
				   .pid_list = (const uint32_t[]){0},
				   .n_pids = SIMCO_PIDS_MAX + 1};
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
	assert_int_equal(take(r, &tid), SIMCO_REPLY_TOO_BIG);
	assert_int_equal(tid, 0x22);
	rig_free(r);
}

/* §4.2.5: TIDs of notifications differ. */
static void test_notifications(void **state)
{
	struct rig *r = rig_new(65536);
	uint32_t a = 0, b = 0, c = 0;

	(void)state;
	assert_int_equal(simco_srv_event(r->srv, 1, 2, 0), SIMCO_ERR_STATE);
	open_session(r);
	assert_int_equal(simco_srv_event(r->srv, 42, 0, 0), SIMCO_OK);
	assert_int_equal(simco_srv_event(r->srv, 43, 60, 0), SIMCO_OK);
	simco_srv_terminate(r->srv);
	assert_int_equal(simco_srv_event(r->srv, 43, 60, 0), SIMCO_ERR_STATE);
	assert_int_equal(take(r, &a), SIMCO_ARE);
	assert_int_equal(take(r, &b), SIMCO_ARE);
	assert_int_equal(take(r, &c), SIMCO_AST);
	assert_true(a != b && b != c && a != c);
	rig_free(r);
}

static void test_output_limit(void **state)
{
	struct rig *r = rig_new(64);
	struct simco_msg reply = {.type = SIMCO_PLC_REP, .lifetime = 1};
	size_t n;

	(void)state;
	open_session(r);
	for (int i = 0; i < 6; i++)
		feed_type(r, SIMCO_PLC_REQ);
	for (int i = 0; i < 4; i++)
		assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_ERR_CLOSED);
	assert_int_equal(simco_srv_state(r->srv), SIMCO_CLOSED);
	assert_int_equal(simco_srv_pending(r->srv), 0);
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_ERR_STATE);
	simco_srv_output(r->srv, &n);
	assert_int_equal(n, 64); /* whole messages only */
	assert_int_equal(feed_type(r, SIMCO_PLC_REQ), SIMCO_ERR_CLOSED);
	rig_free(r);

	/* The same by our own protocol errors. */
	r = rig_new(64);
	open_session(r);
	for (int i = 0; i < 8; i++)
		assert_int_equal(feed(r, "0116 0000 00000001"), SIMCO_OK);
	assert_int_equal(feed(r, "0116 0000 00000001"), SIMCO_ERR_CLOSED);
	rig_free(r);
}

static void test_pending_cap(void **state)
{
	struct rig *r = rig_new(1 << 20);
	struct simco_msg reply = {.type = SIMCO_PLC_REP, .lifetime = 1};
	uint8_t o[32];
	size_t n = golden_octets(golden_find(SIMCO_PLC_REQ)->hex, o, sizeof(o)), used;

	(void)state;
	open_session(r);
	for (int i = 0; i < SIMCO_SRV_PENDING_MAX; i++) {
		simco_srv_input(r->srv, o, n, &used, NOW);
		assert_int_equal(used, n);
	}
	simco_srv_input(r->srv, o, n, &used, NOW);
	assert_int_equal(used, 0);
	assert_int_equal(simco_srv_pending(r->srv), SIMCO_SRV_PENDING_MAX);
	assert_int_equal(simco_srv_reply(r->srv, &reply), SIMCO_OK);
	simco_srv_input(r->srv, o, n, &used, NOW);
	assert_int_equal(used, n);
	rig_free(r);
}

/* §7.2: refusals, and which of them come before the version. */
static void test_refusals(void **state)
{
	static const struct {
		uint16_t refuse;
		bool before_version;
	} cases[] = {
		{SIMCO_LACK_OF_RESOURCES, true},      {SIMCO_TRANSPORT_PROBLEM, true},
		{SIMCO_SECURITY_INSUFFICIENT, true},  {SIMCO_NO_AUTHORIZATION, false},
		{SIMCO_AUTHENTICATION_FAILED, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *r = rig_new(65536);

		r->admission.refuse = cases[i].refuse;
		assert_int_equal(feed_type(r, SIMCO_SE_REQ), SIMCO_ERR_CLOSED);
		expect(r, cases[i].refuse);
		assert_int_equal(r->n_state, 0);
		rig_free(r);

		r = rig_new(65536);
		r->admission.refuse = cases[i].refuse;
		assert_int_equal(feed(r, "0101 0008 00000001 0001 0004 0400 0000"),
				 SIMCO_ERR_CLOSED);
		expect(r, cases[i].before_version ? cases[i].refuse : SIMCO_VERSION_MISMATCH);
		rig_free(r);
	}
}

static void take_msg(struct rig *r, struct simco_msg *m)
{
	size_t n, used;
	const uint8_t *p = simco_srv_output(r->srv, &n);

	assert_int_equal(simco_decode(m, p, n, &used), SIMCO_OK);
	simco_srv_sent(r->srv, used); /* the octets stay until the next append */
}

static void test_authentication(void **state)
{
	struct rig *r = rig_new(65536);
	struct simco_msg m;

	(void)state;
	/* Both sides: challenge and token in one SA reply. */
	r->admission.challenge_agent = true;
	r->admission.challenge_len = 2;
	memcpy(r->admission.challenge, "ch", 2);
	r->admission.token_len = 3;
	memcpy(r->admission.token, "tok", 3);
	feed(r, "0101 000d 00000001 0001 0004 0300 0000 0002 0001 aa");
	take_msg(r, &m);
	assert_int_equal(m.type, SIMCO_SA_REP);
	assert_true(m.has_challenge && m.has_token);
	assert_int_equal(m.token_len, 3);
	assert_int_equal(feed_type(r, SIMCO_SA_REQ), SIMCO_OK);
	expect(r, SIMCO_SE_REP);
	assert_int_equal(r->seen_challenge_len, 2);
	assert_memory_equal(r->seen_challenge, "ch", 2);
	assert_int_equal(r->n_state, 2);
	rig_free(r);

	/* Only the agent asks, and we cannot answer: an empty token. */
	r = rig_new(65536);
	feed(r, "0101 000d 00000001 0001 0004 0300 0000 0002 0001 aa");
	take_msg(r, &m);
	assert_int_equal(m.type, SIMCO_SA_REP);
	assert_true(!m.has_challenge && m.has_token);
	assert_int_equal(m.token_len, 0);
	assert_int_equal(simco_srv_state(r->srv), SIMCO_NOAUTH);
	rig_free(r);

	/* The agent fails, or is not authorised. */
	for (uint16_t code = SIMCO_AUTHENTICATION_FAILED; code <= SIMCO_NO_AUTHORIZATION; code++) {
		r = rig_new(65536);
		noauth_session(r);
		r->sa_refuse = code;
		assert_int_equal(feed_type(r, SIMCO_SA_REQ), SIMCO_ERR_CLOSED);
		expect(r, code);
		assert_int_equal(simco_srv_state(r->srv), SIMCO_CLOSED);
		rig_free(r);
	}
}

static void test_extensions(void **state)
{
	struct simco_msg m, pes = golden_find(SIMCO_PES_REP)->msg;
	struct rig *r;

	(void)state;
	pes.has_activity = true;
	for (int asked = 0; asked < 2; asked++) {
		r = rig_new(65536);
		r->admission.extensions = 0x5;
		feed(r, asked ? "0101 0010 00000001 0001 0004 0300 0000 8000 0004 00000003"
			      : "0101 0008 00000001 0001 0004 0300 0000");
		take_msg(r, &m);
		assert_int_equal(m.type, SIMCO_SE_REP);
		assert_int_equal(m.has_extensions, asked);
		assert_int_equal(m.extensions, asked ? 1 : 0);
		assert_int_equal(simco_srv_extensions(r->srv), asked ? 1 : 0);
		feed_type(r, SIMCO_PRS_REQ);
		pes.has_activity = true;
		assert_int_equal(simco_srv_reply(r->srv, &pes), SIMCO_OK);
		take_msg(r, &m);
		assert_int_equal(m.has_activity, asked);
		rig_free(r);
	}
	/* The mask outlives the authentication. */
	r = rig_new(65536);
	r->admission.extensions = 1;
	r->admission.challenge_agent = true;
	feed(r, "0101 0010 00000001 0001 0004 0300 0000 8000 0004 00000001");
	expect(r, SIMCO_SA_REP);
	feed_type(r, SIMCO_SA_REQ);
	take_msg(r, &m);
	assert_true(m.has_extensions);
	assert_int_equal(m.extensions, 1);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_pair),   cmocka_unit_test(test_split),
		cmocka_unit_test(test_truncated),    cmocka_unit_test(test_timer),
		cmocka_unit_test(test_timer_rests),  cmocka_unit_test(test_pause),
		cmocka_unit_test(test_reply_order),  cmocka_unit_test(test_notifications),
		cmocka_unit_test(test_output_limit), cmocka_unit_test(test_pending_cap),
		cmocka_unit_test(test_refusals),     cmocka_unit_test(test_authentication),
		cmocka_unit_test(test_extensions),
	};

	return cmocka_run_group_tests_name("simco_srv", tests, NULL, NULL);
}
