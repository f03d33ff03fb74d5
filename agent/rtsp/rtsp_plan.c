/*
 * Plans: built from a listener's policy, counted by who uses them.
 */
#include "agent/rtsp/rtsp_plan.h"

#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/tls.h"

/* Reading the system's authorities takes a while; most listeners never need them. */
static bool needs_tls(const struct rtsp_listener_conf *conf, const struct rtsp_mounts *ms)
{
	size_t i;

	if (conf->upstream_tls.line != 0 || (conf->mode == RTSP_TRANSPARENT && conf->tls.present))
		return true;
	for (i = 0; i < ms->n; i++)
		if (ms->v[i].tls)
			return true;
	return false;
}

static int add_tls(struct rtsp_plan *p, const struct rtsp_listener_conf *conf)
{
	const struct rtsp_upstream_tls_conf *u = &conf->upstream_tls;
	struct tls_files files = {
		.certificate = u->certificate,
		.key = u->key,
		.ca = u->ca,
		.unverified = !u->verify,
	};
	char why[256];
	int err = 0;

	if (!needs_tls(conf, &p->mounts))
		return 0;
	p->tls = tls_ctx_client_new(&files, &err, why, sizeof(why));
	if (p->tls == NULL)
		log_err("rtsp: TLS towards servers: %s", why);
	return err;
}

static int fill(struct rtsp_plan *p, const struct rtsp_listener_conf *conf)
{
	const struct rtsp_mount_conf *m = conf->mounts.v;
	size_t i, size = conf->routes.n * sizeof(*p->routes);
	int err;

	for (i = 0; i < conf->mounts.n; i++) {
		err = rtsp_mounts_add(&p->mounts, m[i].path, m[i].to);
		if (err < 0)
			return err;
		p->mounts.v[i].out = m[i].out;
		p->mounts.v[i].has_out = m[i].has_out;
	}
	if (size > 0) {
		p->routes = malloc(size);
		if (p->routes == NULL)
			return ERR_NOMEM;
		memcpy(p->routes, conf->routes.v, size);
		p->n_routes = conf->routes.n;
	}
	return add_tls(p, conf);
}

struct rtsp_plan *rtsp_plan_new(const struct rtsp_listener_conf *conf)
{
	struct rtsp_plan *p = calloc(1, sizeof(*p));
	int err = ERR_NOMEM;

	if (p != NULL) {
		p->refs = 1;
		err = fill(p, conf);
	}
	if (err == 0)
		return p;
	log_err("rtsp: mounts and routes: %s", err_str(err));
	rtsp_plan_unref(p);
	return NULL;
}

struct rtsp_plan *rtsp_plan_ref(struct rtsp_plan *p)
{
	if (p != NULL)
		p->refs++;
	return p;
}

void rtsp_plan_unref(struct rtsp_plan *p)
{
	if (p == NULL || --p->refs > 0)
		return;
	rtsp_mounts_fini(&p->mounts);
	free(p->routes);
	tls_ctx_unref(p->tls);
	free(p);
}

/* The route with the longest prefix, NULL when there is none. */
static const struct rtsp_route_conf *find_route(const struct rtsp_plan *p,
						const struct addr *server)
{
	const struct rtsp_route_conf *best = NULL;
	size_t i;

	for (i = 0; p != NULL && i < p->n_routes; i++) {
		const struct rtsp_route_conf *r = &p->routes[i];

		if (addr_prefix_contains(&r->to, server) &&
		    (best == NULL || r->to.len > best->to.len))
			best = r;
	}
	return best;
}

enum rtsp_out rtsp_plan_out(const struct rtsp_plan *p, const struct rtsp_mount *mount,
			    const struct addr *server, enum rtsp_out otherwise)
{
	const struct rtsp_route_conf *r = find_route(p, server);

	if (mount != NULL && mount->has_out)
		return (enum rtsp_out)mount->out;
	return r != NULL ? (enum rtsp_out)r->out : otherwise;
}

bool rtsp_plan_hint(const struct rtsp_plan *p, const struct addr *server)
{
	const struct rtsp_route_conf *r = find_route(p, server);

	return r != NULL && r->interleaved_hint;
}
