#include "middlebox/rule_room.h"

#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"

#define WORDS (LEDGER_CHUNK / 64)

int room_init(struct rule_room *m, uint32_t n_slots)
{
	m->n_chunks = (n_slots + LEDGER_CHUNK - 1) / LEDGER_CHUNK;
	m->first = m->n_chunks;
	m->free = calloc(m->n_chunks, WORDS * sizeof(*m->free));
	m->count = calloc(m->n_chunks, sizeof(*m->count));
	if (m->free && m->count)
		return 0;
	room_fini(m);
	return ERR_NOMEM;
}

void room_fini(struct rule_room *m)
{
	free(m->free);
	free(m->count);
	memset(m, 0, sizeof(*m));
}

void room_put(struct rule_room *m, uint32_t slot)
{
	uint32_t chunk = slot / LEDGER_CHUNK;

	m->free[slot / 64] |= 1ull << slot % 64;
	m->count[chunk]++;
	if (chunk < m->first)
		m->first = chunk;
}

uint32_t room_take(struct rule_room *m)
{
	unsigned bit;
	uint32_t word;

	while (m->first < m->n_chunks && m->count[m->first] == 0)
		m->first++;
	if (m->first >= m->n_chunks)
		return RULE_NONE;
	word = m->first * WORDS;
	while (m->free[word] == 0)
		word++;
	m->count[m->first]--;
	bit = (unsigned)__builtin_ctzll(m->free[word]);
	m->free[word] &= m->free[word] - 1;
	return word * 64 + bit;
}

uint32_t room_cut(struct rule_room *m, uint32_t high)
{
	uint32_t last = high ? (high - 1) / LEDGER_CHUNK : 0;

	if (last == 0 || m->count[last - 1] != LEDGER_CHUNK ||
	    m->count[last] != high - last * LEDGER_CHUNK)
		return high;
	memset(&m->free[(size_t)last * WORDS], 0, WORDS * sizeof(*m->free));
	m->count[last] = 0;
	return last * LEDGER_CHUNK;
}
