/*
 * Fuzz target: a whole middlebox in memory - SIMCO codec, core, a fake
 * firewall - driven by requests, raw messages, time, refusals and restarts.
 * The first octet chooses the NAT mode. All invariants are checked at the end.
 */
#include "common/log.h"
#include "tests/unit/core_kit.h"
#include "tests/unit/quiet.h"

#define STEPS_MAX 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kit_input in = kit_data(data, size);
	struct kit k;

	log_set_sink(quiet, NULL);
	kit_open(&k, (enum fw_nat_mode)(in.next(&in) % 3), NULL);
	for (unsigned n = 0; n < STEPS_MAX && in.n > 0; n++)
		kit_step(&k, &in);
	kit_check(&k);
	kit_end_all(&k);
	kit_close(&k);
	return 0;
}
