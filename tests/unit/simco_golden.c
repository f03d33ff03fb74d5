/*
 * Golden octets, see the header.
 */
#include "tests/unit/simco_golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define V4(loc, a, b, c, d, p, range)                                                              \
	{                                                                                          \
		.ip_version = SIMCO_IPV4, .prefix_len = 32, .protocol = 17, .location = (loc),     \
		.port = (p), .port_range = (range), .addr = {                                      \
			a,                                                                         \
			b,                                                                         \
			c,                                                                         \
			d                                                                          \
		}                                                                                  \
	}
#define V6(loc, last, p)                                                                           \
	{                                                                                          \
		.ip_version = SIMCO_IPV6, .prefix_len = 128, .protocol = 17, .location = (loc),    \
		.port = (p), .port_range = 1, .addr = {                                            \
			0x20,                                                                      \
			0x01,                                                                      \
			0x0d,                                                                      \
			0xb8,                                                                      \
			[15] = (last)                                                              \
		}                                                                                  \
	}

/* clang-format off */
static const uint32_t pids[] = {1, 0xdeadbeef, 3};

static const struct golden goldens[] = {
	{"0101" "0008" "00000001"       /* SE request, 8 octets, TID 1 */
	 "0001 0004" "03" "00" "0000",  /* version 3.0, reserved */
	 {.type = SIMCO_SE_REQ, .tid = 1, .version = {3, 0}}},
	{"0101" "0017" "01020304"       /* with a challenge of 3 and extensions */
	 "0001 0004" "03" "00" "0000"
	 "0002 0003" "a1b2c3"           /* not padded */
	 "8000 0004" "00000001",        /* activity asked for */
	 {.type = SIMCO_SE_REQ, .tid = 0x01020304, .version = {3, 0}, .has_challenge = true,
	  .challenge = (const uint8_t *)"\xa1\xb2\xc3", .challenge_len = 3,
	  .has_extensions = true, .extensions = SIMCO_EXT_ACTIVITY}},
	{"0102" "0000" "00000002",      /* SA request without token */
	 {.type = SIMCO_SA_REQ, .tid = 2}},
	{"0102" "0009" "00000002"       /* SA request */
	 "0003 0005" "746f6b656e",      /* token "token" */
	 {.type = SIMCO_SA_REQ, .tid = 2, .has_token = true,
	  .token = (const uint8_t *)"token", .token_len = 5}},
	{"0103" "0000" "ffffffff",      /* ST request */
	 {.type = SIMCO_ST_REQ, .tid = 0xffffffff}},
	{"0111" "0018" "00000003"       /* PRR request */
	 "000a 0004" "65" "11" "0001"   /* NM 01 PP 10 IPi 01 IPo 01, UDP, 1 port */
	 "0007 0004" "0000001e"         /* lifetime 30 */
	 "0006 0004" "00000007",        /* group 7 */
	 {.type = SIMCO_PRR_REQ, .tid = 3, .prr = {SIMCO_NAT_TRADITIONAL, SIMCO_PARITY_EVEN,
	  SIMCO_IPV4, SIMCO_IPV4, 17, 1}, .lifetime = 30, .has_gid = true, .gid = 7}},
	{"0111" "0010" "00000003"       /* PRR request without group */
	 "000a 0004" "98" "00" "ffff"   /* NM 10 PP 01 IPi 10 IPo 00, any, all ports */
	 "0007 0004" "ffffffff",
	 {.type = SIMCO_PRR_REQ, .tid = 3, .prr = {SIMCO_NAT_TWICE, SIMCO_PARITY_ODD,
	  SIMCO_IPV6, SIMCO_IP_ANY, 0, 0xffff}, .lifetime = 0xffffffff}},
	{"0112" "0038" "00000004"       /* PER request */
	 "000b 0004" "03" "02" "0000"   /* same parity, outbound, reserved */
	 "0009 000c" "01" "20" "11" "00" "1388" "0002" "0a010002" /* A0 10.1.0.2/32 udp 5000-5001 */
	 "0009 000c" "01" "18" "11" "03" "0000" "0002" "c6336400" /* A3 198.51.100.0/24 udp any */
	 "0007 0004" "00000078"         /* lifetime 120 */
	 "0006 0004" "00000009",        /* group 9 */
	 {.type = SIMCO_PER_REQ, .tid = 4, .per = {SIMCO_PER_PARITY_SAME, SIMCO_OUTBOUND},
	  .tuple = {[SIMCO_INTERNAL] = V4(SIMCO_INTERNAL, 10, 1, 0, 2, 5000, 2),
		    [SIMCO_EXTERNAL] = {.ip_version = SIMCO_IPV4, .prefix_len = 24, .protocol = 17,
			    .location = SIMCO_EXTERNAL, .port_range = 2, .addr = {198, 51, 100, 0}}},
	  .lifetime = 120, .has_gid = true, .gid = 9}},
	{"0112" "003c" "00000004"       /* PER request, IPv6 and protocols only */
	 "000b 0004" "00" "01" "0000"
	 "0009 0018" "02" "80" "11" "00" "1388" "0001" "20010db8000000000000000000000002"
	 "0009 0004" "12" "00" "11" "03" /* any IPv6 host, UDP */
	 "0007 0004" "00000078"
	 "0006 0004" "00000009",
	 {.type = SIMCO_PER_REQ, .tid = 4, .per = {SIMCO_PER_PARITY_ANY, SIMCO_INBOUND},
	  .tuple = {[SIMCO_INTERNAL] = V6(SIMCO_INTERNAL, 2, 5000),
		    [SIMCO_EXTERNAL] = {.protocols_only = true, .ip_version = SIMCO_IPV6,
			    .protocol = 17, .location = SIMCO_EXTERNAL}},
	  .lifetime = 120, .has_gid = true, .gid = 9}},
	{"0113" "0038" "00000005"       /* PEA request */
	 "000b 0004" "00" "03" "0000"   /* any parity, bi-directional */
	 "0009 000c" "01" "20" "11" "00" "1388" "0001" "0a010002"
	 "0009 000c" "01" "20" "11" "03" "1770" "0001" "c6336401"
	 "0007 0004" "00000078"
	 "0005 0004" "0000002a",        /* policy rule 42 */
	 {.type = SIMCO_PEA_REQ, .tid = 5, .per = {SIMCO_PER_PARITY_ANY, SIMCO_BIDIRECTIONAL},
	  .tuple = {[SIMCO_INTERNAL] = V4(SIMCO_INTERNAL, 10, 1, 0, 2, 5000, 1),
		    [SIMCO_EXTERNAL] = V4(SIMCO_EXTERNAL, 198, 51, 100, 1, 6000, 1)},
	  .lifetime = 120, .pid = 42}},
	{"0114" "0020" "00000006"       /* PDR request */
	 "0009 0004" "11" "00" "00" "00" /* any internal IPv4 host, any protocol */
	 "0009 000c" "01" "20" "00" "03" "0000" "0001" "c0000264" /* 192.0.2.100 */
	 "0007 0004" "0000003c",
	 {.type = SIMCO_PDR_REQ, .tid = 6,
	  .tuple = {[SIMCO_INTERNAL] = {.protocols_only = true, .ip_version = SIMCO_IPV4},
		    [SIMCO_EXTERNAL] = {.ip_version = SIMCO_IPV4, .prefix_len = 32,
			    .location = SIMCO_EXTERNAL, .port_range = 1, .addr = {192, 0, 2, 100}}},
	  .lifetime = 60}},
	{"0115" "0010" "00000007"       /* PLC request */
	 "0005 0004" "0000002a"
	 "0007 0004" "00000000",
	 {.type = SIMCO_PLC_REQ, .tid = 7, .pid = 42, .lifetime = 0}},
	{"0121" "0008" "00000008"       /* PRS request */
	 "0005 0004" "0000002a",
	 {.type = SIMCO_PRS_REQ, .tid = 8, .pid = 42}},
	{"0122" "0000" "00000009",      /* PRL request */
	 {.type = SIMCO_PRL_REQ, .tid = 9}},

	{"0201" "000c" "00000001"       /* SE reply */
	 "0004 0008" "d1" "3f" "0000" "00000e10", /* NAPT, firewall, PDR; P S, dual; 3600 s */
	 {.type = SIMCO_SE_REP, .tid = 1, .capabilities = {.mb_type = SIMCO_MB_FIREWALL |
	  SIMCO_MB_NAT | SIMCO_MB_PDR | SIMCO_MB_PORT_TRANSLATION, .port_wildcard = true,
	  .persistent = true, .inside_versions = 3, .outside_versions = 3, .max_lifetime = 3600}}},
	{"0201" "0014" "00000001"       /* SE reply with extensions */
	 "0004 0008" "80" "c6" "0000" "0000003c" /* firewall; I E; IPv4 inside, IPv6 outside */
	 "8000 0004" "00000001",
	 {.type = SIMCO_SE_REP, .tid = 1, .capabilities = {.mb_type = SIMCO_MB_FIREWALL,
	  .internal_wildcard = true, .external_wildcard = true, .inside_versions = 1,
	  .outside_versions = 2, .max_lifetime = 60}, .has_extensions = true, .extensions = 1}},
	{"0202" "000d" "00000001"       /* SA reply */
	 "0002 0003" "313233"           /* challenge "123" */
	 "0003 0002" "6f6b",            /* token "ok" */
	 {.type = SIMCO_SA_REP, .tid = 1, .has_challenge = true, .challenge = (const uint8_t *)"123",
	  .challenge_len = 3, .has_token = true, .token = (const uint8_t *)"ok", .token_len = 2}},
	{"0202" "0004" "00000001"       /* SA reply that cannot authenticate, §7.2 */
	 "0003 0000",
	 {.type = SIMCO_SA_REP, .tid = 1, .has_token = true}},
	{"0203" "0000" "0000000a",      /* ST reply */
	 {.type = SIMCO_ST_REP, .tid = 10}},
	{"0211" "0028" "00000003"       /* PRR reply */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "0007 0004" "0000001e"
	 "0009 000c" "01" "20" "11" "02" "4000" "0001" "c0000201", /* A2 192.0.2.1 udp 16384 */
	 {.type = SIMCO_PRR_REP, .tid = 3, .pid = 42, .has_gid = true, .gid = 7, .lifetime = 30,
	  .tuple = {[SIMCO_OUTSIDE] = V4(SIMCO_OUTSIDE, 192, 0, 2, 1, 16384, 1)}}},
	{"0211" "0044" "00000003"       /* PRR reply of a twice NAT, IPv6 outside, IPv4 inside */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "0007 0004" "0000001e"
	 "0009 0018" "02" "80" "11" "02" "4000" "0001" "20010db8000000000000000000000003"
	 "0009 000c" "01" "20" "11" "01" "4002" "0001" "0a010001",
	 {.type = SIMCO_PRR_REP, .tid = 3, .pid = 42, .has_gid = true, .gid = 7, .lifetime = 30,
	  .has_inside = true,
	  .tuple = {[SIMCO_OUTSIDE] = V6(SIMCO_OUTSIDE, 3, 16384),
		    [SIMCO_INSIDE] = V4(SIMCO_INSIDE, 10, 1, 0, 1, 16386, 1)}}},
	{"0212" "0038" "00000004"       /* PER reply */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "0007 0004" "00000078"
	 "0009 000c" "01" "20" "11" "02" "1388" "0001" "0a010002" /* firewall: A0 as A2 */
	 "0009 000c" "01" "20" "11" "01" "1770" "0001" "c6336401", /* A3 as A1 */
	 {.type = SIMCO_PER_REP, .tid = 4, .pid = 42, .has_gid = true, .gid = 7, .lifetime = 120,
	  .has_inside = true,
	  .tuple = {[SIMCO_OUTSIDE] = V4(SIMCO_OUTSIDE, 10, 1, 0, 2, 5000, 1),
		    [SIMCO_INSIDE] = V4(SIMCO_INSIDE, 198, 51, 100, 1, 6000, 1)}}},
	{"0214" "0010" "00000006"       /* PDR reply */
	 "0005 0004" "0000002b"
	 "0007 0004" "0000003c",
	 {.type = SIMCO_PDR_REP, .tid = 6, .pid = 43, .lifetime = 60}},
	{"0215" "0008" "00000007"       /* PLC reply */
	 "0007 0004" "0000003c",
	 {.type = SIMCO_PLC_REP, .tid = 7, .lifetime = 60}},
	{"0216" "0000" "00000007",      /* PRD reply */
	 {.type = SIMCO_PRD_REP, .tid = 7}},
	{"0221" "0039" "00000008"       /* PRS reply */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "0007 0004" "0000001e"
	 "0009 0004" "10" "00" "11" "02" /* protocols only, IPo 'any' repeated (§8.2.2) */
	 "0009 000c" "01" "20" "11" "01" "4000" "0001" "0a010001"
	 "0008 0005" "6167656e74",      /* owner "agent" */
	 {.type = SIMCO_PRS_REP, .tid = 8, .pid = 42, .has_gid = true, .gid = 7, .lifetime = 30,
	  .has_inside = true,
	  .tuple = {[SIMCO_OUTSIDE] = {.protocols_only = true, .protocol = 17,
			    .location = SIMCO_OUTSIDE},
		    [SIMCO_INSIDE] = V4(SIMCO_INSIDE, 10, 1, 0, 1, 16384, 1)},
	  .owner = (const uint8_t *)"agent", .owner_len = 5}},
	{"0222" "0018" "00000009"       /* PRL reply */
	 "0005 0004" "00000001"
	 "0005 0004" "deadbeef"
	 "0005 0004" "00000003",
	 {.type = SIMCO_PRL_REP, .tid = 9, .pid_list = pids, .n_pids = 3}},
	{"0222" "0000" "00000009",      /* PRL reply without any rule */
	 {.type = SIMCO_PRL_REP, .tid = 9}},
	{"0223" "0069" "00000008"       /* PES reply */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "000b 0004" "00" "03" "0000"
	 "0009 000c" "01" "20" "11" "00" "1388" "0001" "0a010002" /* internal */
	 "0009 000c" "01" "20" "11" "01" "1770" "0001" "c6336401" /* inside */
	 "0009 000c" "01" "20" "11" "02" "4000" "0001" "c0000201" /* outside */
	 "0009 000c" "01" "20" "11" "03" "1770" "0001" "c6336401" /* external */
	 "0007 0004" "00000078"
	 "0008 0005" "6167656e74",
	 {.type = SIMCO_PES_REP, .tid = 8, .pid = 42, .has_gid = true, .gid = 7,
	  .per = {SIMCO_PER_PARITY_ANY, SIMCO_BIDIRECTIONAL}, .has_inside = true,
	  .tuple = {V4(SIMCO_INTERNAL, 10, 1, 0, 2, 5000, 1),
		    V4(SIMCO_INSIDE, 198, 51, 100, 1, 6000, 1),
		    V4(SIMCO_OUTSIDE, 192, 0, 2, 1, 16384, 1),
		    V4(SIMCO_EXTERNAL, 198, 51, 100, 1, 6000, 1)},
	  .lifetime = 120, .owner = (const uint8_t *)"agent", .owner_len = 5}},
	{"0223" "0088" "00000008"       /* PES reply, traditional NAT, activity */
	 "0005 0004" "0000002a"
	 "0006 0004" "00000007"
	 "000b 0004" "00" "03" "0000"
	 "0009 000c" "01" "20" "11" "00" "1388" "0001" "0a010002"
	 "0009 000c" "01" "20" "11" "02" "4000" "0001" "c0000201"
	 "0009 000c" "01" "20" "11" "03" "1770" "0001" "c6336401"
	 "0007 0004" "00000078"
	 "0008 0000"                    /* empty owner */
	 "8001 0030"                    /* activity: packets, octets, ms, in then out */
	 "0000000000000002" "0000000100000000" "00000000000003e8"
	 "0000000000000000" "0000000000000000" "ffffffffffffffff",
	 {.type = SIMCO_PES_REP, .tid = 8, .pid = 42, .has_gid = true, .gid = 7,
	  .per = {SIMCO_PER_PARITY_ANY, SIMCO_BIDIRECTIONAL},
	  .tuple = {[SIMCO_INTERNAL] = V4(SIMCO_INTERNAL, 10, 1, 0, 2, 5000, 1),
		    [SIMCO_OUTSIDE] = V4(SIMCO_OUTSIDE, 192, 0, 2, 1, 16384, 1),
		    [SIMCO_EXTERNAL] = V4(SIMCO_EXTERNAL, 198, 51, 100, 1, 6000, 1)},
	  .lifetime = 120, .has_activity = true, .activity = {{2, 0}, {1ull << 32, 0},
	  {1000, UINT64_MAX}}}},
	{"0224" "0039" "00000008"       /* PDS reply */
	 "0005 0004" "0000002b"
	 "0009 000c" "01" "20" "11" "00" "1388" "0001" "0a010002"
	 "0009 000c" "01" "20" "11" "03" "1770" "0001" "c6336401"
	 "0007 0004" "0000003c"
	 "0008 0005" "6167656e74",
	 {.type = SIMCO_PDS_REP, .tid = 8, .pid = 43,
	  .tuple = {[SIMCO_INTERNAL] = V4(SIMCO_INTERNAL, 10, 1, 0, 2, 5000, 1),
		    [SIMCO_EXTERNAL] = V4(SIMCO_EXTERNAL, 198, 51, 100, 1, 6000, 1)},
	  .lifetime = 60, .owner = (const uint8_t *)"agent", .owner_len = 5}},

	{"0312" "0000" "0000000b",      /* a negative reply, figure 16 */
	 {.type = SIMCO_BADLY_FORMED_REQUEST, .tid = 11}},
	{"0322" "0008" "00000001"       /* version mismatch, figure 22a */
	 "0001 0004" "03" "00" "0000",
	 {.type = SIMCO_VERSION_MISMATCH, .tid = 1, .version = {3, 0}}},
	{"0358" "0000" "0000000b",      /* figure 39 */
	 {.type = SIMCO_PARITY_MISMATCH, .tid = 11}},
	{"0401" "0000" "00000001", {.type = SIMCO_BFM, .tid = 1}},
	{"0402" "0000" "00000002", {.type = SIMCO_AST, .tid = 2}},
	{"0403" "0010" "00000003"       /* ARE notification */
	 "0005 0004" "0000002a"
	 "0007 0004" "00000000",
	 {.type = SIMCO_ARE, .tid = 3, .pid = 42, .lifetime = 0}},
	{"0403" "0018" "00000004"       /* the same with the reason, an extension */
	 "0005 0004" "0000002b"
	 "0007 0004" "00000000"
	 "8002 0004" "00000002",        /* media timeout */
	 {.type = SIMCO_ARE, .tid = 4, .pid = 43, .has_reason = true,
	  .reason = SIMCO_REASON_MEDIA_TIMEOUT}},
};
/* clang-format on */

const struct golden *golden_at(size_t i)
{
	return i < sizeof(goldens) / sizeof(goldens[0]) ? &goldens[i] : NULL;
}

const struct golden *golden_find(uint16_t type)
{
	for (size_t i = 0; golden_at(i) != NULL; i++)
		if (goldens[i].msg.type == type)
			return &goldens[i];
	return NULL;
}

static int digit(char c)
{
	const char *digits = "0123456789abcdef";
	const char *p = strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c);

	return c != '\0' && p != NULL ? (int)(p - digits) : -1;
}

size_t golden_octets(const char *hex, uint8_t *out, size_t size)
{
	size_t n = 0;

	while (*hex != '\0') {
		if (*hex == ' ' || *hex == '\t') {
			hex++;
			continue;
		}
		assert_true(digit(hex[0]) >= 0 && digit(hex[1]) >= 0 && n < size);
		out[n++] = (uint8_t)(digit(hex[0]) << 4 | digit(hex[1]));
		hex += 2;
	}
	return n;
}
