/*
 * SIMCO clients against a small middlebox on the loopback: sessions that end,
 * come back and are compared, requests that are refused or never answered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/mb_client.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/stream.h"
#include "common/tls.h"
#include "tests/unit/quiet.h"

#define MAX_RULES 64

/* ---- the middlebox ------------------------------------------------------------- */

struct box {
	struct loop *loop;
	struct stream_listener *listener;
	struct addr_port at;
	struct stream *stream;
	struct simco_srv *srv;
	/* behaviour */
	bool silent;	 /* takes requests, answers nothing */
	uint16_t refuse; /* answers everything but PRL with this */
	bool challenge;
	uint32_t extensions;
	uint8_t mb_type;
	const char *secret;
	struct {
		uint32_t pid;
		const char *owner;
	} rules[MAX_RULES];
	size_t n_rules;
	/* what was asked */
	unsigned sessions, asked[256], deleted;
	uint32_t last_deleted;
};

static void box_cut(struct box *x)
{
	stream_free(x->stream);
	x->stream = NULL;
	if (x->srv)
		simco_srv_free(x->srv);
	x->srv = NULL;
}

static void box_flush(struct box *x)
{
	size_t n;
	const uint8_t *p = simco_srv_output(x->srv, &n);

	if (n)
		assert_int_equal(stream_write(x->stream, span_of(p, n)), 0);
	simco_srv_sent(x->srv, n);
}

static void box_token(const struct box *x, const char *role, const uint8_t *challenge, size_t n,
		      uint8_t out[TLS_SHA256_LEN])
{
	uint8_t in[256];
	size_t role_len = strlen(role) + 1;

	memcpy(in, role, role_len);
	memcpy(in + role_len, challenge, n);
	assert_int_equal(tls_hmac_sha256(span_str(x->secret), span_of(in, role_len + n), out), 0);
}

static void box_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	struct box *x = arg;

	adm->capabilities = (struct simco_capabilities){.mb_type = x->mb_type,
							.inside_versions = 3,
							.outside_versions = 3,
							.max_lifetime = 3600};
	adm->extensions = x->extensions;
	adm->challenge_agent = x->challenge;
	adm->challenge_len = 8;
	memcpy(adm->challenge, "12345678", 8);
	if (m->has_challenge && x->secret) {
		box_token(x, "middlebox", m->challenge, m->challenge_len, adm->token);
		adm->token_len = TLS_SHA256_LEN;
	}
}

static void box_authenticate(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	struct box *x = arg;
	uint8_t want[TLS_SHA256_LEN];

	box_token(x, "agent", adm->challenge, adm->challenge_len, want);
	if (!m->has_token || m->token_len != sizeof(want) || memcmp(m->token, want, sizeof(want)))
		adm->refuse = SIMCO_AUTHENTICATION_FAILED;
}

static long box_rule(const struct box *x, uint32_t pid)
{
	for (size_t i = 0; i < x->n_rules; i++)
		if (x->rules[i].pid == pid)
			return (long)i;
	return -1;
}

static void box_change(struct box *x, uint32_t pid, struct simco_msg *rep)
{
	long i = box_rule(x, pid);

	if (i < 0) {
		rep->type = SIMCO_NO_SUCH_RULE;
		return;
	}
	rep->type = SIMCO_PRD_REP;
	x->rules[i] = x->rules[--x->n_rules];
	x->deleted++;
	x->last_deleted = pid;
}

static void box_status(struct box *x, uint32_t pid, struct simco_msg *rep)
{
	long i = box_rule(x, pid);

	if (i < 0) {
		rep->type = SIMCO_NO_SUCH_RULE;
		return;
	}
	rep->type = SIMCO_PRS_REP;
	rep->pid = pid;
	rep->gid = 1;
	rep->lifetime = 60;
	rep->owner = (const uint8_t *)x->rules[i].owner;
	rep->owner_len = strlen(x->rules[i].owner);
	rep->prr = (struct simco_prr_params){.nat_mode = SIMCO_NAT_TRADITIONAL,
					     .inside_version = SIMCO_IPV4,
					     .outside_version = SIMCO_IPV4,
					     .protocol = 17,
					     .port_range = 1};
	rep->tuple[SIMCO_OUTSIDE] = (struct simco_tuple){.protocols_only = true,
							 .ip_version = SIMCO_IPV4,
							 .protocol = 17,
							 .location = SIMCO_OUTSIDE};
}

static void box_request(void *arg, const struct simco_msg *m)
{
	struct box *x = arg;
	struct simco_msg rep = {.type = x->refuse};
	uint32_t pids[MAX_RULES];

	x->asked[m->type & 0xff]++;
	if (x->silent)
		return;
	if (m->type == SIMCO_PRL_REQ) {
		rep.type = SIMCO_PRL_REP;
		rep.pid_list = pids;
		for (rep.n_pids = 0; rep.n_pids < x->n_rules; rep.n_pids++)
			pids[rep.n_pids] = x->rules[rep.n_pids].pid;
	} else if (!x->refuse && m->type == SIMCO_PLC_REQ && !m->lifetime) {
		box_change(x, m->pid, &rep);
	} else if (!x->refuse && m->type == SIMCO_PLC_REQ) {
		rep.type = SIMCO_PLC_REP;
		rep.lifetime = m->lifetime;
	} else if (!x->refuse && m->type == SIMCO_PRS_REQ) {
		box_status(x, m->pid, &rep);
	}
	assert_int_equal(simco_srv_reply(x->srv, &rep), SIMCO_OK);
}

static void box_state(void *arg, enum simco_session_state state)
{
	struct box *x = arg;

	x->sessions += state == SIMCO_OPEN;
}

static const struct simco_srv_ops box_ops = {
	.establish = box_establish,
	.authenticate = box_authenticate,
	.request = box_request,
	.state = box_state,
};

static size_t box_data(struct stream *s, struct span in, void *arg)
{
	struct box *x = arg;
	size_t used = 0;
	int err = simco_srv_input(x->srv, in.p, in.n, &used, loop_now_ms(x->loop));

	(void)s;
	box_flush(x);
	if (err) {
		stream_close(x->stream, 1000);
		x->stream = NULL;
		box_cut(x);
		return in.n;
	}
	return used;
}

static void box_end(struct stream *s, int err, void *arg)
{
	(void)s;
	(void)err;
	box_cut(arg);
}

static const struct stream_ops box_stream = {.data = box_data, .end = box_end};

static void box_accept(int fd, const struct addr_port *peer, void *arg)
{
	static const struct stream_opts opts = {.write_max = 1 << 20};
	struct box *x = arg;

	(void)peer;
	box_cut(x);
	x->srv = simco_srv_new(&box_ops, x, 1 << 20, loop_now_ms(x->loop));
	x->stream = stream_adopt(x->loop, fd, &opts, &box_stream, x);
	assert_non_null(x->stream);
}

static void box_listen(struct box *x)
{
	int err = 0;

	x->listener = stream_listen(x->loop, &x->at, false, box_accept, x, &err);
	assert_non_null(x->listener);
	x->at = stream_listener_local(x->listener);
}

static void box_vanish(struct box *x)
{
	stream_listener_free(x->listener);
	x->listener = NULL;
	box_cut(x);
}

/* ---- the stage ------------------------------------------------------------------- */

struct stage {
	struct loop *loop;
	struct box box, other;
	struct policy *policy;
	struct mb_clients *all;
	struct mb_client *mb;
	/* the last answer */
	unsigned answers;
	uint16_t type;
	struct failure f;
};

static const struct mb_times quick = {
	.request = 200, .open = 1000, .keepalive = 300, .retry_min = 20, .retry_max = 80};

static struct policy *make_policy(const struct stage *s, const char *extra, bool other)
{
	char text[1024], at[ADDR_PORT_STRLEN], at2[ADDR_PORT_STRLEN], second[128] = "";
	bool inner = extra[0] == '"'; /* belongs to the middlebox, not to the top */
	struct conf_errors errs = {.n = 0};
	struct policy *p = NULL;

	if (other)
		snprintf(second, sizeof(second), ", \"rear\": { \"address\": \"%s\" }",
			 addr_port_str(&s->other.at, at2));
	snprintf(
		text, sizeof(text),
		"{ \"identity\": \"agent-1\", \"zones\": { \"in\": [\"10.0.0.0/8\"] },"
		"\"middleboxes\": { \"edge\": { \"address\": \"%s\"%s%s } %s },"
		"\"paths\": [ { \"from\": \"in\", \"to\": \"in\", \"through\": [\"edge\"] } ] %s }",
		addr_port_str(&s->box.at, at), inner ? ", " : "", inner ? extra : "", second,
		inner ? "" : extra);
	if (policy_parse(span_str(text), "test", &p, &errs))
		conf_errors_print(&errs, stderr);
	assert_non_null(p);
	conf_errors_fini(&errs);
	return p;
}

static int setup(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));

	log_set_sink(quiet, NULL);
	s->loop = loop_new();
	s->box.loop = s->other.loop = s->loop;
	s->box.mb_type = SIMCO_MB_FIREWALL | SIMCO_MB_NAT;
	assert_int_equal(addr_port_parse(SPAN_LIT("127.0.0.1:0"), &s->box.at), 0);
	s->other.at = s->box.at;
	box_listen(&s->box);
	box_listen(&s->other);
	*state = s;
	return 0;
}

static void start(struct stage *s, const char *extra)
{
	s->policy = make_policy(s, extra, false);
	s->all = mb_clients_new(s->loop, s->policy, &quick);
	assert_non_null(s->all);
	s->mb = mb_clients_find(s->all, "edge");
	assert_non_null(s->mb);
}

static int teardown(void **state)
{
	struct stage *s = *state;

	mb_clients_free(s->all);
	policy_free(s->policy);
	box_vanish(&s->box);
	box_vanish(&s->other);
	for (int i = 0; i < 3; i++)
		loop_run_once(s->loop, 0);
	loop_free(s->loop);
	free(s);
	log_set_sink(NULL, NULL);
	return 0;
}

#define UNTIL(s, what)                                                                             \
	do {                                                                                       \
		uint64_t end_ = loop_now_ms((s)->loop) + 5000;                                     \
		while (!(what) && loop_now_ms((s)->loop) < end_)                                   \
			loop_run_once((s)->loop, 20);                                              \
		assert_true(what);                                                                 \
	} while (0)

static void run_for(struct stage *s, uint64_t ms)
{
	uint64_t end = loop_now_ms(s->loop) + ms;

	while (loop_now_ms(s->loop) < end)
		loop_run_once(s->loop, 5);
}

static void on_reply(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct stage *s = arg;

	s->answers++;
	s->type = m ? m->type : 0;
	s->f = f ? *f : (struct failure){.cause = CAUSE_NONE};
}

static int ask(struct stage *s, uint16_t type, uint32_t pid, uint32_t lifetime)
{
	struct simco_msg m = {.type = type, .pid = pid, .lifetime = lifetime};

	return mb_client_request(s->mb, &m, on_reply, s);
}

struct own {
	struct mb_rule r;
	unsigned changes;
	uint32_t lifetime;
	struct mb_client *mb;
};

static void own_changed(struct mb_rule *r, uint32_t lifetime, uint32_t reason)
{
	struct own *o = CONTAINER_OF(r, struct own, r);

	(void)reason;

	o->changes++;
	o->lifetime = lifetime;
	if (!lifetime)
		mb_client_disown(o->mb, r);
}

static void own(struct stage *s, struct own *o, uint32_t pid)
{
	*o = (struct own){.r = {.pid = pid, .changed = own_changed}, .mb = s->mb};
	assert_int_equal(mb_client_own(s->mb, &o->r), 0);
}

static void box_add(struct box *x, uint32_t pid, const char *owner)
{
	x->rules[x->n_rules].pid = pid;
	x->rules[x->n_rules++].owner = owner;
}

/* ---- tests ------------------------------------------------------------------------ */

static void opens_and_learns(void **state)
{
	struct stage *s = *state;
	const char *down = NULL;

	s->box.extensions = SIMCO_EXT_ACTIVITY;
	start(s, "");
	assert_false(mb_client_is_open(s->mb));
	assert_null(mb_client_caps(s->mb));
	assert_false(mb_clients_ready(s->all, &down));
	assert_string_equal(down, "edge");
	assert_int_equal(ask(s, SIMCO_PRS_REQ, 1, 0), ERR_CLOSED);
	UNTIL(s, mb_client_is_open(s->mb));
	assert_true(mb_clients_ready(s->all, &down));
	assert_int_equal(mb_client_caps(s->mb)->max_lifetime, 3600);
	assert_int_equal(mb_client_extensions(s->mb), SIMCO_EXT_ACTIVITY);
	assert_true(mb_client_translates(s->mb, 4));
	assert_false(mb_client_translates(s->mb, 6));
	mb_client_learn(s->mb, 4, false);
	assert_false(mb_client_translates(s->mb, 4));
	UNTIL(s, s->box.asked[SIMCO_PRL_REQ & 0xff] == 1);
}

static void without_the_extension(void **state)
{
	struct stage *s = *state;

	s->box.mb_type = SIMCO_MB_FIREWALL;
	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	assert_int_equal(mb_client_extensions(s->mb), 0);
	assert_false(mb_client_translates(s->mb, 4));
}

static void asks_and_hears(void **state)
{
	struct stage *s = *state;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	for (int i = 0; i < 100; i++)
		assert_int_equal(ask(s, SIMCO_PLC_REQ, 5, 60), 0);
	assert_int_equal(s->answers, 0); /* not from inside */
	UNTIL(s, s->answers == 100);
	assert_int_equal(s->type, SIMCO_PLC_REP);
	assert_int_equal(s->f.cause, CAUSE_NONE);
}

static void every_refusal_has_its_cause(void **state)
{
	struct stage *s = *state;
	unsigned n = 0;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 50);
	for (uint16_t t = SIMCO_TRANSACTION_NOT_SUPPORTED; t <= SIMCO_PARITY_MISMATCH; t++) {
		s->box.refuse = t;
		assert_int_equal(ask(s, SIMCO_PLC_REQ, 5, 60), 0);
		n++;
		UNTIL(s, s->answers == n);
		assert_int_equal(s->type, t);
		assert_int_equal(s->f.cause, cause_from_simco(t));
		assert_string_equal(s->f.middlebox, "edge");
		assert_true((s->f.retry_after > 0) == cause_info(s->f.cause)->retry_after);
		assert_non_null(strstr(s->f.detail, simco_type_name(t)));
	}
	assert_int_equal(s->box.sessions, 1);
}

static void no_answer_in_time(void **state)
{
	struct stage *s = *state;
	uint64_t start_ms;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 50);
	s->box.silent = true;
	start_ms = loop_now_ms(s->loop);
	assert_int_equal(ask(s, SIMCO_PLC_REQ, 5, 60), 0);
	assert_int_equal(ask(s, SIMCO_PLC_REQ, 6, 60), 0);
	UNTIL(s, s->answers == 2);
	assert_in_range(loop_now_ms(s->loop) - start_ms, 150, 1000);
	assert_int_equal(s->f.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_int_equal(s->f.retry_after, MB_RETRY_AFTER_S);
	assert_string_equal(s->f.detail, "no reply in time");
	assert_int_equal(ask(s, SIMCO_PLC_REQ, 5, 60), ERR_CLOSED);
	s->box.silent = false;
	UNTIL(s, mb_client_is_open(s->mb));
	assert_int_equal(s->box.sessions, 2);
}

/* Nothing is asked for, nobody closes anything: it is noticed all the same. */
static void silence_is_noticed(void **state)
{
	struct stage *s = *state;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 1000);
	assert_int_equal(s->box.sessions, 1); /* kept alive */
	assert_true(s->box.asked[SIMCO_PRS_REQ & 0xff] >= 1);
	s->box.silent = true;
	UNTIL(s, !mb_client_is_open(s->mb));
}

static void comes_back(void **state)
{
	struct stage *s = *state;
	struct failure f;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	box_vanish(&s->box);
	UNTIL(s, !mb_client_is_open(s->mb));
	run_for(s, 200);
	mb_client_failure(s->mb, ERR_CLOSED, &f);
	assert_int_equal(f.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
	assert_non_null(strstr(f.detail, err_str(ERR_REFUSED)));
	box_listen(&s->box);
	UNTIL(s, mb_client_is_open(s->mb));
}

static void session_ends_under_requests(void **state)
{
	struct stage *s = *state;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 50);
	s->box.silent = true;
	assert_int_equal(ask(s, SIMCO_PLC_REQ, 5, 60), 0);
	run_for(s, 20);
	box_cut(&s->box);
	UNTIL(s, s->answers == 1);
	assert_int_equal(s->type, 0);
	assert_int_equal(s->f.cause, CAUSE_MIDDLEBOX_UNREACHABLE);
}

/* AST (§5.2.9): the middlebox ends the session in good order. */
static void terminated_by_the_middlebox(void **state)
{
	struct stage *s = *state;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 50);
	simco_srv_terminate(s->box.srv);
	box_flush(&s->box);
	UNTIL(s, s->box.sessions == 2 && mb_client_is_open(s->mb));
}

static void reports_and_compares(void **state)
{
	struct stage *s = *state;
	struct own kept, lost;

	box_add(&s->box, 1, "agent-1");
	box_add(&s->box, 2, "agent-1");
	box_add(&s->box, 3, "agent-2");
	start(s, "");
	/* rules of a former life of this agent are deleted, others' are not */
	UNTIL(s, s->box.deleted == 2);
	run_for(s, 50);
	assert_int_equal(s->box.n_rules, 1);

	own(s, &kept, 5);
	own(s, &lost, 6);
	assert_int_equal(mb_client_own(s->mb, &lost.r), ERR_EXIST);
	simco_srv_event(s->box.srv, 5, 77, 0);
	simco_srv_event(s->box.srv, 999, 0, 0);
	box_flush(&s->box);
	UNTIL(s, kept.changes == 1);
	assert_int_equal(kept.lifetime, 77);

	/* meanwhile 6 expires, and 9 was made by a request whose answer got lost */
	box_vanish(&s->box);
	box_add(&s->box, 5, "agent-1");
	box_add(&s->box, 9, "agent-1");
	box_listen(&s->box);
	UNTIL(s, lost.changes == 1);
	assert_int_equal(lost.lifetime, 0);
	UNTIL(s, s->box.deleted == 3);
	assert_int_equal(s->box.last_deleted, 9);
	run_for(s, 50);
	assert_int_equal(kept.changes, 1);
	assert_int_equal(s->box.n_rules, 2);
	mb_client_disown(s->mb, &kept.r);
}

static void not_exclusive(void **state)
{
	struct stage *s = *state;

	box_add(&s->box, 1, "agent-1");
	start(s, ", \"exclusive\": false");
	UNTIL(s, mb_client_is_open(s->mb));
	run_for(s, 100);
	assert_int_equal(s->box.n_rules, 1);
}

static void released_after_the_return(void **state)
{
	struct stage *s = *state;

	start(s, ", \"exclusive\": false");
	UNTIL(s, mb_client_is_open(s->mb));
	box_vanish(&s->box);
	UNTIL(s, !mb_client_is_open(s->mb));
	for (uint32_t pid = 1; pid <= 60; pid++) {
		box_add(&s->box, pid, "agent-1");
		mb_client_release_later(s->mb, pid);
		mb_client_release_later(s->mb, pid + 1000); /* gone by itself */
	}
	s->box.silent = true; /* and once more lost on the way */
	box_listen(&s->box);
	UNTIL(s, s->box.asked[SIMCO_PLC_REQ & 0xff] > 0);
	box_cut(&s->box);
	s->box.silent = false;
	UNTIL(s, s->box.deleted == 60);
	assert_int_equal(s->box.n_rules, 0);
}

static char *secret_file(const char *secret)
{
	static char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/sluice-secret-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0 && write(fd, secret, strlen(secret)) == (ssize_t)strlen(secret));
	close(fd);
	return path;
}

static void both_prove_themselves(void **state)
{
	struct stage *s = *state;
	char extra[128], *path = secret_file("correct horse battery\n");

	snprintf(extra, sizeof(extra), "\"secret_file\": \"%s\"", path);
	s->box.challenge = true;
	s->box.secret = "correct horse battery";
	start(s, extra);
	UNTIL(s, mb_client_is_open(s->mb));
	/* a middlebox that cannot prove itself gets no session */
	box_vanish(&s->box);
	s->box.secret = "wrong horse and battery";
	s->box.challenge = false;
	box_listen(&s->box);
	run_for(s, 400);
	assert_false(mb_client_is_open(s->mb));
	unlink(path);
}

static void reload(void **state)
{
	struct stage *s = *state;
	struct policy *old, *both = make_policy(s, "", true);
	struct own held;
	const char *down;

	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	own(s, &held, 5);
	box_add(&s->box, 5, "agent-1");
	assert_int_equal(mb_clients_reload(s->all, both), 0);
	assert_ptr_equal(mb_clients_find(s->all, "edge"), s->mb); /* unchanged: the same session */
	UNTIL(s, mb_clients_ready(s->all, &down));
	assert_int_equal(s->box.sessions, 1);
	assert_int_equal(s->other.sessions, 1);
	/* "edge" moves while a rule is left at its old place */
	old = s->policy;
	s->box.at = s->other.at;
	s->policy = make_policy(s, "", false);
	assert_int_equal(mb_clients_reload(s->all, s->policy), 0);
	policy_free(old);
	policy_free(both);
	assert_ptr_not_equal(mb_clients_find(s->all, "edge"), s->mb);
	assert_null(mb_clients_find(s->all, "rear"));
	assert_true(mb_client_is_open(s->mb));
	run_for(s, 100);
	assert_non_null(s->box.stream);
	mb_client_disown(s->mb, &held.r);
	UNTIL(s, !s->box.stream); /* nothing holds it any more */
}

static void seen_by_the_operator(void **state)
{
	struct stage *s = *state;
	struct buf out;
	struct jsonw w;

	buf_init(&out, 65536);
	jsonw_init(&w, &out);
	start(s, "");
	UNTIL(s, mb_client_is_open(s->mb));
	mb_clients_rest(s->all, &w, NULL);
	mb_clients_metrics(s->all, &out);
	buf_append(&out, "", 1);
	assert_non_null(strstr((char *)buf_span(&out).p, "\"state\":\"open\""));
	assert_non_null(strstr((char *)buf_span(&out).p,
			       "sluice_agent_middlebox_open{middlebox=\"edge\"} 1\n"));
	buf_fini(&out);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(opens_and_learns),
		T(without_the_extension),
		T(asks_and_hears),
		T(every_refusal_has_its_cause),
		T(no_answer_in_time),
		T(silence_is_noticed),
		T(comes_back),
		T(session_ends_under_requests),
		T(terminated_by_the_middlebox),
		T(reports_and_compares),
		T(not_exclusive),
		T(released_after_the_return),
		T(both_prove_themselves),
		T(reload),
		T(seen_by_the_operator),
	};

	return cmocka_run_group_tests_name("mb_client", tests, NULL, NULL);
}
