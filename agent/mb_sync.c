/*
 * A fresh session: release what was to be released, list what the middlebox
 * has (PRL, RFC 4540 §8.7), and bring both sides together. The list is the
 * first request after the releases, so it shows no rule of this session.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/mb_int.h"
#include "common/errcode.h"
#include "common/log.h"

int mb_chore_add(struct mb_client *mb, uint32_t pid, bool check)
{
	size_t cap;
	struct mb_chore *more;

	if (mb->n_chores - mb->at_chore >= MB_LATER_MAX)
		return ERR_LIMIT;
	if (mb->at_chore == mb->n_chores)
		mb->at_chore = mb->n_chores = 0;
	if (mb->n_chores == mb->cap_chores) {
		if (mb->at_chore) { /* use the room at the front first */
			memmove(mb->chores, mb->chores + mb->at_chore,
				(mb->n_chores - mb->at_chore) * sizeof(*mb->chores));
			mb->n_chores -= mb->at_chore;
			mb->at_chore = 0;
		} else {
			cap = mb->cap_chores ? mb->cap_chores * 2 : 64;
			more = realloc(mb->chores, cap * sizeof(*more));
			if (!more)
				return ERR_NOMEM;
			mb->chores = more;
			mb->cap_chores = cap;
		}
	}
	mb->chores[mb->n_chores++] = (struct mb_chore){.pid = pid, .check = check};
	return 0;
}

/* One chore under way; heap, since the list may move. */
struct chore_call {
	struct mb_client *mb;
	struct mb_chore chore;
};

static void chore_deleted(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct chore_call *cc = arg;
	struct mb_client *mb = cc->mb;

	mb->chores_in_flight--;
	if (f && !m) /* the session went away: try again in the next one */
		(void)mb_chore_add(mb, cc->chore.pid, false);
	else if (!f)
		mb->deleted++;
	free(cc);
	mb_chores_run(mb);
}

static bool owned_by_us(const struct mb_client *mb, const struct simco_msg *m)
{
	const char *identity = mb->all->policy->identity;

	return m->owner_len == strlen(identity) && !memcmp(m->owner, identity, m->owner_len);
}

static void chore_checked(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct chore_call *cc = arg;
	struct mb_client *mb = cc->mb;

	mb->chores_in_flight--;
	/* After a lost session the next list brings the rule up again. */
	if (!f && owned_by_us(mb, m)) {
		log_info("middlebox %s: deleting rule %u, ours and unknown", mb->name,
			 cc->chore.pid);
		(void)mb_chore_add(mb, cc->chore.pid, false);
	}
	free(cc);
	mb_chores_run(mb);
}

static int chore_start(struct mb_client *mb, struct mb_chore chore)
{
	struct simco_msg m = {.type = chore.check ? SIMCO_PRS_REQ : SIMCO_PLC_REQ,
			      .pid = chore.pid};
	struct chore_call *cc = malloc(sizeof(*cc));
	int err;

	if (!cc)
		return ERR_NOMEM;
	*cc = (struct chore_call){.mb = mb, .chore = chore};
	err = mb_client_request(mb, &m, chore.check ? chore_checked : chore_deleted, cc);
	if (err)
		free(cc);
	else
		mb->chores_in_flight++;
	return err;
}

void mb_chores_run(struct mb_client *mb)
{
	while (mb->state == MB_OPEN && mb->at_chore < mb->n_chores &&
	       mb->chores_in_flight < MB_CLEANUP_WINDOW) {
		if (chore_start(mb, mb->chores[mb->at_chore]))
			return; /* the next answer continues */
		mb->at_chore++;
	}
}

struct unseen {
	uint32_t *pids;
	size_t n, cap;
	uint32_t generation;
};

static bool collect_unseen(struct table_node *node, void *arg)
{
	const struct mb_rule *r = CONTAINER_OF(node, struct mb_rule, node);
	struct unseen *u = arg;

	if (r->seen != u->generation && u->n < u->cap)
		u->pids[u->n++] = r->pid;
	return true;
}

/*
 * Two steps, because an owner that learns of one lost rule gives back its
 * others, which changes the table.
 */
static void report_vanished(struct mb_client *mb)
{
	struct unseen u = {.cap = mb->rules.n, .generation = mb->generation};

	if (!u.cap)
		return;
	u.pids = calloc(u.cap, sizeof(*u.pids));
	if (!u.pids)
		return; /* the next refresh finds out */
	table_each(&mb->rules, collect_unseen, &u);
	for (size_t i = 0; i < u.n; i++) {
		struct table_node *node =
			table_get(&mb->rules, span_of(&u.pids[i], sizeof(u.pids[i])));
		struct mb_rule *r;

		if (!node)
			continue;
		r = CONTAINER_OF(node, struct mb_rule, node);
		mb->vanished++;
		r->changed(r, 0, SIMCO_REASON_NONE);
	}
	free(u.pids);
}

static bool has_chore(const struct mb_client *mb, uint32_t pid)
{
	for (size_t i = mb->at_chore; i < mb->n_chores; i++)
		if (mb->chores[i].pid == pid)
			return true;
	return false;
}

/* While a retired client of that name still has rules there, they are known, just not to us. */
static bool shared_with_retired(const struct mb_client *mb)
{
	for (const struct mb_client *o = mb->all->list; o; o = o->next)
		if (o != mb && !strcmp(o->name, mb->name))
			return true;
	return false;
}

static void listed(void *arg, const struct simco_msg *m, const struct failure *f)
{
	struct mb_client *mb = arg;
	bool exclusive = mb->all->policy->exclusive && !mb->retired && !shared_with_retired(mb);
	size_t unknown = 0;

	if (f) {
		if (m) /* more than 8,191 rules do not fit (0x0313): refreshing tells the rest */
			log_warn("middlebox %s: list of rules refused: %s", mb->name, f->detail);
		return;
	}
	for (size_t i = 0; i < m->n_pids; i++) {
		uint32_t pid = simco_msg_pid(m, i);
		struct table_node *node = table_get(&mb->rules, span_of(&pid, sizeof(pid)));

		if (node) {
			CONTAINER_OF(node, struct mb_rule, node)->seen = mb->generation;
		} else if (exclusive && (mb->n_chores - mb->at_chore > 64 || !has_chore(mb, pid))) {
			unknown++;
			(void)mb_chore_add(mb, pid, true);
		}
	}
	log_info("middlebox %s: %zu rules listed, %zu of ours, %zu unknown", mb->name, m->n_pids,
		 mb->rules.n, unknown);
	report_vanished(mb);
	mb_chores_run(mb);
}

void mb_sync_start(struct mb_client *mb)
{
	struct simco_msg m = {.type = SIMCO_PRL_REQ};

	mb->generation++;
	mb_chores_run(mb);
	if (mb_client_request(mb, &m, listed, mb))
		log_warn("middlebox %s: cannot list rules", mb->name);
}
