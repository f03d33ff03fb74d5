/*
 * A whole middlebox core in memory, driven by a stream of octets: requests of
 * three agents over a small world (so that rules coincide, overlap and run
 * out), time, refusals of the kernel, restarts. The same driver serves the
 * random unit tests and the fuzz target.
 */
#ifndef SLUICE_TESTS_CORE_KIT_H
#define SLUICE_TESTS_CORE_KIT_H

#include "middlebox/core_int.h"
#include "middlebox/fw_fake.h"

#define KIT_AGENTS 3

struct kit {
	struct core_conf conf;
	struct agent_conf agents[KIT_AGENTS];
	struct agent_permit permits[2];
	const char *owners[1];
	struct fw_pool pools[2], inside_pool;
	char file[64]; /* empty: no ledger file */
	struct fw *fw;
	struct core *core;
	uint64_t now;
	unsigned asked, answered, events;
	uint32_t pids[32]; /* lately granted */
	uint32_t gids[32];
	unsigned n_pids;
	uint32_t last_pid, last_gid;
	struct simco_msg last;
	int session[KIT_AGENTS];
};

/* The octets that decide; returns 0 when there are none left. */
struct kit_input {
	uint8_t (*next)(struct kit_input *in);
	const uint8_t *p;
	size_t n;
	uint64_t state;
};

struct kit_input kit_random(uint64_t seed);
struct kit_input kit_data(const uint8_t *p, size_t n);

/* `file` NULL: a ledger in memory. */
void kit_open(struct kit *k, enum fw_nat_mode nat, const char *file);
void kit_close(struct kit *k);
/* core_new() on what the ledger and the firewall hold now. */
void kit_start(struct kit *k);
void kit_stop(struct kit *k);
void kit_step(struct kit *k, struct kit_input *in);
/* One request and its commit; the reply is k->last. */
uint16_t kit_ask(struct kit *k, unsigned agent, struct simco_msg *m);
void kit_time(struct kit *k, uint64_t ms);
/* Table, pools, bindings and kernel agree; aborts with a message if not. */
void kit_check(struct kit *k);
/* Ends every rule; afterwards the kernel and the pools must be empty. */
void kit_end_all(struct kit *k);

#endif
