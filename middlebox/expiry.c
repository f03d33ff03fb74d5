/*
 * What time does to rules: they expire, and where the agent's policy says so
 * they end after media silence over a whole group. All in slices.
 */
#include "middlebox/core_int.h"

#define IDLE_GETS 256u	   /* counter readings in a slice */
#define IDLE_GROUP_MAX 128 /* larger groups never count as silent */

/* Queues an end of our own making. False: no memory. */
static bool end_quietly(struct core *c, struct rule *r, enum simco_reason reason, uint64_t now_ms)
{
	struct request *q;

	if (r->batch == c->batch || (r->kind != RULE_RESERVED && rule_shares_busy(c, r)))
		core_flush(c, now_ms);
	q = core_room(c) == 0 ? core_queue(c, NULL) : NULL;
	if (!q)
		return false;
	q->event_to_all = true;
	q->event_reason = reason;
	reply_event(q, r, 0);
	rule_finish(c, q, r, now_ms);
	return true;
}

bool core_expire(struct core *c, uint64_t now_ms)
{
	struct rule *r;

	for (unsigned n = 0; n < SLICE_ENDS; n++) {
		r = rule_first(&c->t);
		if (!r || r->expires_ms > now_ms)
			return false;
		if (!end_quietly(c, r, SIMCO_REASON_EXPIRED, now_ms))
			return true;
		c->stats.expired++;
		r->expires_ms = now_ms + 1000; /* out of the way; and the next try if refused */
		rule_moved(&c->t, r);
	}
	r = rule_first(&c->t);
	return r && r->expires_ms <= now_ms;
}

/* Reads a direction's counters over all pairs. False: the kernel has none. */
static bool read_direction(struct core *c, const struct rule *r, uint8_t d, uint64_t *packets,
			   uint64_t *octets)
{
	*packets = *octets = 0;
	for (unsigned i = 0; i < rule_pairs(r); i++) {
		struct fw_match m;
		uint64_t p = 0, o = 0;

		rule_match(r, d, i, &m);
		if (fw_counters(c->fw, &m, &p, &o) != 0)
			return false;
		*packets += p;
		*octets += o;
	}
	return true;
}

/* Notes what moved since the last look. False: unknown. */
static bool look(struct core *c, struct rule *r, struct simco_activity *a, uint64_t now_ms)
{
	bool known = true;

	for (uint8_t d = SIMCO_INBOUND; d <= SIMCO_OUTBOUND; d++) {
		unsigned k = d - 1u;

		a->packets[k] = a->octets[k] = 0;
		if ((r->direction & d) && !read_direction(c, r, d, &a->packets[k], &a->octets[k]))
			known = false;
		if ((uint32_t)a->packets[k] != r->seen[k]) {
			r->seen[k] = (uint32_t)a->packets[k];
			r->active_ms[k] = now_ms;
		}
		a->idle_ms[k] = r->active_ms[k] ? now_ms - r->active_ms[k] : UINT64_MAX;
	}
	return known;
}

struct simco_activity rule_activity(struct core *c, struct rule *r, uint64_t now_ms)
{
	struct simco_activity a;

	look(c, r, &a, now_ms);
	return a;
}

static uint64_t last_sign(const struct rule *r)
{
	uint64_t t = r->since_ms;

	for (unsigned k = 0; k < 2; k++)
		t = r->active_ms[k] > t ? r->active_ms[k] : t;
	return t;
}

/* By the notes, or (`again`) by reading all counters of the group now. */
static bool group_silent(struct core *c, struct rule *first, uint64_t limit_ms, bool again,
			 uint64_t now_ms)
{
	struct rule *m = first;
	unsigned n = 0;

	do {
		struct simco_activity a;

		if (++n > IDLE_GROUP_MAX)
			return false;
		if (m->kind == RULE_ENABLED) {
			if (again && !look(c, m, &a, now_ms))
				return false;
			if (now_ms - last_sign(m) < limit_ms)
				return false;
		}
		m = rule_group_next(&c->t, m);
	} while (m != first);
	return true;
}

static void end_group(struct core *c, struct rule *first, uint64_t now_ms)
{
	uint32_t pids[IDLE_GROUP_MAX], n = 0;
	struct rule *m = first;

	do {
		if (m->kind == RULE_ENABLED)
			pids[n++] = m->pid;
		m = rule_group_next(&c->t, m);
	} while (m != first && n < IDLE_GROUP_MAX);
	for (uint32_t i = 0; i < n; i++) {
		m = rule_by_pid(&c->t, pids[i]);
		if (m && m->slot == SLOT_FINAL)
			end_quietly(c, m, SIMCO_REASON_MEDIA_TIMEOUT, now_ms);
	}
}

static uint32_t idle_timeout(struct core *c, const struct rule *r)
{
	const struct agent *a = core_agent(c, r->owner);

	return a ? a->conf->idle_timeout : 0;
}

static void idle_rule(struct core *c, struct rule *r, uint64_t now_ms)
{
	uint64_t limit = idle_timeout(c, r) * 1000ull;
	struct rule *first = rule_by_gid(&c->t, r->gid);
	struct simco_activity a;

	if (!look(c, r, &a, now_ms))
		r->since_ms = now_ms; /* no counters: never silent */
	if (now_ms - last_sign(r) >= limit && first &&
	    group_silent(c, first, limit, false, now_ms) &&
	    group_silent(c, first, limit, true, now_ms))
		end_group(c, first, now_ms);
}

/* One slice of the scan over all slots; a new scan begins every c->idle_every_ms. */
bool core_idle(struct core *c, uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led), slots = 0, gets = 0;

	if (c->idle_every_ms == 0 || (c->idle_at == RULE_NONE && now_ms < c->idle_next_ms))
		return false;
	if (c->idle_at == RULE_NONE) {
		c->idle_at = 0;
		c->idle_next_ms = now_ms + c->idle_every_ms;
	}
	for (; c->idle_at < high && slots < SLICE_SLOTS && gets < IDLE_GETS;
	     c->idle_at++, slots++) {
		struct rule *r = rule_at(&c->t, c->idle_at);

		if (r->slot != SLOT_FINAL || r->kind != RULE_ENABLED || !idle_timeout(c, r))
			continue;
		gets += 2 * rule_pairs(r);
		idle_rule(c, r, now_ms);
	}
	if (c->idle_at < high)
		return true;
	c->idle_at = RULE_NONE;
	return false;
}
