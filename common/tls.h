/*
 * TLS contexts for streams, the names a peer has proved, and the few
 * cryptographic helpers that SIMCO's own authentication needs. tls.c is the
 * only file that knows OpenSSL.
 *
 * TLS 1.2 or later (RFC 8996); no renegotiation, no compression, no tickets,
 * no session cache: every connection proves itself anew.
 */
#ifndef SLUICE_COMMON_TLS_H
#define SLUICE_COMMON_TLS_H

#include "common/base.h"
#include "common/span.h"

struct tls_ctx;
struct tls_conn;

struct tls_files {
	const char *certificate; /* PEM, leaf first; a client may have none */
	const char *key;	 /* PEM, without passphrase */
	const char *ca;		 /* PEM bundle that peers are verified against */
	bool unverified;	 /* client: whoever answers will do */
};

/*
 * A context with one reference. The files are read at once, so a reload makes
 * a new context; connections made from the old one keep it alive. NULL on
 * failure, with the reason in why[size] and *err ERR_INVALID (a file is
 * missing or bad, key and certificate do not match), or ERR_NOMEM.
 *
 * Server: with `ca` set, a client must prove itself with a certificate of that
 * CA; without, clients stay nameless.
 * Client: verifies the server against `ca` (NULL: the system's) and against
 * the name in stream_opts.tls_name, unless `unverified` says otherwise.
 */
struct tls_ctx *tls_ctx_server_new(const struct tls_files *files, int *err, char *why, size_t size);
struct tls_ctx *tls_ctx_client_new(const struct tls_files *files, int *err, char *why, size_t size);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_unref(struct tls_ctx *ctx); /* NULL is fine */

/*
 * Names in the verified certificate of the peer. CN counts only when the
 * certificate has no subject alternative name of any kind (RFC 6125 §6.4.4).
 */
enum tls_name_type { TLS_NAME_DNS, TLS_NAME_URI, TLS_NAME_CN };

struct tls_name {
	enum tls_name_type type;
	char *text;
};

/*
 * All names, *n of them, owned by conn; NULL and 0 when the peer showed no
 * certificate, before the handshake, and on a NULL conn (plain TCP).
 */
const struct tls_name *tls_conn_names(struct tls_conn *conn, size_t *n);
/* Has the peer proved this name? DNS names and CN without case, URIs exactly. */
bool tls_conn_has_name(struct tls_conn *conn, const char *name);

#define TLS_SHA256_LEN 32

/* HMAC-SHA-256 (RFC 2104). 0 or ERR_NOMEM. */
int tls_hmac_sha256(struct span key, struct span data, uint8_t out[TLS_SHA256_LEN]);
/* Unpredictable octets. 0 or ERR_IO (dst is then zeroed). */
int tls_random(void *dst, size_t n);
/* Compares in a time that depends on the lengths only. */
bool tls_equal(struct span a, struct span b);

#endif
