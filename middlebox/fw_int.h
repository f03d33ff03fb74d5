/*
 * What a firewall driver implements. fw.c dispatches the functions of fw.h
 * through this table; a driver embeds struct fw as its first member and sets
 * `ops` when it is opened (fw_open() is the nftables driver's own).
 */
#ifndef SLUICE_MIDDLEBOX_FW_INT_H
#define SLUICE_MIDDLEBOX_FW_INT_H

#include "middlebox/fw.h"

struct fw_ops {
	int (*reconfigure)(struct fw *fw, const struct fw_config *cfg);
	void (*close)(struct fw *fw, bool remove);
	void (*commit)(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn);
	int (*counters)(struct fw *fw, const struct fw_match *m, uint64_t *packets,
			uint64_t *octets);
	int (*audit)(struct fw *fw, const struct fw_op *op, uint64_t *remaining_ms);
	bool (*quarantined)(struct fw *fw, uint8_t protocol, const struct addr_port *outside);
	size_t (*fds)(const struct fw *fw, int fds[2]);
	void (*poll)(struct fw *fw);
	bool (*work)(struct fw *fw);
	void (*on_lost)(struct fw *fw, fw_lost_fn fn, void *arg);
	int (*reinstall)(struct fw *fw);
	unsigned (*features)(const struct fw *fw);
	struct fw_stats (*stats)(const struct fw *fw);
	void (*foreign_drops)(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg);
};

struct fw {
	const struct fw_ops *ops;
	bool kept; /* see fw_kept() */
};

#endif
