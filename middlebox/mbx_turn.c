/*
 * The turn of the loop: one commit at its end, sliced work in the next one, and
 * what happens when the kernel's tables come and go.
 */
#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/mbx_int.h"

#define RETRY_MS 1000u

/* The work timer wakes us for the next turn's work, or when the core has something to do. */
static void arm_work(struct mbx *m)
{
	uint64_t due = core_deadline(m->core), now = loop_now_ms(m->loop);

	if (m->work_soon)
		return;
	if (m->lost || due == UINT64_MAX)
		loop_timer_clear(m->work);
	else
		loop_timer_set(m->work, due > now ? due - now : 0);
}

void mbx_work_soon(struct mbx *m)
{
	if (m->work_soon)
		return;
	m->work_soon = true;
	loop_timer_set(m->work, 0);
}

void mbx_commit_now(struct mbx *m)
{
	core_commit(m->core, loop_now_ms(m->loop));
}

static void on_turn_end(void *arg)
{
	struct mbx *m = arg;

	m->commit_deferred = false;
	mbx_commit_now(m);
	mbx_conn_flush_dirty(m);
	m->turn_requests = 0;
	if (!m->lost && fw_work(m->fw))
		mbx_work_soon(m);
	arm_work(m);
}

void mbx_defer_commit(struct mbx *m)
{
	if (m->commit_deferred)
		return;
	m->commit_deferred = true;
	if (loop_defer(m->loop, on_turn_end, m) != 0)
		on_turn_end(m); /* no memory to batch: a commit of its own */
}

/* One slice of everything that takes longer than a turn may. */
static void on_work(void *arg)
{
	struct mbx *m = arg;
	uint64_t now = loop_now_ms(m->loop);
	bool more = false;

	m->work_soon = false;
	if (!m->lost) {
		if (m->restoring || core_unconfirmed(m->core)) {
			more = core_restore(m->core, now);
			if (!more)
				log_info("firewall: all rules are %s the kernel",
					 m->restoring ? "back in" : "confirmed by");
			m->restoring = m->restoring && more;
		}
		if (core_deadline(m->core) <= now)
			more = core_tick(m->core, now) || more;
	}
	if (more)
		mbx_work_soon(m);
	mbx_conn_feed_waiting(m);
	mbx_defer_commit(m);
}

/* ---- The kernel's tables ---------------------------------------------------------------- */

static void reinstall(void *arg)
{
	struct mbx *m = arg;
	int rc = fw_reinstall(m->fw);

	if (rc != 0) {
		log_err("firewall: cannot install the tables again: %s", err_str(rc));
		loop_timer_set(m->retry, RETRY_MS);
		return;
	}
	m->lost = false;
	m->restoring = true;
	mbx_work_soon(m);
}

static void on_fw_lost(void *arg)
{
	struct mbx *m = arg;

	if (m->lost)
		return;
	log_warn("firewall: another process removed our tables, installing them again");
	m->lost = true;
	loop_timer_set(m->retry, 0);
}

static void on_fw_readable(unsigned events, void *arg)
{
	struct mbx *m = arg;

	(void)events;
	fw_poll(m->fw);
}

int mbx_turn_open(struct mbx *m)
{
	int fds[2];
	size_t n = fw_fds(m->fw, fds);

	m->work = loop_timer_new(m->loop, on_work, m);
	m->retry = loop_timer_new(m->loop, reinstall, m);
	if (m->work == NULL || m->retry == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < n && i < ARRAY_LEN(m->fw_io); i++) {
		m->fw_io[i] = loop_io_new(m->loop, fds[i], LOOP_READ, on_fw_readable, m);
		if (m->fw_io[i] == NULL)
			return ERR_NOMEM;
	}
	fw_on_lost(m->fw, on_fw_lost, m);
	if (core_unconfirmed(m->core))
		mbx_work_soon(m);
	return 0;
}

void mbx_turn_close(struct mbx *m)
{
	for (size_t i = 0; i < ARRAY_LEN(m->fw_io); i++)
		loop_io_free(m->fw_io[i]);
	loop_undefer(m->loop, on_turn_end, m);
	loop_timer_free(m->work);
	loop_timer_free(m->retry);
}
