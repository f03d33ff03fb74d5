/*
 * Byte streams over TCP, and over TLS when a tls_ctx is given, plus TCP
 * listeners. stream.c is the only file that knows libevent's bufferevents.
 *
 * A stream never grows without bound: reading stops while `read_max` octets or
 * more are unconsumed, and stream_write refuses past `write_max`.
 * An owner that leaves `read_max` octets unconsumed gets no more: its message
 * is too big.
 *
 * A stream may be freed or closed in any callback, its own or another's; the
 * octets given to `data` stay readable until that call returns.
 */
#ifndef SLUICE_COMMON_STREAM_H
#define SLUICE_COMMON_STREAM_H

#include "common/addr.h"
#include "common/base.h"
#include "common/loop.h"
#include "common/span.h"

struct stream;
struct stream_listener;
struct tls_ctx; /* common/tls.h */

struct stream_ops {
	/* Connected (and TLS handshake done). Also called for accepted streams. */
	void (*ready)(struct stream *s, void *arg);
	/*
	 * Unconsumed octets, all that are there. Returns how many were used;
	 * the rest is offered again with the next octets that arrive or after
	 * stream_resume().
	 */
	size_t (*data)(struct stream *s, struct span in, void *arg);
	/* The output queue fell below the low mark or became empty. */
	void (*drained)(struct stream *s, void *arg);
	/*
	 * The stream is over: ERR_CLOSED (orderly end of the peer),
	 * ERR_REFUSED, ERR_UNREACHABLE, ERR_TIMEOUT, ERR_IO, ERR_PERM (TLS).
	 * Called at most once, never from inside stream_free(). What arrived
	 * before the peer's orderly end is offered first, so while the stream is
	 * paused with unconsumed octets ERR_CLOSED waits. The owner calls
	 * stream_free() in it or later, or stream_close(): a peer that only ended
	 * its half still gets what is queued.
	 */
	void (*end)(struct stream *s, int err, void *arg);
};

struct stream_opts {
	size_t read_max;	     /* octets, default 64 KiB */
	size_t write_max;	     /* octets, default 256 KiB */
	uint64_t connect_timeout_ms; /* default 5000, also bounds the TLS handshake */
	struct tls_ctx *tls;	     /* NULL: plain TCP; borrowed */
	/* Client side: name or address the peer must prove, NULL: the address connected to. */
	const char *tls_name;
	/* Client side: local address; version 0 leaves the choice to the kernel. */
	struct addr_port from;
	bool transparent; /* IP_TRANSPARENT before bind: `from` need not be local */
};

/*
 * Starts to connect; opts NULL means all defaults. NULL on failure with *err set; otherwise `ready`
 * or `end` follows, never before this function returned.
 */
struct stream *stream_connect(struct loop *l, const struct addr_port *to,
			      const struct stream_opts *opts, const struct stream_ops *ops,
			      void *arg, int *err);
/* Takes over a connected socket (closes it on failure, too). With opts->tls: server side. */
struct stream *stream_adopt(struct loop *l, int fd, const struct stream_opts *opts,
			    const struct stream_ops *ops, void *arg);
/* Changes callbacks and argument. */
void stream_set_ops(struct stream *s, const struct stream_ops *ops, void *arg);

/* Queues a copy, also before `ready`, and after ERR_CLOSED for stream_close() to send. 0,
 * ERR_TOOBIG past write_max (nothing queued), ERR_NOMEM, ERR_CLOSED. */
int stream_write(struct stream *s, struct span out);
/* Octets accepted but not yet given to the kernel. */
size_t stream_queued(const struct stream *s);
/* Stops and restarts calling `data`; resuming offers what is there at once (deferred). */
void stream_pause(struct stream *s);
void stream_resume(struct stream *s);
/* Resumes, and offers now instead of in the next turn. Not from a callback of a stream. */
void stream_offer(struct stream *s);
/* Sends what is queued (at most `linger_ms`), then closes and frees. No callback comes any more. */
void stream_close(struct stream *s, uint64_t linger_ms);
/* Closes at once. No callback comes any more. NULL is fine. */
void stream_free(struct stream *s);

struct addr_port stream_local(const struct stream *s);
struct addr_port stream_peer(const struct stream *s);
/*
 * Where an intercepted connection wanted to go: SO_ORIGINAL_DST after an nft
 * redirect, otherwise the local address (TPROXY). 0 or ERR_NOENT when the
 * client wanted exactly `listen`.
 */
int stream_original_dst(const struct stream *s, const struct addr_port *listen,
			struct addr_port *out);
/* The authenticated certificate names of the peer (TLS), see tls.h; NULL on plain TCP. */
struct tls_conn *stream_tls(const struct stream *s);

/* Accept callback; takes fd. */
typedef void (*stream_accept_fn)(int fd, const struct addr_port *peer, void *arg);

/* transparent: IP_TRANSPARENT on the listening socket (for TPROXY). NULL with *err on failure. */
struct stream_listener *stream_listen(struct loop *l, const struct addr_port *at, bool transparent,
				      stream_accept_fn fn, void *arg, int *err);
/* Stops and restarts accepting (connection caps). */
void stream_listener_enable(struct stream_listener *sl, bool on);
struct addr_port stream_listener_local(const struct stream_listener *sl);
void stream_listener_free(struct stream_listener *sl); /* NULL is fine */

#endif
