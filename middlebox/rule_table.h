/*
 * The rules in the ledger's slots and every way to find them: by PID, group,
 * owner, coinciding tuples, address, and by expiry. All links are slot
 * numbers inside the slots; only bucket arrays and the heap are outside.
 */
#ifndef SLUICE_MIDDLEBOX_RULE_TABLE_H
#define SLUICE_MIDDLEBOX_RULE_TABLE_H

#include "middlebox/ledger.h"
#include "middlebox/rule_room.h"

struct rule_heads {
	uint32_t *slot; /* first of each chain */
	uint32_t mask;
};

struct rule_table {
	struct ledger led;
	uint64_t key[2];
	struct rule_heads by_pid, by_gid, by_twin, by_int, by_ext;
	uint32_t wild_int, wild_ext;   /* enable rules without one such address */
	struct rule_heads disabled_by; /* disable rules by external, else by internal address */
	uint32_t disabled_wild;	       /* disable rules with neither */
	uint32_t disabled;	       /* all of them */
	uint32_t *heap;
	uint32_t n_heap;
	struct rule_room room;
	struct {
		uint32_t head, rules, pairs;
	} owner[LEDGER_OWNERS];
	uint64_t n_elements; /* what rules hold, twins counted twice */
	uint32_t n_rules, n_kind[4], n_ranged;
};

/* Opens the ledger; links nothing. 0 or ERR_*. */
int table_rules_open(struct rule_table *t, const char *file, const uint8_t boot_id[16],
		     uint32_t n_slots);
void table_rules_close(struct rule_table *t);

struct rule *rule_at(struct rule_table *t, uint32_t slot);
uint32_t rule_slot(const struct rule_table *t, const struct rule *r);
struct rule *rule_by_pid(struct rule_table *t, uint32_t pid);
/* First member; the others through rule_group_next() until it comes back. */
struct rule *rule_by_gid(struct rule_table *t, uint32_t gid);
struct rule *rule_group_next(struct rule_table *t, const struct rule *r);
struct rule *rule_group_prev(struct rule_table *t, const struct rule *r);

/* A zeroed slot still marked free, with a PID; NULL: the table is full. */
struct rule *rule_take(struct rule_table *t);
/* Gives back a slot that is in no index. */
void rule_give(struct rule_table *t, struct rule *r);
/* A slot that the scan of a restart found unused may be taken. */
void rule_free_slot(struct rule_table *t, uint32_t slot);
/*
 * Gives back a chunk at the ledger's end. True: call again, there may be more.
 * ledger_high() goes down, so not within a walk over slots.
 */
bool rule_trim(struct rule_table *t);
/* Enters PID, group, owner and the heap; a group whose gid is 0 is founded. */
void rule_link(struct rule_table *t, struct rule *r);
void rule_unlink(struct rule_table *t, struct rule *r);
/* Enters and leaves the indexes of tuples (ENABLED and DISABLED). */
void rule_link_tuples(struct rule_table *t, struct rule *r);
void rule_unlink_tuples(struct rule_table *t, struct rule *r);
void rule_set_kind(struct rule_table *t, struct rule *r, enum rule_kind kind);
/* expires_ms changed. */
void rule_moved(struct rule_table *t, struct rule *r);
/* The one that expires first; NULL: none. */
struct rule *rule_first(struct rule_table *t);

/* Makes two rules the pair that counts once. */
void rule_pair(struct rule_table *t, struct rule *a, struct rule *b);
/* Rules of the owner, pairs counted once. */
uint32_t rule_count(const struct rule_table *t, uint16_t owner);

/* What a rule of these tuples is found under; probes keep it in twin_hash. */
uint32_t rule_hash(struct rule_table *t, const struct rule *r);
/*
 * Walks the rules of its kind (r itself is left out) that hold the i-th elements
 * of `r` too; `mirrored`: its inbound one is r's outbound one and the other way round.
 */
typedef void (*rule_twin_fn)(struct rule *twin, bool mirrored, void *arg);
void rule_each_twin(struct rule_table *t, const struct rule *r, unsigned i, rule_twin_fn fn,
		    void *arg);
/* A disable rule that overlaps, NULL: none (§8.8.1). */
struct rule *rule_disabled_by(struct rule_table *t, const struct rule *r);
/*
 * Start of the chain of enable rules with that exact internal or external
 * address (other addresses may be in it too), NULL: none.
 */
struct rule *rule_at_end(struct rule_table *t, enum simco_location at, const struct tuple *e);
/* Start of those without one such address. */
struct rule *rule_at_wild(struct rule_table *t, enum simco_location at);
struct rule *rule_at_next(struct rule_table *t, enum simco_location at, const struct rule *r);

#endif
