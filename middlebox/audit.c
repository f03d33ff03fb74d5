/*
 * The audit against the kernel: whether it has every element and every mapping
 * of every rule, for as long as it should.
 */
#include <stdarg.h>
#include <stdio.h>

#include "common/errcode.h"
#include "middlebox/core_int.h"

#define SLACK_MS 2500u
#define PAGE_OPS 32u /* questions in a page; each is one to four elements, at 2 to 6 us */

struct audit {
	struct core *c;
	void (*fn)(const char *text, void *arg);
	void *arg;
	uint64_t now_ms;
	size_t n;     /* differences */
	unsigned ops; /* questions */
};

static void found(struct audit *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void found(struct audit *a, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	a->n++;
	if (a->fn)
		a->fn(text, a->arg);
}

static uint64_t kernel_ms(const struct audit *a, uint64_t until)
{
	return (until > a->now_ms ? until - a->now_ms : 0) + a->c->conf->grace_ms;
}

/* What is wrong with what the kernel has for `op`, NULL: nothing. */
static const char *fault(struct audit *a, const struct fw_op *op, uint64_t least, uint64_t most)
{
	uint64_t left = 0;
	int err = fw_audit(a->c->fw, op, &left);

	a->ops++;
	if (err == ERR_EXIST)
		return "has another address in the kernel";
	if (err)
		return "is missing in the kernel";
	if (left + SLACK_MS < kernel_ms(a, least))
		return "would leave the kernel too early";
	if (left > kernel_ms(a, most) + SLACK_MS)
		return "would stay in the kernel too long";
	return NULL;
}

static void audit_element(struct audit *a, const struct rule *r, uint8_t d, unsigned i)
{
	struct fw_op op = {.type = r->kind == RULE_DISABLED ? FW_BLOCK : FW_OPEN};
	uint64_t until = rule_element_until(a->c, r, i, d);
	char src[ADDR_STRLEN], dst[ADDR_STRLEN];
	const char *what;

	rule_match(r, d, i, &op.match);
	what = fault(a, &op, until, until);
	if (what)
		found(a, "rule %u: %s %s port %u -> %s port %u %s", r->pid,
		      op.type == FW_BLOCK ? "blocked" : "open", addr_str(&op.match.src.addr, src),
		      op.match.sport.first, addr_str(&op.match.dst.addr, dst), op.match.dport.first,
		      what);
}

/* A mapping lives as long as the longest of the rules that it had. */
static void audit_binding(struct audit *a, const struct rule *r, unsigned i)
{
	struct fw_op op = {.type = FW_BIND};
	char inside[ADDR_PORT_STRLEN], outside[ADDR_PORT_STRLEN];
	struct binding *b;
	const char *what;

	nat_binding(&a->c->nat, r, i, &op.binding);
	b = nat_find(&a->c->nat, op.binding.protocol, &op.binding.inside);
	what = b ? fault(a, &op, r->expires_ms, b->until_ms) : "is not known";
	if (what)
		found(a, "rule %u: mapping %s <-> %s %s", r->pid,
		      addr_port_str(&op.binding.inside, inside),
		      addr_port_str(&op.binding.outside, outside), what);
}

static void audit_rule(struct audit *a, const struct rule *r)
{
	for (unsigned i = 0; i < rule_pairs(r); i++) {
		for (uint8_t d = SIMCO_INBOUND; d <= SIMCO_OUTBOUND; d++) {
			if (r->direction & d)
				audit_element(a, r, d, i);
		}
	}
	for (unsigned i = 0; i < rule_bindings(r); i++)
		audit_binding(a, r, i);
}

size_t core_audit(struct core *c, uint64_t now_ms, void (*fn)(const char *text, void *arg),
		  void *arg)
{
	struct audit a = {.c = c, .fn = fn, .arg = arg, .now_ms = now_ms};
	uint32_t high = ledger_high(&c->t.led);

	core_flush(c, now_ms);
	for (uint32_t s = 0; s < high; s++) {
		const struct rule *r = rule_at(&c->t, s);

		if (r->slot != SLOT_FREE && r->kind != RULE_RESERVED)
			audit_rule(&a, r);
	}
	return a.n;
}

uint32_t core_audit_page(struct core *c, uint32_t after, uint64_t now_ms,
			 void (*fn)(const char *text, void *arg), void *arg)
{
	struct audit a = {.c = c, .fn = fn, .arg = arg, .now_ms = now_ms};
	uint32_t high = ledger_high(&c->t.led), floor, last = 0;
	uint32_t s, n = 0;

	core_flush(c, now_ms);
	for (s = core_page_start(c, after, &floor); s < high && a.ops < PAGE_OPS && n < SLICE_SLOTS;
	     s++) {
		const struct rule *r = rule_at(&c->t, s);

		if (r->slot == SLOT_FREE || r->pid <= floor)
			continue;
		if (r->kind != RULE_RESERVED)
			audit_rule(&a, r);
		last = r->pid;
		n++;
	}
	core_page_end(c, last);
	return s < high ? last : 0;
}
