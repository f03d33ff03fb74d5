/*
 * All bindings of one agent: their lifetimes, quotas, and what the operator
 * sees of them. Session protocols need binding.h only.
 */
#ifndef SLUICE_AGENT_BINDINGS_H
#define SLUICE_AGENT_BINDINGS_H

#include "agent/binding.h"
#include "agent/mb_client.h"

/* NULL: no memory. Borrows everything. */
struct bindings *bindings_new(struct loop *l, struct mb_clients *mbs, const struct policy *p);
/* For what is asked from now on. */
void bindings_set_policy(struct bindings *all, const struct policy *p);
/*
 * Forgets every binding without a word to the middleboxes; no callback comes
 * any more. Call it before mb_clients_free(). NULL is fine.
 */
void bindings_free(struct bindings *all);

/* Those that still exist, and those in one state. */
size_t bindings_count(const struct bindings *all);
size_t bindings_count_state(const struct bindings *all, enum binding_state s);

/* GET /v1/bindings: {"bindings": [...], "next": id}; one by id with its timeline. */
void bindings_rest_list(const struct bindings *all, uint64_t after, unsigned limit,
			struct jsonw *w);
bool bindings_rest_show(const struct bindings *all, const char *id, struct jsonw *w);
/* DELETE: the owner gets LOST (or FAILED) with cause `operator`. */
bool bindings_rest_end(struct bindings *all, const char *id);

#endif
