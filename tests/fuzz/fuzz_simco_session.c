/*
 * Fuzz target: the session machines of both ends, fed with arbitrary segments
 * and time. The first octet chooses the machine and its user; then operations
 * follow: an octet each, with its argument.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto-simco/simco.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t n;
};

struct world {
	uint8_t mode;
	uint64_t now;
	bool closed;
	struct simco_srv *srv;
	struct simco_cli *cli;
	unsigned outstanding; /* requests of the client without an answer */
	unsigned ended;
};

static uint8_t next(struct input *in)
{
	if (in->n == 0)
		return 0;
	in->n--;
	return *in->p++;
}

static struct input next_piece(struct input *in)
{
	size_t n = next(in);
	struct input piece = {in->p, n < in->n ? n : in->n};

	in->p += piece.n;
	in->n -= piece.n;
	return piece;
}

/* Everything that a machine sends is a message of the right direction. */
static void check_output(const uint8_t *p, size_t n, bool requests)
{
	while (n > 0) {
		struct simco_msg m;
		size_t used;

		assert(simco_decode(&m, p, n, &used) == SIMCO_OK);
		assert((m.type >> 8 == SIMCO_REQUEST) == requests);
		p += used;
		n -= used;
	}
}

/* ---- middlebox ---------------------------------------------------------------- */

static void on_establish(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	struct world *w = arg;

	assert(m->type == SIMCO_SE_REQ);
	adm->challenge_agent = w->mode & 2;
	adm->challenge_len = w->mode & 2 ? 8 : 0;
	adm->extensions = w->mode & 4 ? SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON : 0;
	adm->capabilities.inside_versions = adm->capabilities.outside_versions = 1;
	adm->refuse = w->mode & 8 ? SIMCO_LACK_OF_RESOURCES : 0;
}

static void on_authenticate(void *arg, const struct simco_msg *m, struct simco_admission *adm)
{
	(void)arg;
	adm->refuse = m->has_token ? 0 : SIMCO_AUTHENTICATION_FAILED;
}

static void answer(struct world *w)
{
	struct simco_msg m = {.type = SIMCO_NO_SUCH_RULE};
	size_t before = simco_srv_pending(w->srv);
	int err = simco_srv_reply(w->srv, &m);

	if (before == 0)
		assert(err == SIMCO_ERR_STATE);
	else
		assert(err == SIMCO_OK ? simco_srv_pending(w->srv) == before - 1
				       : err == SIMCO_ERR_CLOSED);
}

static void on_request(void *arg, const struct simco_msg *m)
{
	struct world *w = arg;

	assert(m->type >> 8 == SIMCO_REQUEST && m->type > SIMCO_ST_REQ);
	assert(simco_srv_state(w->srv) == SIMCO_OPEN);
	if (w->mode & 16)
		answer(w);
}

static const struct simco_srv_ops srv_ops = {on_establish, on_authenticate, on_request, NULL};

/* What was not used is offered again after the replies, as a connection does. */
static void srv_feed(struct world *w, struct input piece)
{
	for (;;) {
		size_t used = SIZE_MAX;
		/* Its own memory, so that the sanitizer sees over-reads. */
		uint8_t *mem = malloc(piece.n + 1);

		if (mem == NULL)
			abort();
		memcpy(mem + 1, piece.p, piece.n);
		w->closed = simco_srv_input(w->srv, mem + 1, piece.n, &used, w->now) ==
			    SIMCO_ERR_CLOSED;
		free(mem);
		assert(used <= piece.n);
		piece.p += used;
		piece.n -= used;
		if (piece.n == 0)
			return;
		assert(!w->closed && simco_srv_pending(w->srv) > 0);
		answer(w);
	}
}

static void srv_step(struct world *w, struct input *in)
{
	uint8_t op = next(in);
	size_t n;
	const uint8_t *out;

	switch (op % 8) {
	case 0:
		w->now += (uint64_t)next(in) * 1000;
		if (w->now >= simco_srv_deadline(w->srv)) {
			w->closed = simco_srv_timeout(w->srv, w->now) == SIMCO_ERR_CLOSED;
			assert(w->closed);
		}
		break;
	case 1:
		answer(w);
		break;
	case 2:
		simco_srv_event(w->srv, next(in), next(in), next(in));
		break;
	case 3:
		if (op == 0xfb)
			simco_srv_terminate(w->srv);
		break;
	case 4:
		out = simco_srv_output(w->srv, &n);
		check_output(out, n, false);
		simco_srv_sent(w->srv, n);
		break;
	default:
		srv_feed(w, next_piece(in));
	}
	assert(simco_srv_pending(w->srv) <= SIMCO_SRV_PENDING_MAX);
	if (simco_srv_state(w->srv) != SIMCO_OPEN)
		assert(simco_srv_pending(w->srv) == 0);
}

static void run_srv(struct world *w, struct input *in)
{
	size_t n;
	const uint8_t *out;

	w->srv = simco_srv_new(&srv_ops, w, w->mode & 32 ? 200 : 65536, 0);
	if (w->srv == NULL)
		return;
	while (in->n > 0)
		srv_step(w, in);
	out = simco_srv_output(w->srv, &n);
	check_output(out, n, false);
	simco_srv_free(w->srv);
}

/* ---- agent --------------------------------------------------------------------- */

static void on_open(void *arg, const struct simco_capabilities *caps, uint32_t extensions)
{
	struct world *w = arg;

	(void)caps;
	assert(w->mode & 4 || extensions == 0);
	assert(simco_cli_state(w->cli) == SIMCO_OPEN);
}

static void on_closed(void *arg, uint16_t type)
{
	struct world *w = arg;

	(void)type;
	assert(w->outstanding == 0);
	w->ended++;
}

static size_t on_token(void *arg, const uint8_t *challenge, size_t n, uint8_t token[SIMCO_AUTH_MAX])
{
	(void)arg;
	memcpy(token, challenge, n);
	return n;
}

static bool on_verify(void *arg, const uint8_t *token, size_t n)
{
	(void)arg;
	return n > 0 && token[0] != 0;
}

static const struct simco_cli_ops cli_ops = {on_open, on_closed, NULL, on_token, on_verify};

static void send_request(struct world *w);

static void on_reply(void *arg, const struct simco_msg *m)
{
	struct world *w = arg;

	assert(w->outstanding > 0);
	w->outstanding--;
	if (m != NULL && w->mode & 16)
		send_request(w);
}

static void send_request(struct world *w)
{
	struct simco_msg m = {.type = w->mode & 8 ? SIMCO_PRS_REQ : SIMCO_PRL_REQ, .pid = 1};
	int err = simco_cli_request(w->cli, &m, on_reply, w);

	if (err == SIMCO_OK)
		w->outstanding++;
	else
		assert(err == SIMCO_ERR_STATE || err == SIMCO_ERR_TOOBIG);
	assert(simco_cli_pending(w->cli) == w->outstanding);
}

static void cli_feed(struct world *w, struct input piece)
{
	size_t used = SIZE_MAX;
	uint8_t *mem = malloc(piece.n + 1);

	if (mem == NULL)
		abort();
	memcpy(mem + 1, piece.p, piece.n);
	w->closed = simco_cli_input(w->cli, mem + 1, piece.n, &used) == SIMCO_ERR_CLOSED;
	free(mem);
	assert(used == piece.n);
}

static void cli_step(struct world *w, struct input *in)
{
	uint8_t op = next(in);
	size_t n;
	const uint8_t *out;

	switch (op % 8) {
	case 0:
		send_request(w);
		break;
	case 1:
		if (op == 0xf9)
			simco_cli_terminate(w->cli);
		break;
	case 2:
		if (op == 0xfa)
			simco_cli_end(w->cli);
		break;
	case 3:
		if (simco_cli_start(w->cli) == SIMCO_OK)
			w->closed = false;
		break;
	case 4:
		out = simco_cli_output(w->cli, &n);
		check_output(out, n, true);
		simco_cli_sent(w->cli, n);
		break;
	default:
		cli_feed(w, next_piece(in));
	}
}

static void run_cli(struct world *w, struct input *in)
{
	struct simco_cli_opts opts = {
		.challenge = w->mode & 2 ? (const uint8_t *)"challenge" : NULL,
		.challenge_len = w->mode & 2 ? 9 : 0,
		.extensions = w->mode & 4 ? SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON : 0,
		.max_pending = w->mode & 32 ? 2 : 20,
	};

	w->cli = simco_cli_new(&cli_ops, w, &opts);
	if (w->cli == NULL)
		return;
	simco_cli_start(w->cli);
	while (in->n > 0)
		cli_step(w, in);
	simco_cli_free(w->cli);
	assert(w->outstanding == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct world w = {.mode = next(&in)};

	if (w.mode & 1)
		run_cli(&w, &in);
	else
		run_srv(&w, &in);
	return 0;
}
