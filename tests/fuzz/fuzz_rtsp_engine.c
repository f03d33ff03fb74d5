/*
 * The RTSP engine against arbitrary clients, servers, middleboxes and time.
 * The input is a program: an opcode, an argument, and for octets on a wire a
 * length and the octets. Afterwards nothing may be left behind.
 */
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/conformance/rtsp/world.h"

#define MAX_STEPS 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t n;
};

static unsigned take(struct input *in)
{
	if (in->n == 0)
		return 0;
	in->n--;
	return *in->p++;
}

/* Text messages are the point, so a line in the corpus stays a line: length 0 means "to the NUL".
 */
static struct span take_octets(struct input *in)
{
	struct span s = {in->p, 0};

	s.n = take(in);
	s.p = in->p;
	if (s.n == 0)
		while (s.n < in->n && in->p[s.n] != 0)
			s.n++;
	if (s.n > in->n)
		s.n = in->n;
	in->p += s.n;
	in->n -= s.n;
	return s;
}

static void connect_client(struct world *w, unsigned arg)
{
	struct addr_port peer, target;

	addr_port_parse(SPAN_LIT("10.1.0.2:40000"), &peer);
	addr_port_parse(SPAN_LIT("192.0.2.9:554"), &target);
	peer.addr.b[3] = (uint8_t)(2 + (arg & 1));
	w->terms.mode = (arg & 2) != 0 ? RTSP_FORWARD : RTSP_TRANSPARENT;
	if (w->terms.mode == RTSP_FORWARD)
		target.addr = addr_none;
	if ((arg & 4) != 0) {
		w->terms.mode = RTSP_REVERSE;
		addr_port_parse(SPAN_LIT("10.1.0.9:8554"), &target);
	}
	world_connect(w, &peer, &target);
}

static void drain(struct world_wire *wire, bool server)
{
	wire->queued = 0;
	if (server)
		rtsp_upstream_drained(wire->end);
	else
		rtsp_client_drained(wire->end);
}

static void on_wire(struct world *w, unsigned op, unsigned arg, struct input *in)
{
	bool server = (arg & 1) != 0;
	struct world_wire *wire = world_wire(w, server, 1 + (arg >> 1) % 8);
	struct span octets = op == 0 ? take_octets(in) : SPAN_EMPTY;

	if (wire == NULL)
		return;
	switch (op) {
	case 0:
		world_feed(wire, octets);
		break;
	case 1:
		world_close(wire, (arg & 64) != 0 ? ERR_TIMEOUT : ERR_CLOSED);
		break;
	case 2:
		if (server)
			world_ready(wire);
		break;
	case 3:
		wire->queued = 300000;
		break;
	default:
		drain(wire, server);
		world_offer(wire);
		break;
	}
}

static void step(struct world *w, struct input *in)
{
	unsigned op = take(in), arg = take(in);
	struct addr a[2];

	switch (op % 13) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
		on_wire(w, op % 13, arg, in);
		break;
	case 5:
		connect_client(w, arg);
		break;
	case 6: /* the usual way of a binding */
		world_binding(w, 1 + arg % 16, BINDING_EV_HALF_BOUND, CAUSE_NONE);
		break;
	case 7:
		world_binding(w, 1 + arg % 16, BINDING_EV_BOUND, CAUSE_NONE);
		break;
	case 8:
		world_binding(w, 1 + arg % 16,
			      (arg & 16) != 0 ? BINDING_EV_LOST : BINDING_EV_FAILED,
			      (enum cause)(1 + arg % (CAUSE_MAX - 1)));
		break;
	case 9:
		world_released(w, 1 + arg % 16);
		break;
	case 10:
		world_pass(w, 1u << arg % 18);
		break;
	case 11:
		addr_parse(SPAN_LIT("192.0.2.9"), &a[0]);
		addr_parse(SPAN_LIT("2001:db8::9"), &a[1]);
		world_resolve(w, 1 + arg % 8, a, (arg >> 3) % 3);
		break;
	default:
		if (arg < 8)
			rtsp_engine_shutdown(w->engine, world_done, w);
		w->bind_refused = arg % 3 == 0 ? CAUSE_QUOTA : CAUSE_NONE;
		w->connect_refused = arg % 5 == 0;
		w->terms.interleaved_hint = arg % 7 == 0;
		break;
	}
}

static void silent(enum log_level level ATTR_UNUSED, const char *line ATTR_UNUSED,
		   void *arg ATTR_UNUSED)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w; /* large; filled anew each time */
	struct input in = {data, size};
	struct buf json;
	struct jsonw jw;
	unsigned n, first;

	log_set_sink(silent, NULL);
	world_init(&w);
	w.quiet = true;
	w.limits.sessions = 8;
	first = take(&in);
	w.rewrite = (first & 1) != 0;
	w.terms.out = (first & 2) != 0 ? RTSP_OUT_AUTO : RTSP_OUT_REWRITE;
	addr_port_parse(SPAN_LIT("198.51.100.1:16384"), &w.outside);
	addr_prefix_parse(SPAN_LIT("232.0.0.0/8"), &w.terms.multicast[0]);
	w.terms.n_multicast = 1;
	if ((first & 8) != 0) {
		w.relay = w.rewrite = true;
		addr_parse(SPAN_LIT("10.1.0.9"), &w.relay_at);
		if ((first & 16) != 0)
			w.outside.addr = addr_none;
	}
	rtsp_mounts_add(&w.plan.mounts, "/a", "rtsp://192.0.2.9/live");
	rtsp_mounts_add(&w.plan.mounts, "/", "rtsp://camera.example:8554/");
	if (!world_start(&w))
		return 0;
	connect_client(&w, (first & 4) | (w.rewrite ? 2u : 0u));
	for (n = 0; n < MAX_STEPS && in.n > 0; n++)
		step(&w, &in);
	buf_init(&json, SIZE_MAX);
	jsonw_init(&jw, &json);
	jsonw_array(&jw, NULL);
	rtsp_engine_list(w.engine, 0, 100, &jw);
	jsonw_array_end(&jw);
	buf_fini(&json);
	if (!world_fini(&w))
		abort();
	return 0;
}
