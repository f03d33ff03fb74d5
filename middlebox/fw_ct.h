/*
 * Connection tracking, shared by fw_ct.c and fw_walk.c only.
 */
#ifndef SLUICE_MIDDLEBOX_FW_CT_H
#define SLUICE_MIDDLEBOX_FW_CT_H

#include "common/span.h"
#include "middlebox/fw_int.h"
#include "middlebox/fw_nl.h"

/* The message that deletes one entry, and where its values go. */
struct fw_ct_tmpl {
	uint8_t len, src, dst, protocol, sport, dport;
	uint8_t mem[128] __attribute__((aligned(8)));
};

/* Deletions of entries, collected and sent together. One thread's own. */
struct fw_ct_del {
	struct fw_nl nl;
	struct fw_ct_tmpl tmpl[2]; /* of IPv4, of IPv6 */
	uint8_t *mem;
	size_t len, cap;
	unsigned unread; /* sent since the answers were read */
	bool quiet;	 /* the kernel queues no answers for absent entries */
	uint64_t total;
	int error; /* errno of the last deletion that failed; whoever logs it sets it to 0 */
};

/* 0 or a negative errno. */
int fw_ct_del_open(struct fw_ct_del *d);
void fw_ct_del_close(struct fw_ct_del *d);
/* The entry that has this tuple, in either direction; sends when much was collected. */
void fw_ct_del_put(struct fw_ct_del *d, uint8_t protocol, const struct addr_port *src,
		   const struct addr_port *dst);
/* When it returns the entries are gone. */
void fw_ct_del_flush(struct fw_ct_del *d);

struct fw_tuple {
	uint8_t protocol;
	struct addr_port src, dst;
};

typedef void (*fw_ct_entry_fn)(const struct fw_tuple *orig, const struct fw_tuple *reply,
			       void *arg);

#define FW_CT_FILE "/proc/thread-self/net/nf_conntrack"

/*
 * Calls fn for every UDP and TCP entry in the file. 0; ERR_UNSUPPORTED: there is no
 * such file; ERR_TOOBIG: it has more entries than a file tells reliably; or
 * ERR_MALFORMED. After an error fn may have been called for some of them.
 */
int fw_ct_file_each(const char *path, fw_ct_entry_fn fn, void *arg);
/* One line. 0, ERR_NOENT: of another protocol, or ERR_MALFORMED. */
int fw_ct_line(struct span line, struct fw_tuple *orig, struct fw_tuple *reply);

/*
 * A walk over all entries that deletes those of some wildcard matches (rule e).
 * It may take the kernel ten milliseconds and more, so a thread does it, which
 * touches nothing but its struct fw_walk, and does not log.
 */
#define FW_WALK_OPS 256u /* matches that one walk serves: bounds the work per entry */

struct fw_walk;

struct fw_walk_end {
	int err;	   /* 0 or a negative errno: some entries may still be there */
	unsigned features; /* that are left of those of fw_walk_new() */
	uint64_t deleted;  /* entries */
	int del_error;	   /* errno of a deletion, or 0 */
};

/*
 * features: FW_FEATURE_LATE_DUMP and FW_FEATURE_CT_FILE to try; a walk gives up
 * what this kernel does not have. NULL: no memory, no descriptor.
 */
struct fw_walk *fw_walk_new(unsigned features);
/* Ends a walk that is going on. NULL is fine. */
void fw_walk_free(struct fw_walk *w);
/*
 * Begins a walk for the matches and bindings of op[n], n <= FW_WALK_OPS, copying
 * them. One at a time: the next one after fw_walk_ended().
 */
void fw_walk_start(struct fw_walk *w, const struct fw_op *const *op, size_t n);
/* Readable when a walk has ended. */
int fw_walk_fd(const struct fw_walk *w);
/* True once for every walk that has ended. */
bool fw_walk_ended(struct fw_walk *w, struct fw_walk_end *out);

#endif
