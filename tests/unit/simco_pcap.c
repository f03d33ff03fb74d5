/*
 * Writes a capture of a SIMCO connection to the file it is given: every golden
 * message, requests one way, the rest the other. Some come several in one
 * segment, one comes an octet a segment, one is cut in its header, one in its
 * payload; at the end malformed ones. The dissector's test reads it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/simco_golden.h"

enum { AGENT, MIDDLEBOX };

struct capture {
	FILE *f;
	uint32_t seq[2];
	uint32_t usec;
};

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* One TCP segment over IPv4, checksums left zero (offloaded, as it were). */
static void segment(struct capture *c, int from, const uint8_t *data, size_t n, uint8_t flags)
{
	uint8_t h[40] = {0x45, [8] = 64, [9] = 6};
	uint32_t record[4] = {1700000000, c->usec += 1000, 0, 0};
	const uint8_t addr[2][4] = {{10, 1, 0, 9}, {10, 1, 0, 1}};
	const uint32_t port[2] = {40000, SIMCO_PORT};

	put16(h + 2, (uint32_t)(sizeof(h) + n));
	memcpy(h + 12, addr[from], 4);
	memcpy(h + 16, addr[!from], 4);
	put16(h + 20, port[from]);
	put16(h + 22, port[!from]);
	put32(h + 24, c->seq[from]);
	put32(h + 28, c->seq[!from]);
	h[32] = 0x50;
	h[33] = flags;
	put16(h + 34, 65535);
	record[2] = record[3] = (uint32_t)(sizeof(h) + n);
	fwrite(record, sizeof(record), 1, c->f);
	fwrite(h, sizeof(h), 1, c->f);
	if (n > 0)
		fwrite(data, 1, n, c->f);
	c->seq[from] += (uint32_t)n + (flags & 2 ? 1 : 0);
}

static void message(struct capture *c, const char *hex, size_t piece)
{
	uint8_t octets[512];
	size_t n = golden_octets(hex, octets, sizeof(octets));
	int from = octets[0] == 1 ? AGENT : MIDDLEBOX;

	for (size_t at = 0; at < n; at += piece)
		segment(c, from, octets + at, n - at < piece ? n - at : piece, 0x18);
}

static void all_in_one(struct capture *c, int from)
{
	uint8_t octets[4096];
	size_t n = 0;

	for (size_t i = 0; golden_at(i) != NULL; i++)
		if ((golden_at(i)->msg.type >> 8 == SIMCO_REQUEST) == (from == AGENT))
			n += golden_octets(golden_at(i)->hex, octets + n, sizeof(octets) - n);
	segment(c, from, octets, n, 0x18);
}

int main(int argc, char **argv)
{
	static const uint32_t head[6] = {0xa1b2c3d4, 0x00040002, 0, 0, 65535, 101};
	struct capture c = {.seq = {1000, 2000}};
	int err;

	c.f = argc == 2 ? fopen(argv[1], "wb") : NULL;
	if (c.f == NULL) {
		fprintf(stderr, "usage: %s FILE\n", argv[0]);
		return 2;
	}
	fwrite(head, sizeof(head), 1, c.f);
	segment(&c, AGENT, NULL, 0, 0x02);
	segment(&c, MIDDLEBOX, NULL, 0, 0x12);
	for (size_t i = 0; golden_at(i) != NULL; i++)
		message(&c, golden_at(i)->hex, 512);
	all_in_one(&c, AGENT);
	all_in_one(&c, MIDDLEBOX);
	message(&c, golden_find(SIMCO_PRS_REQ)->hex, 1);
	message(&c, golden_find(SIMCO_PER_REQ)->hex, 5);
	message(&c, golden_find(SIMCO_PES_REP)->hex, 40);
	/* Unknown type, unknown attribute, wrong lengths, undefined values. */
	message(&c, "0404 0000 00000001", 512);
	message(&c, "0121 0008 00000001 00ff 0004 0000002a", 512);
	message(&c, "0121 0007 00000002 0005 0003 00002a", 512);
	message(&c, "0121 0008 00000003 0005 0009 0000002a", 512);
	message(&c, "0121 0002 00000004 0005", 512);
	message(&c, "0114 0008 00000005 0009 0004 01000000", 512);
	message(&c, "0111 0008 00000006 000a 0004 ff110001", 512);
	message(&c, "0112 0008 00000007 000b 0004 01040000", 512);
	message(&c, "0222 ffff 00000008", 512);
	err = ferror(c.f);
	return fclose(c.f) == 0 && err == 0 ? 0 : 1;
}
