/*
 * The operator's view: status, sessions, bindings, health, metrics. Documented
 * in sluice-agent(8).
 */
#include "agent/agent_rest.h"

#include "agent/agent.h"
#include "agent/bindings.h"
#include "agent/mb_client.h"
#include "agent/rtsp/rtsp.h"
#include "config.h"

static void rest_failures(struct jsonw *w)
{
	jsonw_object(w, "failures");
	for (int c = CAUSE_NONE + 1; c < CAUSE_MAX; c++)
		jsonw_uint(w, cause_info((enum cause)c)->name, failure_count((enum cause)c));
	jsonw_object_end(w);
}

static void get_status(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct agent *a = arg;
	struct jsonw *w = &rep->json;

	(void)req;
	jsonw_object(w, NULL);
	jsonw_str(w, "daemon", "sluice-agent");
	jsonw_str(w, "version", PACKAGE_VERSION);
	jsonw_str(w, "identity", a->policy->identity);
	jsonw_uint(w, "uptime_ms", loop_now_ms(a->loop) - a->started_ms);
	jsonw_bool(w, "stopping", a->stopping);
	jsonw_uint(w, "reloads", a->reloads);
	jsonw_uint(w, "refused_reloads", a->refused_reloads);
	mb_clients_rest(a->middleboxes, w, "middleboxes");
	jsonw_object(w, "rtsp");
	jsonw_uint(w, "sessions", rtsp_n_sessions(a->rtsp));
	jsonw_uint(w, "connections", rtsp_n_connections(a->rtsp));
	jsonw_object_end(w);
	jsonw_object(w, "bindings");
	jsonw_uint(w, "total", bindings_count(a->bindings));
	for (int s = BINDING_RESERVING; s <= BINDING_FAILED; s++)
		jsonw_uint(w, binding_state_name((enum binding_state)s),
			   bindings_count_state(a->bindings, (enum binding_state)s));
	jsonw_object_end(w);
	rest_failures(w);
	jsonw_object_end(w);
}

static void not_found(const struct rest_request *req, struct rest_reply *rep, const char *what)
{
	rest_problem(rep, 404, "Not Found", "no %s \"%s\"", what, req->id);
}

static void ended(const struct rest_request *req, struct rest_reply *rep)
{
	jsonw_object(&rep->json, NULL);
	jsonw_str(&rep->json, "ended", req->id);
	jsonw_object_end(&rep->json);
}

static void get_sessions(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	struct agent *a = arg;
	struct jsonw *w = &rep->json;
	uint64_t next;

	jsonw_object(w, NULL);
	jsonw_array(w, "sessions");
	next = rtsp_rest_list(a->rtsp, req->after, req->limit, w);
	jsonw_array_end(w);
	if (next)
		jsonw_uint(w, "next", next); /* ?after= of the next page */
	jsonw_object_end(w);
}

static void get_session(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	struct agent *a = arg;

	if (!rtsp_rest_show(a->rtsp, req->id, &rep->json))
		not_found(req, rep, "session");
}

static void delete_session(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	struct agent *a = arg;

	if (rtsp_rest_end(a->rtsp, req->id))
		ended(req, rep);
	else
		not_found(req, rep, "session");
}

static void get_bindings(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct agent *a = arg;

	bindings_rest_list(a->bindings, req->after, req->limit, &rep->json);
}

static void get_binding(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct agent *a = arg;

	if (!bindings_rest_show(a->bindings, req->id, &rep->json))
		not_found(req, rep, "binding");
}

static void delete_binding(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	struct agent *a = arg;

	if (bindings_rest_end(a->bindings, req->id))
		ended(req, rep);
	else
		not_found(req, rep, "binding");
}

/* Alive: the loop turns and answers. */
static void get_healthz(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	(void)req;
	(void)arg;
	jsonw_object(&rep->json, NULL);
	jsonw_str(&rep->json, "status", "ok");
	jsonw_object_end(&rep->json);
}

/* Able to work: every middlebox of the policy has an open session. */
static void get_readyz(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct agent *a = arg;
	const char *down = NULL;

	(void)req;
	if (a->stopping) {
		rest_problem(rep, 503, "Stopping", "the agent is shutting down");
		return;
	}
	if (!mb_clients_ready(a->middleboxes, &down)) {
		rest_problem(rep, 503, "Not Ready", "no SIMCO session with middlebox \"%s\"", down);
		return;
	}
	jsonw_object(&rep->json, NULL);
	jsonw_str(&rep->json, "status", "ready");
	jsonw_object_end(&rep->json);
}

static void gauge(struct buf *out, const char *name, const char *help, uint64_t value)
{
	buf_printf(out, "# HELP sluice_agent_%s %s\n# TYPE sluice_agent_%s gauge\n", name, help,
		   name);
	buf_printf(out, "sluice_agent_%s %llu\n", name, (unsigned long long)value);
}

static void get_metrics(const struct rest_request *req, struct rest_reply *rep, void *arg)
{
	const struct agent *a = arg;
	struct buf *out = &rep->body;

	(void)req;
	rep->content_type = "text/plain; version=0.0.4; charset=utf-8";
	gauge(out, "uptime_seconds", "Seconds since the start.",
	      (loop_now_ms(a->loop) - a->started_ms) / 1000);
	gauge(out, "rtsp_sessions", "RTSP sessions.", rtsp_n_sessions(a->rtsp));
	gauge(out, "rtsp_connections", "RTSP connections of clients.", rtsp_n_connections(a->rtsp));
	buf_append_str(out, "# HELP sluice_agent_bindings Bindings by state.\n"
			    "# TYPE sluice_agent_bindings gauge\n");
	for (int s = BINDING_RESERVING; s <= BINDING_FAILED; s++)
		buf_printf(out, "sluice_agent_bindings{state=\"%s\"} %zu\n",
			   binding_state_name((enum binding_state)s),
			   bindings_count_state(a->bindings, (enum binding_state)s));
	buf_append_str(out, "# HELP sluice_agent_failures_total Failures by cause.\n"
			    "# TYPE sluice_agent_failures_total counter\n");
	for (int c = CAUSE_NONE + 1; c < CAUSE_MAX; c++)
		buf_printf(out, "sluice_agent_failures_total{cause=\"%s\"} %llu\n",
			   cause_info((enum cause)c)->name,
			   (unsigned long long)failure_count((enum cause)c));
	mb_clients_metrics(a->middleboxes, out);
}

const struct rest_route agent_routes[] = {
	{"GET", "/v1/status", get_status},
	{"GET", "/v1/sessions", get_sessions},
	{"GET", "/v1/sessions/{id}", get_session},
	{"DELETE", "/v1/sessions/{id}", delete_session},
	{"GET", "/v1/bindings", get_bindings},
	{"GET", "/v1/bindings/{id}", get_binding},
	{"DELETE", "/v1/bindings/{id}", delete_binding},
	{"GET", "/healthz", get_healthz},
	{"GET", "/readyz", get_readyz},
	{"GET", "/metrics", get_metrics},
	{NULL, NULL, NULL},
};
