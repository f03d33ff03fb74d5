/*
 * One SIMCO connection: octets between a stream and its session machine,
 * requests to the core, replies back. It protects the daemon: caps, half-open
 * time, slow readers, fair turns.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/mbx_int.h"

#define QUEUE_MAX (256u * 1024) /* octets given to the stream; the rest waits in the machine */
#define LINGER_MS 2000u
#define BULK 8u			  /* requests at a time of a session that lets others go first, */
#define BULK_MEMORY 16u		  /* until it asked for less so many times */
#define TLS_RECORD_HANDSHAKE 0x16 /* RFC 8446 §5.1; no SIMCO basic type (RFC 4540 §4.2.1) */

static const struct stream_ops stream_callbacks;
static const struct simco_srv_ops srv_callbacks;

/* ---- Life and death --------------------------------------------------------------- */

/* Nothing below the top callbacks frees a connection: it waits for mbx_conn_end_some(). */
void mbx_conn_end(struct mbx_conn *c, const char *why)
{
	struct mbx *m = c->mbx;

	if (c->ending)
		return;
	c->ending = true;
	c->why = why;
	c->next_dying = NULL;
	*m->dying_tail = c;
	m->dying_tail = &c->next_dying;
	m->n_dying++;
	loop_job_queue(&m->end_job);
}

static void leave_queues(struct mbx_conn *c)
{
	struct mbx *m = c->mbx;

	for (struct mbx_conn **p = &m->dirty; c->dirty && *p != NULL; p = &(*p)->next_dirty) {
		if (*p == c) {
			*p = c->next_dirty;
			break;
		}
	}
	for (struct mbx_conn **p = &m->dying; c->ending && *p != NULL; p = &(*p)->next_dying) {
		if (*p != c)
			continue;
		*p = c->next_dying;
		if (m->dying_tail == &c->next_dying)
			m->dying_tail = p;
		m->n_dying--;
		break;
	}
	for (struct mbx_conn **p = &m->waiting; c->waiting && *p != NULL; p = &(*p)->next_waiting) {
		if (*p != c)
			continue;
		*p = c->next_waiting;
		if (m->waiting_tail == &c->next_waiting)
			m->waiting_tail = p;
		if (m->unserved_tail == &c->next_waiting)
			m->unserved_tail = p;
		break;
	}
	c->dirty = c->waiting = false;
}

static void end_handshake(struct mbx_conn *c)
{
	if (!c->handshaking)
		return;
	c->handshaking = false;
	c->mbx->n_handshaking--;
}

void mbx_conn_free(struct mbx_conn *c)
{
	struct mbx *m = c->mbx;

	leave_queues(c);
	end_handshake(c);
	if (c->joined)
		core_session_close(m->core, c);
	loop_io_free(c->sniff);
	loop_timer_free(c->timer);
	if (c->fd >= 0)
		close(c->fd);
	stream_free(c->stream);
	simco_srv_free(c->srv);
	if (c->prev != NULL)
		c->prev->next = c->next;
	else
		m->conns = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	m->n_conns--;
	free(c);
	mbx_conn_throttle(m);
}

/* Moves output of the machine to the stream. */
static void flush(struct mbx_conn *c, size_t queue_max)
{
	size_t n, queued;
	const uint8_t *p;

	if (c->stream == NULL)
		return;
	p = simco_srv_output(c->srv, &n);
	queued = stream_queued(c->stream);
	if (n == 0 || queued >= queue_max)
		return;
	if (n > queue_max - queued)
		n = queue_max - queued;
	if (stream_write(c->stream, span_of(p, n)) == 0)
		simco_srv_sent(c->srv, n);
}

static void end_now(struct mbx_conn *c)
{
	log_info("simco s%llu: ended: %s%s%s", (unsigned long long)c->id, c->why,
		 c->agent[0] != '\0' ? ", agent " : "", c->agent);
	flush(c, c->mbx->policy->limits.output_bytes + QUEUE_MAX);
	if (c->stream != NULL && stream_queued(c->stream) > 0) {
		stream_close(c->stream, LINGER_MS);
		c->stream = NULL;
	}
	mbx_conn_free(c);
}

bool mbx_conn_end_some(void *arg)
{
	struct mbx *m = arg;

	for (unsigned n = 0; n < MBX_TURN_ENDS && m->dying != NULL; n++)
		end_now(m->dying);
	if (m->dying != NULL)
		loop_job_queue(&m->end_job);
	return true;
}

void mbx_conn_terminate(struct mbx_conn *c, const char *why)
{
	if (c->ending)
		return;
	simco_srv_terminate(c->srv);
	mbx_conn_end(c, why);
}

/* ---- Time --------------------------------------------------------------------------- */

static void set_timer(struct mbx_conn *c)
{
	uint64_t due = simco_srv_deadline(c->srv), now = loop_now_ms(c->mbx->loop);

	if (c->half_open_until != 0 && c->half_open_until < due)
		due = c->half_open_until;
	if (due == UINT64_MAX)
		due = 0;
	if (due == c->due || c->ending)
		return;
	c->due = due;
	if (due == 0)
		loop_timer_clear(c->timer);
	else
		loop_timer_set(c->timer, due > now ? due - now : 0);
}

static void on_timer(void *arg)
{
	struct mbx_conn *c = arg;
	uint64_t now = loop_now_ms(c->mbx->loop);

	c->due = 0;
	if (c->ending)
		return;
	if (c->half_open_until != 0 && now >= c->half_open_until) {
		c->mbx->counters.cut++;
		mbx_conn_end(c, "no session in time");
	} else if (simco_srv_timeout(c->srv, now) == SIMCO_ERR_CLOSED) {
		c->mbx->counters.protocol_errors++;
		mbx_conn_end(c, "message not completed in time");
	} else {
		set_timer(c);
	}
}

/* ---- Requests and replies --------------------------------------------------------------- */

static void mark_dirty(struct mbx_conn *c)
{
	if (c->dirty)
		return;
	c->dirty = true;
	c->next_dirty = c->mbx->dirty;
	c->mbx->dirty = c;
}

/* What a request takes of the turn's time. */
static unsigned cost_of(const struct mbx *m, const struct simco_msg *msg)
{
	if (msg->type != SIMCO_PRL_REQ)
		return 1;
	return 1 + (unsigned)(core_stats(m->core).rules / MBX_PRL_PER_REQUEST);
}

static void on_request(void *arg, const struct simco_msg *msg)
{
	struct mbx_conn *c = arg;
	struct mbx *m = c->mbx;

	if (c->ending || !c->joined)
		return;
	c->requests++;
	mbx_turn_count(m, cost_of(m, msg));
	if (core_request(m->core, c, msg, loop_now_ms(m->loop)) != 0) {
		mbx_conn_terminate(c, "out of memory");
		return;
	}
	mbx_defer_commit(m);
	if (mbx_turn_full(m))
		simco_srv_pause(c->srv);
	if (core_pending(m->core) >= CORE_BATCH)
		mbx_commit_now(m);
}

void mbx_conn_reply(struct mbx_conn *c, struct simco_msg *reply)
{
	int rc = simco_srv_reply(c->srv, reply);

	if (c->ending)
		return; /* an agent that only half closed still reads it */
	if (rc == SIMCO_ERR_CLOSED) {
		c->mbx->counters.cut++;
		mbx_conn_end(c, "reads too slowly");
	} else if (rc != SIMCO_OK) {
		/* Ours to fix; the agent must not wait for ever. */
		log_err("simco s%llu: cannot answer with %s: %s", (unsigned long long)c->id,
			simco_type_name(reply->type), simco_err_name(rc));
		mbx_conn_end(c, "internal error");
	}
	mark_dirty(c);
}

void mbx_conn_event(struct mbx_conn *c, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	if (c->ending)
		return;
	if (simco_srv_event(c->srv, pid, lifetime, reason) == SIMCO_ERR_CLOSED) {
		c->mbx->counters.cut++;
		mbx_conn_end(c, "reads too slowly");
	}
	mark_dirty(c);
	mbx_defer_commit(c->mbx); /* its end flushes */
}

/*
 * More input is there than this turn takes. Who got nothing in it goes before
 * those who did, or a session in bulk would keep its place for ever; and before
 * whoever asks in the next turn, or many who ask little could keep it out.
 */
static void wait_for_turn(struct mbx_conn *c, bool served)
{
	struct mbx *m = c->mbx;
	struct mbx_conn **at = served ? m->waiting_tail : m->unserved_tail;

	if (c->waiting)
		return;
	c->waiting = true;
	c->next_waiting = *at;
	*at = c;
	if (m->waiting_tail == at)
		m->waiting_tail = &c->next_waiting;
	if (!served)
		m->unserved_tail = &c->next_waiting;
	stream_pause(c->stream); /* the peer's end waits, too */
	mbx_defer_commit(m);	 /* feeds it afterwards */
}

static bool somebody_got_nothing(const struct mbx *m)
{
	return m->unserved_tail != &m->waiting;
}

void mbx_conn_feed_waiting(struct mbx *m)
{
	struct mbx_conn *c = m->waiting, *next;

	m->waiting = NULL;
	m->waiting_tail = m->unserved_tail = &m->waiting;
	m->feeding = true;
	for (; c != NULL; c = next) {
		next = c->next_waiting;
		c->waiting = false;
		stream_offer(c->stream);
	}
	m->feeding = false;
}

/*
 * An agent that asks faster than it reads is not asked for more; what then
 * still overflows (notifications) cuts it off.
 */
static bool output_is_full(const struct mbx_conn *c)
{
	size_t n, max = (size_t)c->mbx->policy->limits.output_bytes / 2;

	simco_srv_output(c->srv, &n);
	return n > (max < QUEUE_MAX ? max : QUEUE_MAX);
}

void mbx_conn_flush_dirty(struct mbx *m)
{
	while (m->dirty != NULL) {
		struct mbx_conn *c = m->dirty;

		m->dirty = c->next_dirty;
		c->dirty = false;
		if (c->ending)
			continue; /* its end sends the rest */
		flush(c, QUEUE_MAX);
		set_timer(c);
	}
}

static size_t on_data(struct stream *s, struct span in, void *arg)
{
	struct mbx_conn *c = arg;
	struct mbx *m = c->mbx;
	struct span slice = span_sub(in, 0, MBX_SLICE);
	uint64_t before;
	size_t used = 0;
	int rc;

	if (c->ending)
		return in.n;
	if (mbx_turn_full(m) || c->waiting || (!m->feeding && somebody_got_nothing(m))) {
		wait_for_turn(c, false);
		return 0;
	}
	if (!m->feeding && c->bulk > 0) { /* in this turn, when the others have their replies */
		wait_for_turn(c, true);
		return 0;
	}
	if (output_is_full(c)) {
		c->draining = true; /* drained() goes on */
		stream_pause(s);
		return 0;
	}
	before = c->requests;
	rc = simco_srv_input(c->srv, slice.p, slice.n, &used, loop_now_ms(m->loop));
	if (c->requests - before >= BULK)
		c->bulk = BULK_MEMORY;
	else if (c->bulk > 0)
		c->bulk--;
	if (rc == SIMCO_ERR_CLOSED)
		mbx_conn_end(c, "closed by the session");
	else if (used < in.n)
		wait_for_turn(c, true);
	mark_dirty(c);
	mbx_defer_commit(m);
	return c->ending ? in.n : used;
}

static void on_drained(struct stream *s, void *arg)
{
	struct mbx_conn *c = arg;

	if (c->ending)
		return;
	flush(c, QUEUE_MAX);
	if (c->draining && !output_is_full(c)) {
		c->draining = false;
		stream_resume(s);
	}
}

static void on_ready(struct stream *s, void *arg)
{
	struct mbx_conn *c = arg;

	(void)s;
	end_handshake(c);
	mbx_conn_throttle(c->mbx);
}

static void on_stream_end(struct stream *s, int err, void *arg)
{
	struct mbx_conn *c = arg;

	(void)s;
	mbx_conn_end(c, err == ERR_CLOSED ? "connection closed by the agent" : err_str(err));
}

static const struct stream_ops stream_callbacks = {
	.ready = on_ready,
	.data = on_data,
	.drained = on_drained,
	.end = on_stream_end,
};

static const struct simco_srv_ops srv_callbacks = {
	.establish = mbx_session_establish,
	.authenticate = mbx_session_authenticate,
	.request = on_request,
	.state = mbx_session_state,
};

/* ---- Accepting ---------------------------------------------------------------------------- */

static void adopt(struct mbx_conn *c, bool tls)
{
	struct mbx *m = c->mbx;
	struct stream_opts opts = {
		.write_max = (size_t)m->policy->limits.output_bytes + 2 * QUEUE_MAX,
		.connect_timeout_ms = m->policy->limits.half_open_seconds * 1000,
		.tls = tls ? m->tls : NULL,
	};

	c->tls = tls;
	if (tls) {
		c->handshaking = true;
		m->n_handshaking++;
		mbx_conn_throttle(m);
	}
	c->stream = stream_adopt(m->loop, c->fd, &opts, &stream_callbacks, c);
	c->fd = -1;
	if (c->stream == NULL)
		mbx_conn_end(c, "out of memory");
}

/* With TLS in the policy the first octet tells what the agent speaks. */
static void on_first_octet(unsigned events, void *arg)
{
	struct mbx_conn *c = arg;
	uint8_t first;
	ssize_t n = recv(c->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	loop_io_free(c->sniff);
	c->sniff = NULL;
	if (n <= 0)
		mbx_conn_end(c, "connection closed by the agent");
	else
		adopt(c, first == TLS_RECORD_HANDSHAKE);
}

static struct mbx_conn *conn_new(struct mbx *m, int fd, const struct addr_port *peer)
{
	struct mbx_conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->mbx = m;
	c->fd = fd;
	c->peer = *peer;
	c->since_ms = loop_now_ms(m->loop);
	c->half_open_until = c->since_ms + m->policy->limits.half_open_seconds * 1000;
	c->srv = simco_srv_new(&srv_callbacks, c, (size_t)m->policy->limits.output_bytes,
			       c->since_ms);
	c->timer = loop_timer_new(m->loop, on_timer, c);
	if (c->srv == NULL || c->timer == NULL) {
		simco_srv_free(c->srv);
		loop_timer_free(c->timer);
		free(c);
		return NULL;
	}
	c->id = ++m->next_id;
	c->next = m->conns;
	if (m->conns != NULL)
		m->conns->prev = c;
	m->conns = c;
	m->n_conns++;
	return c;
}

void mbx_conn_accept(int fd, const struct addr_port *peer, void *arg)
{
	struct mbx *m = arg;
	struct mbx_conn *c = conn_new(m, fd, peer);

	if (c == NULL) {
		log_err("simco: out of memory for a connection");
		close(fd);
		return;
	}
	m->counters.accepted++;
	set_timer(c);
	if (m->tls == NULL) {
		adopt(c, false);
	} else {
		c->sniff = loop_io_new(m->loop, fd, LOOP_READ, on_first_octet, c);
		if (c->sniff == NULL)
			mbx_conn_end(c, "out of memory");
	}
	mbx_conn_throttle(m);
}

void mbx_conn_throttle(struct mbx *m)
{
	bool on = m->n_conns < m->policy->limits.sessions + MBX_SPARE &&
		  m->n_handshaking < MBX_HANDSHAKES_MAX && m->done == NULL;

	if (on == m->listening)
		return;
	m->listening = on;
	for (size_t i = 0; i < m->n_listeners; i++)
		stream_listener_enable(m->listeners[i], on);
}
