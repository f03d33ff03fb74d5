/*
 * Middleboxes as the operator sees them.
 */
#include "agent/mb_int.h"

static void rest_capabilities(const struct mb_client *mb, struct jsonw *w)
{
	const struct simco_capabilities *c = &mb->caps;

	jsonw_object(w, "capabilities");
	jsonw_bool(w, "firewall", (c->mb_type & SIMCO_MB_FIREWALL) != 0);
	jsonw_bool(w, "nat", (c->mb_type & SIMCO_MB_NAT) != 0);
	jsonw_bool(w, "twice_nat", (c->mb_type & SIMCO_MB_TWICE_NAT) != 0);
	jsonw_bool(w, "disable_rules", (c->mb_type & SIMCO_MB_PDR) != 0);
	jsonw_bool(w, "ipv4", (c->outside_versions & 1u) != 0);
	jsonw_bool(w, "ipv6", (c->outside_versions & 2u) != 0);
	jsonw_uint(w, "max_lifetime", c->max_lifetime);
	jsonw_bool(w, "activity", (mb->extensions & SIMCO_EXT_ACTIVITY) != 0);
	jsonw_object_end(w);
}

static void rest_one(const struct mb_client *mb, uint64_t now_ms, struct jsonw *w)
{
	jsonw_object(w, NULL);
	jsonw_str(w, "name", mb->name);
	jsonw_addr_port(w, "address", &mb->address);
	jsonw_bool(w, "tls", mb->tls_conf.present);
	jsonw_str(w, "state", mb_state_name(mb->state));
	jsonw_uint(w, "since_ms", now_ms - mb->since_ms);
	if (mb->state != MB_OPEN)
		jsonw_str(w, "why", mb->why);
	jsonw_bool(w, "retired", mb->retired);
	if (mb->known_caps)
		rest_capabilities(mb, w);
	jsonw_uint(w, "rtt_us", mb->rtt_us);
	jsonw_uint(w, "pending", mb->n_calls);
	jsonw_uint(w, "rules", mb->rules.n);
	jsonw_uint(w, "to_release", mb->n_chores - mb->at_chore + mb->chores_in_flight);
	jsonw_uint(w, "sessions", mb->sessions);
	jsonw_uint(w, "timeouts", mb->timeouts);
	jsonw_uint(w, "vanished_rules", mb->vanished);
	jsonw_uint(w, "deleted_rules", mb->deleted);
	jsonw_object_end(w);
}

void mb_clients_rest(const struct mb_clients *all, struct jsonw *w, const char *key)
{
	jsonw_array(w, key);
	for (const struct mb_client *mb = all->list; mb; mb = mb->next)
		rest_one(mb, loop_now_ms(all->loop), w);
	jsonw_array_end(w);
}

void mb_clients_metrics(const struct mb_clients *all, struct buf *out)
{
	static const struct {
		const char *name, *type, *help;
	} m[] = {
		{"middlebox_open", "gauge", "1 while the SIMCO session is open"},
		{"middlebox_rules", "gauge", "policy rules that this agent owns there"},
		{"middlebox_pending_requests", "gauge", "requests without a reply"},
		{"middlebox_rtt_seconds", "gauge", "smoothed time from request to reply"},
		{"middlebox_sessions_total", "counter", "sessions opened"},
		{"middlebox_timeouts_total", "counter", "requests that were never answered"},
	};

	for (size_t i = 0; i < ARRAY_LEN(m); i++) {
		buf_printf(out, "# HELP sluice_agent_%s %s\n# TYPE sluice_agent_%s %s\n", m[i].name,
			   m[i].help, m[i].name, m[i].type);
		for (const struct mb_client *mb = all->list; mb; mb = mb->next) {
			const double value[] = {
				mb->state == MB_OPEN, (double)mb->rules.n,
				(double)mb->n_calls,  (double)mb->rtt_us / 1e6,
				(double)mb->sessions, (double)mb->timeouts,
			};

			if (!mb->retired)
				buf_printf(out, "sluice_agent_%s{middlebox=\"%s\"} %.9g\n",
					   m[i].name, mb->name, value[i]);
		}
	}
}
