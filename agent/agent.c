/*
 * The agent's context: what is built in which order, replaced on reload, and
 * wound up at the end.
 */
#include "agent/agent.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent_rest.h"
#include "agent/bindings.h"
#include "agent/mb_client.h"
#include "agent/rtsp/rtsp.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/notify.h"

#define STOP_MS 5000
#define STOP_POLL_MS 20
#define TOKEN_MAX 1024

struct path_state agent_path_state(const struct agent *a, const struct path *path,
				   uint8_t ip_version)
{
	struct path_state st = {.up = true};

	for (unsigned i = 0; i < path->n_middleboxes; i++) {
		const char *name = path->middlebox[i]->name;
		const struct mb_client *mb = mb_clients_find(a->middleboxes, name);

		if (!mb || !mb_client_is_open(mb)) {
			st.up = false;
			if (!st.down)
				st.down = name;
		}
		if (mb && mb_client_translates(mb, ip_version))
			st.translates = true;
	}
	return st;
}

/* 0, or ERR_* after logging; *token stays NULL without a file. */
static int read_token(const char *file, char **token)
{
	char text[TOKEN_MAX + 1];
	struct span s;
	ssize_t n;
	int fd;

	if (!file)
		return 0;
	fd = open(file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	if (n < 0 || n > TOKEN_MAX) {
		log_err("rest: cannot read %s", file);
		return ERR_IO;
	}
	s = span_trim(span_of(text, (size_t)n));
	if (s.n < 16) {
		log_err("rest: the token in %s has fewer than 16 octets", file);
		return ERR_INVALID;
	}
	*token = span_dup(s);
	return *token ? 0 : ERR_NOMEM;
}

static int open_rest(struct agent *a)
{
	const struct policy *p = a->policy;
	struct rest_conf conf = {
		.listen = p->rest.listen.v,
		.n_listen = p->rest.listen.n,
		.open_loopback = p->rest.open_loopback,
	};
	int err;

	if (!conf.n_listen)
		return 0;
	err = read_token(p->rest.token_file, &a->rest_token);
	if (err)
		return err;
	conf.token = a->rest_token;
	a->rest = rest_new(a->loop, &conf, agent_routes, a);
	return a->rest ? 0 : ERR_IO;
}

static void apply_log(const struct policy *p)
{
	log_set_level((enum log_level)p->log.level);
	log_set_format((enum log_format)p->log.format);
}

struct agent *agent_new(struct loop *l, struct policy *policy)
{
	struct agent *a = calloc(1, sizeof(*a));

	if (!a) {
		policy_free(policy);
		return NULL;
	}
	a->loop = l;
	a->policy = policy;
	a->started_ms = loop_now_ms(l);
	apply_log(policy);
	a->middleboxes = mb_clients_new(l, policy, NULL);
	if (a->middleboxes)
		a->bindings = bindings_new(l, a->middleboxes, policy);
	if (a->bindings)
		a->rtsp = rtsp_new(a);
	if (a->rtsp && !open_rest(a))
		return a;
	log_err("agent: cannot start");
	agent_free(a);
	return NULL;
}

/* ---- reload ---------------------------------------------------------------------- */

static void forget_old_policies(struct agent *a)
{
	struct old_policy *old;

	while ((old = a->old)) {
		a->old = old->next;
		policy_free(old->policy);
		free(old);
	}
}

static void log_errors(const struct conf_errors *errs)
{
	char key[2 * sizeof(errs->v->key)];

	for (size_t i = 0; i < errs->n; i++)
		log_err("%s:%u:%u: %s: %s", errs->file ? errs->file : "policy", errs->v[i].line,
			errs->v[i].column, log_escape(span_str(errs->v[i].key), key, sizeof(key)),
			errs->v[i].text);
}

static void needs_restart(const char *key, void *arg)
{
	(void)arg;
	log_err("reload: a change of %s needs a restart", key);
}

/* Swaps every part over, or none. */
static int swap_policy(struct agent *a, struct policy *fresh)
{
	struct policy *before = a->policy;
	int err;

	a->policy = fresh;
	err = rtsp_reload(a->rtsp);
	if (!err)
		err = mb_clients_reload(a->middleboxes, fresh);
	if (err) {
		a->policy = before;
		(void)rtsp_reload(a->rtsp);
		return err;
	}
	bindings_set_policy(a->bindings, fresh);
	apply_log(fresh);
	return 0;
}

static int take_policy(struct agent *a, struct policy *fresh)
{
	struct old_policy *old;
	int err;

	if (conf_restart_keys(policy_schema(), a->policy, fresh, needs_restart, NULL))
		return ERR_INVALID;
	old = calloc(1, sizeof(*old));
	if (!old)
		return ERR_NOMEM;
	*old = (struct old_policy){.policy = a->policy, .next = a->old};
	err = swap_policy(a, fresh);
	if (err) {
		free(old);
		return err;
	}
	a->old = old;
	/* Nobody is left who could point into a policy of before. */
	if (!bindings_count(a->bindings) && !rtsp_n_sessions(a->rtsp) &&
	    !rtsp_n_connections(a->rtsp))
		forget_old_policies(a);
	return 0;
}

void agent_reload(struct agent *a, const char *file)
{
	struct conf_errors errs = {.n = 0};
	struct policy *fresh = NULL;
	int err;

	if (a->stopping)
		return;
	notify_reloading();
	err = policy_load(file, &fresh, &errs);
	log_errors(&errs);
	conf_errors_fini(&errs);
	if (!err) {
		err = take_policy(a, fresh);
		if (err)
			policy_free(fresh);
	}
	if (err) {
		a->refused_reloads++;
		log_err("reload: %s refused (%s), the policy stays as it was", file, err_str(err));
	} else {
		a->reloads++;
		log_info("reload: %s in force", file);
	}
	notify_ready(err ? "reload refused, see the log" : "policy reloaded");
}

/* ---- end ---------------------------------------------------------------------------- */

/* The pinholes are closed when every binding has gone. */
static void look_whether_stopped(void *arg)
{
	struct agent *a = arg;

	if ((a->sessions_done && !bindings_count(a->bindings)) ||
	    loop_now_ms(a->loop) >= a->stop_ms)
		a->stopped(a->stopped_arg);
	else
		loop_timer_set(a->stop_timer, STOP_POLL_MS);
}

static void on_sessions_done(void *arg)
{
	struct agent *a = arg;

	a->sessions_done = true;
}

void agent_shutdown(struct agent *a, loop_fn done, void *arg)
{
	if (a->stopping)
		return;
	a->stopping = true;
	a->stopped = done;
	a->stopped_arg = arg;
	a->stop_ms = loop_now_ms(a->loop) + STOP_MS;
	notify_stopping();
	a->stop_timer = loop_timer_new(a->loop, look_whether_stopped, a);
	if (!a->stop_timer) {
		done(arg);
		return;
	}
	log_info("agent: ending %zu sessions", rtsp_n_sessions(a->rtsp));
	rtsp_shutdown(a->rtsp, on_sessions_done, a);
	loop_timer_set(a->stop_timer, STOP_POLL_MS);
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	loop_timer_free(a->stop_timer);
	rest_free(a->rest);
	if (a->rtsp)
		rtsp_free(a->rtsp);
	bindings_free(a->bindings);
	mb_clients_free(a->middleboxes);
	forget_old_policies(a);
	policy_free(a->policy);
	if (a->rest_token)
		explicit_bzero(a->rest_token, strlen(a->rest_token));
	free(a->rest_token);
	free(a);
}
