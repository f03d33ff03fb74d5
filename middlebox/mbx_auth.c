/*
 * Recognising agents: certificates, addresses, tokens.
 */
#include "middlebox/mbx_auth.h"

#include <string.h>

/* Bits of the longest prefix that contains the peer, -1: none. No list: anywhere, 0 bits. */
static int nearness(const struct mbx_agent *a, const struct addr *peer)
{
	const struct addr_prefix *v = a->address.v;
	int best = a->address.n == 0 ? 0 : -1;

	for (size_t i = 0; i < a->address.n; i++)
		if (addr_prefix_contains(&v[i], peer) && (int)v[i].len > best)
			best = v[i].len;
	return best;
}

static struct mbx_identity by_certificate(const struct mbx_policy *p, const struct mbx_origin *o)
{
	const struct mbx_agent *a = p->agents.v;

	for (size_t i = 0; i < p->agents.n; i++)
		if (a[i].certificate != NULL && nearness(&a[i], &o->peer) >= 0 &&
		    tls_conn_has_name(o->tls_conn, a[i].certificate))
			return (struct mbx_identity){.agent = &a[i]};
	return (struct mbx_identity){.refuse = SIMCO_NO_AUTHORIZATION};
}

/* May this agent come over a connection that proves nothing? */
static bool plain_agent(const struct mbx_agent *a)
{
	return a->certificate == NULL && (a->secret.n > 0 || a->address.n > 0);
}

struct mbx_identity mbx_auth_identify(const struct mbx_policy *p, const struct mbx_origin *o)
{
	const struct mbx_agent *a = p->agents.v;
	struct mbx_identity id = {.refuse = SIMCO_NO_AUTHORIZATION};
	int best = -1;

	if (o->tls)
		return by_certificate(p, o);
	if (!addr_is_loopback(&o->peer) && !p->simco.plain) {
		id.refuse = SIMCO_SECURITY_INSUFFICIENT;
		return id;
	}
	for (size_t i = 0; i < p->agents.n; i++) {
		int near = nearness(&a[i], &o->peer);

		if (near < best || near < 0 || !plain_agent(&a[i]))
			continue;
		if (near > best)
			id = (struct mbx_identity){.agent = &a[i]};
		else
			id.agent = NULL; /* several: the token has to tell */
		best = near;
		id.challenge = id.challenge || a[i].secret.n > 0;
	}
	return id;
}

static int compute(const struct mbx_agent *a, const char *role, struct span challenge,
		   uint8_t out[TLS_SHA256_LEN])
{
	uint8_t text[16 + SIMCO_AUTH_MAX];
	size_t n = strlen(role) + 1;

	if (challenge.n > SIMCO_AUTH_MAX)
		return -1;
	memcpy(text, role, n);
	if (challenge.n > 0)
		memcpy(text + n, challenge.p, challenge.n);
	return tls_hmac_sha256(a->secret, span_of(text, n + challenge.n), out);
}

size_t mbx_auth_answer(const struct mbx_agent *a, struct span challenge,
		       uint8_t token[TLS_SHA256_LEN])
{
	if (a == NULL || a->secret.n == 0 || compute(a, "middlebox", challenge, token) != 0)
		return 0;
	return TLS_SHA256_LEN;
}

const struct mbx_agent *mbx_auth_verify(const struct mbx_policy *p, const struct mbx_origin *o,
					struct span challenge, struct span token)
{
	const struct mbx_agent *a = p->agents.v;
	struct span name = SPAN_EMPTY;

	if (token.n < TLS_SHA256_LEN)
		return NULL;
	if (token.n > TLS_SHA256_LEN) {
		name = span_sub(token, 0, token.n - TLS_SHA256_LEN - 1);
		if (name.n == 0 || token.p[name.n] != 0)
			return NULL;
		token = span_sub(token, name.n + 1, TLS_SHA256_LEN);
	}
	for (size_t i = 0; i < p->agents.n; i++) {
		uint8_t want[TLS_SHA256_LEN];

		if (a[i].secret.n == 0 || !plain_agent(&a[i]) || nearness(&a[i], &o->peer) < 0 ||
		    (name.n > 0 && !span_eq_str(name, a[i].name)))
			continue;
		if (compute(&a[i], "agent", challenge, want) == 0 &&
		    tls_equal(span_of(want, sizeof(want)), token))
			return &a[i];
	}
	return NULL;
}
