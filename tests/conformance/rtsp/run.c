/*
 * Runs the scripts beside it against the RTSP engine and prints TAP.
 *
 *   # comment
 *   ! NAME VALUE           a setting; before the first input
 *   > INPUT                what happens to the engine
 *   < EVENT                what the engine must do next, in this order
 *   <TAB>text              a line of a message, CRLF at its end; a line that
 *                          ends with a backslash goes without; \xNN, \r, \n,
 *                          \\ mean what they mean in C
 *
 * Between two inputs the engine does exactly the events named, no others.
 */
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/conformance/rtsp/world.h"

struct script {
	struct world w;
	struct span rest;
	unsigned line;
	bool started;
	char why[600];
};

static int bad(struct script *s, const char *fmt, ...) ATTR_PRINTF(2, 3);

static int bad(struct script *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	return ERR_MALFORMED;
}

static struct span word(struct span *rest)
{
	*rest = span_trim(*rest);
	return span_cut(rest, ' ');
}

static unsigned number(struct span *rest)
{
	uint64_t v = 0;

	span_u64(word(rest), UINT32_MAX, &v);
	return (unsigned)v;
}

static void unescape(struct span in, struct buf *out)
{
	size_t i;
	bool newline = true;

	for (i = 0; i < in.n; i++) {
		uint8_t c = in.p[i];

		if (c != '\\') {
			buf_append(out, &c, 1);
		} else if (i + 1 == in.n) {
			newline = false;
		} else if (in.p[++i] == 'x' && i + 2 < in.n) {
			char hex[3] = {(char)in.p[i + 1], (char)in.p[i + 2], 0};

			c = (uint8_t)strtoul(hex, NULL, 16);
			buf_append(out, &c, 1);
			i += 2;
		} else {
			c = in.p[i] == 'r' ? '\r' : in.p[i] == 'n' ? '\n' : in.p[i];
			buf_append(out, &c, 1);
		}
	}
	if (newline)
		buf_append_str(out, "\r\n");
}

/* The tab lines that follow. */
static void take_message(struct script *s, struct buf *out)
{
	buf_init(out, SIZE_MAX);
	while (s->rest.n > 0 && s->rest.p[0] == '\t') {
		struct span line = span_cut(&s->rest, '\n');

		s->line++;
		unescape(span_sub(line, 1, line.n - 1), out);
	}
}

static enum cause cause_named(struct span name)
{
	int i;

	for (i = 0; i < CAUSE_MAX; i++)
		if (span_eq_str(name, cause_info((enum cause)i)->name))
			return (enum cause)i;
	return CAUSE_AGENT_FAULT;
}

/* mount PATH URL [rewrite|transparent] */
static int mount(struct script *s, struct span line)
{
	struct rtsp_mounts *ms = &s->w.plan.mounts;
	char path[256], to[256];

	span_copy(word(&line), path, sizeof(path));
	span_copy(word(&line), to, sizeof(to));
	if (rtsp_mounts_add(ms, path, to) < 0)
		return bad(s, "bad mount");
	line = span_trim(line);
	ms->v[ms->n - 1].has_out = line.n > 0;
	ms->v[ms->n - 1].out =
		span_eq_str(line, "rewrite") ? RTSP_OUT_REWRITE : RTSP_OUT_TRANSPARENT;
	return 0;
}

static int setting(struct script *s, struct span line)
{
	struct span name = word(&line);
	struct world *w = &s->w;
	struct span v = span_trim(line);

	if (span_eq_str(name, "mode")) {
		w->terms.mode = span_eq_str(v, "forward")   ? RTSP_FORWARD
				: span_eq_str(v, "reverse") ? RTSP_REVERSE
							    : RTSP_TRANSPARENT;
	} else if (span_eq_str(name, "mount")) {
		return mount(s, v);
	} else if (span_eq_str(name, "tls")) {
		if (span_eq_str(v, "clients"))
			w->terms.tls = true;
		w->plan.tls = (struct tls_ctx *)w; /* never looked into */
	} else if (span_eq_str(name, "way")) {
		w->rewrite = span_eq_str(v, "rewrite");
		if (w->rewrite)
			addr_port_parse(SPAN_LIT("198.51.100.1:16384"), &w->outside);
	} else if (span_eq_str(name, "relay")) { /* out=relay, on that address */
		w->rewrite = w->relay = addr_parse(v, &w->relay_at) == 0;
	} else if (span_eq_str(name, "relay_ports")) {
		w->relay_refused = span_eq_str(v, "none");
	} else if (span_eq_str(name, "outside")) { /* what the path does, whatever way was chosen */
		if (addr_port_parse(v, &w->outside) < 0)
			w->outside.addr = addr_none;
	} else if (span_eq_str(name, "out")) {
		w->terms.out = span_eq_str(v, "auto") ? RTSP_OUT_AUTO : RTSP_OUT_REWRITE;
	} else if (span_eq_str(name, "media_from")) {
		addr_prefix_parse(v, &w->terms.media_from[w->terms.n_media_from++]);
	} else if (span_eq_str(name, "multicast")) {
		addr_prefix_parse(v, &w->terms.multicast[w->terms.n_multicast++]);
	} else if (span_eq_str(name, "bind")) {
		w->bind_refused = span_eq_str(v, "ok") ? CAUSE_NONE : cause_named(v);
	} else if (span_eq_str(name, "connect")) {
		w->connect_refused = span_eq_str(v, "refused");
	} else if (span_eq_str(name, "hint")) {
		w->terms.interleaved_hint = true;
	} else if (span_eq_str(name, "idle")) {
		w->terms.idle_timeout_ms = number(&v);
	} else if (span_eq_str(name, "sessions")) {
		w->limits.sessions = number(&v);
	} else if (span_eq_str(name, "sessions_per_client")) {
		w->limits.sessions_per_client = number(&v);
	} else if (span_eq_str(name, "connections")) {
		w->limits.connections = number(&v);
	} else if (span_eq_str(name, "connections_per_client")) {
		w->limits.connections_per_client = number(&v);
	} else {
		return bad(s, "unknown setting");
	}
	return 0;
}

static int client_connects(struct script *s, unsigned id, struct span line)
{
	struct addr_port peer = {0}, target = {0};

	if (id != s->w.n_clients + 1 || addr_port_parse(word(&line), &peer) < 0)
		return bad(s, "client numbers count from 1");
	if (span_eq_str(word(&line), "to"))
		addr_port_parse(word(&line), &target);
	world_connect(&s->w, &peer, &target);
	return 0;
}

static void sends(struct script *s, struct world_wire *wire, bool dribble)
{
	struct buf data;
	size_t i;

	take_message(s, &data);
	if (!dribble)
		world_feed(wire, buf_span(&data));
	for (i = 0; dribble && i < data.len && wire->open; i++)
		world_feed(wire, span_sub(buf_span(&data), i, 1));
	buf_fini(&data);
}

static int wire_input(struct script *s, bool server, struct span line)
{
	unsigned id = number(&line);
	struct span verb = word(&line);
	struct world_wire *wire;

	if (!server && span_eq_str(verb, "connects"))
		return client_connects(s, id, line);
	wire = world_wire(&s->w, server, id);
	if (wire == NULL)
		return bad(s, "no such connection");
	if (span_eq_str(verb, "sends")) {
		sends(s, wire, false);
	} else if (span_eq_str(verb, "dribbles")) { /* one octet at a time */
		sends(s, wire, true);
	} else if (span_eq_str(verb, "closes")) {
		world_close(wire, ERR_CLOSED);
	} else if (span_eq_str(verb, "refused")) {
		world_close(wire, ERR_REFUSED);
	} else if (span_eq_str(verb, "silent")) {
		world_close(wire, ERR_TIMEOUT);
	} else if (span_eq_str(verb, "up")) {
		world_ready(wire);
	} else if (span_eq_str(verb, "queues")) {
		wire->queued = number(&line);
	} else if (span_eq_str(verb, "drained")) {
		wire->queued = 0;
		if (server)
			rtsp_upstream_drained(wire->end);
		else
			rtsp_client_drained(wire->end);
	} else if (span_eq_str(verb, "offers")) {
		world_offer(wire);
	} else {
		return bad(s, "unknown input");
	}
	return 0;
}

static int rest_show(struct script *s, struct span line)
{
	struct buf out;
	struct jsonw w;
	bool found;
	char id[32], want[256];

	span_copy(word(&line), id, sizeof(id));
	span_copy(span_trim(line), want, sizeof(want));
	buf_init(&out, SIZE_MAX);
	jsonw_init(&w, &out);
	found = rtsp_engine_show(s->w.engine, id, &w);
	buf_append(&out, "", 1);
	if (!found || strstr((const char *)buf_span(&out).p, want) == NULL)
		bad(s, "not in %s", (const char *)buf_span(&out).p);
	buf_fini(&out);
	return s->why[0] != '\0' ? ERR_MALFORMED : 0;
}

/* resolved QUESTION [ADDRESS...] */
static int resolved(struct script *s, struct span line)
{
	unsigned id = number(&line);
	struct addr a[8];
	size_t n = 0;

	while (n < ARRAY_LEN(a) && addr_parse(word(&line), &a[n]) == 0)
		n++;
	world_resolve(&s->w, id, a, n);
	return 0;
}

static int binding_input(struct script *s, struct span what, struct span line)
{
	unsigned n = number(&line);

	if (span_eq_str(what, "half-bound"))
		world_binding(&s->w, n, BINDING_EV_HALF_BOUND, CAUSE_NONE);
	else if (span_eq_str(what, "bound"))
		world_binding(&s->w, n, BINDING_EV_BOUND, CAUSE_NONE);
	else if (span_eq_str(what, "failed"))
		world_binding(&s->w, n, BINDING_EV_FAILED, cause_named(word(&line)));
	else if (span_eq_str(what, "lost"))
		world_binding(&s->w, n, BINDING_EV_LOST, cause_named(word(&line)));
	else if (span_eq_str(what, "released"))
		world_released(&s->w, n);
	else if (span_eq_str(what, "rtcp")) /* rtcp BINDING MS: last seen that long ago */
		s->w.bindings[n - 1].idle[1] = number(&line);
	else if (span_eq_str(what, "rtp"))
		s->w.bindings[n - 1].idle[0] = number(&line);
	else if (span_eq_str(what, "relayed")) /* relayed RELAY: the client sent something */
		s->w.relays[n - 1].client_ms = s->w.now;
	else
		return bad(s, "unknown input");
	return 0;
}

static int input(struct script *s, struct span line)
{
	struct span what = word(&line);
	char id[32];
	size_t n;

	if (!s->started) {
		s->started = true;
		if (!world_start(&s->w))
			return bad(s, "no engine");
	}
	if (span_eq_str(what, "client"))
		return wire_input(s, false, line);
	if (span_eq_str(what, "server"))
		return wire_input(s, true, line);
	if (span_eq_str(what, "show"))
		return rest_show(s, line);
	if (span_eq_str(what, "set"))
		return setting(s, line);
	if (span_eq_str(what, "resolved"))
		return resolved(s, line);
	if (span_eq_str(what, "time")) {
		world_pass(&s->w, number(&line));
	} else if (span_eq_str(what, "sessions")) {
		n = rtsp_engine_n_sessions(s->w.engine);
		if (number(&line) != n)
			return bad(s, "%zu sessions", n);
	} else if (span_eq_str(what, "end")) {
		span_copy(word(&line), id, sizeof(id));
		if (!rtsp_engine_end(s->w.engine, id))
			return bad(s, "no such session");
	} else if (span_eq_str(what, "shutdown")) {
		rtsp_engine_shutdown(s->w.engine, world_done, &s->w);
	} else {
		return binding_input(s, what, line);
	}
	return 0;
}

static int expect(struct script *s, struct span line)
{
	struct event *ev = world_event(&s->w);
	struct buf data;
	char shown[500];
	int err = 0;

	take_message(s, &data);
	if (ev == NULL)
		err = bad(s, "nothing happened");
	else if (!span_eq_str(line, ev->head))
		err = bad(s, "happened: %s: %s", ev->head,
			  log_escape(buf_span(&ev->data), shown, sizeof(shown)));
	else if (!span_eq(buf_span(&data), buf_span(&ev->data)))
		err = bad(s, "message was: %s",
			  log_escape(buf_span(&ev->data), shown, sizeof(shown)));
	event_free(ev);
	buf_fini(&data);
	return err;
}

static int nothing_left(struct script *s)
{
	struct event *ev = world_event(&s->w);
	char shown[400];

	if (ev == NULL)
		return 0;
	bad(s, "also happened: %s: %s", ev->head,
	    log_escape(buf_span(&ev->data), shown, sizeof(shown)));
	event_free(ev);
	return ERR_MALFORMED;
}

static int step(struct script *s, struct span line)
{
	if (line.n == 0 || line.p[0] == '#')
		return 0;
	if (line.n < 3 || line.p[1] != ' ')
		return bad(s, "what does this line mean?");
	if (line.p[0] == '!')
		return setting(s, span_sub(line, 2, line.n));
	if (line.p[0] == '<')
		return expect(s, span_trim(span_sub(line, 2, line.n)));
	if (line.p[0] != '>')
		return bad(s, "what does this line mean?");
	if (nothing_left(s) < 0)
		return ERR_MALFORMED;
	return input(s, span_sub(line, 2, line.n));
}

static bool run(struct script *s, struct span text)
{
	int err = 0;

	world_init(&s->w);
	s->rest = text;
	while (s->rest.n > 0 && err == 0) {
		struct span line = span_cut(&s->rest, '\n');

		s->line++;
		err = step(s, line);
	}
	if (err == 0)
		err = nothing_left(s);
	if (!s->started && !world_start(&s->w))
		return false;
	if (!world_fini(&s->w) && err == 0)
		err = bad(s, "a binding, timer or connection was left behind");
	return err == 0;
}

static void silent(enum log_level level ATTR_UNUSED, const char *line ATTR_UNUSED,
		   void *arg ATTR_UNUSED)
{
}

static int read_file(const char *path, struct buf *text)
{
	FILE *f = fopen(path, "r");
	uint8_t *p;

	if (f == NULL)
		return ERR_NOENT;
	while (!feof(f) && !ferror(f) && (p = buf_reserve(text, 4096)) != NULL)
		buf_commit(text, fread(p, 1, 4096, f));
	fclose(f);
	return text->error;
}

static bool run_file(const char *dir, const char *name, unsigned n)
{
	struct script *s = calloc(1, sizeof(*s));
	char path[4096 + 256];
	struct buf text;
	bool ok;

	if (s == NULL)
		return false;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	buf_init(&text, 1u << 20);
	ok = read_file(path, &text) == 0 && run(s, buf_span(&text));
	printf("%sok %u - %s\n", ok ? "" : "not ", n, name);
	if (!ok)
		printf("# %s:%u: %s\n", name, s->line, s->why);
	buf_fini(&text);
	free(s);
	return ok;
}

static int is_script(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return n > 5 && strcmp(d->d_name + n - 5, ".rtsp") == 0;
}

/* Without arguments every script; otherwise those whose name contains the first. */
int main(int argc, char **argv)
{
	const char *src = getenv("SRCDIR");
	char dir[4096];
	struct dirent **list = NULL;
	unsigned total = 0, failed = 0;
	int i, n;

	if (getenv("VERBOSE") == NULL)
		log_set_sink(silent, NULL);
	else
		log_set_level(LOG_LEVEL_DEBUG);
	snprintf(dir, sizeof(dir), "%s/tests/conformance/rtsp", src != NULL ? src : ".");
	n = scandir(dir, &list, is_script, alphasort);
	for (i = 0; i < n; i++) {
		if (argc < 2 || strstr(list[i]->d_name, argv[1]) != NULL)
			failed += !run_file(dir, list[i]->d_name, ++total);
		free(list[i]);
	}
	free(list);
	printf("1..%u\n", total);
	return total == 0 || failed > 0;
}
