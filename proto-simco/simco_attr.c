/*
 * The attributes of RFC 4540 §4.3: one row each, value octets to fields and
 * back. Reserved bits are written as zero and ignored when read.
 */
#include <string.h>

#include "proto-simco/simco_int.h"

#define MB_TYPE_DEFINED                                                                            \
	(SIMCO_MB_FIREWALL | SIMCO_MB_NAT | SIMCO_MB_PDR | SIMCO_MB_TWICE_NAT |                    \
	 SIMCO_MB_PROTOCOL_TRANSLATION | SIMCO_MB_PORT_TRANSLATION)

enum { CAP_I = 0x80, CAP_E = 0x40, CAP_P = 0x20, CAP_S = 0x10 }; /* figure 7 */
enum { TUPLE_FULL = 0, TUPLE_PROTOCOLS_ONLY = 1 };		 /* §4.3.8, first field */
enum { TUPLE_SHORT_LEN = 4, TUPLE_V4_LEN = 12, TUPLE_V6_LEN = 24 };
enum { ACTIVITY_LEN = 48 };

/* §4.3.1 */
static bool version_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			 struct wire *c)
{
	m->version.major = wire_read_u8(c);
	m->version.minor = wire_read_u8(c);
	return true;
}

static void version_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			  struct wire *c)
{
	wire_write_u8(c, m->version.major);
	wire_write_u8(c, m->version.minor);
	wire_write_u16(c, 0);
}

/* §4.3.2 */
static bool challenge_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			   struct wire *c)
{
	struct span v = wire_read_span(c, c->n);

	m->challenge = v.p;
	m->challenge_len = v.n;
	return true;
}

static size_t challenge_length(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	return m->challenge_len;
}

static void challenge_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			    struct wire *c)
{
	wire_write(c, m->challenge, m->challenge_len);
}

static bool token_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	struct span v = wire_read_span(c, c->n);

	m->token = v.p;
	m->token_len = v.n;
	return true;
}

static size_t token_length(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	return m->token_len;
}

static void token_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			struct wire *c)
{
	wire_write(c, m->token, m->token_len);
}

/* §4.3.3: MB type, I E P S IIV EIV, reserved, maximum lifetime. */
static bool capabilities_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			      struct wire *c)
{
	struct simco_capabilities *cap = &m->capabilities;
	uint8_t flags;

	cap->mb_type = wire_read_u8(c) & MB_TYPE_DEFINED;
	flags = wire_read_u8(c);
	cap->internal_wildcard = flags & CAP_I;
	cap->external_wildcard = flags & CAP_E;
	cap->port_wildcard = flags & CAP_P;
	cap->persistent = flags & CAP_S;
	cap->inside_versions = flags >> 2 & 3;
	cap->outside_versions = flags & 3;
	wire_skip(c, 2);
	cap->max_lifetime = wire_read_u32(c);
	return true;
}

/* Both IP version sets have the allowed values 0x1, 0x2 and 0x3. */
static bool capabilities_check(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	const struct simco_capabilities *cap = &m->capabilities;

	return cap->inside_versions >= 1 && cap->inside_versions <= 3 &&
	       cap->outside_versions >= 1 && cap->outside_versions <= 3;
}

static void capabilities_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			       struct wire *c)
{
	const struct simco_capabilities *cap = &m->capabilities;

	wire_write_u8(c, cap->mb_type & MB_TYPE_DEFINED);
	wire_write_u8(c,
		      (uint8_t)((cap->internal_wildcard ? CAP_I : 0) |
				(cap->external_wildcard ? CAP_E : 0) |
				(cap->port_wildcard ? CAP_P : 0) | (cap->persistent ? CAP_S : 0) |
				cap->inside_versions << 2 | cap->outside_versions));
	wire_write_u16(c, 0);
	wire_write_u32(c, cap->max_lifetime);
}

/*
 * §4.3.4. In a PRL reply the slot is repeated: there the TLVs stay on the wire
 * and are only counted; simco_encode() writes them.
 */
static bool pid_read(struct simco_msg *m, const struct simco_slot *s, struct wire *c)
{
	if (s->flags & SLOT_REPEATED) {
		if (m->n_pids++ == 0)
			m->pids = c->r - SIMCO_ATTR_HEADER_LEN;
		return true;
	}
	m->pid = wire_read_u32(c);
	return true;
}

static void pid_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
		      struct wire *c)
{
	wire_write_u32(c, m->pid);
}

/* §4.3.5 */
static bool gid_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	m->gid = wire_read_u32(c);
	return true;
}

static void gid_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
		      struct wire *c)
{
	wire_write_u32(c, m->gid);
}

/* §4.3.6 */
static bool lifetime_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			  struct wire *c)
{
	m->lifetime = wire_read_u32(c);
	return true;
}

static void lifetime_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			   struct wire *c)
{
	wire_write_u32(c, m->lifetime);
}

/* §4.3.7 */
static bool owner_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	struct span v = wire_read_span(c, c->n);

	m->owner = v.p;
	m->owner_len = v.n;
	return true;
}

static size_t owner_length(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	return m->owner_len;
}

static void owner_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			struct wire *c)
{
	wire_write(c, m->owner, m->owner_len);
}

/* §4.3.8. The length follows from the first two fields; anything else is malformed. */
static size_t tuple_length(const struct simco_msg *m, const struct simco_slot *s)
{
	const struct simco_tuple *t = &m->tuple[s->tuple];

	if (t->protocols_only)
		return TUPLE_SHORT_LEN;
	return t->ip_version == SIMCO_IPV4 ? TUPLE_V4_LEN : TUPLE_V6_LEN;
}

static bool tuple_read(struct simco_msg *m, const struct simco_slot *s, struct wire *c)
{
	struct simco_tuple *t = &m->tuple[s->tuple];
	uint8_t first = wire_read_u8(c);

	if (first >> 4 != TUPLE_FULL && first >> 4 != TUPLE_PROTOCOLS_ONLY)
		return false;
	t->protocols_only = first >> 4 == TUPLE_PROTOCOLS_ONLY;
	t->ip_version = first & 0x0f;
	t->prefix_len = wire_read_u8(c);
	t->protocol = wire_read_u8(c);
	t->location = wire_read_u8(c);
	if (tuple_length(m, s) != c->n)
		return false;
	if (!t->protocols_only) {
		t->port = wire_read_u16(c);
		t->port_range = wire_read_u16(c);
		wire_read(c, t->addr, t->ip_version == SIMCO_IPV4 ? 4 : 16);
	}
	return true;
}

/*
 * A port range of 0 and a location that does not fit the request are for the
 * rule machine (0x0356, 0x034B). A firewall's PRR reply repeats IPo, which may
 * be 'any' (§8.2.2), so there a 'protocols only' tuple may name no version.
 */
static bool tuple_check(const struct simco_msg *m, const struct simco_slot *s)
{
	const struct simco_tuple *t = &m->tuple[s->tuple];

	if (t->protocols_only && t->ip_version == SIMCO_IP_ANY)
		return s->flags & SLOT_REPLY;
	if (t->ip_version != SIMCO_IPV4 && t->ip_version != SIMCO_IPV6)
		return false;
	return t->protocols_only || t->prefix_len <= (t->ip_version == SIMCO_IPV4 ? 32 : 128);
}

static void tuple_write(const struct simco_msg *m, const struct simco_slot *s, struct wire *c)
{
	const struct simco_tuple *t = &m->tuple[s->tuple];
	uint8_t first = t->protocols_only ? TUPLE_PROTOCOLS_ONLY : TUPLE_FULL;

	wire_write_u8(c, (uint8_t)(first << 4 | t->ip_version));
	wire_write_u8(c, t->prefix_len);
	wire_write_u8(c, t->protocol);
	wire_write_u8(c, s->flags & SLOT_REPLY ? s->tuple : t->location);
	if (!t->protocols_only) {
		wire_write_u16(c, t->port);
		wire_write_u16(c, t->port_range);
		wire_write(c, t->addr, t->ip_version == SIMCO_IPV4 ? 4 : 16);
	}
}

/* §4.3.9: NM PP IPi IPo, two bits each, protocol, port range. */
static bool prr_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	uint8_t bits = wire_read_u8(c);

	m->prr.nat_mode = bits >> 6;
	m->prr.parity = bits >> 4 & 3;
	m->prr.inside_version = bits >> 2 & 3;
	m->prr.outside_version = bits & 3;
	m->prr.protocol = wire_read_u8(c);
	m->prr.port_range = wire_read_u16(c);
	return true;
}

/* A port range of 0 is for the rule machine (0x0356). */
static bool prr_check(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	const struct simco_prr_params *p = &m->prr;

	return (p->nat_mode == SIMCO_NAT_TRADITIONAL || p->nat_mode == SIMCO_NAT_TWICE) &&
	       p->parity <= SIMCO_PARITY_EVEN && p->inside_version <= SIMCO_IPV6 &&
	       p->outside_version <= SIMCO_IPV6;
}

static void prr_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
		      struct wire *c)
{
	const struct simco_prr_params *p = &m->prr;

	wire_write_u8(c, (uint8_t)(p->nat_mode << 6 | p->parity << 4 | p->inside_version << 2 |
				   p->outside_version));
	wire_write_u8(c, p->protocol);
	wire_write_u16(c, p->port_range);
}

/* §4.3.10 */
static bool per_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	m->per.parity = wire_read_u8(c);
	m->per.direction = wire_read_u8(c);
	return true;
}

static bool per_check(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED)
{
	return (m->per.parity == SIMCO_PER_PARITY_ANY || m->per.parity == SIMCO_PER_PARITY_SAME) &&
	       m->per.direction >= SIMCO_INBOUND && m->per.direction <= SIMCO_BIDIRECTIONAL;
}

static void per_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
		      struct wire *c)
{
	wire_write_u8(c, m->per.parity);
	wire_write_u8(c, m->per.direction);
	wire_write_u16(c, 0);
}

/* Extensions: which are asked for resp. agreed on. */
static bool extensions_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			    struct wire *c)
{
	m->extensions = wire_read_u32(c);
	return true;
}

static void extensions_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			     struct wire *c)
{
	wire_write_u32(c, m->extensions);
}

static bool activity_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			  struct wire *c)
{
	for (int d = 0; d < 2; d++) {
		m->activity.packets[d] = wire_read_u64(c);
		m->activity.octets[d] = wire_read_u64(c);
		m->activity.idle_ms[d] = wire_read_u64(c);
	}
	return true;
}

static void activity_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			   struct wire *c)
{
	for (int d = 0; d < 2; d++) {
		wire_write_u64(c, m->activity.packets[d]);
		wire_write_u64(c, m->activity.octets[d]);
		wire_write_u64(c, m->activity.idle_ms[d]);
	}
}

static bool reason_read(struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED, struct wire *c)
{
	m->reason = wire_read_u32(c);
	return true;
}

static void reason_write(const struct simco_msg *m, const struct simco_slot *s ATTR_UNUSED,
			 struct wire *c)
{
	wire_write_u32(c, m->reason);
}

/* clang-format off */
static const struct simco_attr_row attrs[] = {
	{SIMCO_ATTR_VERSION, 4, 4, "SIMCO protocol version",
	 version_read, NULL, NULL, version_write},
	{SIMCO_ATTR_CHALLENGE, 0, SIMCO_AUTH_MAX, "authentication challenge",
	 challenge_read, NULL, challenge_length, challenge_write},
	{SIMCO_ATTR_TOKEN, 0, SIMCO_AUTH_MAX, "authentication token",
	 token_read, NULL, token_length, token_write},
	{SIMCO_ATTR_CAPABILITIES, 8, 8, "middlebox capabilities",
	 capabilities_read, capabilities_check, NULL, capabilities_write},
	{SIMCO_ATTR_PID, 4, 4, "policy rule identifier",
	 pid_read, NULL, NULL, pid_write},
	{SIMCO_ATTR_GID, 4, 4, "group identifier",
	 gid_read, NULL, NULL, gid_write},
	{SIMCO_ATTR_LIFETIME, 4, 4, "policy rule lifetime",
	 lifetime_read, NULL, NULL, lifetime_write},
	{SIMCO_ATTR_OWNER, 0, SIMCO_OWNER_MAX, "policy rule owner",
	 owner_read, NULL, owner_length, owner_write},
	{SIMCO_ATTR_TUPLE, TUPLE_SHORT_LEN, TUPLE_V6_LEN, "address tuple",
	 tuple_read, tuple_check, tuple_length, tuple_write},
	{SIMCO_ATTR_PRR_PARAMS, 4, 4, "PRR parameter set",
	 prr_read, prr_check, NULL, prr_write},
	{SIMCO_ATTR_PER_PARAMS, 4, 4, "PER parameter set",
	 per_read, per_check, NULL, per_write},
	{SIMCO_ATTR_EXTENSIONS, 4, 4, "extensions",
	 extensions_read, NULL, NULL, extensions_write},
	{SIMCO_ATTR_ACTIVITY, ACTIVITY_LEN, ACTIVITY_LEN, "activity",
	 activity_read, NULL, NULL, activity_write},
	{SIMCO_ATTR_REASON, 4, 4, "reason",
	 reason_read, NULL, NULL, reason_write},
};
/* clang-format on */

/* The table is dense: the RFC's attributes count from 1, the extensions from 0x8000. */
const struct simco_attr_row *simco_attr_find(uint16_t attr)
{
	size_t i = attr < SIMCO_ATTR_EXTENSIONS
			   ? (size_t)attr - SIMCO_ATTR_VERSION
			   : (size_t)attr - SIMCO_ATTR_EXTENSIONS + SIMCO_ATTR_PER_PARAMS;

	return i < ARRAY_LEN(attrs) && attrs[i].attr == attr ? &attrs[i] : NULL;
}
