/*
 * The SIMCO codec: golden octets, round trips, every truncation, everything
 * that §4-5 forbid.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto-simco/simco.h"
#include "tests/unit/simco_golden.h"

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static int decode(const char *hex, struct simco_msg *m)
{
	uint8_t octets[512];
	size_t n = golden_octets(hex, octets, sizeof(octets)), used = 0;
	int err = simco_decode(m, octets, n, &used);

	if (err != SIMCO_ERR_MORE)
		assert_int_equal(used, n);
	return err;
}

/* The struct gives the octets, and the octets give a struct that gives them again. */
static void test_golden(void **state)
{
	(void)state;
	for (size_t i = 0; golden_at(i) != NULL; i++) {
		const struct golden *g = golden_at(i);
		uint8_t want[512], got[512];
		size_t n = golden_octets(g->hex, want, sizeof(want)), used = 0;
		struct simco_msg m;

		assert_int_equal(simco_encoded_size(&g->msg), (long)n);
		assert_int_equal(simco_encode(&g->msg, got, sizeof(got)), (long)n);
		assert_memory_equal(got, want, n);
		assert_int_equal(simco_encode(&g->msg, got, n - 1), SIMCO_ERR_TOOBIG);

		assert_int_equal(simco_decode(&m, want, n, &used), SIMCO_OK);
		assert_int_equal(used, n);
		assert_int_equal(m.type, g->msg.type);
		assert_int_equal(m.tid, g->msg.tid);
		assert_int_equal(simco_encode(&m, got, sizeof(got)), (long)n);
		assert_memory_equal(got, want, n);
	}
}

/* Every type of §5 has golden octets: positive, requests, notifications. */
static void test_golden_complete(void **state)
{
	(void)state;
	for (unsigned type = 0; type <= 0xffff; type++) {
		const char *name = simco_type_name((uint16_t)type);
		bool known = strcmp(name, "unknown message type") != 0;

		if (known && type >> 8 != SIMCO_NEGATIVE)
			assert_non_null(golden_find((uint16_t)type));
	}
}

static void test_fields(void **state)
{
	const struct simco_tuple *t;
	struct simco_msg m;

	(void)state;
	assert_int_equal(decode(golden_find(SIMCO_PER_REQ)->hex, &m), SIMCO_OK);
	assert_int_equal(m.per.parity, SIMCO_PER_PARITY_SAME);
	assert_int_equal(m.per.direction, SIMCO_OUTBOUND);
	assert_int_equal(m.lifetime, 120);
	assert_true(m.has_gid);
	assert_int_equal(m.gid, 9);
	t = &m.tuple[SIMCO_INTERNAL];
	assert_int_equal(t->port, 5000);
	assert_int_equal(t->port_range, 2);
	assert_memory_equal(t->addr, ((uint8_t[]){10, 1, 0, 2}), 4);
	t = &m.tuple[SIMCO_EXTERNAL];
	assert_int_equal(t->prefix_len, 24);
	assert_int_equal(t->location, SIMCO_EXTERNAL);
	assert_int_equal(t->port, 0);

	assert_int_equal(decode(golden_find(SIMCO_PRR_REQ)->hex, &m), SIMCO_OK);
	assert_int_equal(m.prr.nat_mode, SIMCO_NAT_TRADITIONAL);
	assert_int_equal(m.prr.parity, SIMCO_PARITY_EVEN);
	assert_int_equal(m.prr.inside_version, SIMCO_IPV4);
	assert_int_equal(m.prr.protocol, 17);
	assert_int_equal(m.prr.port_range, 1);
}

static void test_pid_list(void **state)
{
	uint8_t octets[64];
	size_t n = golden_octets(golden_find(SIMCO_PRL_REP)->hex, octets, sizeof(octets)), used;
	struct simco_msg m;

	(void)state;
	assert_int_equal(simco_decode(&m, octets, n, &used), SIMCO_OK);
	assert_int_equal(m.n_pids, 3);
	assert_int_equal(simco_msg_pid(&m, 0), 1);
	assert_int_equal(simco_msg_pid(&m, 1), 0xdeadbeef);
	assert_int_equal(simco_msg_pid(&m, 2), 3);
}

/* §8.7: 65,536 octets in all, that is 8,191 rules. */
static void test_longest(void **state)
{
	uint32_t *pids = calloc(SIMCO_PIDS_MAX + 1, sizeof(*pids));
	uint8_t *out = malloc(SIMCO_MESSAGE_MAX + 8);
	struct simco_msg m = {.type = SIMCO_PRL_REP, .tid = 1, .pid_list = pids}, d;
	size_t used;

	(void)state;
	assert_true(pids != NULL && out != NULL);
	for (size_t i = 0; i <= SIMCO_PIDS_MAX; i++)
		pids[i] = (uint32_t)i * 3;
	m.n_pids = SIMCO_PIDS_MAX;
	assert_int_equal(simco_encode(&m, out, SIMCO_MESSAGE_MAX), SIMCO_MESSAGE_MAX);
	assert_int_equal(simco_decode(&d, out, SIMCO_MESSAGE_MAX - 1, &used), SIMCO_ERR_MORE);
	assert_int_equal(simco_decode(&d, out, SIMCO_MESSAGE_MAX, &used), SIMCO_OK);
	assert_int_equal(used, SIMCO_MESSAGE_MAX);
	assert_int_equal(d.n_pids, SIMCO_PIDS_MAX);
	assert_int_equal(simco_msg_pid(&d, SIMCO_PIDS_MAX - 1), (SIMCO_PIDS_MAX - 1) * 3);

	m.n_pids++;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_TOOBIG);
	put16(out + 2, SIMCO_MESSAGE_MAX - SIMCO_HEADER_LEN + 1);
	assert_int_equal(simco_decode(&d, out, SIMCO_MESSAGE_MAX, &used), SIMCO_ERR_TOOBIG);
	free(pids);
	free(out);
}

/* An incomplete message is never anything but incomplete. */
static void test_incomplete(void **state)
{
	(void)state;
	for (size_t i = 0; golden_at(i) != NULL; i++) {
		uint8_t octets[512];
		size_t n = golden_octets(golden_at(i)->hex, octets, sizeof(octets)), used;
		struct simco_msg m;

		for (size_t cut = 0; cut < n; cut++) {
			uint8_t *exact = malloc(cut + 1); /* for the sanitizer */

			assert_non_null(exact);
			memcpy(exact + 1, octets, cut);
			assert_int_equal(simco_decode(&m, exact + 1, cut, &used), SIMCO_ERR_MORE);
			free(exact);
		}
	}
}

static bool on_boundary(const uint8_t *octets, size_t at)
{
	size_t pos = SIMCO_HEADER_LEN;

	while (pos < at)
		pos += 4u + get16(octets + pos + 2);
	return pos == at;
}

/*
 * Cut anywhere with the header saying so: either a whole optional attribute
 * went, or the message is malformed.
 */
static void test_truncated(void **state)
{
	(void)state;
	for (size_t i = 0; golden_at(i) != NULL; i++) {
		uint8_t octets[512], again[512];
		size_t n = golden_octets(golden_at(i)->hex, octets, sizeof(octets)), used;
		struct simco_msg m;

		for (size_t cut = SIMCO_HEADER_LEN; cut < n; cut++) {
			int err;

			put16(octets + 2, cut - SIMCO_HEADER_LEN);
			err = simco_decode(&m, octets, cut, &used);
			assert_int_equal(used, cut);
			if (!on_boundary(octets, cut)) {
				assert_int_equal(err, SIMCO_ERR_MALFORMED);
				assert_int_equal(m.tid, golden_at(i)->msg.tid);
			} else if (err == SIMCO_OK) {
				assert_int_equal(simco_encode(&m, again, sizeof(again)), (long)cut);
				assert_memory_equal(again, octets, cut);
			} else {
				assert_int_equal(err, SIMCO_ERR_MALFORMED);
			}
		}
	}
}

/* Every attribute twice, every pair exchanged, a foreign one anywhere: malformed. */
static void test_strict_order(void **state)
{
	static const uint8_t foreign[] = {0x00, 0x0c, 0x00, 0x00};

	(void)state;
	for (size_t i = 0; golden_at(i) != NULL; i++) {
		uint8_t o[512], bad[1024];
		size_t n = golden_octets(golden_at(i)->hex, o, sizeof(o)), used, pos, size;
		struct simco_msg m;

		if (golden_at(i)->msg.type == SIMCO_PRL_REP)
			continue; /* the one format with a repeated attribute */
		for (pos = SIMCO_HEADER_LEN; pos < n; pos += size) {
			size_t next;

			size = 4u + get16(o + pos + 2);
			memcpy(bad, o, pos + size);
			memcpy(bad + pos + size, o + pos, n - pos);
			put16(bad + 2, n + size - SIMCO_HEADER_LEN);
			assert_int_equal(simco_decode(&m, bad, n + size, &used),
					 SIMCO_ERR_MALFORMED);

			memcpy(bad, o, pos);
			memcpy(bad + pos, foreign, sizeof(foreign));
			memcpy(bad + pos + 4, o + pos, n - pos);
			put16(bad + 2, n + 4 - SIMCO_HEADER_LEN);
			assert_int_equal(simco_decode(&m, bad, n + 4, &used), SIMCO_ERR_MALFORMED);

			if (pos + size == n)
				break;
			next = 4u + get16(o + pos + size + 2);
			memcpy(bad, o, n);
			memcpy(bad + pos, o + pos + size, next);
			memcpy(bad + pos + next, o + pos, size);
			if (get16(o + pos) == get16(o + pos + size) &&
			    golden_at(i)->msg.type >> 8 == SIMCO_REQUEST)
				continue; /* two tuples of a request: told apart by order */
			assert_int_equal(simco_decode(&m, bad, n, &used), SIMCO_ERR_MALFORMED);
		}
	}
}

/* One octet in a value less or more is malformed unless the value may vary. */
static void test_wrong_length(void **state)
{
	(void)state;
	for (size_t i = 0; golden_at(i) != NULL; i++) {
		uint8_t o[512], bad[1024];
		size_t n = golden_octets(golden_at(i)->hex, o, sizeof(o)), used, pos, size;
		struct simco_msg m;

		for (pos = SIMCO_HEADER_LEN; pos < n; pos += size) {
			uint16_t attr = get16(o + pos);
			int want = attr == SIMCO_ATTR_CHALLENGE || attr == SIMCO_ATTR_TOKEN ||
						   attr == SIMCO_ATTR_OWNER
					   ? SIMCO_OK
					   : SIMCO_ERR_MALFORMED;

			size = 4u + get16(o + pos + 2);
			memcpy(bad, o, pos + size);
			bad[pos + size] = 0;
			memcpy(bad + pos + size + 1, o + pos + size, n - pos - size);
			put16(bad + pos + 2, size - 4 + 1);
			put16(bad + 2, n + 1 - SIMCO_HEADER_LEN);
			assert_int_equal(simco_decode(&m, bad, n + 1, &used), want);
			if (size == 4)
				continue;
			memcpy(bad, o, pos + size - 1);
			memcpy(bad + pos + size - 1, o + pos + size, n - pos - size);
			put16(bad + pos + 2, size - 4 - 1);
			put16(bad + 2, n - 1 - SIMCO_HEADER_LEN);
			assert_int_equal(simco_decode(&m, bad, n - 1, &used), want);
		}
	}
}

static void test_variable_limits(void **state)
{
	static uint8_t big[SIMCO_AUTH_MAX + 1], out[SIMCO_AUTH_MAX + 64];
	struct simco_msg m = {.type = SIMCO_SA_REQ, .has_token = true, .token = big}, d;
	size_t used;
	long n;

	(void)state;
	m.token_len = SIMCO_AUTH_MAX;
	n = simco_encode(&m, out, sizeof(out));
	assert_int_equal(n, 8 + 4 + SIMCO_AUTH_MAX);
	assert_int_equal(simco_decode(&d, out, (size_t)n, &used), SIMCO_OK);
	assert_int_equal(d.token_len, SIMCO_AUTH_MAX);
	m.token_len++;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
	put16(out + 2, 4 + SIMCO_AUTH_MAX + 1);
	put16(out + 10, SIMCO_AUTH_MAX + 1);
	assert_int_equal(simco_decode(&d, out, (size_t)n + 1, &used), SIMCO_ERR_MALFORMED);

	m = golden_find(SIMCO_PDS_REP)->msg;
	m.owner = big;
	m.owner_len = SIMCO_OWNER_MAX;
	assert_true(simco_encoded_size(&m) > 0);
	m.owner_len++;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
}

#define PER_HEAD "0112 0038 00000004 "
#define PER_TAIL "0009 000c 01 20 11 03 1770 0001 c6336401 0007 0004 00000078 0006 0004 00000009"
#define V4_A0 "0009 000c 01 20 11 00 1388 0001 0a010002 "
#define PDR_HEAD "0114 0020 00000006 "
#define PDR_TAIL "0009 000c 01 20 00 03 0000 0001 c0000264 0007 0004 0000003c"
#define PARAMS "000b 0004 00 03 0000 "

/* Field values that §4.3 does not define, one per line. */
static void test_undefined_values(void **state)
{
	static const char *const bad[] = {
		/* PRR: NM 00 and 11, PP 11, IPi 11, IPo 11 */
		"0111 0010 00000003 000a 0004 25 11 0001 0007 0004 0000001e",
		"0111 0010 00000003 000a 0004 e5 11 0001 0007 0004 0000001e",
		"0111 0010 00000003 000a 0004 75 11 0001 0007 0004 0000001e",
		"0111 0010 00000003 000a 0004 6d 11 0001 0007 0004 0000001e",
		"0111 0010 00000003 000a 0004 67 11 0001 0007 0004 0000001e",
		/* PER: parity 1, 2, 4; direction 0, 4 */
		PER_HEAD "000b 0004 01 03 0000 " V4_A0 PER_TAIL,
		PER_HEAD "000b 0004 02 03 0000 " V4_A0 PER_TAIL,
		PER_HEAD "000b 0004 04 03 0000 " V4_A0 PER_TAIL,
		PER_HEAD "000b 0004 00 00 0000 " V4_A0 PER_TAIL,
		PER_HEAD "000b 0004 00 04 0000 " V4_A0 PER_TAIL,
		/* tuple: first field 2, IP version 0 and 3, version 6 in 12 octets, prefix 33 */
		PER_HEAD PARAMS "0009 000c 21 20 11 00 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 00 20 11 00 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 03 20 11 00 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 02 20 11 00 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 11 20 11 00 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 01 21 11 00 1388 0001 0a010002 " PER_TAIL,
		/* IPv6 prefix 129 */
		"0112 003c 00000004 " PARAMS "0009 0018 02 81 11 00 1388 0001 "
		"20010db8000000000000000000000002 0009 0004 12 00 11 03 "
		"0007 0004 00000078 0006 0004 00000009",
		/* full address in 4 octets, IPv4 in 24, protocols only without version */
		PDR_HEAD "0009 0004 01 00 00 00 " PDR_TAIL,
		PDR_HEAD "0009 0004 10 00 00 00 " PDR_TAIL,
		/* capabilities: no IP version inside, none outside */
		"0201 000c 00000001 0004 0008 80 01 0000 0000003c",
		"0201 000c 00000001 0004 0008 80 04 0000 0000003c",
		/* SA reply without any attribute (§5.2.3) */
		"0202 0000 00000001",
		/* reply tuples at the wrong place: outside named inside, unknown location */
		"0211 0028 00000003 0005 0004 0000002a 0006 0004 00000007 0007 0004 0000001e "
		"0009 000c 01 20 11 01 4000 0001 c0000201",
		"0211 0028 00000003 0005 0004 0000002a 0006 0004 00000007 0007 0004 0000001e "
		"0009 000c 01 20 11 04 4000 0001 c0000201",
		/* attribute longer than the message, attribute header cut, empty tuple */
		"0121 0008 00000008 0005 0005 0000002a",
		"0121 0003 00000008 0005 00",
		"0211 001c 00000003 0005 0004 0000002a 0006 0004 00000007 0007 0004 0000001e "
		"0009 0000",
		/* requests without attributes that have some */
		"0103 0008 00000008 0005 0004 0000002a",
		"0122 0008 00000008 0005 0004 0000002a",
		/* types that §5 does not define */
		"0116 0000 00000001",
		"0123 0000 00000001",
		"0213 0000 00000001",
		"0301 0000 00000001",
		"0404 0000 00000001",
		"0000 0000 00000001",
	};
	struct simco_msg m;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (decode(bad[i], &m) != SIMCO_ERR_MALFORMED)
			fail_msg("decoded: %s", bad[i]);
	}
}

/* What only the rule machine may judge, and what must be ignored. */
static void test_tolerated_values(void **state)
{
	static const char *const good[] = {
		/* port range 0 (0x0356), port number 0, foreign location (0x034B) */
		PER_HEAD PARAMS "0009 000c 01 20 11 00 1388 0000 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 01 00 11 00 0000 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 01 20 11 03 1388 0001 0a010002 " PER_TAIL,
		PER_HEAD PARAMS "0009 000c 01 20 11 ff 1388 0001 0a010002 " PER_TAIL,
		"0111 0010 00000003 000a 0004 65 11 0000 0007 0004 0000001e",
		/* prefix length is irrelevant in 'protocols only' */
		PDR_HEAD "0009 0004 11 ff 00 00 " PDR_TAIL,
	};
	static const char *const reserved[] = {
		"0101 0008 00000001 0001 0004 03 00 ffff",
		PER_HEAD "000b 0004 00 03 ffff " V4_A0 PER_TAIL,
		"0201 000c 00000001 0004 0008 f9 3f ffff 00000e10",
	};
	static const char *const cleared[] = {
		"0101 0008 00000001 0001 0004 03 00 0000",
		PER_HEAD "000b 0004 00 03 0000 " V4_A0 PER_TAIL,
		"0201 000c 00000001 0004 0008 d1 3f 0000 00000e10",
	};
	struct simco_msg m;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (decode(good[i], &m) != SIMCO_OK)
			fail_msg("refused: %s", good[i]);
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
		uint8_t want[128], got[128];
		size_t n = golden_octets(cleared[i], want, sizeof(want));

		assert_int_equal(decode(reserved[i], &m), SIMCO_OK);
		assert_int_equal(simco_encode(&m, got, sizeof(got)), (long)n);
		assert_memory_equal(got, want, n);
	}
}

/* The encoder refuses what the decoder would. */
static void test_encode_refuses(void **state)
{
	struct simco_msg m = golden_find(SIMCO_PER_REQ)->msg;

	(void)state;
	m.per.direction = 0;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
	m = golden_find(SIMCO_PER_REQ)->msg;
	m.tuple[SIMCO_EXTERNAL].prefix_len = 33;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
	m.type = 0x0199;
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
	m = (struct simco_msg){.type = SIMCO_SA_REP};
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
	m = (struct simco_msg){.type = SIMCO_PRL_REP, .n_pids = 1};
	assert_int_equal(simco_encoded_size(&m), SIMCO_ERR_MALFORMED);
}

/* The location of a reply's tuples follows from their place in the struct. */
static void test_reply_location(void **state)
{
	struct simco_msg m = golden_find(SIMCO_PER_REP)->msg;
	uint8_t want[128], got[128];
	size_t n = golden_octets(golden_find(SIMCO_PER_REP)->hex, want, sizeof(want));

	(void)state;
	m.tuple[SIMCO_OUTSIDE].location = SIMCO_INTERNAL;
	m.tuple[SIMCO_INSIDE].location = SIMCO_EXTERNAL;
	assert_int_equal(simco_encode(&m, got, sizeof(got)), (long)n);
	assert_memory_equal(got, want, n);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(simco_type_name(SIMCO_PRR_REQ), "PRR request");
	assert_string_equal(simco_type_name(SIMCO_LACK_OF_PORTS), "lack of port numbers");
	assert_string_equal(simco_type_name(SIMCO_AST), "AST notification");
	assert_string_equal(simco_type_name(0x0505), "unknown message type");
	assert_string_equal(simco_attr_name(SIMCO_ATTR_TUPLE), "address tuple");
	assert_string_equal(simco_attr_name(0x7777), "unknown attribute");
	assert_string_equal(simco_location_name(SIMCO_EXTERNAL), "external");
	assert_string_equal(simco_location_name(4), "unknown location");
	assert_string_equal(simco_state_name(SIMCO_NOAUTH), "NOAUTH");
	assert_string_equal(simco_err_name(SIMCO_ERR_CLOSED), "session closed");
	assert_string_equal(simco_err_name(-99), "unknown error");
	assert_string_equal(simco_err_name(1), "unknown error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_golden_complete),
		cmocka_unit_test(test_fields),
		cmocka_unit_test(test_pid_list),
		cmocka_unit_test(test_longest),
		cmocka_unit_test(test_incomplete),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_strict_order),
		cmocka_unit_test(test_wrong_length),
		cmocka_unit_test(test_variable_limits),
		cmocka_unit_test(test_undefined_values),
		cmocka_unit_test(test_tolerated_values),
		cmocka_unit_test(test_encode_refuses),
		cmocka_unit_test(test_reply_location),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests_name("simco_msg", tests, NULL, NULL);
}
