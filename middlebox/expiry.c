/*
 * Rules expire, in slices. Media silence is in idle.c.
 */
#include "middlebox/core_int.h"

#define EXPIRE_LATE_MS 2000u

bool core_end_quietly(struct core *c, struct rule *r, enum simco_reason reason, uint64_t now_ms)
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

/*
 * The kernel frees what transactions removed some 10 ms later, all of it in one piece that nothing
 * on that processor interrupts unless the kernel is a preemptible one: 1.7 ms for the rules that
 * can expire in that time. So slices keep a distance, as long as no rule is late for it.
 */
static bool keep_distance(struct core *c, const struct rule *r, uint64_t now_ms)
{
	if (c->conf->expire_every_ms == 0 || now_ms - r->expires_ms >= EXPIRE_LATE_MS)
		return false;
	c->expire_from_ms = now_ms + c->conf->expire_every_ms;
	return true;
}

bool core_expire(struct core *c, uint64_t now_ms)
{
	struct rule *r;

	if (now_ms < c->expire_from_ms)
		return false;
	for (unsigned n = 0; n < SLICE_ENDS; n++) {
		r = rule_first(&c->t);
		if (!r || r->expires_ms > now_ms)
			return false;
		if (!core_end_quietly(c, r, SIMCO_REASON_EXPIRED, now_ms))
			return true;
		c->stats.expired++;
		r->expires_ms = now_ms + 1000; /* out of the way; and the next try if refused */
		rule_moved(&c->t, r);
	}
	r = rule_first(&c->t);
	return r && r->expires_ms <= now_ms && !keep_distance(c, r, now_ms);
}
