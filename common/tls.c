/*
 * TLS over OpenSSL: contexts, names, and the cryptographic helpers.
 */
#include "common/tls.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/addr.h"
#include "common/errcode.h"
#include "common/loop.h"
#include "common/tls_int.h"

#define NAMES_MAX 64

struct tls_ctx {
	SSL_CTX *ssl;
	unsigned refs;
};

/* How far a handshake step has read. */
struct record_reader {
	uint8_t head[5];
	size_t have, left; /* octets of the head that came, of the body that are to come */
	bool whole;	   /* a record was read: no more in this step */
};

struct tls_conn {
	SSL *ssl;
	struct record_reader reader;
	bool named; /* names were taken from the certificate */
	struct tls_name *names;
	size_t n_names;
};

/* Never ask a terminal: a key with a passphrase is an error. */
static int no_passphrase(char *dst, int size, int writing, void *arg)
{
	(void)dst;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

static int refuse(int err, char *why, size_t size, const char *what, const char *file)
{
	unsigned long e = ERR_peek_last_error();
	const char *reason = e != 0 ? ERR_reason_error_string(e) : NULL;

	snprintf(why, size, "%s%s%s: %s", what, file != NULL ? " " : "", file != NULL ? file : "",
		 reason != NULL ? reason : "OpenSSL refused");
	ERR_clear_error();
	return err;
}

static int load_own(SSL_CTX *ssl, const struct tls_files *f, char *why, size_t size)
{
	if (SSL_CTX_use_certificate_chain_file(ssl, f->certificate) != 1)
		return refuse(ERR_INVALID, why, size, "certificate", f->certificate);
	if (SSL_CTX_use_PrivateKey_file(ssl, f->key, SSL_FILETYPE_PEM) != 1)
		return refuse(ERR_INVALID, why, size, "key", f->key);
	if (SSL_CTX_check_private_key(ssl) != 1)
		return refuse(ERR_INVALID, why, size, "certificate and key differ:", f->key);
	return 0;
}

static int load_ca(SSL_CTX *ssl, const char *ca, bool system, char *why, size_t size)
{
	if (ca != NULL && SSL_CTX_load_verify_file(ssl, ca) != 1)
		return refuse(ERR_INVALID, why, size, "CA", ca);
	if (ca == NULL && system && SSL_CTX_set_default_verify_paths(ssl) != 1)
		return refuse(ERR_INVALID, why, size, "system CAs", NULL);
	return 0;
}

static void restrict_protocol(SSL_CTX *ssl)
{
	SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION); /* RFC 8996 */
	/* A peer that vanishes without close_notify has ended: our messages carry lengths. */
	SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
					 SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
					 SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_num_tickets(ssl, 0);
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_default_passwd_cb(ssl, no_passphrase);
}

static int demand_client(SSL_CTX *ssl, const char *ca, char *why, size_t size)
{
	STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca);

	if (names == NULL)
		return refuse(ERR_INVALID, why, size, "CA", ca);
	SSL_CTX_set_client_CA_list(ssl, names);
	SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

static int set_up_server(SSL_CTX *ssl, const struct tls_files *f, char *why, size_t size)
{
	int err;

	if (f->certificate == NULL || f->key == NULL) {
		snprintf(why, size, "a TLS server needs a certificate and a key");
		return ERR_INVALID;
	}
	err = load_own(ssl, f, why, size);
	if (err == 0)
		err = load_ca(ssl, f->ca, false, why, size);
	if (err == 0 && f->ca != NULL)
		err = demand_client(ssl, f->ca, why, size);
	return err;
}

static int set_up_client(SSL_CTX *ssl, const struct tls_files *f, char *why, size_t size)
{
	int err = 0;

	if ((f->certificate == NULL) != (f->key == NULL)) {
		snprintf(why, size, "a certificate needs its key, and a key its certificate");
		return ERR_INVALID;
	}
	if (f->certificate != NULL)
		err = load_own(ssl, f, why, size);
	if (err == 0 && !f->unverified)
		err = load_ca(ssl, f->ca, true, why, size);
	SSL_CTX_set_verify(ssl, f->unverified ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
	return err;
}

typedef int (*set_up_fn)(SSL_CTX *ssl, const struct tls_files *f, char *why, size_t size);

static struct tls_ctx *ctx_new(const SSL_METHOD *method, set_up_fn set_up,
			       const struct tls_files *files, int *err, char *why, size_t size)
{
	struct tls_ctx *ctx = calloc(1, sizeof(*ctx));

	ERR_clear_error();
	*err = ERR_NOMEM;
	snprintf(why, size, "out of memory");
	if (ctx == NULL)
		return NULL;
	ctx->refs = 1;
	ctx->ssl = SSL_CTX_new(method);
	if (ctx->ssl != NULL) {
		restrict_protocol(ctx->ssl);
		*err = set_up(ctx->ssl, files, why, size);
	}
	if (*err != 0) {
		tls_ctx_unref(ctx);
		return NULL;
	}
	return ctx;
}

struct tls_ctx *tls_ctx_server_new(const struct tls_files *files, int *err, char *why, size_t size)
{
	return ctx_new(TLS_server_method(), set_up_server, files, err, why, size);
}

struct tls_ctx *tls_ctx_client_new(const struct tls_files *files, int *err, char *why, size_t size)
{
	return ctx_new(TLS_client_method(), set_up_client, files, err, why, size);
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
	ctx->refs++;
	return ctx;
}

void tls_ctx_unref(struct tls_ctx *ctx)
{
	if (ctx == NULL || --ctx->refs > 0)
		return;
	SSL_CTX_free(ctx->ssl);
	free(ctx);
}

/* What the server must prove: an address or a name (RFC 6125, RFC 2818 §3.1). */
static bool expect_name(SSL *ssl, const char *name)
{
	struct addr a;

	if (addr_parse(span_str(name), &a) == 0)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct tls_conn *tls_conn_new(struct tls_ctx *ctx, const char *name)
{
	struct tls_conn *conn = calloc(1, sizeof(*conn));

	if (conn == NULL)
		return NULL;
	conn->ssl = SSL_new(ctx->ssl);
	if (conn->ssl == NULL || (name != NULL && !expect_name(conn->ssl, name))) {
		ERR_clear_error();
		tls_conn_free(conn);
		return NULL;
	}
	return conn;
}

void tls_conn_free(struct tls_conn *conn)
{
	if (conn == NULL)
		return;
	for (size_t i = 0; i < conn->n_names; i++)
		free(conn->names[i].text);
	free(conn->names);
	SSL_free(conn->ssl);
	free(conn);
}

struct ssl_st *tls_conn_ssl(struct tls_conn *conn)
{
	SSL_up_ref(conn->ssl);
	return conn->ssl;
}

/* Notes what was read: a record is a head of 5 octets, the last two its length, and a body. */
static void note_read(struct record_reader *r, const uint8_t *p, size_t n)
{
	for (; n > 0 && r->have < sizeof(r->head); n--)
		r->head[r->have++] = *p++;
	if (r->have < sizeof(r->head))
		return;
	if (r->left == 0)
		r->left = (size_t)r->head[3] << 8 | r->head[4];
	r->left -= n < r->left ? n : r->left;
	if (r->left == 0) {
		r->have = 0;
		r->whole = true;
	}
}

/*
 * Most of the agents' last flight is one message to a record, and the check of
 * the certificate costs most of it. So OpenSSL, which reads no further than a
 * record, is told to wait after each.
 */
static long on_bio(BIO *bio, int oper, const char *p, size_t size, int argi, long argl, int ret,
		   size_t *n)
{
	struct record_reader *r = (struct record_reader *)(void *)BIO_get_callback_arg(bio);

	(void)size;
	(void)argi;
	(void)argl;
	if (oper == BIO_CB_READ && r->whole) {
		BIO_set_retry_read(bio);
		return -1;
	}
	if (oper == (BIO_CB_READ | BIO_CB_RETURN) && ret > 0)
		note_read(r, (const uint8_t *)p, *n);
	return ret;
}

static int attach(struct tls_conn *conn, int fd)
{
	BIO *bio;

	if (SSL_get_fd(conn->ssl) == fd)
		return 0;
	if (SSL_set_fd(conn->ssl, fd) != 1)
		return ERR_CLOSED;
	bio = SSL_get_rbio(conn->ssl);
	BIO_set_callback_ex(bio, on_bio);
	BIO_set_callback_arg(bio, (char *)&conn->reader);
	return 0;
}

int tls_conn_accept(struct tls_conn *conn, int fd, unsigned *events)
{
	int n, why;

	ERR_clear_error();
	if (attach(conn, fd) != 0)
		return ERR_CLOSED;
	conn->reader.whole = false;
	n = SSL_accept(conn->ssl);
	if (n == 1) {
		BIO_set_callback_ex(SSL_get_rbio(conn->ssl), NULL);
		return 0;
	}
	why = SSL_get_error(conn->ssl, n);
	*events = why == SSL_ERROR_WANT_WRITE ? LOOP_WRITE : LOOP_READ;
	return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? ERR_MORE : ERR_CLOSED;
}

unsigned long tls_conn_next_error(void)
{
	return ERR_get_error();
}

void tls_conn_shutdown(struct tls_conn *conn)
{
	if (SSL_is_init_finished(conn->ssl))
		(void)SSL_shutdown(conn->ssl);
	ERR_clear_error();
}

int tls_conn_error(struct tls_conn *conn, unsigned long e, char *text, size_t size)
{
	int reason = ERR_GET_REASON(e);
	long verdict = SSL_get_verify_result(conn->ssl);
	const char *words = ERR_reason_error_string(e);

	snprintf(text, size, "%s%s%s", words != NULL ? words : "unknown TLS error",
		 verdict != X509_V_OK ? ": " : "",
		 verdict != X509_V_OK ? X509_verify_cert_error_string(verdict) : "");
	/* Reasons from SSL_AD_REASON_OFFSET on are alerts that the peer sent. */
	if (ERR_GET_LIB(e) == ERR_LIB_SSL &&
	    (reason >= SSL_AD_REASON_OFFSET || reason == SSL_R_CERTIFICATE_VERIFY_FAILED))
		return ERR_PERM;
	return ERR_CLOSED;
}

/* Keeps a copy of a name. Names with a NUL inside are forgeries and left out. */
static bool add_name(struct tls_conn *conn, enum tls_name_type type, const ASN1_STRING *s)
{
	struct span text = span_of(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
	char *copy;

	if (text.n == 0 || span_find(text, 0) != text.n || conn->n_names >= NAMES_MAX)
		return true;
	copy = span_dup(text);
	if (copy == NULL)
		return false;
	conn->names[conn->n_names++] = (struct tls_name){.type = type, .text = copy};
	return true;
}

static bool add_subject_alt_names(struct tls_conn *conn, const GENERAL_NAMES *san)
{
	for (int i = 0; i < sk_GENERAL_NAME_num(san); i++) {
		int type;
		const void *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, i), &type);

		if (type == GEN_DNS && !add_name(conn, TLS_NAME_DNS, value))
			return false;
		if (type == GEN_URI && !add_name(conn, TLS_NAME_URI, value))
			return false;
	}
	return true;
}

static bool add_common_name(struct tls_conn *conn, const X509 *cert)
{
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

	return at < 0 || add_name(conn, TLS_NAME_CN,
				  X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
}

static void take_names(struct tls_conn *conn)
{
	X509 *cert = SSL_get0_peer_certificate(conn->ssl);
	GENERAL_NAMES *san;
	int critical = 0;

	if (cert == NULL || !SSL_is_init_finished(conn->ssl) ||
	    SSL_get_verify_result(conn->ssl) != X509_V_OK)
		return;
	conn->names = calloc(NAMES_MAX, sizeof(*conn->names));
	if (conn->names == NULL)
		return;
	conn->named = true;
	/* critical is -1 only when there is no such extension; a bad one names nobody. */
	san = X509_get_ext_d2i(cert, NID_subject_alt_name, &critical, NULL);
	if (san != NULL)
		conn->named = add_subject_alt_names(conn, san);
	else if (critical == -1)
		conn->named = add_common_name(conn, cert);
	GENERAL_NAMES_free(san);
	ERR_clear_error();
}

const struct tls_name *tls_conn_names(struct tls_conn *conn, size_t *n)
{
	if (conn != NULL && conn->names == NULL)
		take_names(conn);
	if (conn == NULL || !conn->named) {
		*n = 0;
		return NULL;
	}
	*n = conn->n_names;
	return conn->n_names > 0 ? conn->names : NULL;
}

bool tls_conn_has_name(struct tls_conn *conn, const char *name)
{
	size_t n;
	const struct tls_name *names = tls_conn_names(conn, &n);

	for (size_t i = 0; i < n; i++) {
		if (names[i].type == TLS_NAME_URI ? strcmp(names[i].text, name) == 0
						  : strcasecmp(names[i].text, name) == 0)
			return true;
	}
	return false;
}

int tls_hmac_sha256(struct span key, struct span data, uint8_t out[TLS_SHA256_LEN])
{
	static const uint8_t none[1];
	unsigned n = 0;

	if (key.n > INT32_MAX)
		return ERR_INVALID;
	if (HMAC(EVP_sha256(), key.n > 0 ? key.p : none, (int)key.n, data.n > 0 ? data.p : none,
		 data.n, out, &n) == NULL) {
		ERR_clear_error();
		return ERR_NOMEM;
	}
	return 0;
}

int tls_random(void *dst, size_t n)
{
	if (n <= INT32_MAX && RAND_bytes(dst, (int)n) == 1)
		return 0;
	ERR_clear_error();
	memset(dst, 0, n);
	return ERR_IO;
}

bool tls_equal(struct span a, struct span b)
{
	return a.n == b.n && (a.n == 0 || CRYPTO_memcmp(a.p, b.p, a.n) == 0);
}
