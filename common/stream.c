/*
 * Byte streams over libevent's bufferevents. The object outlives every
 * callback that runs on it: freeing it inside one only marks it dead.
 *
 * What a turn writes is collected and given to the kernel at its end in one
 * call, without waiting for writability; only what the kernel does not take
 * goes through the bufferevent. TLS always does, with deferred callbacks: there
 * libevent would call back from inside a write or a drain. Reading, too, is done
 * here without TLS, for libevent asks how much there is before every read.
 */
#include "common/stream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/loop_int.h"
#include "common/stream_int.h"
#include "common/tls_int.h"

#define READ_MAX (64u << 10)
#define READ_ONCE (16u << 10) /* at most in one go */
#define WRITE_MAX (256u << 10)
#define CONNECT_TIMEOUT_MS 5000

enum stream_state {
	STREAM_CONNECTING, /* TCP or a server's handshake: `connecting` waits */
	STREAM_STARTING,   /* TLS handshake, or `ready` not called yet */
	STREAM_OPEN,
	STREAM_OVER,	/* `end` was called */
	STREAM_CLOSING, /* nobody's any more: flushes, then dies */
};

struct stream {
	struct loop *loop;
	int fd; /* owned here until there is a bufferevent */
	struct bufferevent *bev;
	struct evbuffer *in; /* without TLS; else the bufferevent's */
	struct loop_io *reader;
	struct evbuffer *out; /* written in this turn, or before the stream was open */
	struct loop_io *connecting;
	struct loop_job step;	  /* of a server's handshake */
	struct loop_timer *timer; /* connecting and closing */
	struct tls_conn *tls;
	struct loop_closer closer;
	struct stream_ops ops;
	void *arg;
	enum stream_state state;
	size_t read_max, write_max;
	struct addr_port peer;
	bool paused;
	bool flushing; /* flush() is deferred */
	bool full;     /* reading rests until something is consumed */
	bool eof;      /* the peer has ended its half */
	bool shut;     /* we have ended ours */
	bool dead;     /* destroyed when the last callback returns */
	unsigned busy; /* callbacks running on it */
};

static void flush(void *arg);

static void destroy(struct stream *s)
{
	if (s->flushing)
		loop_undefer(s->loop, flush, s);
	loop_closer_del(&s->closer);
	loop_job_cancel(&s->step);
	loop_timer_free(s->timer);
	loop_io_free(s->connecting);
	loop_io_free(s->reader);
	if (s->bev != NULL) {
		if (s->tls != NULL && s->state == STREAM_OPEN)
			tls_conn_shutdown(s->tls);
		bufferevent_free(s->bev);
	} else if (s->fd >= 0) {
		close(s->fd);
	}
	if (s->in != NULL)
		evbuffer_free(s->in);
	if (s->out != NULL)
		evbuffer_free(s->out);
	tls_conn_free(s->tls);
	free(s);
}

static void enter(struct stream *s)
{
	loop_count(s->loop);
	s->busy++;
}

static void leave(struct stream *s)
{
	if (--s->busy == 0 && s->dead)
		destroy(s);
}

void stream_free(struct stream *s)
{
	if (s == NULL)
		return;
	s->dead = true;
	if (s->busy == 0)
		destroy(s);
}

/* Tells the owner that it is over. Only from the loop, inside enter/leave. */
static void over(struct stream *s, int err)
{
	if (s->dead || s->state >= STREAM_OVER)
		return;
	s->state = STREAM_OVER;
	if (s->timer != NULL)
		loop_timer_clear(s->timer);
	loop_job_cancel(&s->step);
	loop_io_free(s->connecting);
	s->connecting = NULL;
	if (s->ops.end != NULL)
		s->ops.end(s, err, s->arg);
}

static struct evbuffer *input(const struct stream *s)
{
	return s->in != NULL ? s->in : bufferevent_get_input(s->bev);
}

static void set_reading(struct stream *s, bool on)
{
	if (s->reader != NULL)
		loop_io_set(s->reader, on ? LOOP_READ : 0);
	else if (on)
		bufferevent_enable(s->bev, loop_ev(LOOP_READ));
	else
		bufferevent_disable(s->bev, loop_ev(LOOP_READ));
}

/* Offers what has arrived. */
static void offer(struct stream *s)
{
	struct evbuffer *in = input(s);
	size_t n = evbuffer_get_length(in), used;
	const uint8_t *p;

	if (s->paused || n == 0)
		return;
	if (s->ops.data == NULL) {
		evbuffer_drain(in, n);
		return;
	}
	p = evbuffer_pullup(in, -1);
	if (p == NULL) {
		over(s, ERR_IO);
		return;
	}
	used = s->ops.data(s, span_of(p, n), s->arg);
	if (!s->dead && used > 0)
		evbuffer_drain(in, used < n ? used : n);
}

/* A full input takes the stream out of reading until its owner consumes. */
static void rest_when_full(struct stream *s)
{
	bool full = evbuffer_get_length(input(s)) >= s->read_max;

	if (full == s->full || s->eof)
		return;
	s->full = full;
	set_reading(s, !full);
}

/* The last octets are with the kernel: says so to the peer and waits for its end. */
static void flushed(struct stream *s)
{
	if (s->eof) {
		s->dead = true;
		return;
	}
	if (s->shut)
		return;
	s->shut = true;
	if (s->tls != NULL)
		tls_conn_shutdown(s->tls);
	/*
	 * Closing with unread input would reset the connection and take our
	 * last octets from the peer; so its input is read and forgotten.
	 */
	shutdown(s->fd, SHUT_WR);
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct stream *s = arg;

	(void)bev;
	if (s->dead)
		return;
	enter(s);
	if (s->state == STREAM_CLOSING)
		evbuffer_drain(input(s), evbuffer_get_length(input(s)));
	else if (s->state == STREAM_OPEN)
		offer(s);
	if (!s->dead)
		rest_when_full(s);
	if (s->eof && !s->paused && s->state == STREAM_OPEN)
		over(s, ERR_CLOSED);
	leave(s);
}

static void on_write(struct bufferevent *bev, void *arg)
{
	struct stream *s = arg;

	if (s->dead)
		return;
	enter(s);
	if (s->state == STREAM_CLOSING && evbuffer_get_length(bufferevent_get_output(bev)) == 0)
		flushed(s);
	else if (s->state == STREAM_OPEN && s->ops.drained != NULL)
		s->ops.drained(s, s->arg);
	leave(s);
}

/* Lets the bufferevent wait until the kernel takes the rest. */
static void hand_over(struct stream *s)
{
	if (s->out != NULL && evbuffer_get_length(s->out) > 0)
		bufferevent_write_buffer(s->bev, s->out);
}

/* End of the turn: everything written in it, in one call. */
static void flush(void *arg)
{
	struct stream *s = arg;

	s->flushing = false;
	if (s->state != STREAM_OPEN)
		return;
	/* An error stays with the socket; the bufferevent meets and reports it. */
	(void)evbuffer_write(s->out, s->fd);
	if (evbuffer_get_length(s->out) > 0) {
		hand_over(s);
		return;
	}
	enter(s);
	if (s->ops.drained != NULL)
		s->ops.drained(s, s->arg);
	leave(s);
}

static void opened(struct stream *s)
{
	if (s->state != STREAM_STARTING)
		return;
	s->state = STREAM_OPEN;
	loop_timer_free(s->timer);
	s->timer = NULL;
	hand_over(s);
	bufferevent_enable(s->bev, loop_ev(LOOP_WRITE));
	set_reading(s, true);
	if (s->ops.ready != NULL)
		s->ops.ready(s, s->arg);
}

static void on_eof(struct stream *s)
{
	size_t unread = evbuffer_get_length(input(s));

	if (s->state == STREAM_OVER)
		return; /* it broke; what is queued can go nowhere */
	s->eof = true;
	if (s->state == STREAM_CLOSING) {
		if (evbuffer_get_length(bufferevent_get_output(s->bev)) == 0)
			s->dead = true;
	} else if (s->state != STREAM_OPEN || unread == 0) {
		over(s, ERR_CLOSED);
	} else if (!s->paused) { /* resumed, but the rest has yet to be offered */
		bufferevent_trigger(s->bev, loop_ev(LOOP_READ), BEV_TRIG_DEFER_CALLBACKS);
	}
}

/* Why a TLS connection broke; a peer that just vanishes has ended, not failed. */
static int tls_failure(struct stream *s, int e)
{
	char peer[ADDR_PORT_STRLEN], text[256];
	unsigned long code;
	int err = 0;

	while ((code = s->bev != NULL ? bufferevent_get_openssl_error(s->bev)
				      : tls_conn_next_error()) != 0) {
		int kind = tls_conn_error(s->tls, code, text, sizeof(text));

		if (s->state <= STREAM_STARTING)
			kind = ERR_PERM;
		if (err == 0 && kind == ERR_PERM)
			log_info("tls %s: %s", addr_port_str(&s->peer, peer), text);
		else
			log_debug("tls %s: %s", addr_port_str(&s->peer, peer), text);
		if (err != ERR_PERM)
			err = kind;
	}
	return err != 0 ? err : s->state <= STREAM_STARTING ? stream_sock_end(e) : ERR_CLOSED;
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	int e = errno; /* libevent's report, gone with the next call */
	struct stream *s = arg;

	(void)bev;
	if (s->dead)
		return;
	enter(s);
	if (what & BEV_EVENT_CONNECTED)
		opened(s);
	else if (what & BEV_EVENT_EOF)
		on_eof(s);
	else if (s->state == STREAM_CLOSING)
		s->dead = true;
	else
		over(s, s->tls != NULL ? tls_failure(s, e) : stream_sock_end(e));
	leave(s);
}

/* As a bufferevent does it: data, or the one event that ends reading. */
static void on_readable(unsigned events, void *arg)
{
	struct stream *s = arg;
	size_t have = evbuffer_get_length(s->in), n = READ_ONCE;
	uint8_t in[READ_ONCE];
	ssize_t got;
	int err;

	(void)events;
	if (have >= s->read_max) {
		set_reading(s, false);
		s->full = true;
		return;
	}
	if (n > s->read_max - have)
		n = s->read_max - have;
	got = recv(s->fd, in, n, 0);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got > 0 && evbuffer_add(s->in, in, (size_t)got) == 0) {
		on_read(s->bev, s);
		return;
	}
	err = got > 0 ? ENOMEM : errno;
	set_reading(s, false);
	errno = err; /* on_event() asks */
	on_event(s->bev, got == 0 ? BEV_EVENT_EOF : BEV_EVENT_ERROR, s);
}

static void on_timer(void *arg)
{
	struct stream *s = arg;

	enter(s);
	if (s->state == STREAM_CLOSING)
		s->dead = true;
	else
		over(s, ERR_TIMEOUT);
	leave(s);
}

static bool set_timer(struct stream *s, uint64_t ms)
{
	if (s->timer == NULL)
		s->timer = loop_timer_new(s->loop, on_timer, s);
	if (s->timer == NULL)
		return false;
	loop_timer_set(s->timer, ms);
	return true;
}

/* Gives the connected socket to a bufferevent. 0 or ERR_NOMEM. */
static int start(struct stream *s, enum bufferevent_ssl_state role)
{
	if (s->tls != NULL)
		s->bev = bufferevent_openssl_socket_new(
			loop_base(s->loop), s->fd, tls_conn_ssl(s->tls), role,
			BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
	else
		s->bev = bufferevent_socket_new(loop_base(s->loop), s->fd, BEV_OPT_CLOSE_ON_FREE);
	if (s->bev == NULL)
		return ERR_NOMEM;
	if (s->tls == NULL) {
		s->in = evbuffer_new();
		s->reader = loop_io_new(s->loop, s->fd, 0, on_readable, s);
		if (s->in == NULL || s->reader == NULL)
			return ERR_NOMEM;
	}
	s->state = STREAM_STARTING;
	bufferevent_setcb(s->bev, on_read, on_write, on_event, s);
	/* No high mark for reading: libevent does not survive a lack of memory for that. */
	if (s->read_max < READ_ONCE)
		bufferevent_set_max_single_read(s->bev, s->read_max);
	bufferevent_setwatermark(s->bev, loop_ev(LOOP_WRITE), s->write_max / 4, 0);
	if (s->tls != NULL) {
		bufferevent_openssl_set_allow_dirty_shutdown(s->bev, 1);
		bufferevent_enable(s->bev, loop_ev(LOOP_READ | LOOP_WRITE));
	} else {
		bufferevent_trigger_event(s->bev, BEV_EVENT_CONNECTED, BEV_TRIG_DEFER_CALLBACKS);
	}
	return 0;
}

/*
 * A server's handshakes are done here and not by libevent, one step of one of
 * them in a turn: a step costs as much as many requests.
 */
static bool handshake_step(void *arg)
{
	struct stream *s = arg;
	unsigned events = 0;
	int err;

	enter(s);
	err = tls_conn_accept(s->tls, s->fd, &events);
	if (err == ERR_MORE) {
		loop_io_set(s->connecting, events);
	} else if (err != 0) {
		over(s, tls_failure(s, errno));
	} else {
		loop_io_free(s->connecting);
		s->connecting = NULL;
		if (start(s, BUFFEREVENT_SSL_OPEN) == 0)
			opened(s);
		else
			over(s, ERR_NOMEM);
	}
	leave(s);
	return true;
}

static void on_handshake(unsigned events, void *arg)
{
	struct stream *s = arg;

	(void)events;
	loop_io_set(s->connecting, 0);
	loop_job_queue(&s->step);
}

static void on_connected(unsigned events, void *arg)
{
	struct stream *s = arg;
	int err = stream_sock_error(s->fd);

	(void)events;
	enter(s);
	loop_io_free(s->connecting);
	s->connecting = NULL;
	if (err == 0 && start(s, BUFFEREVENT_SSL_CONNECTING) != 0)
		err = ERR_IO;
	if (err != 0)
		over(s, err);
	leave(s);
}

static struct stream *new_stream(struct loop *l, const struct stream_opts *opts,
				 const struct stream_ops *ops, void *arg)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->loop = l;
	s->fd = -1;
	s->ops = *ops;
	s->arg = arg;
	s->read_max = opts->read_max > 0 ? opts->read_max : READ_MAX;
	s->write_max = opts->write_max > 0 ? opts->write_max : WRITE_MAX;
	return s;
}

static uint64_t start_timeout(const struct stream_opts *opts)
{
	return opts->connect_timeout_ms > 0 ? opts->connect_timeout_ms : CONNECT_TIMEOUT_MS;
}

static void closer_free(struct loop_closer *c)
{
	stream_free(CONTAINER_OF(c, struct stream, closer));
}

struct stream *stream_connect(struct loop *l, const struct addr_port *to,
			      const struct stream_opts *opts, const struct stream_ops *ops,
			      void *arg, int *err)
{
	static const struct stream_opts defaults;
	char text[ADDR_STRLEN];
	struct stream *s;

	if (opts == NULL)
		opts = &defaults;
	*err = ERR_NOMEM;
	s = new_stream(l, opts, ops, arg);
	if (s == NULL)
		return NULL;
	s->peer = *to;
	if (opts->tls != NULL) {
		/* Without a name the server must prove its address. */
		s->tls =
			tls_conn_new(opts->tls, opts->tls_name != NULL ? opts->tls_name
								       : addr_str(&to->addr, text));
		if (s->tls == NULL)
			goto fail;
	}
	s->fd = stream_sock_connect(to, opts);
	if (s->fd < 0) {
		*err = s->fd;
		goto fail;
	}
	s->connecting = loop_io_new(l, s->fd, LOOP_WRITE, on_connected, s);
	if (s->connecting == NULL || !set_timer(s, start_timeout(opts)))
		goto fail;
	*err = 0;
	return s;
fail:
	destroy(s);
	return NULL;
}

struct stream *stream_adopt(struct loop *l, int fd, const struct stream_opts *opts,
			    const struct stream_ops *ops, void *arg)
{
	static const struct stream_opts defaults;
	struct stream *s;

	if (opts == NULL)
		opts = &defaults;
	s = new_stream(l, opts, ops, arg);
	if (s == NULL) {
		close(fd);
		return NULL;
	}
	s->fd = fd;
	s->peer = stream_sock_peer(fd);
	if (stream_sock_tune(fd) != 0)
		goto fail;
	if (opts->tls != NULL) {
		s->tls = tls_conn_new(opts->tls, NULL);
		if (s->tls == NULL || !set_timer(s, start_timeout(opts)))
			goto fail;
	}
	if (s->tls != NULL) {
		s->state = STREAM_CONNECTING;
		loop_job_init(&s->step, l, handshake_step, s);
		s->connecting = loop_io_new(l, fd, LOOP_READ, on_handshake, s);
		if (s->connecting == NULL)
			goto fail;
	} else if (start(s, BUFFEREVENT_SSL_OPEN) != 0) {
		goto fail;
	}
	return s;
fail:
	destroy(s);
	return NULL;
}

void stream_set_ops(struct stream *s, const struct stream_ops *ops, void *arg)
{
	s->ops = *ops;
	s->arg = arg;
}

static size_t waiting(const struct stream *s)
{
	return s->bev != NULL ? evbuffer_get_length(bufferevent_get_output(s->bev)) : 0;
}

size_t stream_queued(const struct stream *s)
{
	return waiting(s) + (s->out != NULL ? evbuffer_get_length(s->out) : 0);
}

/* To the bufferevent, if it must preserve order or encrypt; else for flush(). */
static int enqueue(struct stream *s, struct span out)
{
	if (s->state == STREAM_OPEN && (s->tls != NULL || waiting(s) > 0))
		return bufferevent_write(s->bev, out.p, out.n);
	if (s->out == NULL)
		s->out = evbuffer_new();
	if (s->out == NULL || evbuffer_add(s->out, out.p, out.n) != 0)
		return -1;
	if (s->state != STREAM_OPEN || s->flushing)
		return 0;
	s->flushing = loop_defer(s->loop, flush, s) == 0;
	if (!s->flushing)
		hand_over(s);
	return 0;
}

int stream_write(struct stream *s, struct span out)
{
	size_t queued;

	/* A peer that has ended its half may still read; stream_close() sends it. */
	if (s->dead || s->state == STREAM_CLOSING || (s->state == STREAM_OVER && !s->eof))
		return ERR_CLOSED;
	queued = stream_queued(s);
	if (queued > s->write_max || out.n > s->write_max - queued)
		return ERR_TOOBIG;
	if (out.n == 0)
		return 0;
	return enqueue(s, out) == 0 ? 0 : ERR_NOMEM;
}

void stream_pause(struct stream *s)
{
	s->paused = true;
}

void stream_resume(struct stream *s)
{
	s->paused = false;
	if (s->state == STREAM_OPEN)
		bufferevent_trigger(s->bev, loop_ev(LOOP_READ), BEV_TRIG_DEFER_CALLBACKS);
}

void stream_offer(struct stream *s)
{
	s->paused = false;
	if (s->state == STREAM_OPEN)
		on_read(s->bev, s);
}

/* Whether there is anybody left to flush to. */
static bool can_linger(struct stream *s)
{
	if (s->dead || s->bev == NULL)
		return false;
	if (s->state == STREAM_STARTING)
		return s->tls == NULL;
	return s->state == STREAM_OPEN || (s->state == STREAM_OVER && s->eof);
}

void stream_close(struct stream *s, uint64_t linger_ms)
{
	if (s == NULL)
		return;
	if (linger_ms == 0 || !can_linger(s) || !set_timer(s, linger_ms)) {
		stream_free(s);
		return;
	}
	s->state = STREAM_CLOSING;
	s->closer.fn = closer_free;
	loop_closer_add(s->loop, &s->closer);
	hand_over(s);
	bufferevent_setwatermark(s->bev, loop_ev(LOOP_WRITE), 0, 0);
	if (!s->eof) {
		bufferevent_enable(s->bev, loop_ev(LOOP_WRITE));
		set_reading(s, true);
	}
	/*
	 * on_read() drops what is there, which our caller may still be looking
	 * at; on_write() finds out whether there was anything to send.
	 */
	bufferevent_trigger(s->bev, loop_ev(LOOP_READ | LOOP_WRITE),
			    BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
}

struct addr_port stream_local(const struct stream *s)
{
	return stream_sock_local(s->fd);
}

struct addr_port stream_peer(const struct stream *s)
{
	return s->peer;
}

int stream_original_dst(const struct stream *s, const struct addr_port *listen,
			struct addr_port *out)
{
	return stream_sock_original_dst(s->fd, listen, out);
}

struct tls_conn *stream_tls(const struct stream *s)
{
	return s->tls;
}
