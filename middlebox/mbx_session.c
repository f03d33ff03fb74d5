/*
 * How a connection becomes a session (RFC 4540 §7.2, §7.3): who the agent is,
 * whether there is room for it.
 */
#include <string.h>

#include "common/log.h"
#include "middlebox/mbx_auth.h"
#include "middlebox/mbx_int.h"

static struct mbx_origin origin_of(const struct mbx_conn *c)
{
	return (struct mbx_origin){
		.peer = addr_unmap(c->peer.addr), .tls = c->tls, .tls_conn = stream_tls(c->stream)};
}

static size_t sessions_of(const struct mbx *m, const char *agent)
{
	size_t n = 0;

	for (const struct mbx_conn *c = m->conns; c != NULL; c = c->next)
		n += c->joined && !c->ending && strcmp(c->agent, agent) == 0;
	return n;
}

static void set_agent(struct mbx_conn *c, const struct mbx_agent *a, struct simco_admission *adm)
{
	span_copy(span_str(a->name), c->agent, sizeof(c->agent));
	adm->capabilities = core_capabilities(c->mbx->core, a->name);
}

static uint16_t refuse(struct mbx_conn *c, uint16_t code, const char *why)
{
	char peer[ADDR_PORT_STRLEN];

	c->mbx->counters.refused++;
	log_info("simco s%llu: %s refused: %s (%s)", (unsigned long long)c->id,
		 addr_port_str(&c->peer, peer), simco_type_name(code), why);
	return code;
}

static bool too_many(const struct mbx_conn *c, const char *agent)
{
	return sessions_of(c->mbx, agent) >= c->mbx->policy->limits.sessions_per_agent;
}

/* SE in CLOSED (§7.2). */
void mbx_session_establish(void *arg, const struct simco_msg *msg, struct simco_admission *adm)
{
	struct mbx_conn *c = arg;
	struct mbx *m = c->mbx;
	struct mbx_origin origin = origin_of(c);
	struct mbx_identity id = mbx_auth_identify(m->policy, &origin);

	adm->extensions = SIMCO_EXT_REASON | (m->policy->fw.counters ? SIMCO_EXT_ACTIVITY : 0);
	if (m->n_conns - m->n_dying > m->policy->limits.sessions) {
		adm->refuse = refuse(c, SIMCO_LACK_OF_RESOURCES, "limits.sessions");
		return;
	}
	if (id.refuse != 0) {
		adm->refuse = refuse(c, id.refuse, "no agent of the policy comes from there");
		return;
	}
	if (id.agent != NULL && too_many(c, id.agent->name)) {
		adm->refuse = refuse(c, SIMCO_LACK_OF_RESOURCES, "limits.sessions_per_agent");
		return;
	}
	if (msg->has_challenge)
		adm->token_len = mbx_auth_answer(
			id.agent, span_of(msg->challenge, msg->challenge_len), adm->token);
	c->challenged = id.challenge;
	adm->challenge_agent = id.challenge;
	adm->challenge_len = MBX_CHALLENGE_LEN;
	if (id.challenge && tls_random(adm->challenge, MBX_CHALLENGE_LEN) != 0)
		adm->refuse = refuse(c, SIMCO_LACK_OF_RESOURCES, "no random octets");
	if (id.agent != NULL && !id.challenge)
		set_agent(c, id.agent, adm);
}

/* SA in NOAUTH (§7.3). */
void mbx_session_authenticate(void *arg, const struct simco_msg *msg, struct simco_admission *adm)
{
	struct mbx_conn *c = arg;
	struct mbx_origin origin = origin_of(c);
	const struct mbx_agent *a;

	if (c->challenged) {
		a = msg->has_token ? mbx_auth_verify(c->mbx->policy, &origin,
						     span_of(adm->challenge, adm->challenge_len),
						     span_of(msg->token, msg->token_len))
				   : NULL;
		if (a != NULL)
			set_agent(c, a, adm);
	} else {
		a = mbx_policy_agent(c->mbx->policy, c->agent);
	}
	if (a == NULL)
		adm->refuse = refuse(c, SIMCO_AUTHENTICATION_FAILED, "wrong token");
	else if (too_many(c, a->name))
		adm->refuse = refuse(c, SIMCO_NO_AUTHORIZATION, "limits.sessions_per_agent");
}

void mbx_session_state(void *arg, enum simco_session_state state)
{
	struct mbx_conn *c = arg;

	if (state != SIMCO_OPEN)
		return;
	c->half_open_until = 0;
	if (core_session_open(c->mbx->core, c, c->agent) != 0) {
		mbx_conn_end(c, "the core does not take the session");
		return;
	}
	c->joined = true;
	core_session_extensions(c->mbx->core, c, simco_srv_extensions(c->srv));
	log_info("simco s%llu: agent %s is there%s", (unsigned long long)c->id, c->agent,
		 c->tls ? " (TLS)" : "");
}
