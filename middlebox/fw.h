/*
 * The firewall driver contract: typed operations on a kernel firewall, grouped
 * into transactions. Nothing above this header knows netlink or nftables, and
 * nothing below it knows SIMCO.
 *
 * Implemented by fw_nft (nftables through libnftnl and libmnl) and fw_fake
 * (memory). One committer per process, single-threaded.
 */
#ifndef SLUICE_MIDDLEBOX_FW_H
#define SLUICE_MIDDLEBOX_FW_H

#include "common/addr.h"
#include "common/base.h"
#include "common/buf.h"
#include "common/jsonw.h"

/*
 * One direction of a flow as the forward hook sees it: with inside addresses
 * in traditional NAT (dst after DNAT, src before SNAT). A field is exact,
 * a range or prefix, or any (prefix length 0 resp. ports 0..65535).
 */
struct fw_match {
	uint8_t protocol; /* IPPROTO_UDP, IPPROTO_TCP; 0: both */
	struct addr_prefix src, dst;
	struct port_range sport, dport;
};

/* A NAT binding, traditional: A0 <-> A2, endpoint-independent (RFC 4787 §4.1). */
struct fw_binding {
	uint8_t protocol;
	struct addr_port inside;  /* A0 */
	struct addr_port outside; /* A2 */
	/*
	 * Twice NAT only (versions 0 otherwise): the peer A3 is seen inside as
	 * A1. Keys of the inside half are the pair.
	 */
	struct addr_port inside_face; /* A1 */
	struct addr_port external;    /* A3 */
};

enum fw_op_type {
	FW_OPEN,   /* add or refresh `match` with `lifetime_ms` as its kernel timeout */
	FW_CLOSE,  /* remove `match`; absent is fine */
	FW_BIND,   /* add or refresh `binding` with `lifetime_ms` */
	FW_UNBIND, /* remove `binding`; absent is fine */
	/*
	 * Disable rules (RFC 4540 §8.8). What `match` covers and no open match lets pass is
	 * dropped, in front of the static permits and the replies to them, in both modes: FW_MARK
	 * too, since the site's rules would let it through. Also what comes to or from this host,
	 * but for its loopback interface and `control`. Open matches win: the caller closes those
	 * that overlap.
	 */
	FW_BLOCK,   /* add or refresh `match` with `lifetime_ms` */
	FW_UNBLOCK, /* remove `match`; absent is fine */
	/*
	 * After the batch: delete the conntrack entries of the flow between the
	 * two ends of `match`, by both tuples: A0->A3 and, when binding.outside is set,
	 * A3->A2 (rule d of ARCHITECTURE.md). With wildcards: a dump, later (rule e).
	 */
	FW_FORGET,
};

struct fw_op {
	enum fw_op_type type;
	uint32_t txn; /* index into results; ops of one transaction stand or fall together */
	struct fw_match match;
	struct fw_binding binding;
	uint64_t lifetime_ms;
};

/* Static configuration, filled from the policy. */
enum fw_mode { FW_ENFORCE, FW_MARK };
enum fw_nat_mode { FW_NAT_NONE, FW_NAT_NAPT, FW_NAT_TWICE };

struct fw_permit { /* config: firewall.permit; replies pass by conntrack mark */
	struct addr_prefix from, to;
	uint8_t protocol;	 /* 0: any */
	struct port_range ports; /* destination; ignored for other protocols than UDP and TCP */
};

struct fw_pool { /* config: nat.outside */
	struct addr address;
	struct port_range ports;
};

struct fw_source { /* config: nat.source: everything else permitted from there */
	struct addr_prefix from;
	struct addr to_address;
	struct port_range ports;
};

struct fw_static { /* config: nat.static */
	uint8_t protocol;
	struct addr_port outside, inside;
};

struct fw_config {
	const char *table; /* nft table name, "sluice" */
	enum fw_mode mode;
	uint32_t mark;					  /* packet mark in FW_MARK, default 0x51 */
	const char *const *inside_if, *const *outside_if; /* interface names */
	size_t n_inside_if, n_outside_if;
	const struct fw_permit *permits;
	size_t n_permits;
	enum fw_nat_mode nat;
	const struct fw_pool *pools;
	size_t n_pools;
	const struct fw_source *sources;
	size_t n_sources;
	const struct fw_static *statics;
	size_t n_statics;
	const struct addr_port *control; /* TCP listeners of this host that FW_BLOCK spares */
	size_t n_control;
	size_t max_elements; /* set size: above the sum of all quotas */
	bool counters;	     /* per-element packet counters */
	unsigned force_off;  /* FW_FEATURE_ bits treated as absent (tests) */
	unsigned omit;	     /* FW_RULE_ bits not installed (tests that prove themselves) */
};

/* Do both make the same rules, and have the same ports in the same order? */
bool fw_config_same(const struct fw_config *a, const struct fw_config *b);
bool fw_pools_same(const struct fw_pool *a, size_t na, const struct fw_pool *b, size_t nb);

/* House rules that a test may leave out to see its scenario fail; 0 otherwise. */
#define FW_RULE_INPUT_DROP 1u /* rule b: pool ports answer nothing */
#define FW_RULE_POOL_GUARD 2u /* rule c: others leave the pool ports */
#define FW_RULE_FORGET 4u     /* rule d: conntrack entries deleted */
#define FW_RULE_DEFRAG 8u     /* defragmentation without conntrack */
#define FW_RULE_ICMP 16u      /* ICMP errors of open tuples */
#define FW_RULE_SOURCE 32u    /* rule f: nat.source */

/* Kernel features, probed by fw_open(); the last two hold until a dump shows otherwise. */
#define FW_FEATURE_DESTROY 1u	     /* NFT_MSG_DESTROYSETELEM (6.3) */
#define FW_FEATURE_UPDATE_TIMEOUT 2u /* timeout update in place (not in 6.1) */
#define FW_FEATURE_BATCH_ACK 4u	     /* ACK on batch end (6.10) */
#define FW_FEATURE_OWNER_PERSIST 8u  /* table flags OWNER and PERSIST (6.9) */
#define FW_FEATURE_TPROXY 16u	     /* the defragmentation rule */
#define FW_FEATURE_LATE_DUMP 32u     /* a dump of conntrack holds up no deletions */
#define FW_FEATURE_CT_FILE 64u	     /* conntrack can be read as a file */

struct fw_stats {
	uint64_t batches, ops, aborts, resubmits, refused, conntrack_deletes, reinstalls, enobufs;
	uint64_t dumps;	     /* of conntrack, that have ended */
	uint64_t forgetting; /* wildcards that wait for one now */
};

struct fw;

/* Called from fw_poll() when another process removed or flushed our table. */
typedef void (*fw_lost_fn)(void *arg);

/*
 * Opens netlink, probes the kernel and installs table, chains, sets and maps.
 * With `adopt` existing sets and their elements stay (same layout), else the
 * table is created anew. Existing pinholes pass traffic throughout. NULL with
 * *err (ERR_PERM, ERR_KERNEL, ERR_NOMEM) after logging what was attempted.
 * Borrows cfg and what it points to until fw_close().
 */
struct fw *fw_open(const struct fw_config *cfg, bool adopt, int *err);
/* True when fw_open() adopted: the elements of the run before are still there. */
bool fw_kept(const struct fw *fw);
/*
 * Replaces permits, pools, sources, statics (reload); costs milliseconds unless they are the same.
 * Borrows cfg instead of the one before. 0 or ERR_*: nothing changed.
 */
int fw_reconfigure(struct fw *fw, const struct fw_config *cfg);
/* Leaves the kernel state as it is unless `remove`. NULL is fine. */
void fw_close(struct fw *fw, bool remove);

/*
 * Commits ops[n] in order; result[txn] is 0 or ERR_KERNEL for every
 * transaction index that occurs (n_txn of them). When it returns the kernel
 * has everything whose result is 0 and nothing of the others.
 */
void fw_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn);

/* Counters of one open exact match, by single-element GET. 0 or ERR_NOENT, ERR_UNSUPPORTED. */
int fw_counters(struct fw *fw, const struct fw_match *m, uint64_t *packets, uint64_t *octets);
/*
 * Reads what an FW_OPEN, FW_BLOCK or FW_BIND put into the kernel, by single-element GETs. 0 and the
 * shortest remaining ms; ERR_NOENT: some of it is missing; ERR_EXIST: a map has other data under
 * the binding's key. For audits and tests.
 */
int fw_audit(struct fw *fw, const struct fw_op *op, uint64_t *remaining_ms);

/*
 * True while a wildcard FW_FORGET is still working on `outside`: the port must
 * not be handed out again (rule e).
 */
bool fw_quarantined(struct fw *fw, uint8_t protocol, const struct addr_port *outside);

/* Descriptors to watch for reading (at most 2), then call fw_poll(). */
size_t fw_fds(const struct fw *fw, int fds[2]);
void fw_poll(struct fw *fw);
/*
 * Begins work that waits (rule e dumps, in a thread); call it once per turn that
 * committed, and in the next turn again when true. fw_poll() goes on with it.
 */
bool fw_work(struct fw *fw);
void fw_on_lost(struct fw *fw, fw_lost_fn fn, void *arg);
/* Re-creates table, chains, sets and maps after a loss; elements follow by fw_commit(). */
int fw_reinstall(struct fw *fw);

unsigned fw_features(const struct fw *fw);
struct fw_stats fw_stats(const struct fw *fw);
/*
 * Names base chains of other tables that would drop our media, one callback
 * each ("inet filter forward, priority 0, policy drop"). For the start-up check.
 */
void fw_foreign_drops(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg);

#endif
