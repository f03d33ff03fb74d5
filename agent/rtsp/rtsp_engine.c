/*
 * The engine object: what all connections share, and the burial of what ended.
 */
#include "agent/rtsp/rtsp_engine.h"

#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"

#define SHUTDOWN_MS 3000

static struct span host_key(const struct table_node *n)
{
	const struct rtsp_host *h = CONTAINER_OF(n, struct rtsp_host, node);

	return span_of(&h->addr, sizeof(h->addr));
}

static struct span session_key(const struct table_node *n)
{
	const struct rtsp_session *s = CONTAINER_OF(n, struct rtsp_session, node);

	return span_of(s->key, s->key_len);
}

uint64_t rtsp_now(const struct rtsp_engine *e)
{
	return e->io->now_ms(e->arg);
}

void rtsp_note(struct rtsp_engine *e, struct rtsp_timeline *l, const char *what)
{
	unsigned i = l->n++ % RTSP_TIMELINE;

	l->v[i].ms = rtsp_now(e);
	l->v[i].what = what;
}

struct rtsp_host *rtsp_host_get(struct rtsp_engine *e, const struct addr *a)
{
	struct table_node *n = table_get(&e->hosts, span_of(a, sizeof(*a)));
	struct rtsp_host *h;

	if (n != NULL)
		return CONTAINER_OF(n, struct rtsp_host, node);
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return NULL;
	h->addr = *a;
	if (table_add(&e->hosts, &h->node) < 0) {
		free(h);
		return NULL;
	}
	return h;
}

void rtsp_host_drop(struct rtsp_engine *e, struct rtsp_host *h)
{
	if (h->clients > 0 || h->sessions > 0)
		return;
	table_remove(&e->hosts, &h->node);
	free(h);
}

static void shutdown_tick(void *arg);

struct rtsp_engine *rtsp_engine_new(const struct rtsp_io *io, void *arg,
				    const struct policy_limits *limits)
{
	struct rtsp_engine *e = calloc(1, sizeof(*e));

	if (e == NULL)
		return NULL;
	e->io = io;
	e->arg = arg;
	e->limits = *limits;
	if (table_init(&e->hosts, host_key) < 0)
		goto fail;
	if (table_init(&e->by_key, session_key) < 0)
		goto fail_hosts;
	e->timer = io->timer_new(arg, shutdown_tick, e);
	if (e->timer == NULL)
		goto fail_keys;
	return e;
fail_keys:
	table_fini(&e->by_key);
fail_hosts:
	table_fini(&e->hosts);
fail:
	free(e);
	return NULL;
}

void rtsp_engine_set_limits(struct rtsp_engine *e, const struct policy_limits *limits)
{
	e->limits = *limits;
}

void rtsp_engine_enter(struct rtsp_engine *e)
{
	e->depth++;
}

static void bury(struct rtsp_engine *e)
{
	while (e->client_graves != NULL || e->upstream_graves != NULL) {
		struct rtsp_upstream *u = e->upstream_graves;
		struct rtsp_client *c = e->client_graves;

		/* Upstreams first: their clients may still be told. */
		if (u != NULL) {
			e->upstream_graves = u->grave_next;
			rtsp_upstream_destroy(u);
		} else {
			e->client_graves = c->grave_next;
			rtsp_client_destroy(c);
		}
	}
}

/* The last act of an entry point: `e` may be gone when it returns. */
void rtsp_engine_leave(struct rtsp_engine *e)
{
	void (*done)(void *) = e->done;
	void *arg = e->done_arg;

	if (e->depth > 1) {
		e->depth--;
		return;
	}
	bury(e);
	e->depth--;
	if (!e->shutting || done == NULL || e->clients != NULL || e->lingering != NULL)
		return;
	e->done = NULL;
	e->io->timer_clear(e->timer);
	done(arg);
}

static void kill_lingering(struct rtsp_engine *e)
{
	struct rtsp_upstream *u;

	for (u = e->lingering; u != NULL; u = u->next)
		rtsp_upstream_kill(u, ERR_CLOSED);
}

static void shutdown_tick(void *arg)
{
	struct rtsp_engine *e = arg;

	rtsp_engine_enter(e);
	kill_lingering(e);
	rtsp_engine_leave(e);
}

void rtsp_engine_shutdown(struct rtsp_engine *e, void (*done)(void *), void *arg)
{
	struct rtsp_client *c;

	rtsp_engine_enter(e);
	e->shutting = true;
	e->done = done;
	e->done_arg = arg;
	e->io->timer_set(e->timer, SHUTDOWN_MS);
	while (e->sessions != NULL)
		rtsp_session_end(e->sessions, CAUSE_OPERATOR);
	for (c = e->clients; c != NULL; c = c->next)
		rtsp_client_kill(c);
	rtsp_engine_leave(e);
}

void rtsp_engine_free(struct rtsp_engine *e)
{
	struct rtsp_client *c;
	struct rtsp_upstream *u;
	struct rtsp_hold *h;

	if (e == NULL)
		return;
	e->shutting = true;
	e->done = NULL;
	rtsp_engine_enter(e);
	for (c = e->clients; c != NULL; c = c->next) {
		for (u = c->upstreams; u != NULL; u = u->next)
			u->ready = false; /* nothing more is said */
		rtsp_client_kill(c);
	}
	bury(e);
	kill_lingering(e);
	bury(e);
	for (h = e->holds; h != NULL; h = h->next)
		h->e = NULL;
	e->io->timer_free(e->timer);
	table_fini(&e->by_key);
	table_fini(&e->hosts);
	free(e);
}

size_t rtsp_engine_n_sessions(const struct rtsp_engine *e)
{
	return e->n_sessions;
}

size_t rtsp_engine_n_clients(const struct rtsp_engine *e)
{
	return e->n_clients;
}
