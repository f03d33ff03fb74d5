/*
 * SIGHUP. Reading and checking a large policy takes tens of milliseconds, and so
 * does freeing one; certificates take one, too: a thread does all that, the loop
 * only swaps. The thread touches nothing but what it is given.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/thread.h"
#include "middlebox/mbx_int.h"

static void note_key(const char *key, void *arg)
{
	(void)arg;
	log_err("reload: %s needs a restart", key);
}

static int swap(struct mbx *m, struct mbx_policy *p)
{
	struct mbx_policy *old = m->policy;
	int rc;

	p->fw.force_off = old->fw.force_off;
	p->fw.omit = old->fw.omit;
	memcpy(p->core.boot_id, old->core.boot_id, sizeof(p->core.boot_id));
	rc = fw_reconfigure(m->fw, &p->fw);
	if (rc == 0) {
		rc = core_reconfigure(m->core, &p->core);
		if (rc != 0 && fw_reconfigure(m->fw, &old->fw) != 0)
			log_err("reload: the firewall keeps the new permits and pools");
	}
	if (rc != 0)
		return rc;
	m->reload.old_tls = m->tls;
	m->tls = m->reload.tls;
	m->reload.tls = NULL;
	m->policy = p;
	m->reload.old = old;
	return 0;
}

/* Live sessions keep their terms, unless their agent is gone. */
static void drop_strangers(struct mbx *m)
{
	struct mbx_conn *next;

	for (struct mbx_conn *c = m->conns; c != NULL; c = next) {
		next = c->next;
		if (c->joined && mbx_policy_agent(m->policy, c->agent) == NULL)
			mbx_conn_terminate(c, "the agent is not in the policy any more");
	}
}

static int take(struct mbx *m, struct mbx_policy *p)
{
	int rc = 0;

	if (conf_restart_keys(mbx_policy_schema(), m->policy, p, note_key, NULL) > 0)
		return ERR_INVALID;
	mbx_commit_now(m); /* nothing is pending when the terms change */
	rc = swap(m, p);
	if (rc != 0)
		return rc;
	log_set_level((enum log_level)p->log.level);
	log_set_format((enum log_format)p->log.format);
	drop_strangers(m);
	mbx_policy_warnings(p, mbx_warn, NULL);
	return 0;
}

/* What was read comes into force, or the old policy stays and the log says why. */
static int finish(struct mbx *m)
{
	struct mbx_reload *r = &m->reload;
	int rc = r->rc;

	if (rc == 0)
		rc = take(m, r->policy);
	else if (r->why[0] != '\0')
		log_err("simco.tls: %s", r->why);
	else
		conf_errors_print(&r->errs, stderr);
	conf_errors_fini(&r->errs);
	if (rc == 0) {
		log_info("reload: %s is in force", m->opts.file);
	} else {
		r->old = r->policy; /* to be freed */
		r->old_tls = r->tls;
		log_err("reload: %s: %s; the old policy stays", m->opts.file, err_str(rc));
	}
	r->policy = NULL;
	r->tls = NULL;
	mbx_defer_commit(m);
	notify_ready("serving");
	return rc;
}

static void load(struct mbx_reload *r)
{
	memset(&r->errs, 0, sizeof(r->errs));
	r->why[0] = '\0';
	r->rc = mbx_policy_load(r->file, &r->policy, &r->errs);
	if (r->rc == 0)
		r->rc = mbx_open_tls(r->policy, &r->tls, r->why, sizeof(r->why));
}

static void discard(struct mbx_reload *r)
{
	mbx_policy_free(r->old);
	tls_ctx_unref(r->old_tls);
	r->old = NULL;
	r->old_tls = NULL;
}

int mbx_reload(struct mbx *m)
{
	int rc;

	mbx_reload_stop(m);
	notify_reloading();
	m->reload.file = m->opts.file;
	load(&m->reload);
	rc = finish(m);
	discard(&m->reload);
	return rc;
}

/* ---- Aside --------------------------------------------------------------------------- */

static void *in_thread(void *arg)
{
	struct mbx_reload *r = arg;

	if (r->old != NULL)
		discard(r);
	else
		load(r);
	thread_ring(r->fd);
	return NULL;
}

static int spawn(struct mbx_reload *r)
{
	int err = thread_start(&r->thread, in_thread, r);

	r->running = err == 0;
	return err;
}

static void start_load(struct mbx *m)
{
	m->reload.again = false;
	m->reload.file = m->opts.file;
	notify_reloading();
	if (spawn(&m->reload) != 0)
		mbx_reload(m);
}

/* The thread has ended: after loading the old policy is freed, and then the next load begins. */
static void on_thread_end(unsigned events, void *arg)
{
	struct mbx *m = arg;
	struct mbx_reload *r = &m->reload;
	uint64_t n;
	bool loaded;

	(void)events;
	if (read(r->fd, &n, sizeof(n)) < 0 || !r->running)
		return;
	pthread_join(r->thread, NULL);
	r->running = false;
	loaded = r->policy != NULL || r->rc != 0;
	if (loaded) {
		finish(m);
		r->rc = 0;
	}
	if (r->old != NULL) {
		if (spawn(r) != 0)
			discard(r);
		else
			return;
	}
	if (r->again)
		start_load(m);
}

static int open_thread_end(struct mbx *m)
{
	struct mbx_reload *r = &m->reload;

	if (r->io != NULL)
		return 0;
	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->fd < 0)
		return ERR_IO;
	r->io = loop_io_new(m->loop, r->fd, LOOP_READ, on_thread_end, m);
	if (r->io == NULL)
		close(r->fd);
	return r->io != NULL ? 0 : ERR_NOMEM;
}

void mbx_reload_start(struct mbx *m)
{
	if (m->reload.running)
		m->reload.again = true;
	else if (open_thread_end(m) != 0)
		mbx_reload(m);
	else
		start_load(m);
}

void mbx_reload_stop(struct mbx *m)
{
	struct mbx_reload *r = &m->reload;

	if (r->running) {
		pthread_join(r->thread, NULL);
		r->running = false;
		if (r->rc != 0 || r->policy != NULL)
			conf_errors_fini(&r->errs);
		mbx_policy_free(r->policy);
		tls_ctx_unref(r->tls);
		r->policy = NULL;
		r->tls = NULL;
		r->rc = 0;
	}
	discard(r);
	r->again = false;
	if (r->io == NULL)
		return;
	loop_io_free(r->io);
	close(r->fd);
	r->io = NULL;
}
