/*
 * Runs the conformance scripts of tests/conformance/simco/, one test per file.
 * A script plays the peer, the clock and the user of one session machine.
 *
 * A line is empty, a comment (# ...), or a verb with words:
 *
 *   SERVER [k=v]...  First line: the middlebox's machine is tested. Keys:
 *                    refuse=CODE (establish), sa-refuse=CODE (authenticate),
 *                    challenge=HEX token=HEX extensions=N output=OCTETS
 *   CLIENT [k=v]...  First line: the agent's machine is tested, and started.
 *                    challenge=HEX token=HEX verify=0|1 extensions=N pending=N
 *   SEND message     The peer sends it. What the machine does not take is
 *                    offered again with the next SEND and after every REPLY.
 *   EXPECT message   The machine's next message has this type, and these
 *                    values for the keys given.
 *   QUIET            The machine has no further message.
 *   TIME_PASSES ms   The clock moves on, and the deadline fires when it is due.
 *   CLOSED | STAYS   The machine does (not) want the connection closed.
 *   STATE name       CLOSED, NOAUTH or OPEN.
 *   PENDING n        Requests that are unanswered.
 * Middlebox:
 *   REQUESTED type   The next request that reached the rule machine.
 *   UNTOUCHED        None did.
 *   REPLY message    The rule machine answers the oldest request.
 *   NOTIFY k=v...    ... reports a rule event (pid=, lifetime=).
 *   TERMINATE        ... ends the session.
 * Agent:
 *   REQUEST message  The user sends a request.
 *   ANSWERED message The next request that was answered, NOTHING: with no reply.
 *   NOTIFIED k=v...  The next rule event (pid=, lifetime=).
 *   OPENED | ENDED code   What the user was told, once.
 *   RETRY            The machine wants to be started on a new connection.
 *   STOP | BREAK | START  Send ST | the connection broke | new connection.
 *
 * A message is "= HEX" or a type (SE-REQ, PRS-REP, BFM, 0x0343) with keys:
 *   tid pid gid lifetime extensions direction range   numbers
 *   version=M.N  challenge=HEX  token=HEX  ("none": the attribute is not there)
 * and, where it is sent: type=CODE and length=N replace header fields, add=HEX
 * appends octets, cut=N keeps only the first N octets.
 * Values not given are those of the golden message of that type; TIDs count
 * from 1.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base.h"
#include "common/span.h"
#include "proto-simco/simco.h"
#include "tests/unit/simco_golden.h"

#define MAX_SCRIPTS 256
#define MAX_NOTES 64
#define START_MS 1000

/* Something that happened to the machine's user. */
struct note {
	uint16_t type; /* request, reply or what ended the session */
	uint32_t tid, pid, lifetime;
};

struct notes {
	struct note at[MAX_NOTES];
	size_t n, seen;
};

struct play {
	const char *path;
	unsigned line;
	struct simco_srv *srv;
	struct simco_cli *cli;
	uint64_t now;
	uint32_t tid;
	bool closed;
	uint8_t rest[16384]; /* what the machine did not take yet */
	size_t n_rest;

	uint16_t refuse, sa_refuse;
	uint8_t challenge[64], token[64];
	size_t challenge_len, token_len;
	bool demand, verify;
	uint32_t extensions;

	struct notes requests, answers, events, opened, ended;
};

static ATTR_NORETURN void wrong(const struct play *p, const char *what)
{
	fail_msg("%s:%u: %s", p->path, p->line, what);
	abort();
}

static void check(const struct play *p, bool ok, const char *what)
{
	if (!ok)
		wrong(p, what);
}

static void note(struct notes *n, struct note what)
{
	assert_true(n->n < MAX_NOTES);
	n->at[n->n++] = what;
}

static const struct note *next_note(struct notes *n)
{
	return n->seen < n->n ? &n->at[n->seen++] : NULL;
}

/* ---- words ------------------------------------------------------------------- */

static struct span word(struct span *rest)
{
	*rest = span_trim(*rest);
	return span_cut(rest, ' ');
}

static unsigned long number(const struct play *p, struct span s)
{
	char text[32], *end;
	unsigned long v;

	check(p, s.n > 0 && span_copy(s, text, sizeof(text)), "a number is missing");
	v = strtoul(text, &end, 0);
	check(p, *end == '\0', "not a number");
	return v;
}

static size_t octets(const struct play *p, struct span s, uint8_t *out, size_t size)
{
	char text[8192];

	check(p, span_copy(s, text, sizeof(text)), "too long");
	return golden_octets(text, out, size);
}

static uint16_t type_of(const struct play *p, struct span name)
{
	static const struct {
		const char *name;
		uint16_t type;
	} names[] = {
		{"SE-REQ", SIMCO_SE_REQ},   {"SA-REQ", SIMCO_SA_REQ},	{"ST-REQ", SIMCO_ST_REQ},
		{"PRR-REQ", SIMCO_PRR_REQ}, {"PER-REQ", SIMCO_PER_REQ}, {"PEA-REQ", SIMCO_PEA_REQ},
		{"PDR-REQ", SIMCO_PDR_REQ}, {"PLC-REQ", SIMCO_PLC_REQ}, {"PRS-REQ", SIMCO_PRS_REQ},
		{"PRL-REQ", SIMCO_PRL_REQ}, {"SE-REP", SIMCO_SE_REP},	{"SA-REP", SIMCO_SA_REP},
		{"ST-REP", SIMCO_ST_REP},   {"PRR-REP", SIMCO_PRR_REP}, {"PER-REP", SIMCO_PER_REP},
		{"PDR-REP", SIMCO_PDR_REP}, {"PLC-REP", SIMCO_PLC_REP}, {"PRD-REP", SIMCO_PRD_REP},
		{"PRS-REP", SIMCO_PRS_REP}, {"PRL-REP", SIMCO_PRL_REP}, {"PES-REP", SIMCO_PES_REP},
		{"PDS-REP", SIMCO_PDS_REP}, {"BFM", SIMCO_BFM},		{"AST", SIMCO_AST},
		{"ARE", SIMCO_ARE},
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (span_eq_str(name, names[i].name))
			return names[i].type;
	return (uint16_t)number(p, name);
}

/* ---- messages ---------------------------------------------------------------- */

/* What the script says about a message, beyond the struct. */
struct shape {
	struct simco_msg msg;
	uint8_t challenge[SIMCO_AUTH_MAX], token[SIMCO_AUTH_MAX];
	bool set_type, set_length;
	uint16_t type, length;
	size_t cut;
	uint8_t add[8192];
	size_t n_add;
};

static struct simco_msg golden_msg(uint16_t type)
{
	const struct golden *g = golden_find(type);

	return g != NULL ? g->msg : (struct simco_msg){.type = type};
}

static void set_octets(const struct play *p, struct span v, uint8_t *mem, bool *has,
		       const uint8_t **out, size_t *n)
{
	*has = !span_eq_str(v, "none");
	*n = *has ? octets(p, v, mem, SIMCO_AUTH_MAX) : 0;
	*out = mem;
}

static bool set_field(const struct play *p, struct shape *s, struct span key, struct span v)
{
	struct simco_msg *m = &s->msg;
	struct span minor = v;

	if (span_eq_str(key, "tid")) {
		m->tid = (uint32_t)number(p, v);
	} else if (span_eq_str(key, "pid")) {
		m->pid = (uint32_t)number(p, v);
	} else if (span_eq_str(key, "lifetime")) {
		m->lifetime = (uint32_t)number(p, v);
	} else if (span_eq_str(key, "direction")) {
		m->per.direction = (uint8_t)number(p, v);
	} else if (span_eq_str(key, "range")) {
		m->prr.port_range = (uint16_t)number(p, v);
		m->tuple[SIMCO_INTERNAL].port_range = m->tuple[SIMCO_EXTERNAL].port_range =
			m->prr.port_range;
	} else if (span_eq_str(key, "gid")) {
		m->has_gid = !span_eq_str(v, "none");
		m->gid = m->has_gid ? (uint32_t)number(p, v) : 0;
	} else if (span_eq_str(key, "extensions")) {
		m->has_extensions = !span_eq_str(v, "none");
		m->extensions = m->has_extensions ? (uint32_t)number(p, v) : 0;
	} else if (span_eq_str(key, "version")) {
		m->version.major = (uint8_t)number(p, span_cut(&minor, '.'));
		m->version.minor = (uint8_t)number(p, minor);
	} else if (span_eq_str(key, "challenge")) {
		set_octets(p, v, s->challenge, &m->has_challenge, &m->challenge, &m->challenge_len);
	} else if (span_eq_str(key, "token")) {
		set_octets(p, v, s->token, &m->has_token, &m->token, &m->token_len);
	} else {
		return false;
	}
	return true;
}

static bool set_raw(const struct play *p, struct shape *s, struct span key, struct span v)
{
	if (span_eq_str(key, "type")) {
		s->set_type = true;
		s->type = (uint16_t)number(p, v);
	} else if (span_eq_str(key, "length")) {
		s->set_length = true;
		s->length = (uint16_t)number(p, v);
	} else if (span_eq_str(key, "cut")) {
		s->cut = number(p, v);
	} else if (span_eq_str(key, "add")) {
		s->n_add = octets(p, v, s->add, sizeof(s->add));
	} else {
		return false;
	}
	return true;
}

static void put16(uint8_t *o, size_t v)
{
	o[0] = (uint8_t)(v >> 8);
	o[1] = (uint8_t)v;
}

/* The octets of the message that `words` describes. */
static size_t build(struct play *p, struct span words, uint8_t *out, size_t size)
{
	static struct shape s;
	struct span name = word(&words);
	long n;

	if (span_eq_str(name, "="))
		return octets(p, words, out, size);
	memset(&s, 0, sizeof(s));
	s.cut = SIZE_MAX;
	s.msg = golden_msg(type_of(p, name));
	s.msg.tid = ++p->tid;
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		check(p, set_field(p, &s, key, v) || set_raw(p, &s, key, v), "unknown key");
	}
	n = simco_encode(&s.msg, out, size);
	check(p, n > 0 && (size_t)n + s.n_add <= size, "cannot be encoded");
	memcpy(out + n, s.add, s.n_add);
	n += (long)s.n_add;
	put16(out + 2, s.set_length ? s.length : (size_t)n - SIMCO_HEADER_LEN);
	if (s.set_type)
		put16(out, s.type);
	return (size_t)n < s.cut ? (size_t)n : s.cut;
}

/* The struct for REPLY and REQUEST. */
static void build_msg(const struct play *p, struct span words, struct shape *s)
{
	memset(s, 0, sizeof(*s));
	s->msg = golden_msg(type_of(p, word(&words)));
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		check(p, set_field(p, s, key, v), "unknown key");
	}
}

static struct span take(const struct play *p)
{
	size_t n;
	const uint8_t *o =
		p->srv != NULL ? simco_srv_output(p->srv, &n) : simco_cli_output(p->cli, &n);

	return span_of(o, n);
}

static bool same_msg(const struct simco_msg *a, const struct simco_msg *b)
{
	static uint8_t x[SIMCO_MESSAGE_MAX], y[SIMCO_MESSAGE_MAX];
	long n = simco_encode(a, x, sizeof(x)), m = simco_encode(b, y, sizeof(y));

	return n > 0 && n == m && memcmp(x, y, (size_t)n) == 0;
}

/* Setting the expected values in what was sent may not change it. */
static void do_expect(struct play *p, struct span words)
{
	static struct shape s;
	struct span out = take(p), name = word(&words);
	struct simco_msg sent;
	size_t used;

	check(p, out.n > 0, "nothing was sent");
	check(p, simco_decode(&sent, out.p, out.n, &used) == SIMCO_OK, "sent rubbish");
	if (sent.type != type_of(p, name))
		fail_msg("%s:%u: sent 0x%04x", p->path, p->line, sent.type);
	memset(&s, 0, sizeof(s));
	s.msg = sent;
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		check(p, set_field(p, &s, key, v), "unknown key");
	}
	check(p, same_msg(&sent, &s.msg), "another value was sent");
	if (p->srv != NULL)
		simco_srv_sent(p->srv, used);
	else
		simco_cli_sent(p->cli, used);
}

/* ---- the machine's user ------------------------------------------------------- */

static void srv_establish(void *arg, const struct simco_msg *m ATTR_UNUSED,
			  struct simco_admission *adm)
{
	struct play *p = arg;

	adm->refuse = p->refuse;
	adm->challenge_agent = p->demand;
	memcpy(adm->challenge, p->challenge, p->challenge_len);
	adm->challenge_len = p->challenge_len;
	memcpy(adm->token, p->token, p->token_len);
	adm->token_len = p->token_len;
	adm->extensions = p->extensions;
	adm->capabilities = golden_find(SIMCO_SE_REP)->msg.capabilities;
}

static void srv_authenticate(void *arg, const struct simco_msg *m ATTR_UNUSED,
			     struct simco_admission *adm)
{
	adm->refuse = ((struct play *)arg)->sa_refuse;
}

static void srv_request(void *arg, const struct simco_msg *m)
{
	note(&((struct play *)arg)->requests, (struct note){.type = m->type, .tid = m->tid});
}

static const struct simco_srv_ops srv_ops = {srv_establish, srv_authenticate, srv_request, NULL};

static void cli_open(void *arg, const struct simco_capabilities *caps ATTR_UNUSED,
		     uint32_t extensions ATTR_UNUSED)
{
	note(&((struct play *)arg)->opened, (struct note){.type = SIMCO_SE_REP});
}

static void cli_closed(void *arg, uint16_t type)
{
	note(&((struct play *)arg)->ended, (struct note){.type = type});
}

static void cli_event(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	(void)reason;
	note(&((struct play *)arg)->events, (struct note){.pid = pid, .lifetime = lifetime});
}

static size_t cli_token(void *arg, const uint8_t *challenge ATTR_UNUSED, size_t n ATTR_UNUSED,
			uint8_t token[SIMCO_AUTH_MAX])
{
	struct play *p = arg;

	memcpy(token, p->token, p->token_len);
	return p->token_len;
}

static bool cli_verify(void *arg, const uint8_t *token ATTR_UNUSED, size_t n ATTR_UNUSED)
{
	return ((struct play *)arg)->verify;
}

static const struct simco_cli_ops cli_ops = {cli_open, cli_closed, cli_event, cli_token,
					     cli_verify};

static void cli_reply(void *arg, const struct simco_msg *m)
{
	note(&((struct play *)arg)->answers,
	     m != NULL ? (struct note){.type = m->type, .tid = m->tid} : (struct note){.type = 0});
}

/* ---- verbs -------------------------------------------------------------------- */

static size_t parse_options(struct play *p, struct span words, const char *limit_key, size_t limit)
{
	p->verify = true;
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		if (span_eq_str(key, "refuse"))
			p->refuse = (uint16_t)number(p, v);
		else if (span_eq_str(key, "sa-refuse"))
			p->sa_refuse = (uint16_t)number(p, v);
		else if (span_eq_str(key, "challenge"))
			p->challenge_len = octets(p, v, p->challenge, sizeof(p->challenge));
		else if (span_eq_str(key, "token"))
			p->token_len = octets(p, v, p->token, sizeof(p->token));
		else if (span_eq_str(key, "verify"))
			p->verify = number(p, v) != 0;
		else if (span_eq_str(key, "extensions"))
			p->extensions = (uint32_t)number(p, v);
		else if (span_eq_str(key, limit_key))
			limit = number(p, v);
		else
			wrong(p, "unknown option");
		p->demand = p->demand || span_eq_str(key, "challenge");
	}
	return limit;
}

static void do_server(struct play *p, struct span words)
{
	size_t output = parse_options(p, words, "output", 65536);

	p->srv = simco_srv_new(&srv_ops, p, output, p->now);
	assert_non_null(p->srv);
}

static void do_start(struct play *p, struct span words ATTR_UNUSED)
{
	p->closed = false;
	check(p, simco_cli_start(p->cli) == SIMCO_OK, "cannot start");
}

static void do_client(struct play *p, struct span words)
{
	size_t pending = parse_options(p, words, "pending", 16);
	struct simco_cli_opts opts = {
		.challenge = p->demand ? p->challenge : NULL,
		.challenge_len = p->challenge_len,
		.extensions = p->extensions,
		.max_pending = pending,
	};

	p->cli = simco_cli_new(&cli_ops, p, &opts);
	assert_non_null(p->cli);
	do_start(p, words);
}

static void feed(struct play *p)
{
	size_t used;
	int err = p->srv != NULL ? simco_srv_input(p->srv, p->rest, p->n_rest, &used, p->now)
				 : simco_cli_input(p->cli, p->rest, p->n_rest, &used);

	memmove(p->rest, p->rest + used, p->n_rest - used);
	p->n_rest -= used;
	p->closed = err == SIMCO_ERR_CLOSED;
}

static void do_send(struct play *p, struct span words)
{
	p->n_rest += build(p, words, p->rest + p->n_rest, sizeof(p->rest) - p->n_rest);
	feed(p);
}

static void do_quiet(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, take(p).n == 0, "something was sent");
}

static void do_time_passes(struct play *p, struct span words)
{
	p->now += number(p, word(&words));
	if (p->srv != NULL && p->now >= simco_srv_deadline(p->srv))
		p->closed = simco_srv_timeout(p->srv, p->now) == SIMCO_ERR_CLOSED;
}

static void do_closed(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, p->closed, "the connection stays open");
}

static void do_stays(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, !p->closed, "the connection is closed");
}

static void do_state(struct play *p, struct span words)
{
	enum simco_session_state s =
		p->srv != NULL ? simco_srv_state(p->srv) : simco_cli_state(p->cli);

	check(p, span_eq_str(word(&words), simco_state_name(s)), simco_state_name(s));
}

static void do_pending(struct play *p, struct span words)
{
	size_t n = p->srv != NULL ? simco_srv_pending(p->srv) : simco_cli_pending(p->cli);

	check(p, n == number(p, word(&words)), "another number is pending");
}

static void do_requested(struct play *p, struct span words)
{
	const struct note *n = next_note(&p->requests);

	check(p, n != NULL, "no request came");
	check(p, n->type == type_of(p, word(&words)), "another request came");
}

static void do_untouched(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, next_note(&p->requests) == NULL, "a request came");
}

static void do_reply(struct play *p, struct span words)
{
	static struct shape s;

	build_msg(p, words, &s);
	p->closed = simco_srv_reply(p->srv, &s.msg) == SIMCO_ERR_CLOSED;
	if (p->n_rest > 0)
		feed(p);
}

static void do_notify(struct play *p, struct span words)
{
	static struct shape s;

	memset(&s, 0, sizeof(s));
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		check(p, set_field(p, &s, key, v), "unknown key");
	}
	check(p, simco_srv_event(p->srv, s.msg.pid, s.msg.lifetime, 0) == SIMCO_OK, "not sent");
}

static void do_terminate(struct play *p, struct span words ATTR_UNUSED)
{
	simco_srv_terminate(p->srv);
	p->closed = simco_srv_timeout(p->srv, p->now) == SIMCO_ERR_CLOSED;
}

static void do_request(struct play *p, struct span words)
{
	static struct shape s;

	build_msg(p, words, &s);
	check(p, simco_cli_request(p->cli, &s.msg, cli_reply, p) == SIMCO_OK, "not sent");
}

static void do_answered(struct play *p, struct span words)
{
	const struct note *n = next_note(&p->answers);
	struct span name = word(&words);

	check(p, n != NULL, "no answer came");
	check(p, n->type == (span_eq_str(name, "NOTHING") ? 0 : type_of(p, name)),
	      "another answer came");
}

static void do_notified(struct play *p, struct span words)
{
	const struct note *n = next_note(&p->events);

	check(p, n != NULL, "no event came");
	while (words.n > 0) {
		struct span v = word(&words), key = span_cut(&v, '=');

		check(p, (span_eq_str(key, "pid") ? n->pid : n->lifetime) == number(p, v),
		      "another event came");
	}
}

static void do_opened(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, next_note(&p->opened) != NULL, "not open");
}

static void do_ended(struct play *p, struct span words)
{
	const struct note *n = next_note(&p->ended);

	check(p, n != NULL, "not ended");
	check(p, n->type == number(p, word(&words)), "ended by something else");
}

static void do_retry(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, simco_cli_retry(p->cli), "no retry");
}

static void do_stop(struct play *p, struct span words ATTR_UNUSED)
{
	check(p, simco_cli_terminate(p->cli) == SIMCO_OK, "cannot stop");
}

static void do_break(struct play *p, struct span words ATTR_UNUSED)
{
	simco_cli_end(p->cli);
	p->closed = true;
}

enum who { ANY, SERVER, CLIENT, FIRST };

static const struct verb {
	const char *name;
	enum who who;
	void (*fn)(struct play *p, struct span words);
} verbs[] = {
	{"SERVER", FIRST, do_server},
	{"CLIENT", FIRST, do_client},
	{"SEND", ANY, do_send},
	{"EXPECT", ANY, do_expect},
	{"QUIET", ANY, do_quiet},
	{"TIME_PASSES", ANY, do_time_passes},
	{"CLOSED", ANY, do_closed},
	{"STAYS", ANY, do_stays},
	{"STATE", ANY, do_state},
	{"PENDING", ANY, do_pending},
	{"REQUESTED", SERVER, do_requested},
	{"UNTOUCHED", SERVER, do_untouched},
	{"REPLY", SERVER, do_reply},
	{"NOTIFY", SERVER, do_notify},
	{"TERMINATE", SERVER, do_terminate},
	{"REQUEST", CLIENT, do_request},
	{"ANSWERED", CLIENT, do_answered},
	{"NOTIFIED", CLIENT, do_notified},
	{"OPENED", CLIENT, do_opened},
	{"ENDED", CLIENT, do_ended},
	{"RETRY", CLIENT, do_retry},
	{"STOP", CLIENT, do_stop},
	{"BREAK", CLIENT, do_break},
	{"START", CLIENT, do_start},
};

static void run_line(struct play *p, struct span line)
{
	struct span name;

	line = span_trim(line);
	if (line.n == 0 || line.p[0] == '#')
		return;
	name = word(&line);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		bool fresh = p->srv == NULL && p->cli == NULL;

		if (!span_eq_str(name, verbs[i].name))
			continue;
		check(p, fresh == (verbs[i].who == FIRST), "SERVER or CLIENT comes first, once");
		check(p, verbs[i].who != SERVER || p->srv != NULL, "verb of a SERVER script");
		check(p, verbs[i].who != CLIENT || p->cli != NULL, "verb of a CLIENT script");
		verbs[i].fn(p, line);
		return;
	}
	wrong(p, "unknown verb");
}

/* Everything sent must have been expected. */
static void run_script(void **state)
{
	static char text[65536];
	static struct play p;
	FILE *f = fopen(*state, "r");
	struct span rest;

	memset(&p, 0, sizeof(p));
	p.path = *state;
	p.now = START_MS;
	check(&p, f != NULL, "cannot open");
	rest = span_of(text, fread(text, 1, sizeof(text), f));
	fclose(f);
	check(&p, rest.n < sizeof(text), "too long");
	while (rest.n > 0) {
		p.line++;
		run_line(&p, span_cut(&rest, '\n'));
	}
	do_quiet(&p, SPAN_EMPTY);
	check(&p, p.n_rest == 0, "octets were never taken");
	simco_srv_free(p.srv);
	simco_cli_free(p.cli);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

int main(void)
{
	static struct CMUnitTest tests[MAX_SCRIPTS];
	static char paths[MAX_SCRIPTS][512];
	const char *srcdir = getenv("SRCDIR");
	char dir[400];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s/tests/conformance/simco", srcdir != NULL ? srcdir : ".");
	d = opendir(dir);
	while (d != NULL && n < MAX_SCRIPTS && (e = readdir(d)) != NULL) {
		size_t len = strlen(e->d_name);

		if (len < 4 || strcmp(e->d_name + len - 4, ".txt") != 0)
			continue;
		if (snprintf(paths[n], sizeof(paths[n]), "%s/%s", dir, e->d_name) >=
		    (int)sizeof(paths[n]))
			continue;
		tests[n] = (struct CMUnitTest){
			.name = paths[n] + strlen(dir) + 1,
			.test_func = run_script,
			.initial_state = paths[n],
		};
		n++;
	}
	if (d != NULL)
		closedir(d);
	if (n == 0) {
		printf("Bail out! no scripts in %s\n", dir);
		return 1;
	}
	qsort(tests, n, sizeof(tests[0]), by_name);
	return _cmocka_run_group_tests("simco_scripts", tests, n, NULL, NULL);
}
