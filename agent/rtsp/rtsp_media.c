/*
 * What the reply to a SETUP says about where media comes from, held against
 * what was asked (RFC 2326 §12.39). Everything that would make a pinhole for
 * anybody but this client and this server ends here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/rtsp/rtsp_int.h"

/* An address that can send media; anything else means "the server you talk to". */
static bool source_addr(const struct rtsp_param *source, struct addr *out)
{
	if (source == NULL || addr_parse(source->value, out) < 0)
		return false;
	*out = addr_unmap(*out);
	return !addr_is_any(out);
}

/* Half bound, a translated flow has outside ports; otherwise the client's own count. */
static struct rtsp_ports asked_ports(const struct rtsp_txn *t, struct rtsp_ports own)
{
	struct addr_port out;
	struct rtsp_ports p = own;

	if (!t->u->route.rewrite || t->stream->binding == NULL)
		return own;
	out = rtsp_relay_seen(t->stream, 0);
	if (out.addr.version == 0)
		return own;
	p.first = p.last = out.port;
	out = rtsp_relay_seen(t->stream, 1);
	if (own.last != own.first && out.addr.version != 0)
		p.last = out.port;
	return p;
}

/*
 * No client_port means the ports asked for. A server that names one port where
 * two were asked for, or two where one was, means the same first one.
 */
static bool ports_agree(struct rtsp_ports asked, const struct rtsp_param *said)
{
	struct rtsp_ports p;

	if (said == NULL)
		return true;
	if (rtsp_ports_parse(said->value, &p) < 0 || p.first != asked.first)
		return false;
	return p.last == p.first || asked.last == asked.first || p.last == asked.last;
}

/* The alternative that the server took: by profile and ports, at worst by ports alone. */
static const struct rtsp_spec *chosen(const struct rtsp_txn *t, const struct rtsp_transport *asked,
				      const struct rtsp_spec *said, struct rtsp_ports *own)
{
	const struct rtsp_param *ports = rtsp_spec_param(said, "client_port");
	const struct rtsp_spec *best = NULL;
	size_t i;

	for (i = 0; i < asked->n; i++) {
		const struct rtsp_spec *s = &asked->specs[i];
		struct rtsp_ports p;

		if (!rtsp_kept(t->keep & t->udp, i) ||
		    rtsp_ports_parse(rtsp_spec_param(s, "client_port")->value, &p) < 0 ||
		    !ports_agree(asked_ports(t, p), ports))
			continue;
		if (rtsp_protocol_same(s->protocol, said->protocol)) {
			*own = p;
			return s;
		}
		if (best == NULL) {
			best = s;
			*own = p;
		}
	}
	return best;
}

/* RFC 2326 §12.39 `source`, within what policy allows. */
static int media_host(const struct rtsp_txn *t, const struct rtsp_spec *said, struct addr *out,
		      unsigned *status, struct failure *f)
{
	const struct rtsp_terms *terms = &t->c->terms;
	const struct addr *server = &t->u->route.server.addr;
	char text[ADDR_STRLEN];
	size_t i;

	if (!source_addr(rtsp_spec_param(said, "source"), out) || addr_eq(out, server)) {
		*out = *server;
		return 0;
	}
	for (i = 0; i < terms->n_media_from; i++)
		if (addr_prefix_contains(&terms->media_from[i], out))
			return 0;
	*status = 403;
	failure_set(f, CAUSE_POLICY_REFUSED, "", 0, "media from %s is not permitted",
		    addr_str(out, text));
	return ERR_INVALID;
}

static int udp_ends(const struct rtsp_txn *t, const struct rtsp_spec *said, struct rtsp_ports own,
		    bool mux, struct rtsp_media *out, unsigned *status, struct failure *f)
{
	const struct rtsp_param *p = rtsp_spec_param(said, "server_port");
	struct rtsp_ports server;
	struct addr host;
	unsigned i;

	*status = 502;
	failure_set(f, CAUSE_PEER_MALFORMED, "", 0,
		    "the server's reply names no usable server_port");
	if (p == NULL || rtsp_ports_parse(p->value, &server) < 0)
		return ERR_MALFORMED;
	if (media_host(t, said, &host, status, f) < 0)
		return ERR_INVALID;
	if (host.version !=
	    (t->u->route.relay ? t->u->route.server.addr.version : t->c->peer.addr.version)) {
		*status = 461;
		failure_set(f, CAUSE_UNSUPPORTED, "", 0, "media of another IP version");
		return ERR_UNSUPPORTED;
	}
	out->components = !mux && own.last != own.first && server.last != server.first ? 2 : 1;
	for (i = 0; i < out->components; i++) {
		struct flow_ends *e = &out->ends[i];

		e->internal.addr = t->c->peer.addr;
		e->internal.port = i == 0 ? own.first : own.last;
		e->external.addr = host;
		e->external.port = i == 0 ? server.first : server.last;
		if (!t->c->e->io->permits(t->c->e->arg, &e->internal, &e->external)) {
			*status = 403;
			failure_set(f, CAUSE_POLICY_REFUSED, "", 0,
				    "policy does not permit media between these ports");
			return ERR_INVALID;
		}
	}
	return 0;
}

bool rtsp_media_group(const struct rtsp_client *c, const struct addr *group)
{
	size_t i;

	for (i = 0; i < c->terms.n_multicast; i++)
		if (addr_prefix_contains(&c->terms.multicast[i], group))
			return true;
	return false;
}

/*
 * The server sends to a group that it chose (RFC 2326 §12.39: destination, port,
 * ttl). From which port is not said, so any of that host.
 */
static int group_ends(const struct rtsp_txn *t, const struct rtsp_spec *said,
		      struct rtsp_media *out, unsigned *status, struct failure *f)
{
	const struct rtsp_param *to = rtsp_spec_param(said, "destination");
	const struct rtsp_param *p = rtsp_spec_param(said, "port");
	char text[ADDR_STRLEN];
	struct rtsp_ports ports;
	struct addr group, host;
	unsigned i;

	*status = 502;
	failure_set(f, CAUSE_PEER_MALFORMED, "", 0, "the server's reply names no group and port");
	if (to == NULL || addr_parse(to->value, &group) < 0 || !addr_is_multicast(&group) ||
	    p == NULL || rtsp_ports_parse(p->value, &ports) < 0 || ports.last < ports.first ||
	    ports.last - ports.first > 1)
		return ERR_MALFORMED;
	*status = 461;
	failure_set(f, CAUSE_POLICY_REFUSED, "", 0, "media to group %s is not permitted",
		    addr_str(&group, text));
	if (!rtsp_media_group(t->c, &group))
		return ERR_INVALID;
	if (media_host(t, said, &host, status, f) < 0)
		return ERR_INVALID;
	if (host.version != group.version || group.version != t->c->peer.addr.version) {
		*status = 461;
		failure_set(f, CAUSE_UNSUPPORTED, "", 0, "media of another IP version");
		return ERR_UNSUPPORTED;
	}
	out->group = true;
	out->components = ports.last != ports.first ? 2 : 1;
	for (i = 0; i < out->components; i++) {
		out->ends[i].internal.addr = group;
		out->ends[i].internal.port = i == 0 ? ports.first : ports.last;
		out->ends[i].external.addr = host;
	}
	return 0;
}

static void interleaved(const struct rtsp_spec *said, struct rtsp_media *out)
{
	const struct rtsp_param *p = rtsp_spec_param(said, "interleaved");

	out->interleaved = true;
	out->has_channels = p != NULL && rtsp_channels_parse(p->value, &out->channel_first,
							     &out->channel_last) == 0;
}

int rtsp_media_parse(const struct rtsp_txn *t, const struct rtsp_msg *request,
		     const struct rtsp_msg *reply, struct rtsp_media *out, unsigned *status,
		     struct failure *f)
{
	struct rtsp_transport asked, said;
	const struct rtsp_spec *s, *a;
	struct rtsp_ports own = {0, 0};
	int err;

	memset(out, 0, sizeof(*out));
	*status = 502;
	err = rtsp_transport_parse(reply, &said);
	if (err == ERR_NOENT && (t->keep & t->udp) == 0) {
		out->interleaved = true; /* nothing else was on offer */
		return 0;
	}
	failure_set(f, CAUSE_PEER_MALFORMED, "", 0, "the server's Transport cannot be understood");
	if (err < 0 || said.n != 1 || rtsp_transport_parse(request, &asked) < 0)
		return ERR_MALFORMED;
	s = &said.specs[0];
	span_copy(s->protocol, out->protocol, sizeof(out->protocol));
	if (s->delivery == RTSP_INTERLEAVED) {
		interleaved(s, out);
		return 0;
	}
	if (s->delivery == RTSP_MULTICAST && (t->keep & t->group) != 0)
		return group_ends(t, s, out, status, f);
	if (s->delivery != RTSP_UDP) {
		*status = 461;
		failure_set(f, CAUSE_UNSUPPORTED, "", 0,
			    "the server chose a transport that was not offered");
		return ERR_UNSUPPORTED;
	}
	a = chosen(t, &asked, s, &own);
	if (a == NULL) {
		failure_set(f, CAUSE_PEER_MALFORMED, "", 0,
			    "the server's reply names other ports than asked for");
		return ERR_MALFORMED;
	}
	out->record = a->record;
	span_copy(rtsp_spec_param(a, "client_port")->value, out->client_port,
		  sizeof(out->client_port));
	return udp_ends(t, s, own, s->rtcp_mux && a->rtcp_mux, out, status, f);
}

/*
 * `destination` is where the stream goes (RFC 2326 §12.39): to the client, or
 * from one that records to the server. GStreamer's rtspclientsink looks at
 * nothing else and would send to whom it is connected to.
 */
static void put_source(const struct rtsp_txn *t, const struct rtsp_media *media,
		       const struct rtsp_spec *s, struct rtsp_edits *e)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "source"), *last;
	char source[ADDR_STRLEN + 8] = "", destination[ADDR_STRLEN + 13] = "", text[ADDR_STRLEN];
	struct addr a;

	if (s->n_params == 0)
		return;
	if (!source_addr(p, &a))
		snprintf(source, sizeof(source), ";source=%s",
			 addr_str(&t->u->route.server.addr, text));
	if (media->record && rtsp_spec_param(s, "destination") == NULL)
		snprintf(destination, sizeof(destination), ";destination=%s",
			 addr_str(&media->ends[0].external.addr, text));
	if (p != NULL && source[0] != '\0') {
		rtsp_edit_printf(e, p->off, p->len, "%s%s", source, destination);
		return;
	}
	last = &s->params[s->n_params - 1];
	if (source[0] != '\0' || destination[0] != '\0')
		rtsp_edit_printf(e, last->off + last->len, 0, "%s%s", source, destination);
}

/* Whatever a server writes there: not the outside address, and nobody else's. */
static void restore_destination(const struct rtsp_txn *t, const struct rtsp_media *media,
				const struct rtsp_spec *s, struct rtsp_edits *e)
{
	const struct rtsp_param *p = rtsp_spec_param(s, "destination");
	const struct addr *right = &t->c->peer.addr;
	char text[ADDR_STRLEN];
	struct addr a;

	if (media->record && !media->interleaved)
		right = &media->ends[0].external.addr;
	if (p == NULL || !p->has_value || (addr_parse(p->value, &a) == 0 && addr_eq(&a, right)))
		return;
	if (t->u->route.relay && media->record) { /* `source` says it */
		rtsp_param_delete(e, p);
		return;
	}
	rtsp_edit_printf(e, p->value_off, p->value_len, "%s", addr_str(right, text));
}

/*
 * The client sees its own ports and never the outside address. Where it does
 * not talk to the server itself, it is told where to send RTCP.
 */
void rtsp_media_restore(const struct rtsp_txn *t, const struct rtsp_media *media,
			const struct rtsp_msg *reply, struct rtsp_edits *e)
{
	struct rtsp_transport said;
	const struct rtsp_spec *s = &said.specs[0];
	const struct rtsp_param *p;

	/* A group is the same for everybody. */
	if (media->group || rtsp_transport_parse(reply, &said) < 0)
		return;
	p = rtsp_spec_param(s, "client_port");
	if (p != NULL && t->u->route.rewrite && !media->interleaved)
		rtsp_edit_printf(e, p->value_off, p->value_len, "%s", media->client_port);
	restore_destination(t, media, s, e);
	if (media->interleaved)
		return;
	if (t->u->route.relay)
		rtsp_relay_restore(t->stream, media->components, s, e);
	else if (t->c->terms.mode != RTSP_TRANSPARENT)
		put_source(t, media, s, e);
}
