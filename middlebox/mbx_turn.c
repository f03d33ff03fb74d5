/*
 * The turn of the loop: one commit at its end, sliced work in the next one, and
 * what happens when the kernel's tables come and go.
 */
#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/mbx_int.h"

#define RETRY_MS 1000u

/* The work timer wakes us when the core has something to do. */
static void arm_work(struct mbx *m)
{
	uint64_t due = core_deadline(m->core), now = loop_now_ms(m->loop);

	if (m->core_job.link != NULL)
		return;
	if (m->lost || due == UINT64_MAX)
		loop_timer_clear(m->work);
	else
		loop_timer_set(m->work, due > now ? due - now : 0);
}

void mbx_work_soon(struct mbx *m)
{
	loop_job_queue(&m->core_job);
}

void mbx_commit_now(struct mbx *m)
{
	core_commit(m->core, loop_now_ms(m->loop));
}

/* ---- How much a turn takes ----------------------------------------------------------- */

/* The clock is asked only in turns with so many requests, which pay for it easily. */
#define BUSY MBX_TURN_MIN

void mbx_turn_count(struct mbx *m, unsigned units)
{
	m->turn_requests += units;
	if (units == 1 && m->turn_requests >= BUSY && m->turn_cpu == 0)
		m->turn_cpu = loop_cpu_ns();
}

bool mbx_turn_full(const struct mbx *m)
{
	return m->turn_requests >= m->turn_max;
}

/*
 * Fewer at once after a long turn, but at least half, for it may have been long
 * by chance; more, slowly, after a short one that was full.
 */
static void pace(struct mbx *m)
{
	uint64_t ns;

	if (m->turn_cpu == 0)
		return;
	ns = loop_cpu_ns() - m->turn_cpu;
	m->turn_cpu = 0;
	if (ns > 2 * MBX_TURN_NS)
		m->turn_max /= 2;
	else if (ns > MBX_TURN_NS)
		m->turn_max = (unsigned)(m->turn_max * (uint64_t)MBX_TURN_NS / ns);
	else if (ns < MBX_TURN_NS * 3 / 4 && mbx_turn_full(m))
		m->turn_max++;
	if (m->turn_max < MBX_TURN_MIN)
		m->turn_max = MBX_TURN_MIN;
	if (m->turn_max > MBX_TURN_MAX)
		m->turn_max = MBX_TURN_MAX;
}

static void on_turn_end(void *arg)
{
	struct mbx *m = arg;

	m->commit_deferred = false;
	mbx_commit_now(m);
	mbx_conn_flush_dirty(m);
	pace(m);
	m->turn_had_its = mbx_turn_full(m) && !m->fed;
	m->fed = false;
	m->turn_requests = 0;
	if (m->waiting != NULL)
		loop_job_queue(&m->feed_job);
	if (!m->lost)
		loop_job_queue(&m->fw_job);
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

/* ---- Long work, a slice in a turn ---------------------------------------------------- */

static void on_work(void *arg)
{
	mbx_work_soon(arg);
}

static bool core_slice(void *arg)
{
	struct mbx *m = arg;
	uint64_t now = loop_now_ms(m->loop);
	bool more = false;

	if (m->lost)
		return false;
	if (m->restoring || core_unconfirmed(m->core)) {
		more = core_restore(m->core, now);
		if (!more)
			log_info("firewall: all rules are %s the kernel",
				 m->restoring ? "back in" : "confirmed by");
		m->restoring = m->restoring && more;
	}
	if (core_deadline(m->core) <= now)
		more = core_tick(m->core, now) || more;
	if (more)
		mbx_work_soon(m);
	mbx_defer_commit(m);
	return true;
}

/* Sessions in bulk are long work, too: what others asked in this turn is answered by now. */
static bool feed(void *arg)
{
	struct mbx *m = arg;

	if (m->turn_had_its) { /* one share a turn: the next one feeds them */
		m->turn_had_its = false;
		loop_job_queue(&m->feed_job);
	} else {
		m->fed = true;
		mbx_conn_feed_waiting(m);
	}
	return true;
}

static bool fw_slice(void *arg)
{
	struct mbx *m = arg;
	bool more = !m->lost && fw_work(m->fw);

	if (more)
		loop_job_queue(&m->fw_job);
	return more;
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

	loop_job_init(&m->core_job, m->loop, core_slice, m);
	loop_job_init(&m->fw_job, m->loop, fw_slice, m);
	loop_job_init(&m->feed_job, m->loop, feed, m);
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
	loop_job_cancel(&m->core_job);
	loop_job_cancel(&m->fw_job);
	loop_job_cancel(&m->feed_job);
	loop_job_cancel(&m->end_job);
	loop_timer_free(m->work);
	loop_timer_free(m->retry);
}
