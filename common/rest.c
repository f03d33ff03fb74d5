/*
 * The REST server over libmicrohttpd, one MHD daemon per listener. MHD runs
 * without threads: its epoll descriptor is watched by our loop, and a timer
 * follows MHD_get_timeout() after every run, without which half-read requests
 * would never time out.
 *
 * A run is a job of the loop and gives one answer; further requests that are
 * whole are suspended and have their turn in the order in which they came.
 */
#include "common/rest.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"

#define IDLE_SECONDS 15u
#define HEADER_MAX (32u * 1024)
#define ID_MAX 256
#define CONNECTIONS_DEFAULT 64u
#define REST_MS 100u /* while there are no descriptors */

struct listener {
	struct rest *rest;
	struct MHD_Daemon *mhd;
	struct loop_io *io;
	struct loop_timer *timer;
	int epoll_fd; /* MHD's */
	struct loop_job job;
	struct MHD_Connection **asleep; /* the oldest first; rest.max_connections of them */
	unsigned n_asleep;
	struct MHD_Connection *next; /* resumed, has this run's answer; NULL: who comes first */
	bool answered;		     /* in this run */
	bool starved;		     /* the lack of descriptors is logged once */
	char *path;		     /* unix socket, owned; NULL for TCP */
	struct addr_port local;
};

struct rest {
	struct loop *loop;
	const struct rest_route *routes;
	void *arg;
	char *token;
	unsigned max_connections;
	struct listener *listeners;
	size_t n;
};

/* ---- Replies -------------------------------------------------------------- */

void rest_problem(struct rest_reply *rep, unsigned status, const char *title, const char *fmt, ...)
{
	char detail[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	buf_reset(&rep->body);
	jsonw_init(&rep->json, &rep->body);
	rep->status = status;
	rep->content_type = "application/problem+json";
	jsonw_object(&rep->json, NULL);
	jsonw_str(&rep->json, "type", "about:blank");
	jsonw_str(&rep->json, "title", title);
	jsonw_uint(&rep->json, "status", status);
	if (detail[0] != '\0')
		jsonw_str(&rep->json, "detail", detail);
	jsonw_object_end(&rep->json);
}

static enum MHD_Result send_reply(struct MHD_Connection *c, struct rest_reply *rep,
				  const char *allow)
{
	struct MHD_Response *r;
	enum MHD_Result rc;
	struct span body;

	if (rep->body.error != 0)
		rest_problem(rep, 500, "Reply too large", "%s", err_str(rep->body.error));
	body = buf_span(&rep->body);
	r = MHD_create_response_from_buffer(body.n, (void *)(uintptr_t)body.p,
					    MHD_RESPMEM_MUST_COPY);
	if (r == NULL)
		return MHD_NO;
	MHD_add_response_header(r, "Content-Type", rep->content_type);
	MHD_add_response_header(r, "Cache-Control", "no-store");
	if (allow != NULL && allow[0] != '\0')
		MHD_add_response_header(r, "Allow", allow);
	if (rep->status == 401)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
	rc = MHD_queue_response(c, rep->status, r);
	MHD_destroy_response(r);
	return rc;
}

/* ---- Requests --------------------------------------------------------------- */

/* Takes as long for a wrong token as for the right one. */
static bool same_secret(struct span given, const char *token)
{
	size_t n = strlen(token);
	unsigned diff = given.n != n;

	for (size_t i = 0; i < n; i++)
		diff |= (unsigned)token[i] ^ (given.n > 0 ? given.p[i % given.n] : 0u);
	return (diff & 0x1FFu) == 0;
}

static bool authorised(const struct listener *l, struct MHD_Connection *c)
{
	static const char scheme[] = "Bearer ";
	const char *value;

	if (l->path != NULL || l->rest->token == NULL)
		return true; /* the socket's mode decides, or open_loopback */
	value = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
	if (value == NULL || !span_starts_nocase(span_str(value), scheme))
		return false;
	return same_secret(span_trim(span_str(value + sizeof(scheme) - 1)), l->rest->token);
}

/* Does `path` match the pattern? What stands for "{id}" goes to id[ID_MAX]. */
static bool match(const char *pattern, const char *path, char *id)
{
	struct span pat = span_str(pattern), in = span_str(path);

	while (pat.n > 0 && in.n > 0) {
		struct span want = span_cut(&pat, '/'), have = span_cut(&in, '/');

		if (span_eq_str(want, "{id}")) {
			if (have.n == 0 || !span_copy(have, id, ID_MAX))
				return false;
		} else if (!span_eq(want, have)) {
			return false;
		}
	}
	return pat.n == 0 && in.n == 0 && (path[0] == '\0' || path[strlen(path) - 1] != '/');
}

static bool same_method(const char *route, const char *method)
{
	if (strcmp(method, "HEAD") == 0) /* MHD leaves the body out */
		method = "GET";
	return strcmp(route, method) == 0;
}

/* An unsigned query argument; false when it is there and wrong. */
static bool argument(struct MHD_Connection *c, const char *name, uint64_t max, uint64_t *out)
{
	const char *v = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);

	return v == NULL || span_u64(span_str(v), max, out) == 0;
}

static void route(struct listener *l, struct MHD_Connection *c, struct rest_request *req,
		  struct rest_reply *rep, char allow[64])
{
	char id[ID_MAX] = "";
	uint64_t limit = 100;

	if (!argument(c, "after", UINT64_MAX, &req->after) || !argument(c, "limit", 1000, &limit) ||
	    limit == 0) {
		rest_problem(rep, 400, "Bad argument",
			     "after must be a number, limit a number from 1 to 1000");
		return;
	}
	req->limit = (unsigned)limit;
	for (const struct rest_route *r = l->rest->routes; r->method != NULL; r++) {
		size_t at = strlen(allow);

		if (!match(r->path, req->path, id))
			continue;
		if (same_method(r->method, req->method)) {
			req->id = strstr(r->path, "{id}") != NULL ? id : NULL;
			r->fn(req, rep, l->rest->arg);
			return;
		}
		snprintf(allow + at, 64 - at, "%s%s", at > 0 ? ", " : "", r->method);
	}
	if (allow[0] != '\0')
		rest_problem(rep, 405, "Method not allowed", "this resource knows %s", allow);
	else
		rest_problem(rep, 404, "Not found", "no such resource");
}

/* True when this run has its answer already: MHD asks again when the connection is resumed. */
static bool sleeps(struct listener *l, struct MHD_Connection *c)
{
	if (!l->answered && (l->next == NULL || l->next == c)) {
		l->next = NULL;
		l->answered = true;
		return false;
	}
	if (l->n_asleep == l->rest->max_connections)
		return false; /* more than MHD lets in */
	MHD_suspend_connection(c);
	l->asleep[l->n_asleep++] = c;
	return true;
}

/* The oldest of those that sleep; false: none does. */
static bool wake_one(struct listener *l)
{
	if (l->n_asleep == 0)
		return false;
	l->next = l->asleep[0];
	l->n_asleep--;
	memmove(l->asleep, l->asleep + 1, l->n_asleep * sizeof(struct MHD_Connection *));
	MHD_resume_connection(l->next);
	return true;
}

static enum MHD_Result answer(struct listener *l, struct MHD_Connection *c, const char *path,
			      const char *method, bool too_big)
{
	struct rest_request req = {.method = method, .path = path};
	struct rest_reply rep = {.status = 200, .content_type = "application/json"};
	char allow[64] = "";
	enum MHD_Result rc;

	buf_init(&rep.body, REST_REPLY_MAX);
	jsonw_init(&rep.json, &rep.body);
	if (too_big)
		rest_problem(&rep, 413, "Content too large", "at most %u octets", REST_BODY_MAX);
	else if (!authorised(l, c))
		rest_problem(&rep, 401, "Unauthorized", "a valid bearer token is needed");
	else
		route(l, c, &req, &rep, allow);
	rc = send_reply(c, &rep, allow);
	buf_fini(&rep.body);
	return rc;
}

/*
 * MHD calls this once after the header, then per piece of body, then once
 * more. The state between the calls is the count of body octets plus one.
 */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *path,
				  const char *method, const char *version, const char *data,
				  size_t *n, void **state)
{
	uintptr_t seen = (uintptr_t)*state;
	const char *length;
	uint64_t v;

	(void)version;
	(void)data;
	if (seen == 0) {
		*state = (void *)(uintptr_t)1;
		length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
		if (length != NULL && span_u64(span_str(length), REST_BODY_MAX, &v) != 0)
			return answer(arg, c, path, method, true);
		return MHD_YES;
	}
	if (*n > 0) {
		seen += *n;
		*n = 0;
		*state = (void *)seen;
		return seen > REST_BODY_MAX + 1 ? MHD_NO : MHD_YES;
	}
	if (sleeps(arg, c))
		return MHD_YES;
	return answer(arg, c, path, method, false);
}

/* ---- The loop --------------------------------------------------------------- */

static bool descriptors_left(const struct listener *l)
{
	int fd = fcntl(l->epoll_fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return errno != EMFILE && errno != ENFILE;
	close(fd);
	return true;
}

/* A connection that MHD has no descriptor for stays readable: without a rest we would spin. */
static void rest_or_watch(struct listener *l)
{
	bool starved = !descriptors_left(l);
	MHD_UNSIGNED_LONG_LONG ms;

	loop_io_set(l->io, starved ? 0 : LOOP_READ);
	if (starved)
		loop_timer_set(l->timer, REST_MS);
	else if (MHD_get_timeout(l->mhd, &ms) == MHD_YES)
		loop_timer_set(l->timer, ms);
	else
		loop_timer_clear(l->timer);
	if (starved && !l->starved)
		log_err("rest: no descriptors left, connections must wait");
	l->starved = starved;
}

static bool run_mhd(void *arg)
{
	struct listener *l = arg;

	l->answered = false;
	l->next = NULL; /* of the run before, if its connection has gone */
	wake_one(l);
	MHD_run(l->mhd);
	if (l->n_asleep > 0)
		loop_job_queue(&l->job);
	rest_or_watch(l);
	return l->answered;
}

static void on_readable(unsigned events, void *arg)
{
	struct listener *l = arg;

	(void)events;
	loop_io_set(l->io, 0);
	loop_job_queue(&l->job);
}

static void on_timer(void *arg)
{
	struct listener *l = arg;

	loop_job_queue(&l->job);
}

static void ATTR_PRINTF(2, 0) on_log(void *arg, const char *fmt, va_list ap)
{
	char line[256];

	(void)arg;
	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	log_debug("rest: %s", line);
}

/* ---- Listeners ---------------------------------------------------------------- */

/*
 * Removes the socket file of a daemon that died. One where somebody answers,
 * or anything that is no socket, stays.
 */
static int remove_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd, rc;

	if (lstat(sun->sun_path, &st) != 0)
		return errno == ENOENT ? 0 : err_from_errno(errno);
	if (!S_ISSOCK(st.st_mode))
		return ERR_EXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_from_errno(errno);
	rc = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 || errno == EAGAIN
		     ? ERR_EXIST
		     : 0;
	if (rc == 0 && errno == ECONNREFUSED && unlink(sun->sun_path) != 0)
		rc = err_from_errno(errno);
	close(fd);
	return rc;
}

static int listen_unix(struct listener *l, const char *path, int *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t old;
	int fd, rc;

	*err = ERR_INVALID;
	if (path[0] != '/' || !span_copy(span_str(path), sun.sun_path, sizeof(sun.sun_path)))
		return -1;
	*err = remove_stale(&sun);
	if (*err != 0)
		return -1;
	l->path = span_dup(span_str(path));
	*err = ERR_NOMEM;
	if (l->path == NULL)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	old = umask(0117); /* 0660 from the first moment */
	rc = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&sun, sizeof(sun));
	*err = rc == 0 ? 0 : err_from_errno(errno);
	umask(old);
	if (*err != 0) {
		free(l->path);
		l->path = NULL;
	}
	return fd;
}

static int listen_tcp(struct listener *l, const struct rest_conf *conf, const char *text, int *err)
{
	struct sockaddr_storage ss;
	socklen_t n;
	int fd, on = 1;

	*err = ERR_INVALID;
	if (addr_port_parse(span_str(text), &l->local) != 0)
		return -1;
	if (conf->token == NULL && (!conf->open_loopback || !addr_is_loopback(&l->local.addr))) {
		log_err("rest: %s: TCP needs a token (or open_loopback, on loopback)", text);
		*err = ERR_PERM;
		return -1;
	}
	n = addr_to_sockaddr(&l->local, &ss);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	*err = 0;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    bind(fd, (struct sockaddr *)&ss, n) != 0)
		*err = err_from_errno(errno);
	n = sizeof(ss);
	if (*err == 0 && getsockname(fd, (struct sockaddr *)&ss, &n) == 0)
		*err = addr_from_sockaddr((struct sockaddr *)&ss, &l->local);
	return fd;
}

static int start_mhd(struct listener *l, int fd)
{
	const union MHD_DaemonInfo *info;

	l->asleep = calloc(l->rest->max_connections, sizeof(struct MHD_Connection *));
	if (l->asleep == NULL)
		return ERR_NOMEM;
	l->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_ERROR_LOG | MHD_ALLOW_SUSPEND_RESUME, 0,
				  NULL, NULL, on_request, l, MHD_OPTION_EXTERNAL_LOGGER, on_log,
				  NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
				  l->rest->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
				  IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
				  (size_t)HEADER_MAX, MHD_OPTION_END);
	if (l->mhd == NULL)
		return ERR_IO;
	info = MHD_get_daemon_info(l->mhd, MHD_DAEMON_INFO_EPOLL_FD);
	if (info == NULL)
		return ERR_IO;
	l->epoll_fd = info->epoll_fd;
	loop_job_init(&l->job, l->rest->loop, run_mhd, l);
	l->timer = loop_timer_new(l->rest->loop, on_timer, l);
	l->io = loop_io_new(l->rest->loop, l->epoll_fd, LOOP_READ, on_readable, l);
	return l->timer == NULL || l->io == NULL ? ERR_NOMEM : 0;
}

static int listener_open(struct listener *l, const struct rest_conf *conf, const char *where)
{
	static const char unix_prefix[] = "unix:";
	int fd, err;

	if (strncmp(where, unix_prefix, sizeof(unix_prefix) - 1) == 0)
		fd = listen_unix(l, where + sizeof(unix_prefix) - 1, &err);
	else
		fd = listen_tcp(l, conf, where, &err);
	if (err == 0 && listen(fd, 64) != 0)
		err = err_from_errno(errno);
	if (err != 0) {
		if (fd >= 0)
			close(fd);
	} else {
		err = start_mhd(l, fd);
	}
	if (err != 0)
		log_err("rest: cannot listen on %s: %s", where,
			err == ERR_EXIST   ? "in use"
			: err == ERR_LIMIT ? "no space or no descriptor left"
					   : err_str(err));
	return err;
}

static void listener_close(struct listener *l)
{
	loop_job_cancel(&l->job);
	loop_io_free(l->io);
	loop_timer_free(l->timer);
	while (wake_one(l)) /* MHD does not end with sleepers */
		;
	if (l->mhd != NULL)
		MHD_stop_daemon(l->mhd);
	free(l->asleep);
	if (l->path != NULL)
		unlink(l->path);
	free(l->path);
}

struct rest *rest_new(struct loop *l, const struct rest_conf *conf, const struct rest_route *routes,
		      void *arg)
{
	struct rest *r = calloc(1, sizeof(*r));

	if (r == NULL)
		goto nomem;
	r->loop = l;
	r->routes = routes;
	r->arg = arg;
	r->max_connections =
		conf->max_connections != 0 ? conf->max_connections : CONNECTIONS_DEFAULT;
	if (conf->token != NULL && (r->token = span_dup(span_str(conf->token))) == NULL)
		goto nomem;
	if (conf->n_listen > 0 &&
	    (r->listeners = calloc(conf->n_listen, sizeof(*r->listeners))) == NULL)
		goto nomem;
	for (size_t i = 0; i < conf->n_listen; i++) {
		struct listener *n = &r->listeners[r->n++];

		n->rest = r;
		if (listener_open(n, conf, conf->listen[i]) != 0) {
			rest_free(r);
			return NULL;
		}
	}
	return r;
nomem:
	log_err("rest: out of memory");
	rest_free(r);
	return NULL;
}

struct addr_port rest_local(const struct rest *r, size_t i)
{
	return r->listeners[i].local;
}

void rest_free(struct rest *r)
{
	if (r == NULL)
		return;
	for (size_t i = 0; i < r->n; i++)
		listener_close(&r->listeners[i]);
	free(r->listeners);
	free(r->token);
	free(r);
}
