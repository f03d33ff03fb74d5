/*
 * What streams need of TLS; for stream.c only.
 */
#ifndef SLUICE_COMMON_TLS_INT_H
#define SLUICE_COMMON_TLS_INT_H

#include "common/tls.h"

struct ssl_st;

/*
 * A connection. `name` is what a server must prove, a DNS name or an address;
 * NULL on the server side. NULL on failure. Keeps a reference of ctx.
 */
struct tls_conn *tls_conn_new(struct tls_ctx *ctx, const char *name);
void tls_conn_free(struct tls_conn *conn); /* NULL is fine */
/* OpenSSL's object with one more reference for the caller. */
struct ssl_st *tls_conn_ssl(struct tls_conn *conn);
/*
 * One step of a server's handshake over fd; it reads one record at most. 0: done; ERR_MORE: again
 * when fd is ready for *events (LOOP_READ or LOOP_WRITE); ERR_CLOSED: it failed, see
 * tls_conn_next_error().
 */
int tls_conn_accept(struct tls_conn *conn, int fd, unsigned *events);
/* The next of OpenSSL's errors, 0: no more. */
unsigned long tls_conn_next_error(void);
/* Sends close_notify if the socket takes it at once. */
void tls_conn_shutdown(struct tls_conn *conn);
/*
 * Sorts an error of OpenSSL's queue and describes it in text[size]: ERR_PERM
 * when one side rejected the other, else ERR_CLOSED.
 */
int tls_conn_error(struct tls_conn *conn, unsigned long e, char *text, size_t size);

#endif
