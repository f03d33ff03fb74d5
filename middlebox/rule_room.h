/*
 * Which slots are free. The lowest is taken first, so that after a peak the
 * ledger empties from its end and can be cut there, a chunk at a time.
 */
#ifndef SLUICE_MIDDLEBOX_RULE_ROOM_H
#define SLUICE_MIDDLEBOX_RULE_ROOM_H

#include "middlebox/ledger.h"

struct rule_room {
	uint64_t *free;	 /* one bit for each slot */
	uint16_t *count; /* free slots of each chunk of LEDGER_CHUNK */
	uint32_t n_chunks;
	uint32_t first; /* no chunk before it has any */
};

/* Nothing is free. 0 or ERR_NOMEM. */
int room_init(struct rule_room *m, uint32_t n_slots);
void room_fini(struct rule_room *m);
/* A slot that is in use or unknown becomes free. */
void room_put(struct rule_room *m, uint32_t slot);
/* The lowest; RULE_NONE: there is none. */
uint32_t room_take(struct rule_room *m);
/*
 * Forgets a free chunk at the end of `high` slots if the one before it is free,
 * too (lest a rule that comes and goes move the end each time). How many are left.
 */
uint32_t room_cut(struct rule_room *m, uint32_t high);

#endif
