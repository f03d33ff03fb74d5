/*
 * Address values: predicates, text, socket addresses.
 */
#include "common/addr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/errcode.h"

const struct addr addr_none;

size_t addr_len(const struct addr *a)
{
	return a->version == 4 ? 4 : a->version == 6 ? 16 : 0;
}

int addr_cmp(const struct addr *a, const struct addr *b)
{
	if (a->version != b->version)
		return a->version < b->version ? -1 : 1;
	return memcmp(a->b, b->b, addr_len(a));
}

bool addr_eq(const struct addr *a, const struct addr *b)
{
	return addr_cmp(a, b) == 0;
}

bool addr_port_eq(const struct addr_port *a, const struct addr_port *b)
{
	return a->port == b->port && addr_eq(&a->addr, &b->addr);
}

bool addr_prefix_eq(const struct addr_prefix *a, const struct addr_prefix *b)
{
	return a->len == b->len && addr_eq(&a->addr, &b->addr);
}

bool port_range_eq(struct port_range a, struct port_range b)
{
	return a.first == b.first && a.last == b.last;
}

bool addr_is_any(const struct addr *a)
{
	static const uint8_t zero[16];

	return a->version != 0 && memcmp(a->b, zero, addr_len(a)) == 0;
}

bool addr_is_loopback(const struct addr *a)
{
	static const uint8_t one[16] = {[15] = 1};

	if (a->version == 4)
		return a->b[0] == 127;
	return a->version == 6 && memcmp(a->b, one, 16) == 0;
}

bool addr_is_multicast(const struct addr *a)
{
	if (a->version == 4)
		return (a->b[0] & 0xf0) == 0xe0;
	return a->version == 6 && a->b[0] == 0xff;
}

struct addr addr_unmap(struct addr a)
{
	/* RFC 4291 §2.5.5.2: ::ffff:0:0/96 */
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (a.version != 6 || memcmp(a.b, mapped, sizeof(mapped)) != 0)
		return a;
	return addr_v4(a.b + 12);
}

struct addr addr_v4(const void *four_octets)
{
	struct addr a = {.version = 4};

	memcpy(a.b, four_octets, 4);
	return a;
}

struct addr addr_v6(const void *sixteen_octets)
{
	struct addr a = {.version = 6};

	memcpy(a.b, sixteen_octets, 16);
	return a;
}

int addr_parse(struct span text, struct addr *out)
{
	char s[ADDR_STRLEN];
	uint8_t b[16];

	if (text.n == 0 || span_find(text, 0) != text.n || !span_copy(text, s, sizeof(s)))
		return ERR_MALFORMED;
	if (inet_pton(AF_INET, s, b) == 1)
		*out = addr_v4(b);
	else if (inet_pton(AF_INET6, s, b) == 1)
		*out = addr_v6(b);
	else
		return ERR_MALFORMED;
	return 0;
}

/* A decimal number without superfluous leading zeros. */
static int parse_number(struct span text, uint64_t max, uint64_t *out)
{
	if (text.n > 1 && text.p[0] == '0')
		return ERR_MALFORMED;
	return span_u64(text, max, out) != 0 ? ERR_MALFORMED : 0;
}

int addr_port_parse(struct span text, struct addr_port *out)
{
	bool brackets = text.n > 0 && text.p[0] == '[';
	struct span rest = brackets ? span_sub(text, 1, text.n) : text;
	struct span host = span_cut(&rest, brackets ? ']' : ':');
	struct addr a;
	uint64_t port;

	if (brackets) {
		if (rest.n == 0 || rest.p[0] != ':')
			return ERR_MALFORMED;
		rest = span_sub(rest, 1, rest.n);
	}
	if (addr_parse(host, &a) != 0 || a.version != (brackets ? 6 : 4) ||
	    parse_number(rest, UINT16_MAX, &port) != 0)
		return ERR_MALFORMED;
	out->addr = a;
	out->port = (uint16_t)port;
	return 0;
}

/* Are all bits of `a` from bit `len` on 0? */
static bool host_bits_clear(const struct addr *a, unsigned len)
{
	for (unsigned bit = len; bit < addr_len(a) * 8; bit++) {
		if (a->b[bit / 8] & (0x80u >> bit % 8))
			return false;
	}
	return true;
}

int addr_prefix_parse(struct span text, struct addr_prefix *out)
{
	struct span rest = text;
	struct span host = span_cut(&rest, '/');
	struct addr a;
	uint64_t len;

	if (addr_parse(host, &a) != 0)
		return ERR_MALFORMED;
	len = addr_len(&a) * 8;
	if (host.n < text.n && parse_number(rest, len, &len) != 0)
		return ERR_MALFORMED;
	if (!host_bits_clear(&a, (unsigned)len))
		return ERR_MALFORMED;
	out->addr = a;
	out->len = (uint8_t)len;
	return 0;
}

int port_range_parse(struct span text, struct port_range *out)
{
	struct span rest = text;
	struct span head = span_cut(&rest, '-');
	uint64_t first, last;

	if (parse_number(head, UINT16_MAX, &first) != 0)
		return ERR_MALFORMED;
	last = first;
	if (head.n < text.n && parse_number(rest, UINT16_MAX, &last) != 0)
		return ERR_MALFORMED;
	if (last < first)
		return ERR_MALFORMED;
	out->first = (uint16_t)first;
	out->last = (uint16_t)last;
	return 0;
}

const char *addr_str(const struct addr *a, char *dst)
{
	if (a->version == 0 ||
	    inet_ntop(a->version == 4 ? AF_INET : AF_INET6, a->b, dst, ADDR_STRLEN) == NULL)
		snprintf(dst, ADDR_STRLEN, "none");
	return dst;
}

const char *addr_port_str(const struct addr_port *a, char *dst)
{
	char s[ADDR_STRLEN];

	addr_str(&a->addr, s);
	if (a->addr.version == 6)
		snprintf(dst, ADDR_PORT_STRLEN, "[%s]:%u", s, a->port);
	else
		snprintf(dst, ADDR_PORT_STRLEN, "%s:%u", s, a->port);
	return dst;
}

/* Do the first `len` bits of two addresses of one version agree? */
static bool same_bits(const struct addr *a, const struct addr *b, unsigned len)
{
	unsigned whole = len / 8, left = len % 8;

	if (memcmp(a->b, b->b, whole) != 0)
		return false;
	return left == 0 || ((a->b[whole] ^ b->b[whole]) & (0xff00u >> left) & 0xffu) == 0;
}

bool addr_prefix_contains(const struct addr_prefix *p, const struct addr *a)
{
	return p->addr.version != 0 && p->addr.version == a->version &&
	       same_bits(&p->addr, a, p->len);
}

bool addr_prefix_overlaps(const struct addr_prefix *a, const struct addr_prefix *b)
{
	return a->len <= b->len ? addr_prefix_contains(a, &b->addr)
				: addr_prefix_contains(b, &a->addr);
}

socklen_t addr_to_sockaddr(const struct addr_port *a, struct sockaddr_storage *out)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(a->port)};
	struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_port = htons(a->port)};

	memset(out, 0, sizeof(*out));
	if (a->addr.version == 4) {
		memcpy(&sin.sin_addr, a->addr.b, 4);
		memcpy(out, &sin, sizeof(sin));
		return sizeof(sin);
	}
	if (a->addr.version == 6) {
		memcpy(&sin6.sin6_addr, a->addr.b, 16);
		memcpy(out, &sin6, sizeof(sin6));
		return sizeof(sin6);
	}
	return 0;
}

int addr_from_sockaddr(const struct sockaddr *sa, struct addr_port *out)
{
	struct sockaddr_in sin;
	struct sockaddr_in6 sin6;

	switch (sa->sa_family) {
	case AF_INET:
		memcpy(&sin, sa, sizeof(sin));
		out->addr = addr_v4(&sin.sin_addr);
		out->port = ntohs(sin.sin_port);
		return 0;
	case AF_INET6:
		memcpy(&sin6, sa, sizeof(sin6));
		out->addr = addr_v6(&sin6.sin6_addr);
		out->port = ntohs(sin6.sin6_port);
		return 0;
	default:
		return ERR_UNSUPPORTED;
	}
}
