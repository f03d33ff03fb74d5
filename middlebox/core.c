/*
 * The core's outside: agents, sessions, requests, time.
 */
#include "middlebox/core.h"

#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/authz.h"
#include "middlebox/core_int.h"

struct agent *core_agent(struct core *c, uint16_t owner)
{
	return c->agent_of[owner] ? &c->agents[c->agent_of[owner] - 1] : NULL;
}

bool core_may_access(struct core *c, uint16_t agent_owner, uint16_t rule_owner)
{
	const struct agent *a = core_agent(c, agent_owner);

	return a && (a->sees[rule_owner / 64] >> (rule_owner % 64) & 1);
}

uint32_t core_max_lifetime(const struct core *c, const struct agent *a)
{
	uint32_t most = c->conf->max_lifetime;

	return a->conf->max_lifetime && a->conf->max_lifetime < most ? a->conf->max_lifetime : most;
}

/* ---- agents ------------------------------------------------------------------- */

static void idle_pace(struct core *c)
{
	uint32_t least = 0;

	for (size_t i = 0; i < c->n_agents; i++) {
		uint32_t t = c->agents[i].conf->idle_timeout;

		if (t && (!least || t < least))
			least = t;
	}
	c->idle_every_ms = least * 250ull;
}

static void see(struct core *c, struct agent *a)
{
	memset(a->sees, 0, sizeof(a->sees));
	for (uint16_t o = 0; o < LEDGER_OWNERS; o++) {
		const char *name = ledger_owner_name(&c->t.led, o);

		if (*name && authz_sees(a->conf, name))
			a->sees[o / 64] |= 1ull << (o % 64);
	}
}

static int load_agents(struct core *c, const struct core_conf *conf)
{
	struct agent *agents = calloc(conf->n_agents + 1, sizeof(*agents));
	int err = agents ? 0 : ERR_NOMEM;

	for (size_t i = 0; i < conf->n_agents && !err; i++) {
		int owner = ledger_owner(&c->t.led, conf->agents[i].name);

		agents[i].conf = &conf->agents[i];
		agents[i].owner = (uint16_t)owner;
		if (owner < 0) {
			log_err("agent %s: no room for its name in the ledger",
				conf->agents[i].name);
			err = ERR_LIMIT;
		}
	}
	if (err) {
		free(agents);
		return err;
	}
	free(c->agents);
	c->agents = agents;
	c->n_agents = conf->n_agents;
	memset(c->agent_of, 0, sizeof(c->agent_of));
	for (size_t i = 0; i < c->n_agents; i++) {
		c->agent_of[agents[i].owner] = (uint16_t)(i + 1);
		see(c, &agents[i]);
	}
	idle_pace(c);
	return 0;
}

static bool same_pools(const struct core_conf *a, const struct core_conf *b)
{
	return fw_pools_same(a->pools, a->n_pools, b->pools, b->n_pools) &&
	       fw_pools_same(a->inside_pools, a->n_inside_pools, b->inside_pools,
			     b->n_inside_pools);
}

static int load_pools(struct core *c, const struct core_conf *conf)
{
	int err = 0;

	for (size_t i = 0; i < conf->n_pools && !err; i++)
		err = nat_add_pool(&c->nat, &conf->pools[i], false);
	for (size_t i = 0; i < conf->n_inside_pools && !err; i++)
		err = nat_add_pool(&c->nat, &conf->inside_pools[i], true);
	return err;
}

static struct span handle_key(const struct table_node *node)
{
	const struct session *s = CONTAINER_OF(node, struct session, node);

	return span_of(&s->handle, sizeof(s->handle));
}

/* ---- life --------------------------------------------------------------------- */

struct core *core_new(const struct core_conf *conf, struct fw *fw, const struct core_ops *ops,
		      void *arg, uint64_t now_ms)
{
	struct core *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return NULL;
	c->conf = conf;
	c->fw = fw;
	c->ops = *ops;
	c->arg = arg;
	c->batch = 1;
	c->idle_at = RULE_NONE;
	c->restore_for = fw_stats(fw).reinstalls;
	err = table_rules_open(&c->t, conf->ledger_file, conf->boot_id, conf->max_rules);
	if (err) {
		free(c);
		return NULL;
	}
	err = table_init(&c->by_handle, handle_key);
	if (!err)
		err = nat_init(&c->nat, conf->nat, &c->t.led, fw);
	if (!err && conf->nat != FW_NAT_NONE)
		err = load_pools(c, conf);
	if (!err)
		err = load_agents(c, conf);
	if (!err)
		err = core_recover(c, now_ms);
	if (err) {
		log_err("core: cannot start: %s", err_str(err));
		core_free(c);
		return NULL;
	}
	return c;
}

void core_free(struct core *c)
{
	struct session *s, *next;

	if (!c)
		return;
	for (s = c->sessions; s; s = next) {
		next = s->next;
		free(s);
	}
	for (size_t i = 0; i < c->n_q; i++)
		free(c->q[i].pids);
	table_fini(&c->by_handle);
	nat_fini(&c->nat);
	table_rules_close(&c->t);
	free(c->agents);
	free(c->q);
	free(c->op);
	free(c->result);
	free(c->sweeps);
	free(c->late);
	free(c);
}

bool core_ledger_usable(const char *file, const uint8_t boot_id[16])
{
	return ledger_usable(file, boot_id);
}

int core_reconfigure(struct core *c, const struct core_conf *conf)
{
	int err;

	/* What the slots and the kernel were laid out for needs a restart. */
	if (conf->nat != c->conf->nat)
		return ERR_UNSUPPORTED;
	if (conf->nat != FW_NAT_NONE && !same_pools(conf, c->conf)) {
		err = load_pools(c, conf); /* more ports; fewer need a restart */
		if (err)
			return err;
	}
	err = load_agents(c, conf);
	if (err)
		return err;
	c->conf = conf;
	return 0;
}

/* ---- sessions ----------------------------------------------------------------- */

static struct session *find_session(struct core *c, void *handle)
{
	struct table_node *n = table_get(&c->by_handle, span_of(&handle, sizeof(handle)));

	return n ? CONTAINER_OF(n, struct session, node) : NULL;
}

int core_session_open(struct core *c, void *handle, const char *agent)
{
	struct session *s;

	for (size_t i = 0; i < c->n_agents; i++) {
		if (strcmp(c->agents[i].conf->name, agent) != 0)
			continue;
		s = calloc(1, sizeof(*s));
		if (!s)
			return ERR_NOMEM;
		s->handle = handle;
		s->owner = c->agents[i].owner;
		if (table_add(&c->by_handle, &s->node) != 0) {
			free(s);
			return ERR_NOMEM;
		}
		s->next = c->sessions;
		if (s->next)
			s->next->prev = s;
		c->sessions = s;
		return 0;
	}
	return ERR_NOENT;
}

void core_session_extensions(struct core *c, void *handle, uint32_t extensions)
{
	struct session *s = find_session(c, handle);

	if (s)
		s->extensions = extensions;
}

void core_session_close(struct core *c, void *handle)
{
	struct session *s = find_session(c, handle);

	if (!s)
		return;
	table_remove(&c->by_handle, &s->node);
	s->closed = true;
	core_bury_sessions(c);
}

/* ---- requests ----------------------------------------------------------------- */

typedef uint16_t (*handler_fn)(struct core *c, struct session *s, struct request *q,
			       const struct simco_msg *m, uint64_t now_ms);

static handler_fn handler(uint16_t type)
{
	switch (type) {
	case SIMCO_PRR_REQ:
		return core_prr;
	case SIMCO_PER_REQ:
		return core_per;
	case SIMCO_PEA_REQ:
		return core_pea;
	case SIMCO_PDR_REQ:
		return core_pdr;
	case SIMCO_PLC_REQ:
		return core_plc;
	case SIMCO_PRS_REQ:
		return core_prs;
	case SIMCO_PRL_REQ:
		return core_prl;
	default:
		return NULL;
	}
}

static uint16_t handle(struct core *c, struct session *s, struct request *q,
		       const struct simco_msg *m, uint64_t now_ms)
{
	handler_fn fn = handler(m->type);

	if (!core_agent(c, s->owner))
		return SIMCO_TRANSACTION_NOT_AUTHORIZED; /* struck from the policy */
	if (!fn)
		return SIMCO_TRANSACTION_NOT_SUPPORTED;
	return core_room(c) == 0 ? fn(c, s, q, m, now_ms) : SIMCO_NO_RESOURCES;
}

/*
 * The entry is filled aside and queued when it is whole: a flush on the way
 * must not take it for settled.
 */
int core_request(struct core *c, void *session, const struct simco_msg *m, uint64_t now_ms)
{
	struct session *s = find_session(c, session);
	struct request *slot, q = {.session = s, .txn = NO_TXN, .slot = RULE_NONE};
	uint16_t err;

	if (!s)
		return ERR_NOENT;
	slot = core_queue(c, s);
	if (!slot)
		return ERR_NOMEM;
	c->n_q--;
	c->stats.requests++;
	err = handle(c, s, &q, m, now_ms);
	if (err) {
		c->stats.refused++;
		q.act = ACT_NONE;
		q.event_pid = 0;
		memset(&q.reply, 0, sizeof(q.reply));
		q.reply.type = err;
	}
	q.reply.tid = m->tid;
	c->q[c->n_q++] = q;
	if (!err && m->type == SIMCO_PDR_REQ)
		core_sweep_add(c, q.sweep);
	return 0;
}

size_t core_pending(const struct core *c)
{
	return c->n_op;
}

void core_commit(struct core *c, uint64_t now_ms)
{
	if (c->giving)
		return;
	core_flush(c, now_ms);
	if (c->n_sweeps)
		core_sweep(c, now_ms);
	core_give(c);
}

uint64_t core_deadline(const struct core *c)
{
	uint64_t at = UINT64_MAX;

	if (c->n_sweeps || c->late_due || c->trim_due ||
	    (c->idle_every_ms && c->idle_at != RULE_NONE))
		return 0;
	if (c->t.n_heap)
		at = c->t.led.slots[c->t.heap[0]].expires_ms;
	if (at < c->expire_from_ms)
		at = c->expire_from_ms;
	if (c->idle_every_ms && c->t.n_kind[RULE_ENABLED] && c->idle_next_ms < at)
		at = c->idle_next_ms;
	return at;
}

bool core_tick(struct core *c, uint64_t now_ms)
{
	bool more;

	if (c->giving)
		return true;
	core_flush(c, now_ms);
	more = core_expire(c, now_ms);
	if (!more)
		more = core_idle(c, now_ms);
	core_flush(c, now_ms);
	if (c->n_sweeps)
		more |= core_sweep(c, now_ms);
	core_give(c);
	return more || c->late_due || c->trim_due;
}

int core_end_rule(struct core *c, uint32_t pid, uint64_t now_ms)
{
	struct rule *r;
	struct request *q;

	core_flush(c, now_ms);
	r = rule_by_pid(&c->t, pid);
	if (!r)
		return ERR_NOENT;
	q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;
	if (!q)
		return ERR_NOMEM;
	q->event_to_all = true;
	q->event_reason = SIMCO_REASON_OPERATOR;
	reply_event(q, r, 0);
	rule_finish(c, q, r, now_ms);
	core_commit(c, now_ms);
	return rule_by_pid(&c->t, pid) ? ERR_KERNEL : 0;
}

/* ---- what is announced -------------------------------------------------------- */

struct simco_capabilities core_capabilities(const struct core *c, const char *agent)
{
	struct simco_capabilities caps = {
		.mb_type = SIMCO_MB_FIREWALL | SIMCO_MB_PDR,
		.max_lifetime = c->conf->max_lifetime,
	};
	uint8_t versions = (uint8_t)((c->conf->ipv4 ? 1 : 0) | (c->conf->ipv6 ? 2 : 0));

	caps.inside_versions = caps.outside_versions = versions;
	if (c->nat.mode != FW_NAT_NONE)
		caps.mb_type |= SIMCO_MB_NAT | SIMCO_MB_PORT_TRANSLATION;
	if (c->nat.mode == FW_NAT_TWICE)
		caps.mb_type |= SIMCO_MB_TWICE_NAT;
	for (size_t i = 0; i < c->n_agents; i++) {
		const struct agent *a = &c->agents[i];

		if (strcmp(a->conf->name, agent) != 0)
			continue;
		caps.max_lifetime = core_max_lifetime(c, a);
		/* A NAT binds one A0; a twice NAT maps one A3 back. */
		caps.internal_wildcard = a->conf->wildcards && c->nat.mode == FW_NAT_NONE;
		caps.external_wildcard = a->conf->wildcards && c->nat.mode != FW_NAT_TWICE;
		caps.port_wildcard = caps.external_wildcard;
	}
	return caps;
}

struct core_stats core_stats(const struct core *c)
{
	struct core_stats s = c->stats;

	s.rules = c->t.n_rules;
	s.reserved = c->t.n_kind[RULE_RESERVED];
	s.enabled = c->t.n_kind[RULE_ENABLED];
	s.disabled = c->t.n_kind[RULE_DISABLED];
	s.elements = c->t.n_elements;
	s.bindings = c->nat.n_bindings;
	return s;
}
