/*
 * What proves the two ends to each other: TLS certificates, or the secret
 * shared with a middlebox through SIMCO's challenge and token (RFC 4540 §4.3.2,
 * §7.2).
 *
 * A token is HMAC-SHA-256(secret, role NUL challenge). With the role in it a
 * middlebox cannot be made to compute the answer that an agent owes, nor the
 * other way round.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/mb_int.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/tls.h"

#define SECRET_MAX 4096
#define SECRET_MIN 16

int mb_secret_load(struct mb_client *mb)
{
	uint8_t text[SECRET_MAX + 1];
	struct span secret;
	ssize_t n;
	int fd;

	if (!mb->secret_file)
		return 0;
	fd = open(mb->secret_file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	if (n < 0 || n > SECRET_MAX) {
		log_err("middlebox %s: cannot read %s", mb->name, mb->secret_file);
		return ERR_IO;
	}
	secret = span_trim(span_of(text, (size_t)n));
	if (secret.n < SECRET_MIN) {
		log_err("middlebox %s: the secret in %s has fewer than %d octets", mb->name,
			mb->secret_file, SECRET_MIN);
		return ERR_INVALID;
	}
	mb->secret = malloc(secret.n);
	if (!mb->secret)
		return ERR_NOMEM;
	memcpy(mb->secret, secret.p, secret.n);
	mb->secret_len = secret.n;
	explicit_bzero(text, sizeof(text));
	return 0;
}

int mb_token(const struct mb_client *mb, const char *role, const uint8_t *challenge, size_t n,
	     uint8_t token[MB_TOKEN_LEN])
{
	uint8_t in[16 + SIMCO_AUTH_MAX];
	size_t role_len = strlen(role) + 1;

	if (!mb->secret || role_len > 16 || n > SIMCO_AUTH_MAX)
		return ERR_UNSUPPORTED;
	memcpy(in, role, role_len);
	memcpy(in + role_len, challenge, n);
	return tls_hmac_sha256(span_of(mb->secret, mb->secret_len), span_of(in, role_len + n),
			       token);
}

int mb_tls_load(struct mb_client *mb)
{
	struct tls_files files = {
		.certificate = mb->tls_conf.certificate,
		.key = mb->tls_conf.key,
		.ca = mb->tls_conf.ca,
	};
	char why[256] = "";
	int err = 0;

	if (!mb->tls_conf.present)
		return 0;
	mb->tls = tls_ctx_client_new(&files, &err, why, sizeof(why));
	if (!mb->tls)
		log_err("middlebox %s: TLS: %s", mb->name, why);
	return mb->tls ? 0 : err;
}
