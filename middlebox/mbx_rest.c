/*
 * What the middlebox shows over REST.
 */
#include "config.h"
#include "middlebox/mbx_int.h"

static const char *const feature_names[] = {
	"destroy-element",   "update-timeout", "batch-ack",	 "owner-persist",
	"tproxy-defragment", "late-dump",      "conntrack-file",
};

const char *mbx_feature_name(unsigned bit)
{
	return bit < ARRAY_LEN(feature_names) ? feature_names[bit] : NULL;
}

static void put_features(struct jsonw *w, unsigned features)
{
	jsonw_object(w, "features");
	for (unsigned i = 0; mbx_feature_name(i) != NULL; i++)
		jsonw_bool(w, mbx_feature_name(i), (features >> i & 1) != 0);
	jsonw_object_end(w);
}

static void put_firewall(struct jsonw *w, const struct mbx *m)
{
	const struct mbx_policy *p = m->policy;
	struct fw_stats s = fw_stats(m->fw);

	jsonw_object(w, "firewall");
	jsonw_str(w, "mode", p->fw.mode == FW_MARK ? "mark" : "enforce");
	jsonw_str(w, "nat",
		  p->fw.nat == FW_NAT_NAPT    ? "napt"
		  : p->fw.nat == FW_NAT_TWICE ? "twice"
					      : "none");
	jsonw_str(w, "table", p->fw.table);
	jsonw_bool(w, "installed", !m->lost);
	put_features(w, fw_features(m->fw));
	jsonw_uint(w, "batches", s.batches);
	jsonw_uint(w, "operations", s.ops);
	jsonw_uint(w, "aborts", s.aborts);
	jsonw_uint(w, "resubmits", s.resubmits);
	jsonw_uint(w, "refused", s.refused);
	jsonw_uint(w, "conntrack_deletes", s.conntrack_deletes);
	jsonw_uint(w, "reinstalls", s.reinstalls);
	jsonw_uint(w, "enobufs", s.enobufs);
	jsonw_object_end(w);
}

static void put_core(struct jsonw *w, const struct mbx *m)
{
	struct core_stats s = core_stats(m->core);

	jsonw_object(w, "rules");
	jsonw_uint(w, "present", s.rules);
	jsonw_uint(w, "reserved", s.reserved);
	jsonw_uint(w, "enabled", s.enabled);
	jsonw_uint(w, "disabled", s.disabled);
	jsonw_uint(w, "bindings", s.bindings);
	jsonw_uint(w, "elements", s.elements);
	jsonw_uint(w, "expired", s.expired);
	jsonw_uint(w, "requests", s.requests);
	jsonw_uint(w, "refused", s.refused);
	jsonw_object_end(w);
}

static bool is_ready(const struct mbx *m)
{
	return !m->lost && !m->restoring && m->done == NULL;
}

static size_t open_sessions(const struct mbx *m)
{
	size_t n = 0;

	for (const struct mbx_conn *c = m->conns; c != NULL; c = c->next)
		n += c->joined;
	return n;
}

static void get_status(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;
	struct jsonw *w = &rep->json;

	(void)req;
	jsonw_object(w, NULL);
	jsonw_str(w, "program", "sluice-middlebox");
	jsonw_str(w, "version", PACKAGE_VERSION);
	jsonw_uint(w, "uptime_ms", loop_now_ms(m->loop) - m->started_ms);
	jsonw_bool(w, "ready", is_ready(m));
	put_firewall(w, m);
	put_core(w, m);
	jsonw_object(w, "sessions");
	jsonw_uint(w, "open", open_sessions(m));
	jsonw_uint(w, "connections", m->n_conns);
	jsonw_uint(w, "accepted", m->counters.accepted);
	jsonw_uint(w, "refused", m->counters.refused);
	jsonw_uint(w, "cut", m->counters.cut);
	jsonw_uint(w, "protocol_errors", m->counters.protocol_errors);
	jsonw_object_end(w);
	jsonw_object_end(w);
}

static void put_session(struct jsonw *w, const struct mbx *m, const struct mbx_conn *c)
{
	jsonw_object(w, NULL);
	jsonw_uint(w, "id", c->id);
	jsonw_str(w, "agent", c->agent[0] != '\0' ? c->agent : NULL);
	jsonw_addr_port(w, "peer", &c->peer);
	jsonw_str(w, "state", simco_state_name(simco_srv_state(c->srv)));
	jsonw_bool(w, "tls", c->tls);
	jsonw_bool(w, "activity_extension",
		   (simco_srv_extensions(c->srv) & SIMCO_EXT_ACTIVITY) != 0);
	jsonw_uint(w, "age_ms", loop_now_ms(m->loop) - c->since_ms);
	jsonw_uint(w, "requests", c->requests);
	jsonw_uint(w, "unanswered", simco_srv_pending(c->srv));
	jsonw_object_end(w);
}

static void begin_page(struct jsonw *w, const char *name)
{
	jsonw_object(w, NULL);
	jsonw_array(w, name);
}

/* next: ?after= of the next page, 0: this is the last. */
static void end_page(struct jsonw *w, uint64_t next)
{
	jsonw_array_end(w);
	if (next != 0)
		jsonw_uint(w, "next", next);
	jsonw_object_end(w);
}

static uint32_t pid_after(const struct rest_request *req)
{
	return req->after > UINT32_MAX ? UINT32_MAX : (uint32_t)req->after;
}

#define SESSIONS_PAGE 50u /* below half a millisecond */

/* New connections stand in front of the list, so it is walked from its end. */
static void get_sessions(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;
	struct jsonw *w = &rep->json;
	const struct mbx_conn *c = m->conns;
	unsigned n = 0;
	uint64_t last = 0;

	while (c != NULL && c->next != NULL)
		c = c->next;
	begin_page(w, "sessions");
	for (; c != NULL && n < req->limit && n < SESSIONS_PAGE; c = c->prev) {
		if (c->id <= req->after)
			continue;
		put_session(w, m, c);
		last = c->id;
		n++;
	}
	end_page(w, c != NULL ? last : 0);
}

static void get_rules(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;
	struct jsonw *w = &rep->json;
	uint32_t after = pid_after(req);
	uint32_t last;

	begin_page(w, "rules");
	last = core_rest_rules(m->core, after, req->limit, loop_now_ms(m->loop), w);
	end_page(w, last);
}

static void put_difference(const char *text, void *arg)
{
	jsonw_str(arg, NULL, text);
}

static void get_audit(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;
	struct jsonw *w = &rep->json;
	uint32_t after = pid_after(req);
	uint32_t last;

	begin_page(w, "differences");
	last = core_audit_page(m->core, after, loop_now_ms(m->loop), put_difference, w);
	end_page(w, last);
}

static bool rule_id(const struct rest_request *req, struct rest_reply *rep, uint32_t *pid)
{
	uint64_t v;

	if (span_u64(span_str(req->id), UINT32_MAX, &v) == 0) {
		*pid = (uint32_t)v;
		return true;
	}
	rest_problem(rep, 400, "Bad rule id", "a rule is named by its PID, a number");
	return false;
}

static void get_rule(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;
	uint32_t pid;

	if (rule_id(req, rep, &pid) &&
	    !core_rest_rule(m->core, pid, loop_now_ms(m->loop), &rep->json))
		rest_problem(rep, 404, "No such rule", "there is no rule %u", pid);
}

static void delete_rule(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	struct mbx *m = arg;
	uint32_t pid;

	if (!rule_id(req, rep, &pid))
		return;
	if (core_end_rule(m->core, pid, loop_now_ms(m->loop)) != 0) {
		rest_problem(rep, 404, "No such rule", "there is no rule %u", pid);
		return;
	}
	mbx_defer_commit(m);
	jsonw_object(&rep->json, NULL);
	jsonw_uint(&rep->json, "ended", pid);
	jsonw_object_end(&rep->json);
}

static void get_healthz(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)req;
	(void)arg;
	jsonw_object(&rep->json, NULL);
	jsonw_bool(&rep->json, "alive", true);
	jsonw_object_end(&rep->json);
}

static void get_readyz(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct mbx *m = arg;

	(void)req;
	if (!is_ready(m)) {
		rest_problem(rep, 503, "Not ready",
			     m->done != NULL ? "the daemon is ending"
					     : "the kernel's tables are being installed again");
		return;
	}
	jsonw_object(&rep->json, NULL);
	jsonw_bool(&rep->json, "ready", true);
	jsonw_object_end(&rep->json);
}

static void get_metrics(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)req;
	rep->content_type = "text/plain; version=0.0.4";
	mbx_metrics(arg, &rep->body);
}

const struct rest_route mbx_routes[] = {
	{"GET", "/v1/status", get_status},	   {"GET", "/v1/sessions", get_sessions},
	{"GET", "/v1/rules", get_rules},	   {"GET", "/v1/rules/{id}", get_rule},
	{"DELETE", "/v1/rules/{id}", delete_rule}, {"GET", "/v1/audit", get_audit},
	{"GET", "/healthz", get_healthz},	   {"GET", "/readyz", get_readyz},
	{"GET", "/metrics", get_metrics},	   {NULL, NULL, NULL},
};
