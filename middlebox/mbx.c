/*
 * The middlebox's context: start and end.
 */
#include "middlebox/mbx.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/notify.h"
#include "middlebox/mbx_int.h"

#define END_POLL_MS 10u
#define END_POLLS 50u

/* ---- Core callbacks ------------------------------------------------------------------------ */

static void on_core_reply(void *arg, void *session, struct simco_msg *reply)
{
	(void)arg;
	mbx_conn_reply(session, reply);
}

static void on_core_event(void *arg, void *session, uint32_t pid, uint32_t lifetime,
			  uint32_t reason)
{
	(void)arg;
	mbx_conn_event(session, pid, lifetime, reason);
}

static const struct core_ops core_callbacks = {
	.reply = on_core_reply,
	.event = on_core_event,
};

/* ---- Start ------------------------------------------------------------------------------------
 */

void mbx_warn(const char *text, void *arg)
{
	(void)arg;
	log_warn("start: %s", text);
}

static void warn_foreign(const char *text, void *arg)
{
	(void)arg;
	log_warn("start: media must also be accepted by: %s", text);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* This boot of the kernel: the ledger of another one speaks of tables that are gone. */
static void read_boot_id(uint8_t id[16])
{
	char text[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	size_t at = 0;

	memset(id, 0, 16);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		log_warn("start: cannot read the boot id, rules of an earlier run are not kept");
	if (fd >= 0)
		close(fd);
	for (const char *p = text; *p != '\0' && at < 32; p++) {
		int v = hex_digit(*p);

		if (v < 0)
			continue;
		id[at / 2] = (uint8_t)(id[at / 2] << 4 | v);
		at++;
	}
}

static int open_fw(struct mbx *m)
{
	struct mbx_policy *p = m->policy;
	bool adopt;
	int err = 0;

	/* Sockets are open already: a second daemon by mistake never gets here. */
	p->fw.force_off = m->opts.fw_force_off;
	p->fw.omit = m->opts.fw_omit;
	read_boot_id(p->core.boot_id);
	adopt = core_ledger_usable(p->ledger, p->core.boot_id);
	m->adopted = adopt;
	m->fw = (m->opts.fw_open != NULL ? m->opts.fw_open : fw_open)(&p->fw, adopt, &err);
	if (m->fw == NULL) {
		log_err("start: cannot open the firewall: %s", err_str(err));
		return err;
	}
	m->core = core_new(&p->core, m->fw, &core_callbacks, m, loop_now_ms(m->loop));
	if (m->core == NULL)
		return ERR_IO;
	if (adopt)
		log_info("start: took over %llu rules of the run before",
			 (unsigned long long)core_stats(m->core).rules);
	return mbx_turn_open(m);
}

int mbx_open_tls(const struct mbx_policy *p, struct tls_ctx **out, char *why, size_t size)
{
	struct tls_files files = {.certificate = p->simco.tls.certificate,
				  .key = p->simco.tls.key,
				  .ca = p->simco.tls.ca};
	int err = 0;

	*out = NULL;
	if (p->simco.tls.present)
		*out = tls_ctx_server_new(&files, &err, why, size);
	return *out != NULL ? 0 : err;
}

static int open_tls(struct mbx *m)
{
	char why[256];
	int err = mbx_open_tls(m->policy, &m->tls, why, sizeof(why));

	if (err != 0)
		log_err("simco.tls: %s", why);
	return err;
}

static int open_listeners(struct mbx *m)
{
	const struct addr_port *at = m->policy->simco.listen.v;
	size_t n = m->policy->simco.listen.n;
	char text[ADDR_PORT_STRLEN];
	int err = ERR_NOMEM;

	m->listeners = calloc(n, sizeof(struct stream_listener *));
	for (size_t i = 0; m->listeners != NULL && i < n; i++) {
		m->listeners[i] = stream_listen(m->loop, &at[i], false, mbx_conn_accept, m, &err);
		if (m->listeners[i] == NULL) {
			log_err("simco: cannot listen on %s: %s", addr_port_str(&at[i], text),
				err_str(err));
			return err;
		}
		m->n_listeners++;
	}
	m->listening = true;
	return m->listeners != NULL ? 0 : ERR_NOMEM;
}

/* The token without white space around it; NULL with *err set when it cannot be read. */
static char *read_token(const char *file, int *err)
{
	char text[1024];
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	struct span s = n > 0 ? span_trim(span_of(text, (size_t)n)) : SPAN_EMPTY;

	if (fd >= 0)
		close(fd);
	*err = ERR_INVALID;
	if (s.n < 8 || n == (ssize_t)sizeof(text)) {
		log_err("rest: cannot read a token of 8 to 1023 octets from %s", file);
		return NULL;
	}
	*err = ERR_NOMEM;
	return span_dup(s);
}

static int open_rest(struct mbx *m)
{
	const struct mbx_policy *p = m->policy;
	struct rest_conf conf = {.listen = p->rest.listen.v,
				 .n_listen = p->rest.listen.n,
				 .open_loopback = p->rest.open_loopback};
	char *token = NULL;
	int err = 0;

	if (p->rest.token_file != NULL) {
		token = read_token(p->rest.token_file, &err);
		if (token == NULL)
			return err;
		conf.token = token;
	}
	m->rest = rest_new(m->loop, &conf, mbx_routes, m);
	if (token != NULL)
		explicit_bzero(token, strlen(token));
	free(token);
	return m->rest != NULL ? 0 : ERR_IO;
}

static void on_watchdog(void *arg)
{
	struct mbx *m = arg;

	notify_watchdog();
	loop_timer_set(m->watchdog, notify_watchdog_ms() / 2);
}

static int open_watchdog(struct mbx *m)
{
	m->watchdog = loop_timer_new(m->loop, on_watchdog, m);
	if (m->watchdog == NULL)
		return ERR_NOMEM;
	if (notify_watchdog_ms() > 0)
		loop_timer_set(m->watchdog, notify_watchdog_ms() / 2);
	return 0;
}

static void destroy(struct mbx *m, bool remove_table, bool remove_ledger)
{
	for (size_t i = 0; i < m->n_listeners; i++)
		stream_listener_free(m->listeners[i]);
	m->n_listeners = 0;
	free(m->listeners);
	while (m->conns != NULL)
		mbx_conn_free(m->conns);
	rest_free(m->rest);
	mbx_reload_stop(m);
	mbx_turn_close(m);
	loop_timer_free(m->watchdog);
	loop_timer_free(m->ending);
	if (m->core != NULL)
		core_free(m->core);
	fw_close(m->fw, remove_table);
	if (remove_ledger)
		unlink(m->policy->ledger);
	tls_ctx_unref(m->tls);
	mbx_policy_free(m->policy);
	free(m);
}

struct mbx *mbx_new(struct loop *l, struct mbx_policy *policy, const struct mbx_opts *opts)
{
	struct mbx *m = calloc(1, sizeof(*m));

	if (m == NULL) {
		mbx_policy_free(policy);
		return NULL;
	}
	m->loop = l;
	m->policy = policy;
	m->opts = *opts;
	m->waiting_tail = m->unserved_tail = &m->waiting;
	m->dying_tail = &m->dying;
	m->turn_max = MBX_TURN_MAX / 4;
	loop_job_init(&m->end_job, l, mbx_conn_end_some, m);
	m->started_ms = loop_now_ms(l);
	log_set_level((enum log_level)policy->log.level);
	log_set_format((enum log_format)policy->log.format);
	mbx_policy_warnings(policy, mbx_warn, NULL);
	if (open_tls(m) != 0 || open_watchdog(m) != 0 || open_rest(m) != 0 ||
	    open_listeners(m) != 0 || open_fw(m) != 0) {
		/* A table of this failed start goes; one with live rules stays. */
		destroy(m, !m->adopted, false);
		return NULL;
	}
	fw_foreign_drops(m->fw, warn_foreign, NULL);
	mbx_defer_commit(m);
	return m;
}

struct addr_port mbx_simco_local(const struct mbx *m, size_t i)
{
	return stream_listener_local(m->listeners[i]);
}

/* ---- End
 * -------------------------------------------------------------------------------------------- */

static void on_ending(void *arg)
{
	struct mbx *m = arg;

	if (m->n_conns > 0 && ++m->ending_polls < END_POLLS)
		loop_timer_set(m->ending, END_POLL_MS);
	else
		m->done(m->done_arg);
}

void mbx_shutdown(struct mbx *m, loop_fn done, void *arg)
{
	if (m->done != NULL)
		return;
	notify_stopping();
	m->done = done;
	m->done_arg = arg;
	mbx_conn_throttle(m);
	mbx_commit_now(m);
	for (struct mbx_conn *c = m->conns; c != NULL; c = c->next)
		mbx_conn_terminate(c, "the middlebox ends");
	m->ending = loop_timer_new(m->loop, on_ending, m);
	if (m->ending != NULL)
		loop_timer_set(m->ending, END_POLL_MS);
	else
		done(arg);
}

void mbx_free(struct mbx *m, bool remove)
{
	if (m != NULL)
		destroy(m, remove, remove);
}
