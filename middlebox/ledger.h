/*
 * The ledger: the rule table as a shared mapping of a file on tmpfs, so that
 * it lives exactly as long as the kernel's tables do: it survives a killed
 * process and dies with the host.
 *
 * A page of header, the owners' names, our addresses, then the slots. Space is
 * claimed before it is written (a full file system is an error here, never a
 * SIGBUS later). One process at a time holds it.
 */
#ifndef SLUICE_MIDDLEBOX_LEDGER_H
#define SLUICE_MIDDLEBOX_LEDGER_H

#include "middlebox/rule.h"

#define LEDGER_OWNERS 1024    /* distinct owner names at a time */
#define LEDGER_ADDRESSES 1024 /* of our own: outside, and inside in twice NAT */
#define LEDGER_PID_STRIDE 1024u
#define LEDGER_CHUNK 1024u /* slots whose space is given back at a time: 192 KiB */
#define LEDGER_STEP 256u   /* slots whose space is claimed at a time: more takes too long */

struct ledger_header;
struct ledger_owner {
	uint8_t name[256]; /* NUL-terminated, empty: free */
};

struct ledger {
	struct ledger_header *h;
	struct ledger_owner *owners;
	struct addr *addresses; /* version 0: free */
	struct rule *slots;
	uint32_t n_slots; /* at most so many */
	size_t size;	  /* of the mapping */
	int fd;		  /* -1: anonymous memory */
	bool fresh;	  /* nothing was there, or of another boot */
};

/*
 * Opens or creates `file` (NULL: anonymous memory) for `n_slots` rules. What
 * another boot or another version left is emptied, its PIDs are not used again.
 * ledger_usable() tells so before, so that its elements go with the kernel's table.
 * 0, or ERR_* after logging.
 */
int ledger_open(struct ledger *l, const char *file, const uint8_t boot_id[16], uint32_t n_slots);
/* The content stays. */
void ledger_close(struct ledger *l);
/* True when `file` holds rules of this boot. */
bool ledger_usable(const char *file, const uint8_t boot_id[16]);

/* Slots below this one may be in use. */
uint32_t ledger_high(const struct ledger *l);
/* Claims room for more slots. 0, or ERR_LIMIT, ERR_NOMEM (no space on the device). */
int ledger_grow(struct ledger *l);
/* Gives back the room of all slots from `high` on, a multiple of LEDGER_CHUNK: none is in use. */
void ledger_shrink(struct ledger *l, uint32_t high);

/* The next number for a PID or GID; its stride is on record before it is used. Never 0. */
uint32_t ledger_next_pid(struct ledger *l);

/* Writes the state of a slot after everything else in it. */
void ledger_set(struct rule *r, enum slot_state state);

/* Index of the name, entered when it is new; -1: too many or too long. */
int ledger_owner(struct ledger *l, const char *name);
const char *ledger_owner_name(const struct ledger *l, uint16_t owner);

/* Index of an address of ours, entered when it is new; -1: too many. */
int ledger_address(struct ledger *l, const struct addr *a);

#endif
