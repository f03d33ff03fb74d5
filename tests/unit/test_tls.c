/*
 * TLS streams with certificates made on the spot: who is let in, which names
 * were proved, how failures are reported; and the cryptographic helpers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/stream.h"
#include "common/tls.h"
#include "common/tls_int.h"
#include "tests/unit/quiet.h"

/* A key pair with its certificate, on disk and in memory. */
struct identity {
	EVP_PKEY *key;
	X509 *cert;
	char cert_file[64], key_file[64];
};

static struct {
	char dir[32];
	struct identity ca, other_ca, server, agent, cn_only, stranger;
} pki;

static void add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(ext);
	assert_int_equal(X509_add_ext(cert, ext, -1), 1);
	X509_EXTENSION_free(ext);
}

static void save(struct identity *id, const char *name)
{
	FILE *f;

	snprintf(id->cert_file, sizeof(id->cert_file), "%s/%s.pem", pki.dir, name);
	snprintf(id->key_file, sizeof(id->key_file), "%s/%s.key", pki.dir, name);
	f = fopen(id->cert_file, "w");
	assert_non_null(f);
	assert_int_equal(PEM_write_X509(f, id->cert), 1);
	fclose(f);
	f = fopen(id->key_file, "w");
	assert_non_null(f);
	assert_int_equal(PEM_write_PrivateKey(f, id->key, NULL, NULL, 0, NULL, NULL), 1);
	fclose(f);
}

/* issuer NULL: a CA that signs itself. san NULL: a common name only. */
static void make(struct identity *id, const char *name, struct identity *issuer, const char *san)
{
	X509 *by = issuer != NULL ? issuer->cert : NULL;
	static long serial = 1;

	id->key = EVP_EC_gen("P-256");
	id->cert = X509_new();
	assert_non_null(id->key);
	X509_set_version(id->cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(id->cert), serial++);
	X509_gmtime_adj(X509_getm_notBefore(id->cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(id->cert), 3600);
	X509_set_pubkey(id->cert, id->key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(id->cert), "CN", MBSTRING_ASC,
				   (const unsigned char *)name, -1, -1, 0);
	if (by == NULL)
		by = id->cert;
	X509_set_issuer_name(id->cert, X509_get_subject_name(by));
	add_ext(id->cert, by, NID_basic_constraints,
		issuer == NULL ? "critical,CA:TRUE" : "critical,CA:FALSE");
	if (san != NULL)
		add_ext(id->cert, by, NID_subject_alt_name, san);
	assert_true(X509_sign(id->cert, issuer != NULL ? issuer->key : id->key, EVP_sha256()) > 0);
	save(id, name);
}

static int make_pki(void **state)
{
	(void)state;
	snprintf(pki.dir, sizeof(pki.dir), "/tmp/sluice-tls-XXXXXX");
	if (mkdtemp(pki.dir) == NULL)
		return -1;
	make(&pki.ca, "ca", NULL, NULL);
	make(&pki.other_ca, "other-ca", NULL, NULL);
	make(&pki.server, "server", &pki.ca, "DNS:edge.example,IP:127.0.0.1");
	make(&pki.agent, "agent", &pki.ca, "DNS:agent-1.example,URI:sluice:agent-1,email:a@b.c");
	make(&pki.cn_only, "Agent-2.example", &pki.ca, NULL);
	make(&pki.stranger, "stranger", &pki.other_ca, "DNS:agent-1.example");
	return 0;
}

static void forget(struct identity *id)
{
	unlink(id->cert_file);
	unlink(id->key_file);
	EVP_PKEY_free(id->key);
	X509_free(id->cert);
}

static int drop_pki(void **state)
{
	(void)state;
	forget(&pki.ca);
	forget(&pki.other_ca);
	forget(&pki.server);
	forget(&pki.agent);
	forget(&pki.cn_only);
	forget(&pki.stranger);
	return rmdir(pki.dir);
}

struct end {
	struct stream *s;
	struct buf in;
	unsigned ready, ends;
	int err;
};

struct world {
	struct loop *loop;
	struct stream_listener *listener;
	struct addr_port at;
	struct tls_ctx *server_ctx, *client_ctx;
	struct end server, client;
};

static void on_ready(struct stream *s, void *arg)
{
	struct end *e = arg;

	(void)s;
	e->ready++;
}

static size_t on_data(struct stream *s, struct span in, void *arg)
{
	struct end *e = arg;

	(void)s;
	buf_append_span(&e->in, in);
	return in.n;
}

static void on_end(struct stream *s, int err, void *arg)
{
	struct end *e = arg;

	(void)s;
	e->ends++;
	e->err = err;
}

static const struct stream_ops ops = {.ready = on_ready, .data = on_data, .end = on_end};

static void on_accept(int fd, const struct addr_port *peer, void *arg)
{
	struct world *w = arg;
	struct stream_opts opts = {.tls = w->server_ctx, .connect_timeout_ms = 300};

	(void)peer;
	w->server.s = stream_adopt(w->loop, fd, &opts, &ops, &w->server);
	assert_non_null(w->server.s);
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct tls_files server = {.certificate = pki.server.cert_file,
				   .key = pki.server.key_file,
				   .ca = pki.ca.cert_file};
	struct addr_port at = {.port = 0};
	char why[200];
	int err;

	log_set_sink(quiet, NULL);
	*state = w;
	w->loop = loop_new();
	buf_init(&w->server.in, 8u << 20);
	buf_init(&w->client.in, 8u << 20);
	addr_parse(span_str("127.0.0.1"), &at.addr);
	w->listener = stream_listen(w->loop, &at, false, on_accept, w, &err);
	w->at = stream_listener_local(w->listener);
	w->server_ctx = tls_ctx_server_new(&server, &err, why, sizeof(why));
	return w->server_ctx != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	stream_free(w->client.s);
	stream_free(w->server.s);
	stream_listener_free(w->listener);
	tls_ctx_unref(w->server_ctx);
	tls_ctx_unref(w->client_ctx);
	loop_free(w->loop);
	buf_fini(&w->client.in);
	buf_fini(&w->server.in);
	free(w);
	log_set_sink(NULL, NULL);
	return 0;
}

#define RUN_UNTIL(w, condition)                                                                    \
	do {                                                                                       \
		uint64_t start_ = loop_now_ms((w)->loop);                                          \
		while (!(condition)) {                                                             \
			assert_true(loop_now_ms((w)->loop) < start_ + 5000);                       \
			loop_run_once((w)->loop, 50);                                              \
		}                                                                                  \
	} while (0)

static void dial(struct world *w, struct identity *who, struct identity *trust, const char *name)
{
	struct tls_files files = {.certificate = who != NULL ? who->cert_file : NULL,
				  .key = who != NULL ? who->key_file : NULL,
				  .ca = trust != NULL ? trust->cert_file : NULL,
				  .unverified = trust == NULL};
	struct stream_opts opts = {.tls_name = name, .connect_timeout_ms = 1000};
	char why[200];
	int err;

	w->client_ctx = tls_ctx_client_new(&files, &err, why, sizeof(why));
	assert_non_null(w->client_ctx);
	opts.tls = w->client_ctx;
	w->client.s = stream_connect(w->loop, &w->at, &opts, &ops, &w->client, &err);
	assert_non_null(w->client.s);
}

static void test_both_prove_themselves(void **state)
{
	struct world *w = *state;
	const struct tls_name *names;
	size_t n;

	dial(w, &pki.agent, &pki.ca, "edge.example");
	assert_int_equal(stream_write(w->client.s, span_str("early")), 0);
	RUN_UNTIL(w, w->server.in.len == 5);
	assert_int_equal(stream_write(w->server.s, span_str("answer")), 0);
	RUN_UNTIL(w, w->client.in.len == 6);
	names = tls_conn_names(stream_tls(w->server.s), &n);
	assert_int_equal(n, 2);
	assert_int_equal(names[0].type, TLS_NAME_DNS);
	assert_string_equal(names[0].text, "agent-1.example");
	assert_int_equal(names[1].type, TLS_NAME_URI);
	assert_string_equal(names[1].text, "sluice:agent-1");
	assert_true(tls_conn_has_name(stream_tls(w->server.s), "AGENT-1.example"));
	assert_true(tls_conn_has_name(stream_tls(w->server.s), "sluice:agent-1"));
	assert_false(tls_conn_has_name(stream_tls(w->server.s), "sluice:AGENT-1"));
	/* The common name "agent" does not count beside a SAN. */
	assert_false(tls_conn_has_name(stream_tls(w->server.s), "agent"));
	assert_true(tls_conn_has_name(stream_tls(w->client.s), "edge.example"));
}

static void test_common_name_without_san(void **state)
{
	struct world *w = *state;
	const struct tls_name *names;
	size_t n;

	dial(w, &pki.cn_only, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ready);
	names = tls_conn_names(stream_tls(w->server.s), &n);
	assert_int_equal(n, 1);
	assert_int_equal(names[0].type, TLS_NAME_CN);
	assert_true(tls_conn_has_name(stream_tls(w->server.s), "agent-2.example"));
}

static void test_no_client_certificate(void **state)
{
	struct world *w = *state;

	dial(w, NULL, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ends == 1 && w->client.ends == 1);
	assert_int_equal(w->server.ready, 0);
	assert_int_equal(w->server.err, ERR_PERM);
	assert_int_equal(w->client.err, ERR_PERM);
}

static void test_client_of_another_ca(void **state)
{
	struct world *w = *state;

	dial(w, &pki.stranger, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ends == 1 && w->client.ends == 1);
	assert_int_equal(w->server.ready, 0);
	assert_int_equal(w->server.err, ERR_PERM);
	assert_int_equal(w->client.err, ERR_PERM);
}

static void test_server_with_another_name(void **state)
{
	struct world *w = *state;

	dial(w, &pki.agent, &pki.ca, "core.example");
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.ready, 0);
	assert_int_equal(w->client.err, ERR_PERM);
}

static void test_server_of_another_ca(void **state)
{
	struct world *w = *state;

	dial(w, &pki.agent, &pki.other_ca, "edge.example");
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.ready, 0);
	assert_int_equal(w->client.err, ERR_PERM);
}

/* Whoever trusts anybody still speaks TLS, but knows no names. */
static void test_unverified(void **state)
{
	struct world *w = *state;
	size_t n;

	dial(w, &pki.agent, NULL, "core.example");
	RUN_UNTIL(w, w->client.ready == 1);
	tls_conn_names(stream_tls(w->client.s), &n);
	assert_int_equal(n, 0);
	assert_false(tls_conn_has_name(stream_tls(w->client.s), "edge.example"));
}

/* Without a name the server must prove the address that was dialled. */
static void test_address_as_name(void **state)
{
	struct world *w = *state;

	dial(w, &pki.agent, &pki.ca, NULL);
	RUN_UNTIL(w, w->client.ready == 1);
}

static void test_other_address_as_name(void **state)
{
	struct world *w = *state;

	dial(w, &pki.agent, &pki.ca, "127.0.0.2");
	RUN_UNTIL(w, w->client.ends == 1);
	assert_int_equal(w->client.err, ERR_PERM);
}

static void test_handshake_times_out(void **state)
{
	struct world *w = *state;
	int err;

	/* A plain client that says nothing. */
	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.err, ERR_TIMEOUT);
	assert_int_equal(w->server.ready, 0);
}

static void test_garbage_instead_of_tls(void **state)
{
	struct world *w = *state;
	int err;

	w->client.s = stream_connect(w->loop, &w->at, NULL, &ops, &w->client, &err);
	stream_write(w->client.s, span_str("GET / HTTP/1.0\r\n\r\n"));
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.err, ERR_PERM);
}

static void test_much_data_and_orderly_end(void **state)
{
	struct world *w = *state;
	static uint8_t block[100000];
	size_t sent = 0, total = 4000000;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7);
	dial(w, &pki.agent, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ready && w->client.ready);
	while (sent < total) {
		if (stream_write(w->client.s, span_of(block, sizeof(block))) == 0)
			sent += sizeof(block);
		loop_run_once(w->loop, 1);
	}
	stream_close(w->client.s, 2000);
	w->client.s = NULL;
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.err, ERR_CLOSED);
	assert_int_equal(w->server.in.len, total);
	for (size_t i = 0; i < total; i += sizeof(block))
		assert_memory_equal(buf_span(&w->server.in).p + i, block, sizeof(block));
}

static void test_paused_tls_gets_everything(void **state)
{
	struct world *w = *state;
	static uint8_t block[200000];

	dial(w, &pki.agent, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ready && w->client.ready);
	stream_pause(w->server.s);
	assert_int_equal(stream_write(w->client.s, span_of(block, sizeof(block))), 0);
	for (int i = 0; i < 20; i++)
		loop_run_once(w->loop, 5);
	assert_int_equal(w->server.in.len, 0);
	stream_resume(w->server.s);
	RUN_UNTIL(w, w->server.in.len == sizeof(block));
}

/* A peer that vanishes without close_notify has ended, not failed. */
static void test_abrupt_end(void **state)
{
	struct world *w = *state;

	dial(w, &pki.agent, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ready && w->client.ready);
	for (int fd = 3; fd < 64; fd++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);
		struct addr_port ap, own = stream_local(w->client.s);

		if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0 &&
		    addr_from_sockaddr((struct sockaddr *)&ss, &ap) == 0 && addr_port_eq(&ap, &own))
			shutdown(fd, SHUT_WR);
	}
	RUN_UNTIL(w, w->server.ends == 1);
	assert_int_equal(w->server.err, ERR_CLOSED);
}

/* A reload: the old context goes, its connection lives on. */
static void test_connection_outlives_context(void **state)
{
	struct world *w = *state;

	assert_ptr_equal(tls_ctx_ref(w->server_ctx), w->server_ctx);
	tls_ctx_unref(w->server_ctx);
	dial(w, &pki.agent, &pki.ca, "edge.example");
	RUN_UNTIL(w, w->server.ready && w->client.ready);
	tls_ctx_unref(w->server_ctx);
	tls_ctx_unref(w->client_ctx);
	w->server_ctx = NULL;
	w->client_ctx = NULL;
	assert_int_equal(stream_write(w->client.s, span_str("still")), 0);
	RUN_UNTIL(w, w->server.in.len == 5);
}

static void test_bad_files(void **state)
{
	struct tls_files files = {.certificate = pki.server.cert_file, .key = pki.agent.key_file};
	char why[200];
	int err = 0;

	(void)state;
	assert_null(tls_ctx_server_new(&files, &err, why, sizeof(why)));
	assert_int_equal(err, ERR_INVALID);
	assert_non_null(strstr(why, "agent.key"));
	files.key = "/nonexistent";
	assert_null(tls_ctx_server_new(&files, &err, why, sizeof(why)));
	assert_non_null(strstr(why, "/nonexistent"));
	files.key = NULL;
	assert_null(tls_ctx_server_new(&files, &err, why, sizeof(why)));
	assert_null(tls_ctx_client_new(&files, &err, why, sizeof(why)));
	files = (struct tls_files){.ca = pki.server.key_file};
	assert_null(tls_ctx_client_new(&files, &err, why, sizeof(why)));
	assert_non_null(strstr(why, "CA"));
}

/* RFC 4231 §4.3 and §4.7. */
static void test_hmac(void **state)
{
	static const uint8_t want2[] = {0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e,
					0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7,
					0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83,
					0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43};
	static const uint8_t want6[] = {0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f,
					0x0d, 0x8a, 0x26, 0xaa, 0xcb, 0xf5, 0xb7, 0x7f,
					0x8e, 0x0b, 0xc6, 0x21, 0x37, 0x28, 0xc5, 0x14,
					0x05, 0x46, 0x04, 0x0f, 0x0e, 0xe3, 0x7f, 0x54};
	uint8_t key[131], out[TLS_SHA256_LEN];

	(void)state;
	assert_int_equal(
		tls_hmac_sha256(span_str("Jefe"), span_str("what do ya want for nothing?"), out),
		0);
	assert_memory_equal(out, want2, sizeof(out));
	memset(key, 0xaa, sizeof(key));
	assert_int_equal(tls_hmac_sha256(span_of(key, sizeof(key)),
					 span_str("Test Using Larger Than Block-Size Key - "
						  "Hash Key First"),
					 out),
			 0);
	assert_memory_equal(out, want6, sizeof(out));
	assert_int_equal(tls_hmac_sha256(SPAN_EMPTY, SPAN_EMPTY, out), 0);
}

static void test_random_and_equal(void **state)
{
	uint8_t a[32] = {0}, b[32] = {0};

	(void)state;
	assert_true(tls_equal(span_of(a, 32), span_of(b, 32)));
	assert_int_equal(tls_random(a, sizeof(a)), 0);
	assert_int_equal(tls_random(b, sizeof(b)), 0);
	assert_false(tls_equal(span_of(a, 32), span_of(b, 32)));
	assert_false(tls_equal(span_of(a, 32), span_of(a, 31)));
	assert_true(tls_equal(SPAN_EMPTY, SPAN_EMPTY));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

/* ---- Handshakes in small steps ---- */

/* The last flight of an agent, all there at once, is taken record by record. */
static void test_one_record_in_a_step(void **state)
{
	struct world *w = *state;
	struct tls_files files = {.certificate = pki.agent.cert_file,
				  .key = pki.agent.key_file,
				  .ca = pki.ca.cert_file};
	int fd[2], err, steps = 1;
	unsigned events = 0;
	struct tls_conn *client, *server;
	char why[200];
	SSL *ssl;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	w->client_ctx = tls_ctx_client_new(&files, &err, why, sizeof(why));
	client = tls_conn_new(w->client_ctx, "edge.example");
	server = tls_conn_new(w->server_ctx, NULL);
	ssl = tls_conn_ssl(client);
	assert_int_equal(SSL_set_fd(ssl, fd[0]), 1);
	assert_int_equal(SSL_connect(ssl), -1);
	assert_int_equal(tls_conn_accept(server, fd[1], &events), ERR_MORE);
	assert_int_equal(events, LOOP_READ);
	assert_int_equal(SSL_connect(ssl), 1);
	while ((err = tls_conn_accept(server, fd[1], &events)) == ERR_MORE) {
		assert_int_equal(events, LOOP_READ);
		assert_true(++steps < 10);
	}
	assert_int_equal(err, 0);
	assert_true(steps >= 3); /* certificate, proof, Finished; and what else is sent */
	assert_true(tls_conn_has_name(server, "agent-1.example"));
	SSL_free(ssl);
	tls_conn_free(client);
	tls_conn_free(server);
	close(fd[0]);
	close(fd[1]);
}

/* Octet by octet a handshake takes no fewer steps, and succeeds. */
static void test_handshake_in_crumbs(void **state)
{
	struct world *w = *state;
	struct tls_files files = {.certificate = pki.agent.cert_file,
				  .key = pki.agent.key_file,
				  .ca = pki.ca.cert_file};
	int a[2], b[2], err, rc = -1, done = ERR_MORE;
	unsigned events = 0;
	struct tls_conn *client, *server;
	char why[200], back[4096], c;
	ssize_t n;
	SSL *ssl;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
	w->client_ctx = tls_ctx_client_new(&files, &err, why, sizeof(why));
	client = tls_conn_new(w->client_ctx, "edge.example");
	server = tls_conn_new(w->server_ctx, NULL);
	ssl = tls_conn_ssl(client);
	assert_int_equal(SSL_set_fd(ssl, a[0]), 1);
	for (int i = 0; i < 100000 && done == ERR_MORE; i++) {
		if (rc != 1)
			rc = SSL_connect(ssl);
		if (read(a[1], &c, 1) == 1)
			assert_int_equal(write(b[0], &c, 1), 1);
		done = tls_conn_accept(server, b[1], &events);
		n = read(b[0], back, sizeof(back));
		if (n > 0)
			assert_int_equal(write(a[1], back, (size_t)n), n);
	}
	assert_int_equal(done, 0);
	SSL_free(ssl);
	tls_conn_free(client);
	tls_conn_free(server);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

#define HASTY 8

static struct stream *hasty[HASTY];

static void on_hasty(int fd, const struct addr_port *peer, void *arg)
{
	struct world *w = arg;
	struct stream_opts opts = {.tls = w->server_ctx, .connect_timeout_ms = 5000};
	size_t i = 0;

	(void)peer;
	while (hasty[i] != NULL)
		i++;
	hasty[i] = stream_adopt(w->loop, fd, &opts, &ops, &w->server);
	assert_non_null(hasty[i]);
}

/* Many handshakes are due: one step of one of them is done in a turn. */
static void test_one_step_in_a_turn(void **state)
{
	struct world *w = *state;
	struct addr_port at = {.addr = w->at.addr};
	struct stream_listener *l;
	struct sockaddr_storage ss;
	socklen_t n;
	int fd[HASTY], err;

	l = stream_listen(w->loop, &at, false, on_hasty, w, &err);
	assert_non_null(l);
	at = stream_listener_local(l);
	n = addr_to_sockaddr(&at, &ss);
	for (int i = 0; i < HASTY; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(fd[i], (struct sockaddr *)&ss, n), 0);
	}
	RUN_UNTIL(w, hasty[HASTY - 1] != NULL);
	for (int i = 0; i < HASTY; i++) /* no ClientHello: the first step fails */
		assert_int_equal(send(fd[i], "GET / HTTP", 10, 0), 10);
	for (int i = 0; i < 100 && w->server.ends < HASTY; i++) {
		unsigned before = w->server.ends;

		loop_run_once(w->loop, 50);
		assert_true(w->server.ends - before <= 1);
	}
	assert_int_equal(w->server.ends, HASTY);
	for (int i = 0; i < HASTY; i++) {
		stream_free(hasty[i]);
		hasty[i] = NULL;
		close(fd[i]);
	}
	stream_listener_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_both_prove_themselves),
		TEST(test_common_name_without_san),
		TEST(test_no_client_certificate),
		TEST(test_client_of_another_ca),
		TEST(test_server_with_another_name),
		TEST(test_server_of_another_ca),
		TEST(test_unverified),
		TEST(test_address_as_name),
		TEST(test_other_address_as_name),
		TEST(test_handshake_times_out),
		TEST(test_garbage_instead_of_tls),
		TEST(test_much_data_and_orderly_end),
		TEST(test_paused_tls_gets_everything),
		TEST(test_abrupt_end),
		TEST(test_connection_outlives_context),
		TEST(test_one_record_in_a_step),
		TEST(test_handshake_in_crumbs),
		TEST(test_one_step_in_a_turn),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_hmac),
		cmocka_unit_test(test_random_and_equal),
	};

	return cmocka_run_group_tests_name("tls", tests, make_pki, drop_pki);
}
