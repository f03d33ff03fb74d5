/*
 * Who a SIMCO connection belongs to (RFC 4540 §7.2, §7.3). Pure: decides from
 * the policy and what the connection proved, touches no socket.
 *
 * An agent is recognised by the name in its TLS certificate; on plain TCP by
 * the address that its connection comes from; or by a secret that it shares
 * with the middlebox, through challenge and token:
 *
 *   token = HMAC-SHA-256(secret, role NUL challenge)
 *
 * with role "agent" when the agent answers and "middlebox" when the middlebox
 * does, so that neither can be made to compute the other's answer. An agent may
 * send `name NUL token` to say who it is; without a name the secret tells.
 */
#ifndef SLUICE_MIDDLEBOX_MBX_AUTH_H
#define SLUICE_MIDDLEBOX_MBX_AUTH_H

#include "common/tls.h"
#include "middlebox/policy.h"
#include "proto-simco/simco.h"

#define MBX_CHALLENGE_LEN 32u

/* What is known about a connection before the agent says anything. */
struct mbx_origin {
	struct addr peer;
	bool tls;
	struct tls_conn *tls_conn; /* of a TLS connection */
};

struct mbx_identity {
	uint16_t refuse;	       /* 0, SIMCO_SECURITY_INSUFFICIENT, SIMCO_NO_AUTHORIZATION */
	const struct mbx_agent *agent; /* NULL: only the token will tell */
	bool challenge;		       /* the agent has to prove itself by a token */
};

struct mbx_identity mbx_auth_identify(const struct mbx_policy *p, const struct mbx_origin *o);
/* The middlebox's answer to an agent's challenge; octets, 0: cannot. */
size_t mbx_auth_answer(const struct mbx_agent *a, struct span challenge,
		       uint8_t token[TLS_SHA256_LEN]);
/* Which agent the token proves; NULL: none. */
const struct mbx_agent *mbx_auth_verify(const struct mbx_policy *p, const struct mbx_origin *o,
					struct span challenge, struct span token);

#endif
