/*
 * Drives fw.h from the command line, for the namespace tests: options are the
 * configuration, lines on stdin are operations. Every line gets one answer,
 * "ok ..." or "error ...".
 *
 *   open|close PROTO SRC DST [MS]      bind|unbind PROTO A0 A2 MS [A1 A3]
 *   block|unblock PROTO SRC DST [MS]
 *   forget PROTO SRC DST [A0 A2 [A1 A3]]      txn      commit
 *   counters|audit|audit-block PROTO SRC DST
 *   audit-bind PROTO A0 A2 [A1 A3]     quarantined PROTO A2
 *   work slice poll lost reinstall reconfigure foreign features stats quit remove
 *   cpu                                microseconds of this thread, and of all
 *   meanwhile PROTO SRC DST [A0 A2]    forgets that while a dump goes on: how often, longest us
 *   bench N CHUNK NAT                  cost of opening and closing N flows
 *
 * PROTO udp, tcp, any or a number. SRC and DST: "10.1.0.2:5000",
 * "10.1.0.0/24:5000-5009", "any:any", "[2001:db8::1]:5000", "[any]:any" for
 * IPv6's any. Operations are collected until "commit".
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <netinet/in.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw.h"

#define OPS_MAX 65536
#define LIST_MAX 64

struct tool {
	struct fw_config cfg, reloaded;
	struct fw_permit permits[LIST_MAX];
	struct fw_pool pools[LIST_MAX];
	struct fw_source sources[LIST_MAX];
	struct fw_static statics[LIST_MAX];
	struct addr_port control[LIST_MAX];
	const char *inside[LIST_MAX], *outside[LIST_MAX];
	bool adopt;
	struct fw *fw;
	struct fw_op *ops;
	int *results;
	size_t n_ops;
	uint32_t txn;
	unsigned lost;
};

static void die(const char *what, const char *arg)
{
	fprintf(stderr, "fwtool: bad %s \"%s\"\n", what, arg ? arg : "");
	exit(2);
}

static uint8_t protocol_of(const char *s)
{
	if (strcmp(s, "udp") == 0)
		return IPPROTO_UDP;
	if (strcmp(s, "tcp") == 0)
		return IPPROTO_TCP;
	return strcmp(s, "any") == 0 ? 0 : (uint8_t)strtoul(s, NULL, 10);
}

static struct addr_port addr_port_of(const char *s)
{
	struct addr_port a;

	if (addr_port_parse(span_str(s), &a))
		die("address and port", s);
	return a;
}

static struct port_range ports_of(const char *s)
{
	struct port_range r = {0, 65535};

	if (strcmp(s, "any") != 0 && port_range_parse(span_str(s), &r))
		die("ports", s);
	return r;
}

static struct addr_prefix prefix_of(const char *s, uint8_t version)
{
	struct addr_prefix p = {.addr = {.version = version}};

	if (strcmp(s, "any") != 0 && addr_prefix_parse(span_str(s), &p))
		die("prefix", s);
	return p;
}

static void end_of(const char *s, struct addr_prefix *p, struct port_range *r)
{
	char copy[128];
	char *colon, *addr = copy;
	uint8_t version = 4;

	snprintf(copy, sizeof(copy), "%s", s);
	colon = strrchr(copy, ':');
	if (!colon)
		die("end", s);
	*colon = '\0';
	if (copy[0] == '[') {
		version = 6;
		addr++;
		colon[-1] = '\0';
	}
	*p = prefix_of(addr, version);
	*r = ports_of(colon + 1);
}

static struct fw_match match_of(char **w)
{
	struct fw_match m = {.protocol = protocol_of(w[0])};

	end_of(w[1], &m.src, &m.sport);
	end_of(w[2], &m.dst, &m.dport);
	return m;
}

/* Splits at `sep`; the number of parts. */
static size_t split(char *s, const char *sep, char **out, size_t max)
{
	size_t n = 0;
	char *save = NULL;

	for (char *p = strtok_r(s, sep, &save); p && n < max; p = strtok_r(NULL, sep, &save))
		out[n++] = p;
	return n;
}

static void parse_option(struct tool *t, const char *name, char *value)
{
	struct fw_config *c = &t->cfg;
	char *w[4];
	size_t n;

	if (strcmp(name, "--table") == 0) {
		c->table = value;
	} else if (strcmp(name, "--mode") == 0) {
		c->mode = strcmp(value, "mark") == 0 ? FW_MARK : FW_ENFORCE;
	} else if (strcmp(name, "--nat") == 0) {
		c->nat = strcmp(value, "twice") == 0 ? FW_NAT_TWICE : FW_NAT_NAPT;
	} else if (strcmp(name, "--inside") == 0) {
		t->inside[c->n_inside_if++] = value;
	} else if (strcmp(name, "--outside") == 0) {
		t->outside[c->n_outside_if++] = value;
	} else if (strcmp(name, "--counters") == 0) {
		c->counters = *value == '1';
	} else if (strcmp(name, "--adopt") == 0) {
		t->adopt = *value == '1';
	} else if (strcmp(name, "--force-off") == 0) {
		c->force_off = (unsigned)strtoul(value, NULL, 10);
	} else if (strcmp(name, "--omit") == 0) {
		c->omit = (unsigned)strtoul(value, NULL, 10);
	} else if (strcmp(name, "--control") == 0) {
		t->control[c->n_control++] = addr_port_of(value);
	} else if (strcmp(name, "--max") == 0) {
		c->max_elements = strtoul(value, NULL, 10);
	} else {
		n = split(value, ",", w, 4);
		if (strcmp(name, "--permit") == 0 && n == 4)
			t->permits[c->n_permits++] =
				(struct fw_permit){.from = prefix_of(w[0], 0),
						   .to = prefix_of(w[1], 0),
						   .protocol = protocol_of(w[2]),
						   .ports = ports_of(w[3])};
		else if (strcmp(name, "--pool") == 0 && n == 2)
			t->pools[c->n_pools++] =
				(struct fw_pool){prefix_of(w[0], 4).addr, ports_of(w[1])};
		else if (strcmp(name, "--source") == 0 && n == 3)
			t->sources[c->n_sources++] = (struct fw_source){
				prefix_of(w[0], 4), prefix_of(w[1], 4).addr, ports_of(w[2])};
		else if (strcmp(name, "--static") == 0 && n == 3)
			t->statics[c->n_statics++] = (struct fw_static){
				protocol_of(w[0]), addr_port_of(w[1]), addr_port_of(w[2])};
		else
			die("option", name);
	}
}

static void on_lost(void *arg)
{
	struct tool *t = arg;

	t->lost++;
}

static void add(struct tool *t, struct fw_op op)
{
	op.txn = t->txn;
	if (t->n_ops < OPS_MAX)
		t->ops[t->n_ops++] = op;
}

static uint64_t cpu_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct addr v4(uint32_t host)
{
	struct addr a = {.version = 4,
			 .b = {(uint8_t)(host >> 24), (uint8_t)(host >> 16), (uint8_t)(host >> 8),
			       (uint8_t)host}};

	return a;
}

/* `n` of the two numbers belong to a good answer. */
static void answer(int err, int n, uint64_t a, uint64_t b)
{
	if (err)
		printf("error %s\n", err_str(err));
	else if (n == 2)
		printf("ok %llu %llu\n", (unsigned long long)a, (unsigned long long)b);
	else if (n == 1)
		printf("ok %llu\n", (unsigned long long)a);
	else
		printf("ok\n");
}

/* Both directions of flow i, and with NAT its binding and its conntrack entries. */
static size_t flow(struct tool *t, size_t at, uint32_t i, uint32_t txn, bool open, bool nat)
{
	struct addr_port a0 = {v4(0x0a010000 + i / 30000), (uint16_t)(1024 + i % 30000)};
	struct addr_port a2 = {v4(0xc0000201 + i / 16000), (uint16_t)(16384 + i % 16000)};
	struct fw_match out = {.protocol = IPPROTO_UDP,
			       .src = {a0.addr, 32},
			       .dst = {v4(0xc6336409), 32},
			       .sport = {a0.port, a0.port},
			       .dport = {6000, 6000}};
	struct fw_match in = {.protocol = IPPROTO_UDP,
			      .src = out.dst,
			      .dst = out.src,
			      .sport = out.dport,
			      .dport = out.sport};
	struct fw_binding b = {.protocol = IPPROTO_UDP, .inside = a0, .outside = a2};
	struct fw_op *op = &t->ops[at];

	*op++ = (struct fw_op){open ? FW_OPEN : FW_CLOSE, txn, out, b, 600000};
	*op++ = (struct fw_op){open ? FW_OPEN : FW_CLOSE, txn, in, b, 600000};
	if (!nat)
		return 2;
	*op++ = (struct fw_op){open ? FW_BIND : FW_UNBIND, txn, out, b, 600000};
	*op++ = (struct fw_op){FW_FORGET, txn, out, b, 0};
	return 4;
}

static void bench(struct tool *t, uint32_t n, uint32_t chunk, bool nat)
{
	uint64_t cpu[2];
	bool failed = false;

	for (int phase = 0; phase < 2; phase++) {
		uint64_t start = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);

		for (uint32_t i = 0; i < n;) {
			size_t at = 0;
			uint32_t txn = 0;

			for (; txn < chunk && i < n; txn++, i++)
				at += flow(t, at, i, txn, phase == 0, nat);
			fw_commit(t->fw, t->ops, at, t->results, txn);
			for (uint32_t k = 0; k < txn; k++)
				failed |= t->results[k] != 0;
		}
		cpu[phase] = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
	}
	printf("ok open %.2f us close %.2f us%s\n", (double)cpu[0] / 1000 / n,
	       (double)cpu[1] / 1000 / n, failed ? " FAILED" : "");
}

static void commit(struct tool *t)
{
	fw_commit(t->fw, t->ops, t->n_ops, t->results, t->txn + 1);
	printf("ok");
	for (uint32_t i = 0; i <= t->txn; i++)
		printf(" %d", t->results[i]);
	printf("\n");
	t->n_ops = 0;
	t->txn = 0;
}

static struct fw_binding binding_of(char **w, size_t n)
{
	struct fw_binding b = {0};

	if (n >= 2) {
		b.inside = addr_port_of(w[0]);
		b.outside = addr_port_of(w[1]);
	}
	if (n >= 4) {
		b.inside_face = addr_port_of(w[2]);
		b.external = addr_port_of(w[3]);
	}
	return b;
}

static bool match_type(const char *word, enum fw_op_type *type)
{
	static const struct {
		const char *word;
		enum fw_op_type type;
	} types[] = {{"open", FW_OPEN},
		     {"close", FW_CLOSE},
		     {"block", FW_BLOCK},
		     {"unblock", FW_UNBLOCK}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].word, word) == 0) {
			*type = types[i].type;
			return true;
		}
	}
	return false;
}

static bool operation(struct tool *t, char **w, size_t n)
{
	struct fw_op op = {0};

	if (match_type(w[0], &op.type)) {
		if (n < 4)
			die("operation", w[0]);
		op.match = match_of(w + 1);
		op.lifetime_ms = n > 4 ? strtoul(w[4], NULL, 10) : 0;
	} else if (strcmp(w[0], "bind") == 0 || strcmp(w[0], "unbind") == 0) {
		if (n < 5)
			die("operation", w[0]);
		op.type = w[0][0] == 'b' ? FW_BIND : FW_UNBIND;
		op.lifetime_ms = strtoul(w[4], NULL, 10);
		if (n >= 7) {
			w[4] = w[5];
			w[5] = w[6];
			op.binding = binding_of(w + 2, 4);
		} else {
			op.binding = binding_of(w + 2, 2);
		}
		op.binding.protocol = protocol_of(w[1]);
	} else if (strcmp(w[0], "forget") == 0 && n >= 4) {
		op.type = FW_FORGET;
		op.match = match_of(w + 1);
		op.binding = binding_of(w + 4, n - 4);
	} else {
		return false;
	}
	add(t, op);
	printf("ok\n");
	return true;
}

static void print_foreign(const char *line, void *arg ATTR_UNUSED)
{
	printf(" [%s]", line);
}

static void print_stats(struct tool *t)
{
	struct fw_stats s = fw_stats(t->fw);

	printf("ok batches=%llu ops=%llu aborts=%llu resubmits=%llu refused=%llu "
	       "conntrack_deletes=%llu reinstalls=%llu enobufs=%llu dumps=%llu\n",
	       (unsigned long long)s.batches, (unsigned long long)s.ops,
	       (unsigned long long)s.aborts, (unsigned long long)s.resubmits,
	       (unsigned long long)s.refused, (unsigned long long)s.conntrack_deletes,
	       (unsigned long long)s.reinstalls, (unsigned long long)s.enobufs,
	       (unsigned long long)s.dumps);
}

/* Until nothing is left to do. */
static void work(struct tool *t)
{
	struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};
	int fds[2];
	size_t n = fw_fds(t->fw, fds);

	for (size_t i = 0; i < n; i++)
		p[i].fd = fds[i];
	while (fw_work(t->fw) || fw_stats(t->fw).forgetting) {
		poll(p, (nfds_t)n, -1);
		fw_poll(t->fw);
	}
}

/* Does `op` while a dump goes on: how often, and the microseconds of this thread at most. */
static void meanwhile(struct tool *t, const struct fw_op *op)
{
	uint64_t n = 0, longest = 0;
	int result;

	(void)fw_work(t->fw);
	for (; fw_stats(t->fw).forgetting; n++) {
		uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID), ns;

		fw_commit(t->fw, op, 1, &result, 1);
		fw_poll(t->fw);
		ns = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start;
		if (ns > longest)
			longest = ns;
	}
	answer(0, 2, n, longest / 1000);
}

static void audit(struct tool *t, char **w, size_t n)
{
	struct fw_op op = {.type = FW_OPEN};
	uint64_t ms = 0;
	int err;

	if (strcmp(w[0], "audit-bind") == 0) {
		op.type = FW_BIND;
		op.binding = binding_of(w + 2, n - 2);
		op.binding.protocol = protocol_of(w[1]);
	} else {
		op.type = strcmp(w[0], "audit-block") == 0 ? FW_BLOCK : FW_OPEN;
		op.match = match_of(w + 1);
	}
	err = fw_audit(t->fw, &op, &ms);
	answer(err, 1, ms, 0);
}

static void question(struct tool *t, char **w, size_t n)
{
	uint64_t a = 0, b = 0;
	struct fw_match m;
	struct addr_port a2;
	int err;

	if (strcmp(w[0], "counters") == 0 && n == 4) {
		m = match_of(w + 1);
		err = fw_counters(t->fw, &m, &a, &b);
		answer(err, 2, a, b);
	} else if (strncmp(w[0], "audit", 5) == 0 && n >= 4) {
		audit(t, w, n);
	} else if (strcmp(w[0], "quarantined") == 0 && n == 3) {
		a2 = addr_port_of(w[2]);
		printf("ok %d\n", fw_quarantined(t->fw, protocol_of(w[1]), &a2));
	} else if (strcmp(w[0], "work") == 0) {
		work(t);
		printf("ok\n");
	} else if (strcmp(w[0], "slice") == 0) {
		(void)fw_work(t->fw);
		printf("ok\n");
	} else if (strcmp(w[0], "poll") == 0) {
		fw_poll(t->fw);
		printf("ok\n");
	} else if (strcmp(w[0], "meanwhile") == 0 && n >= 4) {
		meanwhile(t, &(struct fw_op){.type = FW_FORGET,
					     .match = match_of(w + 1),
					     .binding = binding_of(w + 4, n - 4)});
	} else if (strcmp(w[0], "cpu") == 0) {
		answer(0, 2, cpu_ns(CLOCK_THREAD_CPUTIME_ID) / 1000,
		       cpu_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000);
	} else if (strcmp(w[0], "lost") == 0) {
		printf("ok %u\n", t->lost);
	} else if (strcmp(w[0], "reinstall") == 0) {
		answer(fw_reinstall(t->fw), 0, 0, 0);
	} else if (strcmp(w[0], "reconfigure") == 0) {
		t->reloaded = t->cfg;
		t->reloaded.n_permits = 0; /* the one change that the tests need */
		answer(fw_reconfigure(t->fw, &t->reloaded), 0, 0, 0);
	} else if (strcmp(w[0], "foreign") == 0) {
		printf("ok");
		fw_foreign_drops(t->fw, print_foreign, NULL);
		printf("\n");
	} else if (strcmp(w[0], "features") == 0) {
		printf("ok %u\n", fw_features(t->fw));
	} else if (strcmp(w[0], "stats") == 0) {
		print_stats(t);
	} else if (strcmp(w[0], "bench") == 0 && n == 4) {
		bench(t, (uint32_t)strtoul(w[1], NULL, 10), (uint32_t)strtoul(w[2], NULL, 10),
		      *w[3] == '1');
	} else {
		printf("error unknown: %s\n", w[0]);
	}
}

/* False at the end. */
static bool line(struct tool *t, char *s)
{
	char *w[8];
	size_t n = split(s, " \n", w, 8);

	if (!n)
		return true;
	if (strcmp(w[0], "quit") == 0 || strcmp(w[0], "remove") == 0) {
		fw_close(t->fw, w[0][0] == 'r');
		t->fw = NULL;
		printf("ok\n");
		return false;
	}
	if (strcmp(w[0], "txn") == 0) {
		t->txn++;
		printf("ok\n");
	} else if (strcmp(w[0], "commit") == 0) {
		commit(t);
	} else if (!operation(t, w, n)) {
		question(t, w, n);
	}
	return true;
}

int main(int argc, char **argv)
{
	static struct tool t = {.cfg = {.table = "sluice", .max_elements = 65536}};
	char buf[512];
	int err;

	t.cfg.permits = t.permits;
	t.cfg.pools = t.pools;
	t.cfg.sources = t.sources;
	t.cfg.statics = t.statics;
	t.cfg.control = t.control;
	t.cfg.inside_if = t.inside;
	t.cfg.outside_if = t.outside;
	for (int i = 1; i + 1 < argc; i += 2)
		parse_option(&t, argv[i], argv[i + 1]);
	t.ops = calloc(OPS_MAX, sizeof(*t.ops));
	t.results = calloc(OPS_MAX, sizeof(*t.results));
	if (!t.ops || !t.results)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	t.fw = fw_open(&t.cfg, t.adopt, &err);
	if (!t.fw) {
		printf("error %s\n", err_str(err));
		return 1;
	}
	fw_on_lost(t.fw, on_lost, &t);
	printf("ok ready\n");
	while (fgets(buf, sizeof(buf), stdin) && line(&t, buf))
		;
	fw_close(t.fw, false);
	free(t.ops);
	free(t.results);
	return 0;
}
