/*
 * The connection to one middlebox: connecting, the SIMCO session on it, noticing
 * that it died, and trying again.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/mb_int.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/tls.h"

#define WRITE_MAX (1024u * 1024u)

/* -25 % .. +25 %, so that agents do not come back in step. */
static uint64_t jitter(uint64_t ms)
{
	uint16_t r = 0;

	if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != (ssize_t)sizeof(r))
		return ms;
	return ms * 3 / 4 + ms * r / 2 / UINT16_MAX;
}

/* The timer's meaning follows from the state: retry, give up opening, or look after requests. */
void mb_arm(struct mb_client *mb)
{
	const struct mb_times *t = &mb->all->times;
	uint64_t now_us = mb_now_us(), age;

	if (mb->state != MB_OPEN)
		return;
	if (!mb->calls) {
		loop_timer_set(mb->timer, t->keepalive);
		return;
	}
	age = (now_us - mb->calls->sent_us) / 1000;
	loop_timer_set(mb->timer, age < t->request ? t->request - age : 0);
}

static void schedule_retry(struct mb_client *mb)
{
	const struct mb_times *t = &mb->all->times;

	if (mb->backoff_ms < t->retry_min)
		mb->backoff_ms = t->retry_min;
	loop_timer_set(mb->timer, jitter(mb->backoff_ms));
	mb->backoff_ms = mb->backoff_ms * 2 < t->retry_max ? mb->backoff_ms * 2 : t->retry_max;
}

/* Leaves MB_OPEN first: callbacks of failing requests must not send new ones. */
static void session_end(struct mb_client *mb, const char *why)
{
	bool stable = mb->state == MB_OPEN &&
		      loop_now_ms(mb->all->loop) - mb->since_ms >= mb->all->times.retry_max;

	if (mb->state == MB_OPEN)
		log_warn("middlebox %s: session lost: %s", mb->name, why);
	else if (strcmp(mb->why, why))
		log_warn("middlebox %s: no session: %s", mb->name, why);
	mb_set_state(mb, MB_DOWN, why);
	if (stable)
		mb->backoff_ms = 0;
	stream_free(mb->stream);
	mb->stream = NULL;
	simco_cli_end(mb->cli);
}

void mb_drop(struct mb_client *mb, const char *why)
{
	if (mb->state == MB_DOWN)
		return;
	session_end(mb, why);
	if (simco_cli_retry(mb->cli)) /* it knows no extensions: ask again without */
		loop_timer_set(mb->timer, 0);
	else
		schedule_retry(mb);
}

static void flush(void *arg)
{
	struct mb_client *mb = arg;
	const uint8_t *p;
	size_t n;

	mb->flushing = false;
	if (!mb->stream)
		return;
	p = simco_cli_output(mb->cli, &n);
	while (n) {
		size_t part = n < 65536 ? n : 65536;
		int err = stream_write(mb->stream, span_of(p, part));

		if (err == ERR_TOOBIG)
			return; /* again when drained */
		if (err) {
			mb_drop(mb, err_str(err));
			return;
		}
		simco_cli_sent(mb->cli, part);
		p = simco_cli_output(mb->cli, &n);
	}
}

void mb_flush_later(struct mb_client *mb)
{
	if (!mb->flushing && !loop_defer(mb->all->loop, flush, mb))
		mb->flushing = true;
}

static void on_ready(struct stream *s, void *arg)
{
	struct mb_client *mb = arg;

	(void)s;
	mb_set_state(mb, MB_OPENING, mb->why);
	mb->heard_ms = loop_now_ms(mb->all->loop);
	if (simco_cli_start(mb->cli))
		mb_drop(mb, err_str(ERR_NOMEM));
	else
		mb_flush_later(mb);
}

static size_t on_data(struct stream *s, struct span in, void *arg)
{
	struct mb_client *mb = arg;
	size_t used = 0;
	int err;

	(void)s;
	mb->heard_ms = loop_now_ms(mb->all->loop);
	err = simco_cli_input(mb->cli, in.p, in.n, &used);
	if (err) {
		mb_drop(mb, mb->why[0] ? mb->why : "session ended by the middlebox");
		return in.n;
	}
	mb_arm(mb);
	mb_flush_later(mb);
	return used;
}

static void on_drained(struct stream *s, void *arg)
{
	(void)s;
	flush(arg);
}

static void on_end(struct stream *s, int err, void *arg)
{
	(void)s;
	mb_drop(arg, err_str(err));
}

static const struct stream_ops stream_callbacks = {
	.ready = on_ready,
	.data = on_data,
	.drained = on_drained,
	.end = on_end,
};

/* Anything that is answered serves; a rule that cannot exist costs the middlebox nothing. */
static void keepalive_answered(void *arg, const struct simco_msg *m, const struct failure *f)
{
	(void)arg;
	(void)m;
	(void)f;
}

static void keepalive(struct mb_client *mb)
{
	struct simco_msg m = {.type = SIMCO_PRS_REQ, .pid = 0};

	if (mb_client_request(mb, &m, keepalive_answered, NULL))
		mb_arm(mb);
}

static void on_timer(void *arg)
{
	struct mb_client *mb = arg;
	const struct mb_times *t = &mb->all->times;

	switch (mb->state) {
	case MB_DOWN:
		mb_connect(mb);
		return;
	case MB_CONNECTING:
	case MB_OPENING:
		mb_drop(mb, "timed out");
		return;
	case MB_OPEN:
		break;
	}
	if (mb_is_spent(mb) && !loop_defer(mb->all->loop, mb_sweep, mb->all))
		return;
	if (mb->calls && mb_now_us() - mb->calls->sent_us >= t->request * 1000) {
		mb->timeouts++;
		mb_drop(mb, "no reply in time");
	} else if (!mb->calls && loop_now_ms(mb->all->loop) - mb->heard_ms >= t->keepalive) {
		keepalive(mb);
	} else {
		mb_arm(mb);
	}
}

static void on_open(void *arg, const struct simco_capabilities *caps, uint32_t extensions)
{
	struct mb_client *mb = arg;
	char text[ADDR_PORT_STRLEN];

	mb->caps = *caps;
	mb->known_caps = true;
	mb->extensions = extensions;
	mb->learned[0] = mb->learned[1] = -1;
	mb->sessions++;
	mb_set_state(mb, MB_OPEN, "");
	log_info("middlebox %s: session open with %s (%s%s%s, lifetimes up to %u s)", mb->name,
		 addr_port_str(&mb->address, text),
		 caps->mb_type & SIMCO_MB_FIREWALL ? "firewall" : "",
		 caps->mb_type & SIMCO_MB_NAT ? " NAT" : "",
		 extensions & SIMCO_EXT_ACTIVITY ? ", activity" : "", caps->max_lifetime);
	mb_sync_start(mb);
	mb_flush_later(mb);
}

static void on_closed(void *arg, uint16_t type)
{
	struct mb_client *mb = arg;

	if (type) /* kept for the next failure that is told */
		span_copy(span_str(simco_type_name(type)), mb->why, sizeof(mb->why));
}

static void on_event(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	struct mb_client *mb = arg;
	struct table_node *node = table_get(&mb->rules, span_of(&pid, sizeof(pid)));
	struct mb_rule *r;

	if (!node)
		return;
	r = CONTAINER_OF(node, struct mb_rule, node);
	r->changed(r, lifetime, reason);
}

static size_t on_token(void *arg, const uint8_t *challenge, size_t n, uint8_t token[SIMCO_AUTH_MAX])
{
	if (mb_token(arg, "agent", challenge, n, token))
		return 0;
	return MB_TOKEN_LEN;
}

static bool on_verify(void *arg, const uint8_t *token, size_t n)
{
	struct mb_client *mb = arg;
	uint8_t want[MB_TOKEN_LEN];

	return !mb_token(mb, "middlebox", mb->challenge, sizeof(mb->challenge), want) &&
	       tls_equal(span_of(want, sizeof(want)), span_of(token, n));
}

static const struct simco_cli_ops cli_callbacks = {
	.open = on_open,
	.closed = on_closed,
	.event = on_event,
	.token = on_token,
	.verify = on_verify,
};

/* One per connection where there is a secret: a challenge is never used twice. */
static int make_machine(struct mb_client *mb)
{
	struct simco_cli_opts opts = {
		.extensions = SIMCO_EXT_ACTIVITY | SIMCO_EXT_REASON,
		.max_pending = MB_PENDING_MAX,
	};
	struct simco_cli *cli;

	if (mb->secret) {
		if (tls_random(mb->challenge, sizeof(mb->challenge)))
			return ERR_IO;
		opts.challenge = mb->challenge;
		opts.challenge_len = sizeof(mb->challenge);
	}
	cli = simco_cli_new(&cli_callbacks, mb, &opts);
	if (!cli)
		return ERR_NOMEM;
	if (mb->cli)
		simco_cli_free(mb->cli);
	mb->cli = cli;
	return 0;
}

void mb_connect(struct mb_client *mb)
{
	struct stream_opts opts = {
		.write_max = WRITE_MAX,
		.connect_timeout_ms = mb->all->times.open,
		.tls = mb->tls,
		.tls_name = mb->tls_conf.name,
	};
	int err = mb->secret && !simco_cli_retry(mb->cli) ? make_machine(mb) : 0;

	mb->state = MB_CONNECTING;
	mb->since_ms = loop_now_ms(mb->all->loop);
	if (!err)
		mb->stream = stream_connect(mb->all->loop, &mb->address, &opts, &stream_callbacks,
					    mb, &err);
	if (!mb->stream)
		mb_drop(mb, err_str(err));
	else
		loop_timer_set(mb->timer, mb->all->times.open);
}

int mb_conn_init(struct mb_client *mb)
{
	mb->timer = loop_timer_new(mb->all->loop, on_timer, mb);
	return mb->timer ? make_machine(mb) : ERR_NOMEM;
}

void mb_conn_fini(struct mb_client *mb)
{
	mb->state = MB_DOWN;
	if (mb->cli)
		simco_cli_free(mb->cli); /* answers what is unanswered */
	mb->cli = NULL;
	stream_free(mb->stream);
	mb->stream = NULL;
	loop_timer_free(mb->timer);
	mb->timer = NULL;
	loop_undefer(mb->all->loop, flush, mb);
}
