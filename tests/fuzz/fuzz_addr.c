/*
 * The text forms of addresses: whatever parses must print and parse back to
 * the same value.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/addr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct span in = span_of(data, size);
	struct addr a, a2;
	struct addr_port ap, ap2;
	struct addr_prefix pre;
	struct port_range range;
	char text[ADDR_PORT_STRLEN];

	if (addr_parse(in, &a) == 0) {
		check(addr_parse(span_str(addr_str(&a, text)), &a2) == 0 && addr_eq(&a, &a2));
		check(addr_len(&a) == 4 || addr_len(&a) == 16);
	}
	if (addr_port_parse(in, &ap) == 0) {
		check(addr_port_parse(span_str(addr_port_str(&ap, text)), &ap2) == 0);
		check(addr_port_eq(&ap, &ap2));
	}
	if (addr_prefix_parse(in, &pre) == 0) {
		check(addr_prefix_contains(&pre, &pre.addr));
		check(addr_prefix_overlaps(&pre, &pre));
	}
	if (port_range_parse(in, &range) == 0)
		check(range.first <= range.last);
	return 0;
}
