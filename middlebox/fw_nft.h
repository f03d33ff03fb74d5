/*
 * Inside of the nftables driver, shared by the fw_*.c files only.
 *
 * One table `inet <cfg.table>`:
 *   sets  exact4, exact6            every exact tuple, a hash set with timeouts
 *         wild4_X, wild6_X          one hash set per wildcard shape, made on demand; X tells
 *                                   which fields are exact: 1 saddr, 2 sport, 4 daddr, 8 dport
 *         range4_N, range6_N        prefixes and ranges, made on demand: N is a layer, and a
 *                                   match goes to the first layer in which it overlaps nothing
 *         block_exact4, block_wild4_X, block_range4_N (6 likewise)
 *                                   the same for disable rules, all of them made on demand
 *   maps  dnat4  A2 -> A0, snat4  A0 -> A2, keyed without the remote (RFC 4787 §4.1)
 *         peer_dnat4  (A0, A1) -> A3, peer_snat4  (A3, A0) -> A1   twice NAT only
 *   chains  see fw_layout.c
 */
#ifndef SLUICE_MIDDLEBOX_FW_NFT_H
#define SLUICE_MIDDLEBOX_FW_NFT_H

#include "middlebox/fw_int.h"
#include "middlebox/fw_nl.h"

#define FW_LAYOUT_VERSION 3

#define FW_KEY_MAX 44 /* proto . saddr6 . sport . daddr6 . dport, padded to 4 */
#define FW_DATA_LEN 8 /* addr4 . port */
#define FW_TMPL_MAX 384
#define FW_EXACT 15	  /* the shape without wildcards */
#define FW_SHAPES 16	  /* by mask; 0 (nothing exact) is none */
#define FW_BANKS 4	  /* what is open and what is blocked, per IP version: fw_bank() */
#define FW_SHAPES_MAX 8	  /* wildcard shapes in use, per bank; each costs every miss a lookup */
#define FW_LAYERS 8	  /* interval sets per bank */
#define FW_RANGES_MAX 256 /* matches with prefixes or ranges, per bank */

/* A message with holes to fill in; offsets 0 where it has no such hole. */
struct fw_tmpl {
	uint16_t len, list, elem; /* attributes: the elements, and the one element, which is last */
	uint16_t key, key_end, data, timeout, expiry, counter;
	uint8_t mem[FW_TMPL_MAX];
};

enum fw_set_state { FW_SET_ABSENT, FW_SET_PENDING, FW_SET_PRESENT };

struct fw_set {
	char name[16];
	uint8_t version; /* 4 or 6 */
	uint8_t shape;	 /* exact fields, 15: all */
	uint8_t key_len;
	uint8_t fields; /* of the key */
	bool interval, map, block;
	enum fw_set_state state;
	uint8_t field_len[5];
	uint32_t key_type;
	struct fw_tmpl add, add_counter, del, get;
};

enum fw_fixed_set {
	FW_EXACT4,
	FW_EXACT6,
	FW_DNAT4,
	FW_SNAT4,
	FW_PEER_DNAT4,
	FW_PEER_SNAT4,
	FW_FIXED_SETS
};

/* One live match of the interval sets; expires_ms 0: the slot is free. */
struct fw_range {
	struct fw_match m; /* protocol is exact */
	uint64_t expires_ms;
	uint8_t layer;
};

/* A kernel set element. */
struct fw_elem {
	struct fw_set *set;
	uint8_t key[FW_KEY_MAX], end[FW_KEY_MAX];
	uint8_t data[FW_DATA_LEN];
};

#define FW_OP_ELEMS 8 /* the most one operation needs */

struct fw_ct;
struct fw_commit;

struct fw_nft {
	struct fw fw; /* first: the handle is a pointer to it */
	const struct fw_config *cfg;
	unsigned features;
	bool owned;	    /* the table is ours by flags: nobody else can write it */
	bool lost;	    /* somebody else removed it and fw_reinstall() has not been called */
	struct fw_nl nl;    /* the committer */
	struct fw_nl watch; /* events; fd -1 when owned */
	struct fw_batch batch;
	uint32_t set_id;
	uint64_t handle; /* the table's */
	size_t n_rules;	 /* as installed; 0: not counted */
	struct fw_set fixed[FW_FIXED_SETS];
	struct fw_set shapes[FW_BANKS][FW_SHAPES]; /* FW_EXACT: of what is blocked only */
	struct fw_set layers[FW_BANKS][FW_LAYERS];
	struct fw_range ranges[FW_BANKS][FW_RANGES_MAX];
	struct fw_ct *ct;
	struct fw_stats stats;
	fw_lost_fn on_lost;
	void *on_lost_arg;
	struct fw_commit *commit; /* scratch of fw_commit.c */
};

static inline struct fw_nft *fw_nft_of(struct fw *fw)
{
	return CONTAINER_OF(fw, struct fw_nft, fw);
}

static inline const struct fw_nft *fw_nft_of_const(const struct fw *fw)
{
	return (const struct fw_nft *)(const void *)((const char *)fw -
						     offsetof(struct fw_nft, fw));
}

/* Milliseconds of CLOCK_BOOTTIME. */
uint64_t fw_now_ms(void);

/* fw_probe.c: FW_FEATURE_ bits of this kernel, without those of force_off. */
unsigned fw_probe(struct fw_nl *nl, const struct fw_config *cfg);

/* fw_set.c: descriptions, templates and keys of sets. */
void fw_sets_init(struct fw_nft *f);
void fw_sets_each(struct fw_nft *f, void (*fn)(struct fw_set *s, void *arg), void *arg);
void fw_set_absent(struct fw_set *s, void *arg); /* for fw_sets_each() */
/* Elements of one match or binding in elems[FW_OP_ELEMS]; see fw_set.c. Number, or ERR_*. */
int fw_match_elems(struct fw_nft *f, bool block, const struct fw_match *m, struct fw_elem *elems);
int fw_binding_elems(struct fw_nft *f, const struct fw_binding *b, struct fw_elem *elems);
/* True when every field is a single value, so that the exact set takes it. */
bool fw_match_exact(const struct fw_match *m);
/* The IP version of a match, 0 when it has none. */
uint8_t fw_match_version(const struct fw_match *m);
/* Index of shapes, layers and ranges. */
unsigned fw_bank(bool block, const struct fw_match *m);
/*
 * Puts one message, or adds to the last one when that does the same in the same
 * set and is not sealed. 0 or ERR_NOMEM. counter: packets and octets to start
 * with, or NULL.
 */
int fw_elem_add(struct fw_batch *b, const struct fw_elem *e, uint64_t ms, const uint64_t *counter);
int fw_elem_del(struct fw_batch *b, const struct fw_elem *e);

struct fw_elem_state {
	bool found;
	uint64_t remaining_ms, packets, octets;
	uint8_t data[FW_DATA_LEN]; /* of a map */
};
/* Asks the kernel for one element. 0, or ERR_KERNEL. */
int fw_elem_get(struct fw_nl *nl, const struct fw_elem *e, struct fw_elem_state *out);

/* fw_range.c: which interval set takes a match. NULL: not there (find) or no room (place). */
struct fw_set *fw_range_find(struct fw_nft *f, bool block, const struct fw_match *m,
			     struct fw_range **slot);
struct fw_set *fw_range_place(struct fw_nft *f, bool block, const struct fw_match *m,
			      uint64_t expires_ms);
/* Reads the interval sets' elements back after adopting a table. 0 or ERR_*. */
int fw_range_load(struct fw_nft *f);

/* fw_layout.c: table, sets, chains and rules. */
/* Puts the messages that make `s` and the rules that look into it; it is PENDING then. */
void fw_layout_wild(struct fw_nft *f, struct fw_set *s);
/* Installs everything in one batch; adopt keeps the sets. 0 or ERR_*. */
int fw_layout_install(struct fw_nft *f, bool adopt);
int fw_layout_remove(struct fw_nft *f);
/* Every pending set becomes present or absent, as its batch did. */
void fw_layout_settle(struct fw_nft *f, bool done);

/* The number of elements to make a set for. */
uint32_t fw_layout_set_size(const struct fw_nft *f, const struct fw_set *s);
/* The table's comment, which names the layout; its length with NUL. */
size_t fw_layout_comment(const struct fw_nft *f, char *text, size_t size);

#define FW_TABLE_F_OWNER 0x2u
#define FW_TABLE_F_PERSIST 0x4u /* newer than Debian 12's headers (kernel 6.9) */

/* fw_look.c: what the kernel has. */
struct fw_table_info {
	bool exists, same_layout; /* same: can be adopted */
	bool has_owner;		  /* owner flag */
	bool orphan;		  /* persist without owner: nobody has it now */
	bool mine;
	uint64_t handle; /* another one: another table of the same name */
};
struct fw_chain_names {
	char name[32][32];
	size_t n;
};
int fw_layout_look(struct fw_nft *f, struct fw_table_info *out);
/* Also the chains, and every set's state. */
int fw_layout_look_all(struct fw_nft *f, struct fw_table_info *out, struct fw_chain_names *chains);
/* Notes what was installed, for fw_layout_intact(). */
int fw_layout_remember(struct fw_nft *f);
/*
 * False when the table is gone, is another one, or lacks rules, and when the kernel does not say
 * whether it is there. A set that somebody flushes
 * stays unnoticed here; the audit finds it.
 */
bool fw_layout_intact(struct fw_nft *f);

/* fw_rules.c: the content of the chains. */
void fw_rules_put(struct fw_nft *f);
void fw_rules_put_wild(struct fw_nft *f, const struct fw_set *s);

/* fw_commit.c */
int fw_commit_new(struct fw_nft *f);
void fw_commit_free(struct fw_nft *f);
void fw_nft_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn);

/* fw_ct.c: connection tracking. */
int fw_ct_new(struct fw_nft *f);
void fw_ct_free(struct fw_ct *ct);
/* Collects the entries of one FW_FORGET; fw_ct_flush() deletes what was collected. */
void fw_ct_forget(struct fw_ct *ct, const struct fw_op *op);
void fw_ct_flush(struct fw_ct *ct);
bool fw_ct_quarantined(const struct fw_ct *ct, uint8_t protocol, const struct addr_port *outside);
/* Begins what waits for a dump, unless one is going on; fw_ct_poll() is told of its end. */
void fw_ct_work(struct fw_ct *ct);
void fw_ct_poll(struct fw_ct *ct);
int fw_ct_fd(const struct fw_ct *ct);
size_t fw_ct_waiting(const struct fw_ct *ct); /* wildcards whose entries are still there */
uint64_t fw_ct_lost(const struct fw_ct *ct);  /* times that answers were lost */

/* fw_foreign.c */
void fw_nft_foreign_drops(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg);

#endif
