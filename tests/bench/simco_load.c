/*
 * Load generator for a SIMCO server, and a TCP echo of the same sizes to
 * compare it with. Prints figures as name=value, judges nothing.
 *
 *   simco_load [OPTION]... MODE ARGUMENT...
 *
 *   echo ADDR:PORT                         serve 64-octet replies to 56-octet requests
 *   versus ECHO:PORT ADDR:PORT PID COUNT   by turns: the echo, PER, PLC 0; window 1
 *   many ADDR:PORT PID COUNT WINDOW        all PERs, then all PLCs, WINDOW in flight
 *   keep ADDR:PORT PID COUNT               all PERs, and leave them there
 *   list ADDR:PORT PID COUNT               PRL, window 1
 *   probe ADDR:PORT PID                    PER and PLC 0, window 1, until SIGTERM; SIGUSR1
 *                                          prints what came since the last one
 *   handshakes ADDR:PORT COUNT             so many TLS handshakes at once
 *   wild ADDR:PORT PID COUNT               like keep, but any external address and port
 *   hold ADDR:PORT PID COUNT               keep, then close all when stdin ends, WINDOW 1024
 *
 *   -b FIRST   number of the first flow      -l SECONDS  lifetime (600)
 *   -s ADDR    connect from there            -T DIR      TLS with agent.pem/.key, ca.pem
 *
 * PID is the server's process id: its CPU time is read.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/addr.h"
#include "proto-simco/simco.h"

#define ECHO_IN 56  /* a PER request for IPv4 */
#define ECHO_OUT 64 /* its reply */
#define TURNS 50
#define PROBE_MAX 2000000

struct options {
	size_t first;
	uint32_t lifetime;
	const char *source, *tls;
	clockid_t clock; /* the server's CPU time */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double clock_us(clockid_t id)
{
	struct timespec t;

	if (clock_gettime(id, &t) != 0)
		die("clock_gettime");
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double now_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

static socklen_t parse(const char *where, struct sockaddr_storage *ss)
{
	struct addr_port ap;

	if (addr_port_parse(span_str(where), &ap) != 0) {
		fprintf(stderr, "bad address %s\n", where);
		exit(2);
	}
	return addr_to_sockaddr(&ap, ss);
}

static int dial(const char *where, const char *source)
{
	struct sockaddr_storage ss;
	socklen_t len;
	char from[64];
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	if (source) {
		snprintf(from, sizeof(from), "%s:0", source);
		len = parse(from, &ss);
		if (bind(fd, (struct sockaddr *)&ss, len) != 0)
			die("bind");
	}
	len = parse(where, &ss);
	if (fd < 0 || connect(fd, (struct sockaddr *)&ss, len) != 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int cmp_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double percentile(double *v, size_t n, unsigned p)
{
	qsort(v, n, sizeof(*v), cmp_double);
	return n ? v[p >= 100 ? n - 1 : n * p / 100] : 0;
}

static void print_latency(const char *name, double *v, size_t n)
{
	printf("%s_n=%zu %s_p50=%.1f %s_p99=%.1f %s_max=%.1f ", name, n, name, percentile(v, n, 50),
	       name, percentile(v, n, 99), name, percentile(v, n, 100));
}

static void read_exactly(int fd, uint8_t *p, size_t n)
{
	while (n) {
		ssize_t r = read(fd, p, n);

		if (r <= 0)
			exit(r == 0 ? 0 : 1);
		p += r;
		n -= (size_t)r;
	}
}

/* As an event loop would: wait, then read. */
static void echo_serve(const char *where)
{
	struct sockaddr_storage ss;
	socklen_t len = parse(where, &ss);
	int one = 1, fd = socket(ss.ss_family, SOCK_STREAM, 0), c;
	uint8_t in[ECHO_IN], out[ECHO_OUT] = {0};

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, len) != 0 || listen(fd, 1) != 0)
		die("listen");
	c = accept(fd, NULL, NULL);
	setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (;;) {
		struct pollfd p = {c, POLLIN, 0};

		poll(&p, 1, -1);
		read_exactly(c, in, sizeof(in));
		if (write(c, out, sizeof(out)) != (ssize_t)sizeof(out))
			exit(1);
	}
}

static double echo_once(int fd)
{
	uint8_t out[ECHO_IN] = {0}, in[ECHO_OUT];
	double t = now_us();

	if (write(fd, out, sizeof(out)) != (ssize_t)sizeof(out))
		die("write");
	read_exactly(fd, in, sizeof(in));
	return now_us() - t;
}

/* ---- TLS ---- */

static SSL_CTX *tls_context(const char *dir)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	char cert[256], key[256], ca[256];

	snprintf(cert, sizeof(cert), "%s/agent.pem", dir);
	snprintf(key, sizeof(key), "%s/agent.key", dir);
	snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
	if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1) {
		fprintf(stderr, "bad certificates in %s\n", dir);
		exit(1);
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return ctx;
}

static SSL *tls_over(SSL_CTX *ctx, int fd)
{
	SSL *ssl = SSL_new(ctx);

	if (!ssl || SSL_set_fd(ssl, fd) != 1)
		die("SSL_new");
	SSL_set_connect_state(ssl);
	return ssl;
}

static void nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void handshakes(const struct options *o, const char *where, size_t count)
{
	SSL_CTX *ctx = tls_context(o->tls);
	SSL **ssl = calloc(count, sizeof(*ssl));
	double t;
	size_t done = 0;

	for (size_t i = 0; i < count; i++)
		ssl[i] = tls_over(ctx, dial(where, o->source));
	for (size_t i = 0; i < count; i++)
		nonblocking(SSL_get_fd(ssl[i]));
	t = now_us();
	while (done < count && now_us() - t < 10e6) {
		done = 0;
		for (size_t i = 0; i < count; i++) {
			if (!SSL_is_init_finished(ssl[i]))
				SSL_do_handshake(ssl[i]);
			done += (size_t)SSL_is_init_finished(ssl[i]);
		}
		usleep(200);
	}
	printf("handshakes=%zu ms=%.1f\n", done, (now_us() - t) / 1e3);
	free(ssl);
}

/* ---- SIMCO ---- */

struct load {
	const struct options *o;
	int fd;
	SSL *ssl;
	struct simco_cli *cli;
	bool open, closed, wild;
	uint32_t *pid; /* rule of each request */
	size_t done;   /* replies seen */
	size_t refused;
	double *sent, *latency;
	struct slot *slots;
	uint8_t in[262144];
	size_t have;
};

struct slot {
	struct load *l;
	size_t i;
};

static void on_open(void *arg, const struct simco_capabilities *caps, uint32_t ext)
{
	(void)caps, (void)ext;
	((struct load *)arg)->open = true;
}

static void on_closed(void *arg, uint16_t type)
{
	fprintf(stderr, "session closed (0x%04x)\n", type);
	((struct load *)arg)->closed = true;
}

static void on_event(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	(void)arg, (void)pid, (void)lifetime, (void)reason;
}

static const struct simco_cli_ops cli_ops = {
	.open = on_open, .closed = on_closed, .event = on_event};

/* Both as send() and recv() with MSG_DONTWAIT: -1 and EAGAIN when it is not the time. */
static ssize_t put(struct load *l, const uint8_t *p, size_t n)
{
	size_t done;

	if (!l->ssl)
		return send(l->fd, p, n, MSG_DONTWAIT);
	if (SSL_write_ex(l->ssl, p, n, &done) == 1)
		return (ssize_t)done;
	errno = EAGAIN;
	return -1;
}

static ssize_t get(struct load *l, uint8_t *p, size_t n)
{
	size_t done;

	if (!l->ssl)
		return recv(l->fd, p, n, MSG_DONTWAIT);
	if (SSL_read_ex(l->ssl, p, n, &done) == 1)
		return (ssize_t)done;
	errno = SSL_get_error(l->ssl, 0) == SSL_ERROR_WANT_READ ? EAGAIN : EPROTO;
	return -1;
}

static void pump(struct load *l)
{
	size_t n, used;
	const uint8_t *out = simco_cli_output(l->cli, &n);

	while (n) {
		ssize_t w = put(l, out, n);

		if (w < 0 && errno == EAGAIN)
			break;
		if (w < 0)
			die("send");
		simco_cli_sent(l->cli, (size_t)w);
		out = simco_cli_output(l->cli, &n);
	}
	struct pollfd p = {l->fd, (short)(POLLIN | (n ? POLLOUT : 0)), 0};

	if (!l->ssl || !SSL_pending(l->ssl))
		poll(&p, 1, 5000);
	ssize_t r = get(l, l->in + l->have, sizeof(l->in) - l->have);

	if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR))
		die("recv");
	if (r > 0)
		l->have += (size_t)r;
	if (simco_cli_input(l->cli, l->in, l->have, &used) != SIMCO_OK)
		exit(1);
	memmove(l->in, l->in + used, l->have - used);
	l->have -= used;
}

static struct load *load_start(const struct options *o, const char *where, size_t count)
{
	struct simco_cli_opts opts = {.max_pending = 4096};
	struct load *l = calloc(1, sizeof(*l));

	if (!l)
		die("calloc");
	l->o = o;
	l->fd = dial(where, o->source);
	if (o->tls) {
		l->ssl = tls_over(tls_context(o->tls), l->fd);
		if (SSL_do_handshake(l->ssl) != 1)
			die("handshake");
		nonblocking(l->fd);
	}
	l->cli = simco_cli_new(&cli_ops, l, &opts);
	l->pid = calloc(count, sizeof(*l->pid));
	l->sent = calloc(count, sizeof(*l->sent));
	l->latency = calloc(count, sizeof(*l->latency));
	l->slots = calloc(count, sizeof(*l->slots));
	if (!l->cli || !l->pid || !l->sent || !l->latency || !l->slots ||
	    simco_cli_start(l->cli) != SIMCO_OK)
		die("start");
	for (size_t i = 0; i < count; i++)
		l->slots[i] = (struct slot){l, i};
	while (!l->open && !l->closed)
		pump(l);
	if (l->closed)
		exit(1);
	return l;
}

static void on_reply(void *arg, const struct simco_msg *m)
{
	struct slot *s = arg;
	struct load *l = s->l;

	l->latency[s->i] = now_us() - l->sent[s->i];
	l->done++;
	if (!m || m->type >> 8 != SIMCO_POSITIVE) {
		if (l->refused++ == 0)
			fprintf(stderr, "refused: %s\n", m ? simco_type_name(m->type) : "closed");
		return;
	}
	if (m->type == SIMCO_PER_REP)
		l->pid[s->i] = m->pid;
}

/* The i-th of a set of distinct UDP flows between 10.1/16 and 198.18.0.1. */
static struct simco_msg per(const struct load *l, size_t i)
{
	struct simco_msg m = {.type = SIMCO_PER_REQ, .lifetime = l->o->lifetime};
	uint8_t inner[4] = {10, 1, (uint8_t)(i / 40000 / 200), (uint8_t)(2 + i / 40000 % 200)};
	uint8_t outer[4] = {198, 18, 0, 1};

	m.per.direction = l->wild ? SIMCO_INBOUND : SIMCO_BIDIRECTIONAL;
	for (int k = 0; k < 2; k++) {
		struct simco_tuple *t = &m.tuple[k ? SIMCO_EXTERNAL : SIMCO_INTERNAL];

		t->ip_version = SIMCO_IPV4;
		t->prefix_len = k && l->wild ? 0 : 32;
		t->protocol = IPPROTO_UDP;
		t->location = k ? SIMCO_EXTERNAL : SIMCO_INTERNAL;
		t->port = (uint16_t)(!k ? 20000 + i % 40000 : l->wild ? 0 : 5004);
		t->port_range = 1;
		if (!k || !l->wild)
			memcpy(t->addr, k ? outer : inner, 4);
	}
	return m;
}

static void ask(struct load *l, size_t i, struct simco_msg m)
{
	l->sent[i] = now_us();
	if (simco_cli_request(l->cli, &m, on_reply, &l->slots[i]) != SIMCO_OK) {
		fprintf(stderr, "cannot ask\n");
		exit(1);
	}
}

static struct simco_msg plc(uint32_t pid)
{
	return (struct simco_msg){.type = SIMCO_PLC_REQ, .pid = pid};
}

/* One request, answered. */
static double once(struct load *l, struct simco_msg m)
{
	l->done = 0;
	ask(l, 0, m);
	while (!l->done && !l->closed)
		pump(l);
	return l->latency[0];
}

/* Sends all requests with at most `window` in flight. closing: PLC 0 of l->pid[i]. */
static void run(struct load *l, size_t count, size_t window, bool closing)
{
	size_t next = 0;

	l->done = 0;
	while (l->done < count && !l->closed) {
		for (; next < count && next - l->done < window; next++)
			ask(l, next, closing ? plc(l->pid[next]) : per(l, l->o->first + next));
		pump(l);
	}
}

static void measure(struct load *l, size_t count, size_t window, bool closing)
{
	const char *name = closing ? "close" : "open";
	double c = clock_us(l->o->clock), t = now_us();

	run(l, count, window, closing);
	t = now_us() - t;
	c = clock_us(l->o->clock) - c;
	printf("%s_cpu=%.2f %s_rate=%.0f ", name, c / (double)count, name, (double)count / t * 1e6);
	print_latency(name, l->latency, count);
}

static void versus(const struct options *o, const char *echo, const char *where, size_t count)
{
	struct load *l = load_start(o, where, 1);
	int fd = dial(echo, NULL);
	size_t per_turn = count / TURNS, n = 0;
	double *v[3], turn[3][TURNS], cpu = 0, quiet[3];
	static const char *const names[] = {"echo", "open", "close"};

	for (int k = 0; k < 3; k++)
		v[k] = calloc(per_turn * TURNS, sizeof(double));
	for (size_t i = 0; i < TURNS; i++) {
		size_t from = n;

		for (size_t j = 0; j < per_turn; j++)
			v[0][from + j] = echo_once(fd);
		cpu -= clock_us(o->clock);
		for (size_t j = 0; j < per_turn; j++, n++) {
			v[1][n] = once(l, per(l, o->first + n));
			v[2][n] = once(l, plc(l->pid[0]));
		}
		cpu += clock_us(o->clock);
		for (int k = 0; k < 3; k++)
			turn[k][i] = percentile(v[k] + from, per_turn, 50);
	}
	/* Other programs only make a turn slower: the quieter ones tell more. */
	for (int k = 0; k < 3; k++) {
		quiet[k] = percentile(turn[k], TURNS, 25);
		printf("%s=%.1f ", names[k], quiet[k]);
		print_latency(names[k], v[k], n);
	}
	printf("ratio=%.2f cpu=%.2f ", quiet[1] / quiet[0], cpu / 2 / (double)n);
	printf("refused=%zu\n", l->refused);
}

static volatile sig_atomic_t report, stop;

static void on_signal(int number)
{
	if (number == SIGTERM)
		stop = 1;
	report = 1;
}

/* How long requests take, and how much of that the server was computing. */
static void probe(const struct options *o, const char *where)
{
	struct load *l = load_start(o, where, 1);
	double *v = calloc(PROBE_MAX, sizeof(*v)), *c = calloc(PROBE_MAX, sizeof(*c));
	size_t n = 0, i = 0;
	struct sched_param first = {.sched_priority = 1};

	/* It must notice replies at once, or it counts what the server does next. */
	if (sched_setscheduler(0, SCHED_FIFO, &first) != 0)
		perror("no real-time priority for the probe");
	signal(SIGUSR1, on_signal);
	signal(SIGTERM, on_signal);
	while (!stop) {
		for (int closing = 0; closing < 2; closing++) {
			double before = clock_us(o->clock);
			double t = once(l, closing ? plc(l->pid[0]) : per(l, o->first + i));

			c[n] = clock_us(o->clock) - before;
			v[n] = t;
			n = n + 1 < PROBE_MAX ? n + 1 : n;
		}
		i = (i + 1) % 10000;
		if (!report)
			continue;
		report = 0;
		print_latency("wall", v, n);
		print_latency("cpu", c, n);
		printf("refused=%zu\n", l->refused);
		fflush(stdout);
		n = 0;
	}
}

static void list(const struct options *o, const char *where, size_t count)
{
	struct load *l = load_start(o, where, 1);
	double *v = calloc(count, sizeof(*v)), c = clock_us(o->clock);

	for (size_t i = 0; i < count; i++)
		v[i] = once(l, (struct simco_msg){.type = SIMCO_PRL_REQ});
	printf("list_cpu=%.1f ", (clock_us(o->clock) - c) / (double)count);
	print_latency("list", v, count);
	printf("refused=%zu\n", l->refused);
}

static void load(const struct options *o, const char *mode, const char *where, size_t count,
		 size_t window)
{
	struct load *l = load_start(o, where, count);
	char octet;

	l->wild = strcmp(mode, "wild") == 0;
	measure(l, count, window, false);
	if (strcmp(mode, "hold") == 0) {
		printf("\n");
		fflush(stdout);
		while (read(0, &octet, 1) > 0)
			;
	}
	if (strcmp(mode, "many") == 0 || strcmp(mode, "hold") == 0)
		measure(l, count, window, true);
	printf("refused=%zu\n", l->refused);
}

static clockid_t clock_of(const char *pid)
{
	clockid_t id;

	if (clock_getcpuclockid((pid_t)strtol(pid, NULL, 10), &id) != 0) {
		fprintf(stderr, "no process %s\n", pid);
		exit(2);
	}
	return id;
}

static size_t number(char *const *v, int n, int i, size_t preset)
{
	return i < n ? strtoul(v[i], NULL, 10) : preset;
}

int main(int argc, char **argv)
{
	struct options o = {.lifetime = 600};
	const char *mode;
	char **v;
	int c, n;

	while ((c = getopt(argc, argv, "b:l:s:T:")) != -1) {
		if (c == 'b')
			o.first = strtoul(optarg, NULL, 10);
		else if (c == 'l')
			o.lifetime = (uint32_t)strtoul(optarg, NULL, 10);
		else if (c == 's')
			o.source = optarg;
		else if (c == 'T')
			o.tls = optarg;
		else
			return 2;
	}
	v = argv + optind + 1;
	n = argc - optind - 1;
	if (n < 1)
		return 2;
	mode = argv[optind];
	signal(SIGPIPE, SIG_IGN);
	if (strcmp(mode, "echo") == 0) {
		echo_serve(v[0]);
	} else if (strcmp(mode, "handshakes") == 0) {
		handshakes(&o, v[0], number(v, n, 1, 40));
	} else if (strcmp(mode, "versus") == 0 && n == 4) {
		o.clock = clock_of(v[2]);
		versus(&o, v[0], v[1], number(v, n, 3, 0));
	} else if (n >= 2) {
		o.clock = clock_of(v[1]);
		if (strcmp(mode, "probe") == 0)
			probe(&o, v[0]);
		else if (strcmp(mode, "list") == 0)
			list(&o, v[0], number(v, n, 2, 100));
		else
			load(&o, mode, v[0], number(v, n, 2, 1000), number(v, n, 3, 256));
	} else {
		return 2;
	}
	return 0;
}
