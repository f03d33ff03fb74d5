/*
 * Where the agent's policy says so, rules end after media silence over their
 * whole group. A scan over all slots reads every rule's counters and notes what
 * moved. When it comes to the first member of a group it stops there and walks
 * the group, in three passes: by the notes; if they say silence, reading all
 * counters again; if that confirms it, ending the members. Scan and walk go on
 * in slices. A walk whose next member left meanwhile is given up: the next scan
 * repeats it.
 */
#include "middlebox/core_int.h"

#define IDLE_GETS 64u /* counter readings in a slice: each takes 2 to 6 us */

enum { WALK_NONE, WALK_NOTES, WALK_READ, WALK_END };

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

/* The latest that speaks against silence: traffic, or that it was enabled. */
static uint64_t last_sign(const struct rule *r)
{
	uint64_t t = r->since_ms;

	for (unsigned k = 0; k < 2; k++)
		t = r->active_ms[k] > t ? r->active_ms[k] : t;
	return t;
}

static uint32_t idle_timeout(struct core *c, const struct rule *r)
{
	const struct agent *a = core_agent(c, r->owner);

	return a ? a->conf->idle_timeout : 0;
}

/* What a slice has done so far. */
struct slice {
	unsigned slots, gets, ends;
};

static bool is_used_up(const struct slice *s)
{
	return s->slots >= SLICE_SLOTS || s->gets >= IDLE_GETS || s->ends >= SLICE_ENDS;
}

static void read_counters(struct core *c, struct rule *r, struct slice *s, uint64_t now_ms)
{
	struct simco_activity a;

	s->gets += 2 * rule_pairs(r);
	if (!look(c, r, &a, now_ms))
		r->since_ms = now_ms; /* no counters: never silent */
}

/* One member in the walk's present pass. False: the group is not silent. */
static bool visit(struct core *c, struct rule *m, struct slice *s, uint64_t now_ms)
{
	struct idle_walk *w = &c->idle_walk;
	uint32_t limit;

	s->slots += 2; /* members are anywhere in memory */
	if (m->kind != RULE_ENABLED || m->slot != SLOT_FINAL)
		return true;
	switch (w->pass) {
	case WALK_NOTES:
		limit = idle_timeout(c, m);
		if (limit && (!w->limit_ms || limit * 1000ull < w->limit_ms))
			w->limit_ms = limit * 1000ull;
		if (last_sign(m) > w->sign_ms)
			w->sign_ms = last_sign(m);
		/* Nobody's timeout is shorter than four scans. */
		return now_ms - w->sign_ms >= 4 * c->idle_every_ms;
	case WALK_READ:
		read_counters(c, m, s, now_ms);
		return now_ms - last_sign(m) >= w->limit_ms;
	default:
		if (now_ms - last_sign(m) < w->limit_ms)
			return true; /* it joined meanwhile */
		s->ends++;
		return core_end_quietly(c, m, SIMCO_REASON_MEDIA_TIMEOUT, now_ms);
	}
}

/* All members were visited. */
static void next_pass(struct idle_walk *w, uint64_t now_ms)
{
	bool silent = w->limit_ms && now_ms - w->sign_ms >= w->limit_ms;

	w->pass = w->pass == WALK_NOTES && silent ? WALK_READ
		  : w->pass == WALK_READ	  ? WALK_END
						  : WALK_NONE;
}

/* True when the walk is over, false when the slice is. */
static bool walk(struct core *c, struct slice *s, uint64_t now_ms)
{
	struct idle_walk *w = &c->idle_walk;

	while (w->pass != WALK_NONE && !is_used_up(s)) {
		struct rule *m = rule_by_pid(&c->t, w->pid), *next;
		bool last;

		if (!m || m->gid != w->gid) {
			w->pass = WALK_NONE;
			break;
		}
		/* Both before the visit: it may settle a batch, and who was ended leaves. */
		next = rule_group_next(&c->t, m);
		last = next == rule_by_gid(&c->t, w->gid);
		w->pid = next->pid;
		if (!visit(c, m, s, now_ms))
			w->pass = WALK_NONE;
		else if (last)
			next_pass(w, now_ms);
	}
	return w->pass == WALK_NONE;
}

/* True when the scan may go on to the next slot. */
static bool idle_slot(struct core *c, struct rule *r, struct slice *s, uint64_t now_ms)
{
	struct idle_walk *w = &c->idle_walk;

	if (w->pass == WALK_NONE) {
		s->slots++;
		if (r->slot != SLOT_FINAL)
			return true;
		if (r->kind == RULE_ENABLED && idle_timeout(c, r))
			read_counters(c, r, s, now_ms);
		if (rule_by_gid(&c->t, r->gid) != r)
			return true;
		*w = (struct idle_walk){.gid = r->gid, .pid = r->pid, .pass = WALK_NOTES};
	}
	return walk(c, s, now_ms);
}

bool core_idle(struct core *c, uint64_t now_ms)
{
	uint32_t high = ledger_high(&c->t.led);
	struct slice s = {0};

	if (c->idle_every_ms == 0 || (c->idle_at == RULE_NONE && now_ms < c->idle_next_ms))
		return false;
	if (c->idle_at == RULE_NONE) {
		c->idle_at = 0;
		c->idle_next_ms = now_ms + c->idle_every_ms;
		c->idle_walk.pass = WALK_NONE;
	}
	while (c->idle_at < high && !is_used_up(&s)) {
		if (!idle_slot(c, rule_at(&c->t, c->idle_at), &s, now_ms))
			break;
		c->idle_at++;
	}
	if (c->idle_at < high)
		return true;
	c->idle_at = RULE_NONE;
	return false;
}
