/*
 * Shared by the stream files only: the socket calls beneath streams and
 * listeners. Every int is a descriptor or 0, or a negative ERR_*.
 */
#ifndef SLUICE_COMMON_STREAM_INT_H
#define SLUICE_COMMON_STREAM_INT_H

#include "common/stream.h"

/* A socket on its way to `to`; the result comes with writability. */
int stream_sock_connect(const struct addr_port *to, const struct stream_opts *opts);
int stream_sock_listen(const struct addr_port *at, bool transparent);
/* Non-blocking, close-on-exec, no Nagle delay, keepalive. */
int stream_sock_tune(int fd);
/* Takes the pending error of a socket. */
int stream_sock_error(int fd);
/* What `end` may report for an errno value. */
int stream_sock_end(int e);
struct addr_port stream_sock_local(int fd);
struct addr_port stream_sock_peer(int fd);
/* See stream_original_dst(). */
int stream_sock_original_dst(int fd, const struct addr_port *listen, struct addr_port *out);

#endif
