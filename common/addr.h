/*
 * IP addresses, ports and prefixes as plain values, and their text forms.
 */
#ifndef SLUICE_COMMON_ADDR_H
#define SLUICE_COMMON_ADDR_H

#include <sys/socket.h>

#include "common/base.h"
#include "common/span.h"

struct addr {
	uint8_t version; /* 4, 6, or 0 for "none" */
	uint8_t b[16];	 /* network order; IPv4 uses the first four, rest 0 */
};

struct addr_port {
	struct addr addr;
	uint16_t port; /* host order */
};

struct addr_prefix {
	struct addr addr; /* host bits are 0 */
	uint8_t len;	  /* bits, 0..32 or 0..128 */
};

struct port_range {
	uint16_t first; /* inclusive */
	uint16_t last;	/* inclusive */
};

#define ADDR_STRLEN 48	    /* an address, with NUL */
#define ADDR_PORT_STRLEN 56 /* "[v6]:port", with NUL */

extern const struct addr addr_none;

/* Octets of an address of that version: 4, 16 or 0. */
size_t addr_len(const struct addr *a);
bool addr_eq(const struct addr *a, const struct addr *b);
int addr_cmp(const struct addr *a, const struct addr *b);
bool addr_port_eq(const struct addr_port *a, const struct addr_port *b);
bool addr_prefix_eq(const struct addr_prefix *a, const struct addr_prefix *b);
bool port_range_eq(struct port_range a, struct port_range b);
bool addr_is_any(const struct addr *a);	      /* 0.0.0.0 or :: */
bool addr_is_loopback(const struct addr *a);  /* 127/8, ::1 */
bool addr_is_multicast(const struct addr *a); /* 224/4, ff00::/8 */
/* An IPv4-mapped IPv6 address becomes IPv4; anything else is unchanged. */
struct addr addr_unmap(struct addr a);
struct addr addr_v4(const void *four_octets);
struct addr addr_v6(const void *sixteen_octets);

/* Numeric text only, no names, no scope, no brackets. 0 or ERR_MALFORMED. */
int addr_parse(struct span text, struct addr *out);
/* "192.0.2.1:554" or "[2001:db8::1]:554". 0 or ERR_MALFORMED. */
int addr_port_parse(struct span text, struct addr_port *out);
/* "10.0.0.0/8", "2001:db8::/32"; a bare address is a full-length prefix. Host bits must be 0. */
int addr_prefix_parse(struct span text, struct addr_prefix *out);
/* "5000" or "5000-6000". */
int port_range_parse(struct span text, struct port_range *out);

/* Text into dst (ADDR_STRLEN resp. ADDR_PORT_STRLEN octets); returns dst. */
const char *addr_str(const struct addr *a, char *dst);
const char *addr_port_str(const struct addr_port *a, char *dst);

bool addr_prefix_contains(const struct addr_prefix *p, const struct addr *a);
bool addr_prefix_overlaps(const struct addr_prefix *a, const struct addr_prefix *b);

/* Socket address conversion. from: ERR_UNSUPPORTED for other families. */
socklen_t addr_to_sockaddr(const struct addr_port *a, struct sockaddr_storage *out);
int addr_from_sockaddr(const struct sockaddr *sa, struct addr_port *out);

#endif
