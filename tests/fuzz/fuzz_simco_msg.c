/*
 * Fuzz target: SIMCO messages of both directions. What decodes encodes again to
 * the same octets, but for reserved bits and for what the format says is
 * irrelevant; and it decodes to the same once more.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto-simco/simco.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* Octets of the value at p that carry reserved bits, cleared. */
static void clear_reserved(uint16_t attr, uint8_t *p)
{
	switch (attr) {
	case SIMCO_ATTR_VERSION:
	case SIMCO_ATTR_PER_PARAMS:
		p[2] = p[3] = 0;
		break;
	case SIMCO_ATTR_CAPABILITIES:
		p[0] &= 0xd7;
		p[2] = p[3] = 0;
		break;
	default:
		break;
	}
}

static void check_names(const struct simco_msg *m)
{
	assert(simco_type_name(m->type) != NULL);
	for (int i = 0; i < 4; i++)
		assert(simco_location_name(m->tuple[i].location) != NULL);
	if (m->n_pids > 0)
		simco_msg_pid(m, m->n_pids - 1);
}

static void check_again(const struct simco_msg *m, const uint8_t *data, size_t size)
{
	uint8_t *want = malloc(size), *got = malloc(size);
	struct simco_msg again;
	size_t used;

	if (want == NULL || got == NULL)
		abort();
	memcpy(want, data, size);
	for (size_t at = SIMCO_HEADER_LEN; at < size; at += 4u + get16(want + at + 2))
		clear_reserved(get16(want + at), want + at + 4);
	assert(simco_encoded_size(m) == (long)size);
	assert(simco_encode(m, got, size - 1) == SIMCO_ERR_TOOBIG);
	assert(simco_encode(m, got, size) == (long)size);
	assert(memcmp(want, got, size) == 0);
	assert(simco_decode(&again, got, size, &used) == SIMCO_OK && used == size);
	free(want);
	free(got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	while (size > 0) {
		struct simco_msg m;
		size_t used = 0;
		int err = simco_decode(&m, data, size, &used);

		if (err == SIMCO_ERR_MORE || err == SIMCO_ERR_TOOBIG)
			break;
		assert(used >= SIMCO_HEADER_LEN && used <= size);
		assert(m.type == get16(data));
		if (err == SIMCO_OK) {
			check_names(&m);
			check_again(&m, data, used);
		}
		data += used;
		size -= used;
	}
	return 0;
}
