/*
 * Rules as JSON, in pages.
 */
#include <stdio.h>

#include "common/errcode.h"
#include "middlebox/core_int.h"

static const char *kind_name(uint8_t kind)
{
	return kind == RULE_RESERVED ? "reserved" : kind == RULE_ENABLED ? "enabled" : "disabled";
}

static const char *direction_name(uint8_t d)
{
	static const char *const names[] = {NULL, "inbound", "outbound", "bidirectional"};

	return d < ARRAY_LEN(names) ? names[d] : NULL;
}

static const char *protocol_name(uint8_t p)
{
	return p == 17 ? "udp" : p == 6 ? "tcp" : "any";
}

/* "10.1.0.9:5000", "10.1.0.0/24:5000-5003", "*:*"; what is reserved only is absent. */
static void write_tuple(struct jsonw *w, const char *key, const struct tuple *t)
{
	struct addr_prefix p = tuple_prefix(t);
	struct port_range ports = tuple_ports(t);
	char a[ADDR_STRLEN], text[ADDR_STRLEN + 32], end[24], len[8] = "";

	if (t->version == 0)
		return;
	if (tuple_port_any(t))
		(void)snprintf(end, sizeof(end), "*");
	else if (ports.first == ports.last)
		(void)snprintf(end, sizeof(end), "%u", ports.first);
	else
		(void)snprintf(end, sizeof(end), "%u-%u", ports.first, ports.last);
	if (!tuple_addr_exact(t))
		(void)snprintf(len, sizeof(len), "/%u", p.len);
	(void)snprintf(text, sizeof(text), p.addr.version == 6 ? "[%s%s]:%s" : "%s%s:%s",
		       addr_str(&p.addr, a), len, end);
	jsonw_str(w, key, text);
}

static void write_counters(struct core *c, struct rule *r, uint64_t now_ms, struct jsonw *w)
{
	static const char *const names[] = {"inbound", "outbound"};
	struct simco_activity a = rule_activity(c, r, now_ms);

	jsonw_object(w, "counters");
	for (unsigned k = 0; k < 2; k++) {
		if (!(r->direction & (k + 1)))
			continue;
		jsonw_object(w, names[k]);
		jsonw_uint(w, "packets", a.packets[k]);
		jsonw_uint(w, "octets", a.octets[k]);
		jsonw_object_end(w);
	}
	jsonw_object_end(w);
}

static void write_rule(struct core *c, struct rule *r, uint64_t now_ms, struct jsonw *w)
{
	struct tuple inside = nat_tuple(&c->nat, r, SIMCO_INSIDE);
	struct tuple outside = nat_tuple(&c->nat, r, SIMCO_OUTSIDE);

	jsonw_object(w, NULL);
	jsonw_uint(w, "pid", r->pid);
	jsonw_uint(w, "gid", r->gid);
	jsonw_str(w, "state", kind_name(r->kind));
	jsonw_str(w, "owner", ledger_owner_name(&c->t.led, r->owner));
	jsonw_str(w, "protocol",
		  protocol_name(r->kind == RULE_RESERVED ? r->prr.protocol : r->in.protocol));
	if (r->kind == RULE_ENABLED)
		jsonw_str(w, "direction", direction_name(r->direction));
	write_tuple(w, "internal", &r->in);
	write_tuple(w, "inside", &inside);
	write_tuple(w, "outside", &outside);
	write_tuple(w, "external", &r->ex);
	jsonw_uint(w, "lifetime", rule_remaining_s(r, now_ms));
	jsonw_uint(w, "age", now_ms > r->created_ms ? (now_ms - r->created_ms) / 1000 : 0);
	jsonw_uint(w, "created_ms", r->created_ms);
	if (r->kind == RULE_ENABLED)
		write_counters(c, r, now_ms, w);
	jsonw_object_end(w);
}

/*
 * Pages go in the order of slots, so that one costs the same with a million
 * rules. The last PID of a page names its slot also when that rule has gone.
 */
uint32_t core_page_start(struct core *c, uint32_t after, uint32_t *floor)
{
	struct rule *r = rule_by_pid(&c->t, after);

	*floor = 0;
	if (r || after == 0)
		return r ? rule_slot(&c->t, r) + 1 : 0;
	for (size_t i = 0; i < ARRAY_LEN(c->pages); i++) {
		if (c->pages[i].pid == after)
			return c->pages[i].slot + 1;
	}
	*floor = after; /* not one of ours: at least nothing older */
	return 0;
}

void core_page_end(struct core *c, uint32_t last)
{
	struct rule *r = rule_by_pid(&c->t, last);

	if (!r)
		return;
	c->pages[c->next_page] = (struct page_end){last, rule_slot(&c->t, r)};
	c->next_page = (c->next_page + 1) % ARRAY_LEN(c->pages);
}

#define PAGE_MAX 10u /* with counters read from the kernel: below half a millisecond */

uint32_t core_rest_rules(struct core *c, uint32_t after, unsigned limit, uint64_t now_ms,
			 struct jsonw *w)
{
	uint32_t high = ledger_high(&c->t.led), floor, last = 0;
	uint32_t s = core_page_start(c, after, &floor);
	unsigned n = 0;

	for (; s < high && n < limit && n < PAGE_MAX; s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot == SLOT_FREE || r->pid <= floor)
			continue;
		write_rule(c, r, now_ms, w);
		last = r->pid;
		n++;
	}
	core_page_end(c, last);
	return last;
}

bool core_rest_rule(struct core *c, uint32_t pid, uint64_t now_ms, struct jsonw *w)
{
	struct rule *r = rule_by_pid(&c->t, pid);

	if (!r)
		return false;
	write_rule(c, r, now_ms, w);
	return true;
}
