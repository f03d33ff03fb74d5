/*
 * Bindings as the operator sees them.
 */
#include <netinet/in.h>

#include "agent/binding_int.h"

static void rest_rule(const struct rule *r, uint64_t now, struct jsonw *w)
{
	jsonw_object(w, NULL);
	if (r->state != RULE_NONE && r->state != RULE_GONE) /* a reload may have removed it since */
		jsonw_str(w, "middlebox", mb_client_name(r->mb));
	jsonw_str(w, "state", rule_state_name(r->state));
	if (r->at_mb.pid)
		jsonw_uint(w, "pid", r->at_mb.pid);
	if (r->gid)
		jsonw_uint(w, "gid", r->gid);
	if (r->outside.addr.version)
		jsonw_addr_port(w, "outside", &r->outside);
	if (r->expires_ms > now)
		jsonw_uint(w, "expires_ms", r->expires_ms - now);
	jsonw_object_end(w);
}

static void rest_component(const struct binding *b, unsigned i, struct jsonw *w)
{
	uint64_t now = loop_now_ms(b->all->loop), idle = binding_idle_ms(b, i);
	struct addr_port outside = binding_outside(b, i);

	jsonw_object(w, NULL);
	if (b->dropped[i])
		jsonw_bool(w, "dropped", true);
	if (b->ends[i].internal.addr.version)
		jsonw_addr_port(w, "internal", &b->ends[i].internal);
	if (outside.addr.version)
		jsonw_addr_port(w, "outside", &outside);
	if (b->ends[i].external.addr.version)
		jsonw_addr_port(w, "external", &b->ends[i].external);
	if (idle != UINT64_MAX)
		jsonw_uint(w, "idle_ms", idle);
	jsonw_array(w, "rules");
	for (unsigned hop = 0; hop < b->n_hops; hop++)
		rest_rule(&b->rules[i * b->n_hops + hop], now, w);
	jsonw_array_end(w);
	jsonw_object_end(w);
}

static const char *direction_name(enum flow_direction d)
{
	switch (d) {
	case FLOW_INBOUND:
		return "inbound";
	case FLOW_OUTBOUND:
		return "outbound";
	case FLOW_BOTH:
		break;
	}
	return "both";
}

/* Fields of a binding; the caller has opened the object. */
static void rest_fields(const struct binding *b, struct jsonw *w)
{
	jsonw_uint(w, "id", b->id);
	jsonw_str(w, "state", binding_state_name(b->state));
	jsonw_str(w, "module", b->flow.module);
	jsonw_str(w, "session", b->flow.id);
	jsonw_addr(w, "client", &b->flow.client);
	jsonw_str(w, "from", b->from);
	jsonw_str(w, "to", b->to);
	jsonw_str(w, "protocol", b->flow.protocol == IPPROTO_TCP ? "tcp" : "udp");
	jsonw_str(w, "direction", direction_name(b->flow.direction));
	jsonw_array(w, "components");
	for (unsigned i = 0; i < b->flow.components; i++)
		rest_component(b, i, w);
	jsonw_array_end(w);
	if (b->failure.cause) {
		jsonw_object(w, "failure");
		jsonw_str(w, "cause", cause_info(b->failure.cause)->name);
		jsonw_str(w, "middlebox", b->failure.middlebox);
		jsonw_str(w, "detail", b->failure.detail);
		jsonw_object_end(w);
	}
}

void bindings_rest_list(const struct bindings *all, uint64_t after, unsigned limit, struct jsonw *w)
{
	const struct binding *b = all->first;
	uint64_t last = 0;

	while (b && b->id <= after)
		b = b->next;
	jsonw_object(w, NULL);
	jsonw_array(w, "bindings");
	for (; b && limit; b = b->next, limit--) {
		jsonw_object(w, NULL);
		rest_fields(b, w);
		jsonw_object_end(w);
		last = b->id;
	}
	jsonw_array_end(w);
	if (b)
		jsonw_uint(w, "next", last);
	jsonw_object_end(w);
}

static struct binding *find(const struct bindings *all, const char *text)
{
	uint64_t id;

	if (span_u64(span_str(text), UINT64_MAX, &id))
		return NULL;
	for (struct binding *b = all->first; b; b = b->next)
		if (b->id == id)
			return b;
	return NULL;
}

bool bindings_rest_show(const struct bindings *all, const char *id, struct jsonw *w)
{
	const struct binding *b = find(all, id);
	uint64_t start;

	if (!b)
		return false;
	start = b->n_timeline ? b->timeline[0].at_ms : 0;
	jsonw_object(w, NULL);
	rest_fields(b, w);
	jsonw_uint(w, "age_ms", loop_now_ms(all->loop) - start);
	jsonw_array(w, "timeline");
	for (unsigned i = 0; i < b->n_timeline; i++) {
		jsonw_object(w, NULL);
		jsonw_str(w, "state", binding_state_name(b->timeline[i].state));
		jsonw_uint(w, "ms", b->timeline[i].at_ms - start);
		jsonw_object_end(w);
	}
	jsonw_array_end(w);
	jsonw_object_end(w);
	return true;
}

bool bindings_rest_end(struct bindings *all, const char *id)
{
	struct binding *b = find(all, id);

	if (!b || b->state >= BINDING_RELEASING)
		return false;
	failure_set(&b->failure, CAUSE_OPERATOR, NULL, 0, "ended by the operator");
	binding_dispatch(b, BINDING_IN_GONE);
	return true;
}
