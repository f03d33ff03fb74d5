/*
 * The way out `relay`: media passes through ports of our own, so that for the
 * server we are the client and for the client the server. What stands on the
 * path to the server sees our far side as the internal end (A0).
 */
#include "agent/rtsp/rtsp_int.h"

int rtsp_relay_start(struct rtsp_txn *t, unsigned components, struct failure *f)
{
	struct rtsp_engine *e = t->c->e;

	t->stream->relay = e->io->relay_new(e->arg, &t->u->route, components, f);
	return t->stream->relay != NULL ? 0 : ERR_LIMIT;
}

void rtsp_relay_end(struct rtsp_stream *st)
{
	struct relay *r = st->relay;

	st->relay = NULL;
	if (r != NULL)
		st->e->io->relay_free(r);
}

void rtsp_relay_ends(const struct rtsp_stream *st, struct flow_ends out[FLOW_COMPONENTS])
{
	unsigned i;

	for (i = 0; i < FLOW_COMPONENTS; i++) {
		out[i] = st->ends[i];
		if (st->relay != NULL && out[i].external.addr.version != 0)
			out[i].internal = st->e->io->relay_local(st->relay, RELAY_FAR, i);
	}
}

/* Nothing has passed before: a component forwards once both its remotes are known. */
int rtsp_relay_open(struct rtsp_stream *st)
{
	const struct rtsp_io *io = st->e->io;
	unsigned i;
	int err;

	for (i = 0; st->relay != NULL && i < st->components; i++) {
		err = io->relay_set_remote(st->relay, RELAY_CLIENT, i, &st->ends[i].internal);
		if (err == 0)
			err = io->relay_set_remote(st->relay, RELAY_FAR, i, &st->ends[i].external);
		if (err < 0)
			return err;
	}
	return 0;
}

struct addr_port rtsp_relay_seen(const struct rtsp_stream *st, unsigned i)
{
	struct addr_port a = st->e->io->outside(st->binding, i);

	if (a.addr.version == 0 && st->relay != NULL)
		a = st->e->io->relay_local(st->relay, RELAY_FAR, i);
	return a;
}

void rtsp_relay_restore(const struct rtsp_stream *st, unsigned components,
			const struct rtsp_spec *s, struct rtsp_edits *e)
{
	struct addr_port a = st->e->io->relay_local(st->relay, RELAY_CLIENT, 0);
	struct addr_port b = st->e->io->relay_local(st->relay, RELAY_CLIENT, 1);
	const struct rtsp_param *port = rtsp_spec_param(s, "server_port");
	const struct rtsp_param *source = rtsp_spec_param(s, "source");
	const struct rtsp_param *last = &s->params[s->n_params - 1]; /* there is server_port */
	char text[ADDR_STRLEN];

	if (components > 1)
		rtsp_edit_printf(e, port->value_off, port->value_len, "%u-%u", a.port, b.port);
	else
		rtsp_edit_printf(e, port->value_off, port->value_len, "%u", a.port);
	addr_str(&a.addr, text);
	if (source != NULL)
		rtsp_edit_printf(e, source->off, source->len, ";source=%s", text);
	else
		rtsp_edit_printf(e, last->off + last->len, 0, ";source=%s", text);
}

uint64_t rtsp_relay_idle_ms(const struct rtsp_stream *st, unsigned i)
{
	const struct rtsp_io *io = st->e->io;
	struct relay_stats stats;

	if (st->relay == NULL)
		return io->idle_ms(st->binding, i);
	stats = io->relay_stats(st->relay, RELAY_CLIENT, i);
	return stats.last_ms != 0 ? rtsp_now(st->e) - stats.last_ms : UINT64_MAX;
}

static void side_json(const struct rtsp_stream *st, enum relay_side side, unsigned i,
		      const char *name, struct jsonw *w)
{
	struct addr_port local = st->e->io->relay_local(st->relay, side, i);
	struct relay_stats stats = st->e->io->relay_stats(st->relay, side, i);

	jsonw_object(w, name);
	jsonw_addr_port(w, "at", &local);
	jsonw_uint(w, "packets", stats.packets);
	jsonw_uint(w, "octets", stats.octets);
	jsonw_uint(w, "dropped", stats.dropped);
	jsonw_object_end(w);
}

void rtsp_relay_json(const struct rtsp_stream *st, unsigned i, struct jsonw *w)
{
	if (st->relay == NULL)
		return;
	jsonw_object(w, "relay");
	side_json(st, RELAY_CLIENT, i, "from_client", w);
	side_json(st, RELAY_FAR, i, "from_server", w);
	jsonw_object_end(w);
}
