/*
 * The nftables driver's life: opening, reading, watching for others who touch
 * the table, closing.
 */
#include "middlebox/fw_nft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/errcode.h"
#include "common/log.h"

#define OWNER_WAIT_MS 1000 /* for the predecessor's socket to go */

uint64_t fw_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int reconfigure(struct fw *fw, const struct fw_config *cfg)
{
	struct fw_nft *f = fw_nft_of(fw);
	const struct fw_config *old = f->cfg;
	int err;

	if (strcmp(cfg->table, old->table) != 0 || cfg->nat != old->nat ||
	    cfg->counters != old->counters || cfg->max_elements > old->max_elements) {
		log_err("fw: table name, NAT mode, counters and more rules need a restart");
		return ERR_UNSUPPORTED;
	}
	f->cfg = cfg;
	if (fw_config_same(cfg, old))
		return 0;
	err = fw_layout_install(f, true);
	if (err)
		f->cfg = old;
	return err;
}

static void free_all(struct fw_nft *f)
{
	fw_ct_free(f->ct);
	fw_commit_free(f);
	fw_batch_fini(&f->batch);
	fw_nl_close(&f->watch);
	fw_nl_close(&f->nl);
	free(f);
}

static void close_nft(struct fw *fw, bool remove)
{
	struct fw_nft *f = fw_nft_of(fw);

	if (remove)
		fw_layout_remove(f);
	free_all(f);
}

/*
 * Asks for every element of an operation: per protocol one of a match, two or
 * four of a binding. Counters are added up, the shortest remaining time counts.
 * 0 or ERR_*.
 */
static int get(struct fw *fw, const struct fw_op *op, struct fw_elem_state *out)
{
	struct fw_nft *f = fw_nft_of(fw);
	struct fw_elem elems[FW_OP_ELEMS];
	bool block = op->type == FW_BLOCK;
	int err, n;

	if (op->type == FW_BIND)
		n = fw_binding_elems(f, &op->binding, elems);
	else
		n = fw_match_elems(f, block, &op->match, elems);
	if (n < 0)
		return n;
	*out = (struct fw_elem_state){.remaining_ms = UINT64_MAX};
	for (int i = 0; i < n; i++) {
		struct fw_elem_state state;
		struct fw_match one = op->match;
		struct fw_range *slot;

		one.protocol = elems[i].key[0];
		if (!elems[i].set)
			elems[i].set = fw_range_find(f, block, &one, &slot);
		if (!elems[i].set || elems[i].set->state != FW_SET_PRESENT)
			return ERR_NOENT;
		err = fw_elem_get(&f->nl, &elems[i], &state);
		if (err || !state.found)
			return err ? err : ERR_NOENT;
		if (elems[i].set->map && memcmp(state.data, elems[i].data, FW_DATA_LEN) != 0)
			return ERR_EXIST;
		out->packets += state.packets;
		out->octets += state.octets;
		if (state.remaining_ms < out->remaining_ms)
			out->remaining_ms = state.remaining_ms;
	}
	return 0;
}

static int counters(struct fw *fw, const struct fw_match *m, uint64_t *packets, uint64_t *octets)
{
	struct fw_op op = {.type = FW_OPEN, .match = *m};
	struct fw_elem_state state;
	int err;

	if (!fw_nft_of(fw)->cfg->counters)
		return ERR_UNSUPPORTED;
	err = get(fw, &op, &state);
	if (err)
		return err;
	*packets = state.packets;
	*octets = state.octets;
	return 0;
}

static int audit(struct fw *fw, const struct fw_op *op, uint64_t *remaining_ms)
{
	struct fw_elem_state state;
	int err = get(fw, op, &state);

	if (!err)
		*remaining_ms = state.remaining_ms;
	return err;
}

static bool quarantined(struct fw *fw, uint8_t protocol, const struct addr_port *outside)
{
	return fw_ct_quarantined(fw_nft_of(fw)->ct, protocol, outside);
}

static size_t fds(const struct fw *fw, int out[2])
{
	const struct fw_nft *f = fw_nft_of_const(fw);

	out[0] = fw_ct_fd(f->ct);
	out[1] = f->watch.fd;
	return f->watch.fd < 0 ? 1 : 2;
}

/*
 * Somebody committed something. One question tells whether it was about us:
 * our table, or, after a flush that left it empty, its chains and sets.
 */
static void poll_watch(struct fw_nft *f)
{
	uint8_t in[8192];
	bool something = false;
	ssize_t n;

	if (f->watch.fd < 0)
		return;
	for (;;) {
		n = recv(f->watch.fd, in, sizeof(in), MSG_DONTWAIT);
		if (n < 0 && errno == ENOBUFS)
			f->watch.lost++; /* what was lost may be the one about us */
		else if (n == 0 || (n < 0 && errno != EINTR))
			break;
		something = true;
	}
	if (!something || f->lost || fw_layout_intact(f))
		return;
	f->lost = true;
	log_warn("fw: somebody else removed or flushed table inet %s", f->cfg->table);
	if (f->on_lost)
		f->on_lost(f->on_lost_arg);
}

static void poll_all(struct fw *fw)
{
	struct fw_nft *f = fw_nft_of(fw);

	fw_ct_poll(f->ct);
	poll_watch(f);
}

static bool work(struct fw *fw)
{
	fw_ct_work(fw_nft_of(fw)->ct);
	return false;
}

static void on_lost(struct fw *fw, fw_lost_fn fn, void *arg)
{
	struct fw_nft *f = fw_nft_of(fw);

	f->on_lost = fn;
	f->on_lost_arg = arg;
}

/*
 * Events cost the kernel work for every element that we add, so only the end
 * of a transaction is asked for, and only of others: everything else is
 * filtered before it is queued. An owned table needs no watch at all.
 */
static int watch(struct fw_nft *f)
{
	/* Loads are big-endian, the two fields are in host order. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
			 __builtin_bswap16(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 12),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __builtin_bswap32(f->nl.portid), 1, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};
	int group = NFNLGRP_NFTABLES, err;

	if (f->owned || f->watch.fd >= 0)
		return 0;
	err = fw_nl_open(&f->watch);
	if (err) {
		f->watch.fd = -1;
		log_err("fw: opening netlink: %s", strerror(-err));
		return ERR_KERNEL;
	}
	if (setsockopt(f->watch.fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ||
	    setsockopt(f->watch.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) <
		    0) {
		log_err("fw: subscribing to nftables events: %s", strerror(errno));
		fw_nl_close(&f->watch);
		return ERR_KERNEL;
	}
	return 0;
}

/* A predecessor that was killed owns the table until its socket is gone. */
static int install(struct fw_nft *f, bool adopt)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	uint64_t until = fw_now_ms() + OWNER_WAIT_MS;
	struct fw_table_info info;
	int err;

	for (;;) {
		err = fw_layout_look(f, &info);
		if (err || !info.exists || !info.has_owner || info.orphan || info.mine)
			break;
		if (fw_now_ms() > until) {
			log_err("fw: table inet %s belongs to another process that is running",
				f->cfg->table);
			return ERR_KERNEL;
		}
		nanosleep(&pause, NULL);
	}
	if (!err)
		err = fw_layout_install(f, adopt);
	return err ? err : watch(f);
}

static int reinstall(struct fw *fw)
{
	struct fw_nft *f = fw_nft_of(fw);
	int err = install(f, true);

	if (err)
		return err;
	f->lost = false;
	f->stats.reinstalls++;
	return 0;
}

static unsigned features(const struct fw *fw)
{
	return fw_nft_of_const(fw)->features;
}

static struct fw_stats stats(const struct fw *fw)
{
	const struct fw_nft *f = fw_nft_of_const(fw);
	struct fw_stats s = f->stats;

	s.enobufs = f->nl.lost + f->watch.lost + fw_ct_lost(f->ct);
	s.forgetting = fw_ct_waiting(f->ct);
	return s;
}

static const struct fw_ops nft_ops = {
	.reconfigure = reconfigure,
	.close = close_nft,
	.commit = fw_nft_commit,
	.counters = counters,
	.audit = audit,
	.quarantined = quarantined,
	.fds = fds,
	.poll = poll_all,
	.work = work,
	.on_lost = on_lost,
	.reinstall = reinstall,
	.features = features,
	.stats = stats,
	.foreign_drops = fw_nft_foreign_drops,
};

static int start(struct fw_nft *f, bool adopt)
{
	int err = fw_nl_open(&f->nl);

	if (err) {
		log_err("fw: opening netlink: %s", strerror(-err));
		return ERR_KERNEL;
	}
	fw_batch_init(&f->batch, &f->nl);
	f->features = fw_probe(&f->nl, f->cfg);
	fw_sets_init(f);
	err = fw_commit_new(f);
	if (!err)
		err = fw_ct_new(f);
	if (!err)
		err = install(f, adopt);
	return err;
}

struct fw *fw_open(const struct fw_config *cfg, bool adopt, int *err)
{
	struct fw_nft *f = calloc(1, sizeof(*f));

	if (!f) {
		*err = ERR_NOMEM;
		return NULL;
	}
	f->fw.ops = &nft_ops;
	f->cfg = cfg;
	f->nl.fd = f->watch.fd = -1;
	*err = start(f, adopt);
	if (*err) {
		log_err("fw: table inet %s could not be installed: %s", cfg->table, err_str(*err));
		free_all(f);
		return NULL;
	}
	return &f->fw;
}
