/*
 * The driver boundary: every function of fw.h goes to the driver that opened
 * the handle. Knows no driver.
 */
#include "middlebox/fw.h"

#include "middlebox/fw_int.h"

int fw_reconfigure(struct fw *fw, const struct fw_config *cfg)
{
	return fw->ops->reconfigure(fw, cfg);
}

void fw_close(struct fw *fw, bool remove)
{
	if (fw)
		fw->ops->close(fw, remove);
}

void fw_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn)
{
	fw->ops->commit(fw, ops, n, result, n_txn);
}

int fw_counters(struct fw *fw, const struct fw_match *m, uint64_t *packets, uint64_t *octets)
{
	return fw->ops->counters(fw, m, packets, octets);
}

int fw_audit(struct fw *fw, const struct fw_op *op, uint64_t *remaining_ms)
{
	return fw->ops->audit(fw, op, remaining_ms);
}

bool fw_quarantined(struct fw *fw, uint8_t protocol, const struct addr_port *outside)
{
	return fw->ops->quarantined(fw, protocol, outside);
}

size_t fw_fds(const struct fw *fw, int fds[2])
{
	return fw->ops->fds(fw, fds);
}

void fw_poll(struct fw *fw)
{
	fw->ops->poll(fw);
}

bool fw_work(struct fw *fw)
{
	return fw->ops->work(fw);
}

void fw_on_lost(struct fw *fw, fw_lost_fn fn, void *arg)
{
	fw->ops->on_lost(fw, fn, arg);
}

int fw_reinstall(struct fw *fw)
{
	return fw->ops->reinstall(fw);
}

unsigned fw_features(const struct fw *fw)
{
	return fw->ops->features(fw);
}

struct fw_stats fw_stats(const struct fw *fw)
{
	return fw->ops->stats(fw);
}

void fw_foreign_drops(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg)
{
	fw->ops->foreign_drops(fw, fn, arg);
}

bool fw_kept(const struct fw *fw)
{
	return fw->kept;
}
