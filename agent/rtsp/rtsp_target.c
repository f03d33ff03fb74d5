/*
 * Which server a request is for: the one that an intercepted connection was
 * meant for, the one that the URI names, or the one behind a mount. Names are
 * resolved once per connection.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"
#include "common/log.h"

static void cannot_resolve(struct rtsp_txn *t, struct span name, int err)
{
	char host[100];

	rtsp_reply_status(t, err == ERR_TIMEOUT ? 504 : 502, CAUSE_PEER_UNREACHABLE,
			  "cannot resolve %s: %s", log_escape(name, host, sizeof(host)),
			  err_str(err));
}

/* Addresses of the client's own IP version come first, since media needs that. */
static int keep_addresses(struct rtsp_txn *t, const struct addr *list, size_t n)
{
	uint8_t version = t->c->peer.addr.version;
	size_t i, at = 0;

	free(t->addrs);
	t->addrs = calloc(n, sizeof(*list));
	if (t->addrs == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++)
		if (list[i].version == version)
			t->addrs[at++] = list[i];
	for (i = 0; i < n; i++)
		if (list[i].version != version)
			t->addrs[at++] = addr_unmap(list[i]);
	t->n_addrs = n;
	t->addr = 0;
	return 0;
}

static void on_resolved(int err, const struct addr *list, size_t n, void *arg)
{
	struct rtsp_txn *t = arg;
	struct rtsp_client *c = t->c;
	struct rtsp_engine *e = c->e;

	t->question = NULL;
	rtsp_engine_enter(e);
	t->state = TXN_WAITING;
	if (err == 0)
		err = keep_addresses(t, list, n);
	if (err < 0)
		cannot_resolve(t, span_str(t->name), err);
	rtsp_client_pump(c);
	rtsp_engine_leave(e);
}

bool rtsp_target_next(struct rtsp_txn *t)
{
	if (t->addr + 1 >= t->n_addrs)
		return false;
	t->addr++;
	return true;
}

/*
 * A name is asked for once per connection: later requests go where the first
 * one went, even if the answer changes. 0, or ERR_* when there is nothing yet.
 */
static int by_name(struct rtsp_txn *t, struct rtsp_target *out)
{
	const struct rtsp_upstream *u =
		rtsp_upstream_named(t->c, out->host, out->server.port, out->tls);
	struct rtsp_engine *e = t->c->e;
	int err;

	if (u != NULL) {
		out->server = u->route.server;
		return 0;
	}
	if (t->n_addrs > 0) {
		out->server.addr = t->addrs[t->addr];
		return 0;
	}
	free(t->name);
	t->name = span_dup(out->host);
	if (t->name == NULL) {
		cannot_resolve(t, out->host, ERR_NOMEM);
		return ERR_NOMEM;
	}
	t->state = TXN_RESOLVING;
	t->question = e->io->resolve(e->arg, out->host, on_resolved, t, &err);
	if (t->question == NULL)
		cannot_resolve(t, out->host, err);
	return ERR_AGAIN;
}

/* "*" names no server: the session's, or nobody's. 0 or ERR_*, replied then. */
static int of_star(struct rtsp_txn *t, struct rtsp_target *out)
{
	struct rtsp_session *s = NULL;

	if (t->session_id != NULL)
		s = rtsp_session_used(t->c, span_str(t->session_id));
	if (s != NULL) {
		out->server = s->server;
		out->tls = s->u != NULL && s->u->route.tls;
		return 0;
	}
	if (t->method == RTSP_OPTIONS)
		rtsp_reply_options(t);
	else
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "a proxy needs an absolute URI");
	return ERR_NOENT;
}

static int of_host(struct rtsp_txn *t, struct rtsp_target *out, const struct rtsp_uri *uri)
{
	out->host = uri->host;
	out->server.port = uri->port;
	if (uri->addr.version == 0)
		return by_name(t, out);
	out->server.addr = addr_unmap(uri->addr);
	return 0;
}

/* A mount takes a path on any name of the agent, which nobody but DNS knows. */
static int of_mount(struct rtsp_txn *t, struct rtsp_target *out, const struct rtsp_uri *uri)
{
	const struct rtsp_mount *m = rtsp_mount_find(&t->c->terms.plan->mounts, uri->path);

	if (m != NULL) {
		out->mount = m;
		out->tls = m->tls;
		return of_host(t, out, &m->uri);
	}
	if (t->method == RTSP_OPTIONS && uri->path.n <= 1) /* the agent as a whole */
		rtsp_reply_options(t);
	else
		rtsp_reply_status(t, 404, CAUSE_POLICY_REFUSED, "nothing is mounted there");
	return ERR_NOENT;
}

/*
 * An intercepted connection has one server, whatever the URI says: a camera
 * behind a NAT names itself by an address that nobody else knows.
 */
static int of_connection(struct rtsp_txn *t, struct rtsp_target *out, const struct rtsp_uri *uri)
{
	out->server = t->c->target;
	out->tls = t->c->terms.tls;
	if (uri->form == RTSP_URI_ABSOLUTE && uri->addr.version == 0)
		out->host = uri->host; /* what its certificate has to carry */
	if (out->server.addr.version != 0)
		return 0;
	rtsp_reply_status(t, 403, CAUSE_POLICY_REFUSED,
			  "this listener takes intercepted connections only");
	return ERR_INVALID;
}

/* A proxy goes where the URI says and nowhere else. */
static int of_uri(struct rtsp_txn *t, struct rtsp_target *out, const struct rtsp_uri *uri)
{
	const struct rtsp_plan *plan = t->c->terms.plan;

	if (uri->form != RTSP_URI_ABSOLUTE) {
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "a proxy needs an absolute URI");
		return ERR_MALFORMED;
	}
	out->tls = span_eq_str_nocase(uri->scheme, "rtsps");
	if (out->tls ? plan == NULL || plan->tls == NULL
		     : !span_eq_str_nocase(uri->scheme, "rtsp")) {
		rtsp_reply_status(t, 501, CAUSE_UNSUPPORTED, "only rtsp:// is proxied");
		return ERR_UNSUPPORTED;
	}
	return of_host(t, out, uri);
}

int rtsp_target_find(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_target *out)
{
	struct rtsp_uri uri;

	memset(out, 0, sizeof(*out));
	if (rtsp_uri_parse(m->uri, &uri) < 0) {
		rtsp_reply_status(t, 400, CAUSE_PEER_MALFORMED, "bad Request-URI");
		return ERR_MALFORMED;
	}
	if (t->c->terms.mode == RTSP_TRANSPARENT)
		return of_connection(t, out, &uri);
	if (uri.form == RTSP_URI_STAR)
		return of_star(t, out);
	if (t->c->terms.mode == RTSP_REVERSE)
		return of_mount(t, out, &uri);
	return of_uri(t, out, &uri);
}

/* --- what a mount changes in messages ---------------------------------------------------- */

static bool view(const struct rtsp_client *c, const struct rtsp_upstream *u,
		 const struct rtsp_mount *mount, struct rtsp_view *v)
{
	if (c->terms.mode != RTSP_REVERSE)
		return false;
	v->mounts = &c->terms.plan->mounts;
	v->mount = mount;
	v->server = u->route.server;
	v->front = c->front;
	return true;
}

int rtsp_target_front(struct rtsp_client *c)
{
	uint16_t usual = c->terms.tls ? RTSPS_PORT : RTSP_PORT;
	const struct addr_port *a = &c->target;
	struct buf text;
	char host[ADDR_STRLEN];

	buf_init(&text, RTSP_FRONT_MAX);
	addr_str(&a->addr, host);
	buf_printf(&text, a->addr.version == 6 ? "%s://[%s]" : "%s://%s",
		   c->terms.tls ? "rtsps" : "rtsp", host);
	if (a->port != usual)
		buf_printf(&text, ":%u", a->port);
	c->front = text.error == 0 ? span_dup(buf_span(&text)) : NULL;
	buf_fini(&text);
	return c->front != NULL ? 0 : ERR_NOMEM;
}

/* The name under which this client knows us is what its latest absolute URI said. */
static void learn_front(struct rtsp_client *c, struct span uri)
{
	char front[RTSP_FRONT_MAX];
	char *copy;

	if (!rtsp_mount_front(uri, front) || strcmp(c->front, front) == 0)
		return;
	copy = span_dup(span_str(front));
	if (copy == NULL)
		return;
	free(c->front);
	c->front = copy;
}

void rtsp_target_edit_request(struct rtsp_txn *t, const struct rtsp_msg *m, struct rtsp_edits *e)
{
	struct rtsp_view v;

	if (t->c->terms.mode == RTSP_REVERSE)
		learn_front(t->c, m->uri);
	if (view(t->c, t->u, t->mount, &v))
		rtsp_mount_to_server(&v, m, e);
	if (t->mount != NULL)
		t->u->mount = t->mount;
}

void rtsp_target_edit_reply(const struct rtsp_txn *t, const struct rtsp_msg *m,
			    struct rtsp_edits *e)
{
	char front[RTSP_FRONT_MAX];
	struct rtsp_msg request;
	struct rtsp_view v;

	if (t->u == NULL || !view(t->c, t->u, t->mount, &v))
		return;
	rtsp_txn_request(t, &request);
	if (rtsp_mount_front(request.uri, front))
		v.front = front;
	rtsp_mount_to_client(&v, m, e);
}

void rtsp_target_edit_asked(const struct rtsp_upstream *u, const struct rtsp_msg *m, bool to_client,
			    struct rtsp_edits *e)
{
	struct rtsp_view v;

	if (!view(u->c, u, u->mount, &v))
		return;
	if (to_client)
		rtsp_mount_to_client(&v, m, e);
	else
		rtsp_mount_to_server(&v, m, e);
}
