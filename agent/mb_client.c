/*
 * The set of middleboxes, and the requests to one of them. The connection is in
 * mb_conn.c, what a fresh session does about rules in mb_sync.c.
 */
#include "agent/mb_client.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/mb_int.h"
#include "common/errcode.h"
#include "common/log.h"
#include "common/tls.h"

const struct mb_times mb_times_preset = {
	.request = MB_REQUEST_TIMEOUT_MS,
	.open = 3000,
	.keepalive = 5000,
	.retry_min = 200,
	.retry_max = 5000,
};

const char *mb_state_name(enum mb_state s)
{
	static const char *const names[] = {"down", "connecting", "opening", "open"};

	return (unsigned)s < ARRAY_LEN(names) ? names[s] : "?";
}

uint64_t mb_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

void mb_set_state(struct mb_client *mb, enum mb_state state, const char *why)
{
	if (mb->state != state)
		log_debug("middlebox %s: %s -> %s", mb->name, mb_state_name(mb->state),
			  mb_state_name(state));
	mb->state = state;
	mb->since_ms = loop_now_ms(mb->all->loop);
	span_copy(span_str(why), mb->why, sizeof(mb->why));
}

static struct span rule_key(const struct table_node *node)
{
	const struct mb_rule *r = CONTAINER_OF(node, struct mb_rule, node);

	return span_of(&r->pid, sizeof(r->pid));
}

static char *copy(const char *s, int *err)
{
	char *c = s ? span_dup(span_str(s)) : NULL;

	if (s && !c)
		*err = ERR_NOMEM;
	return c;
}

static void client_free(struct mb_client *mb)
{
	mb_conn_fini(mb);
	table_fini(&mb->rules);
	free(mb->chores);
	free((void *)mb->tls_conf.certificate);
	free((void *)mb->tls_conf.key);
	free((void *)mb->tls_conf.ca);
	free((void *)mb->tls_conf.name);
	tls_ctx_unref(mb->tls);
	free(mb->secret_file);
	if (mb->secret)
		explicit_bzero(mb->secret, mb->secret_len);
	free(mb->secret);
	free(mb);
}

/* Copies what it needs: the policy may be replaced while this middlebox still holds rules. */
static struct mb_client *client_new(struct mb_clients *all, const struct middlebox_conf *conf)
{
	struct mb_client *mb = calloc(1, sizeof(*mb));
	int err = 0;

	if (!mb)
		return NULL;
	mb->all = all;
	mb->calls_tail = &mb->calls;
	mb->learned[0] = mb->learned[1] = -1;
	mb->address = conf->address;
	span_copy(span_str(conf->name), mb->name, sizeof(mb->name));
	mb->tls_conf.present = conf->tls.present;
	mb->tls_conf.certificate = copy(conf->tls.certificate, &err);
	mb->tls_conf.key = copy(conf->tls.key, &err);
	mb->tls_conf.ca = copy(conf->tls.ca, &err);
	mb->tls_conf.name = copy(conf->tls.name, &err);
	mb->secret_file = copy(conf->secret_file, &err);
	if (!err)
		err = table_init(&mb->rules, rule_key);
	if (!err)
		err = mb_tls_load(mb);
	if (!err)
		err = mb_secret_load(mb);
	if (!err)
		err = mb_conn_init(mb);
	if (!err)
		return mb;
	log_err("middlebox %s: %s", mb->name, err_str(err));
	client_free(mb);
	return NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool client_matches(const struct mb_client *mb, const struct middlebox_conf *conf)
{
	return addr_port_eq(&mb->address, &conf->address) &&
	       mb->tls_conf.present == conf->tls.present &&
	       same_text(mb->tls_conf.certificate, conf->tls.certificate) &&
	       same_text(mb->tls_conf.key, conf->tls.key) &&
	       same_text(mb->tls_conf.ca, conf->tls.ca) &&
	       same_text(mb->tls_conf.name, conf->tls.name) &&
	       same_text(mb->secret_file, conf->secret_file);
}

struct mb_client *mb_clients_find(const struct mb_clients *all, const char *name)
{
	for (struct mb_client *mb = all->list; mb; mb = mb->next)
		if (!mb->retired && !strcmp(mb->name, name))
			return mb;
	return NULL;
}

/* A retired middlebox stays until nothing of ours is left there. */
void mb_sweep(void *arg)
{
	struct mb_clients *all = arg;

	for (struct mb_client **at = &all->list, *mb; (mb = *at);) {
		if (!mb_is_spent(mb)) {
			at = &mb->next;
			continue;
		}
		*at = mb->next;
		client_free(mb);
	}
}

bool mb_is_spent(const struct mb_client *mb)
{
	return mb->retired && !mb->rules.n && !mb->n_calls && mb->at_chore == mb->n_chores;
}

static const struct middlebox_conf *unchanged(const struct mb_client *mb, const struct policy *p)
{
	const struct middlebox_conf *conf = policy_middlebox(p, mb->name);

	return conf && !mb->retired && client_matches(mb, conf) ? conf : NULL;
}

static bool has_client(const struct mb_clients *all, const struct policy *p,
		       const struct middlebox_conf *conf)
{
	for (const struct mb_client *mb = all->list; mb; mb = mb->next)
		if (unchanged(mb, p) == conf)
			return true;
	return false;
}

/* Clients for what is new in `p`, not yet connected. */
static int build_new(struct mb_clients *all, const struct policy *p, struct mb_client **list)
{
	const struct middlebox_conf *confs = p->middleboxes.v;

	for (size_t i = 0; i < p->middleboxes.n; i++) {
		struct mb_client *mb;

		if (has_client(all, p, &confs[i]))
			continue;
		mb = client_new(all, &confs[i]);
		if (!mb)
			return ERR_INVALID;
		mb->next = *list;
		*list = mb;
	}
	return 0;
}

int mb_clients_reload(struct mb_clients *all, const struct policy *p)
{
	struct mb_client *fresh = NULL, *mb;
	int err = build_new(all, p, &fresh);

	if (err) {
		while ((mb = fresh)) {
			fresh = mb->next;
			client_free(mb);
		}
		return err;
	}
	for (mb = all->list; mb; mb = mb->next)
		mb->retired = !unchanged(mb, p);
	all->policy = p;
	while ((mb = fresh)) {
		fresh = mb->next;
		mb->next = all->list;
		all->list = mb;
		mb_connect(mb);
	}
	mb_sweep(all);
	return 0;
}

struct mb_clients *mb_clients_new(struct loop *l, const struct policy *p,
				  const struct mb_times *times)
{
	struct mb_clients *all = calloc(1, sizeof(*all));

	if (!all)
		return NULL;
	all->loop = l;
	all->times = times ? *times : mb_times_preset;
	if (mb_clients_reload(all, p)) {
		mb_clients_free(all);
		return NULL;
	}
	return all;
}

void mb_clients_free(struct mb_clients *all)
{
	struct mb_client *mb;

	if (!all)
		return;
	loop_undefer(all->loop, mb_sweep, all);
	while ((mb = all->list)) {
		all->list = mb->next;
		client_free(mb);
	}
	free(all);
}

bool mb_clients_ready(const struct mb_clients *all, const char **down)
{
	for (const struct mb_client *mb = all->list; mb; mb = mb->next) {
		if (!mb->retired && mb->state != MB_OPEN) {
			*down = mb->name;
			return false;
		}
	}
	*down = NULL;
	return true;
}

const char *mb_client_name(const struct mb_client *mb)
{
	return mb->name;
}

bool mb_client_is_open(const struct mb_client *mb)
{
	return mb->state == MB_OPEN;
}

const struct simco_capabilities *mb_client_caps(const struct mb_client *mb)
{
	return mb->known_caps ? &mb->caps : NULL;
}

uint32_t mb_client_extensions(const struct mb_client *mb)
{
	return mb->state == MB_OPEN ? mb->extensions : 0;
}

bool mb_client_translates(const struct mb_client *mb, uint8_t ip_version)
{
	int8_t learned = mb->learned[ip_version == 6];

	if (learned >= 0)
		return learned > 0;
	/* A NAT translates IPv4; whether IPv6 as well, only a reservation tells. */
	return mb->known_caps && (mb->caps.mb_type & SIMCO_MB_NAT) && ip_version == 4;
}

void mb_client_learn(struct mb_client *mb, uint8_t ip_version, bool translates)
{
	mb->learned[ip_version == 6] = translates;
}

/* What the endpoints are told about a negative reply: the RFC's words and the number. */
static void failure_from_reply(const struct mb_client *mb, const struct simco_msg *m,
			       struct failure *f)
{
	enum cause c = cause_from_simco(m->type);

	failure_set(f, c, mb->name, cause_info(c)->retry_after ? MB_RETRY_AFTER_S : 0,
		    "%s (0x%04X)", simco_type_name(m->type), (unsigned)m->type);
}

/* Smoothed as TCP does it (RFC 6298 §2). */
static void note_rtt(struct mb_client *mb, uint64_t us)
{
	mb->rtt_us = mb->rtt_us ? (mb->rtt_us * 7 + us) / 8 : us;
}

static void call_answered(void *arg, const struct simco_msg *m)
{
	struct mb_call *call = arg;
	struct mb_client *mb = call->mb;
	struct failure f;

	/* Replies keep the order of the requests; the machine has checked that. */
	mb->calls = call->next;
	if (!mb->calls)
		mb->calls_tail = &mb->calls;
	mb->n_calls--;
	if (!m) {
		failure_set(&f, CAUSE_MIDDLEBOX_UNREACHABLE, mb->name, MB_RETRY_AFTER_S, "%s",
			    mb->why[0] ? mb->why : "session ended");
		call->fn(call->arg, NULL, &f);
	} else if (m->type >> 8 == SIMCO_NEGATIVE) {
		note_rtt(mb, mb_now_us() - call->sent_us);
		failure_from_reply(mb, m, &f);
		call->fn(call->arg, m, &f);
	} else {
		note_rtt(mb, mb_now_us() - call->sent_us);
		call->fn(call->arg, m, NULL);
	}
	free(call);
}

static int err_from_simco(int err)
{
	switch (err) {
	case SIMCO_ERR_STATE:
	case SIMCO_ERR_CLOSED:
		return ERR_CLOSED;
	case SIMCO_ERR_TOOBIG:
		return ERR_LIMIT;
	case SIMCO_ERR_NOMEM:
		return ERR_NOMEM;
	default:
		return ERR_INVALID;
	}
}

int mb_client_request(struct mb_client *mb, struct simco_msg *m, mb_reply_fn fn, void *arg)
{
	struct mb_call *call;
	int err;

	if (mb->state != MB_OPEN)
		return ERR_CLOSED;
	call = calloc(1, sizeof(*call));
	if (!call)
		return ERR_NOMEM;
	*call = (struct mb_call){.mb = mb, .fn = fn, .arg = arg, .sent_us = mb_now_us()};
	err = simco_cli_request(mb->cli, m, call_answered, call);
	if (err) {
		free(call);
		return err_from_simco(err);
	}
	*mb->calls_tail = call;
	mb->calls_tail = &call->next;
	if (!mb->n_calls++)
		mb_arm(mb);
	mb_flush_later(mb);
	return 0;
}

void mb_client_failure(const struct mb_client *mb, int err, struct failure *f)
{
	switch (err) {
	case ERR_CLOSED:
		failure_set(f, CAUSE_MIDDLEBOX_UNREACHABLE, mb->name, MB_RETRY_AFTER_S, "%s",
			    mb->why[0] ? mb->why : "no session");
		return;
	case ERR_LIMIT:
	case ERR_NOMEM:
		failure_set(f, CAUSE_OVERLOADED, mb->name, MB_RETRY_AFTER_S, "too much in flight");
		return;
	default:
		failure_set(f, CAUSE_AGENT_FAULT, mb->name, 0, "%s", err_str(err));
	}
}

int mb_client_own(struct mb_client *mb, struct mb_rule *r)
{
	r->seen = mb->generation;
	return table_add(&mb->rules, &r->node);
}

void mb_client_disown(struct mb_client *mb, struct mb_rule *r)
{
	table_remove(&mb->rules, &r->node);
}

void mb_client_release_later(struct mb_client *mb, uint32_t pid)
{
	if (mb_chore_add(mb, pid, false))
		log_warn("middlebox %s: rule %u is left to its lifetime", mb->name, pid);
	else
		mb_chores_run(mb);
}
