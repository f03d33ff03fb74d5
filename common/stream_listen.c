/*
 * TCP listeners. A wake-up accepts a bounded number of connections; when
 * descriptors run out, accepting rests for a moment instead of spinning.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/stream_int.h"

#define ACCEPTS_PER_WAKEUP 8
#define REST_MS 100

struct stream_listener {
	int fd;
	struct loop_io *io;
	struct loop_timer *rest;
	stream_accept_fn fn;
	void *arg;
	bool on;
	bool starved; /* the lack of descriptors is logged once */
	bool busy;    /* inside on_accept() */
	bool dead;
};

static void destroy(struct stream_listener *sl)
{
	loop_io_free(sl->io);
	loop_timer_free(sl->rest);
	if (sl->fd >= 0)
		close(sl->fd);
	free(sl);
}

static void update(struct stream_listener *sl)
{
	loop_io_set(sl->io, sl->on && !loop_timer_is_set(sl->rest) ? LOOP_READ : 0);
}

static void on_rested(void *arg)
{
	update(arg);
}

/* Accepts one; false when this wake-up is over. */
static bool accept_one(struct stream_listener *sl)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr_port peer = {.port = 0};
	int fd = accept4(sl->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		sl->starved = false;
		(void)addr_from_sockaddr((struct sockaddr *)&ss, &peer);
		sl->fn(fd, &peer, sl->arg);
		return true;
	}
	switch (errno) {
	case EAGAIN:
		return false;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		if (!sl->starved)
			log_err("stream: cannot accept connections: %s", strerror(errno));
		sl->starved = true;
		loop_timer_set(sl->rest, REST_MS);
		return false;
	default:
		return true; /* an error of that connection only */
	}
}

static void on_accept(unsigned events, void *arg)
{
	struct stream_listener *sl = arg;

	(void)events;
	sl->busy = true;
	for (int i = 0; i < ACCEPTS_PER_WAKEUP && sl->on && !sl->dead; i++) {
		if (!accept_one(sl))
			break;
	}
	sl->busy = false;
	if (sl->dead)
		destroy(sl);
	else
		update(sl);
}

struct stream_listener *stream_listen(struct loop *l, const struct addr_port *at, bool transparent,
				      stream_accept_fn fn, void *arg, int *err)
{
	struct stream_listener *sl = calloc(1, sizeof(*sl));

	*err = ERR_NOMEM;
	if (sl == NULL)
		return NULL;
	sl->fn = fn;
	sl->arg = arg;
	sl->on = true;
	sl->fd = stream_sock_listen(at, transparent);
	if (sl->fd < 0) {
		*err = sl->fd;
		goto fail;
	}
	sl->rest = loop_timer_new(l, on_rested, sl);
	sl->io = loop_io_new(l, sl->fd, LOOP_READ, on_accept, sl);
	if (sl->rest == NULL || sl->io == NULL)
		goto fail;
	*err = 0;
	return sl;
fail:
	destroy(sl);
	return NULL;
}

void stream_listener_enable(struct stream_listener *sl, bool on)
{
	sl->on = on;
	update(sl);
}

struct addr_port stream_listener_local(const struct stream_listener *sl)
{
	return stream_sock_local(sl->fd);
}

void stream_listener_free(struct stream_listener *sl)
{
	if (sl == NULL)
		return;
	sl->dead = true;
	if (!sl->busy)
		destroy(sl);
}
