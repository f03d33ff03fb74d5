/*
 * Load generator for a SIMCO server, and a TCP echo of the same sizes to
 * compare it with. Prints figures, judges nothing.
 *
 *   simco_load echo  ADDR:PORT                 serve 64-octet replies to 56-octet requests
 *   simco_load ping  ADDR:PORT COUNT           window 1 against the echo
 *   simco_load one   ADDR:PORT PID COUNT       PER, then PLC 0, window 1
 *   simco_load many  ADDR:PORT PID COUNT WIN   all PERs, then all PLCs, WIN in flight
 *   simco_load keep  ADDR:PORT PID COUNT       all PERs, and leave them there
 *
 * PID is the server's process id; its CPU time is read from /proc.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* utime + stime of a process in microseconds, by its schedstat (ns, exact). */
static double cpu_us(long pid)
{
	char path[64];
	unsigned long long ns = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/schedstat", pid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%llu", &ns) != 1)
		die(path);
	fclose(f);
	return (double)ns / 1e3;
}

static int dial(const char *where)
{
	struct addr_port ap;
	struct sockaddr_storage ss;
	socklen_t len;
	int one = 1, fd;

	if (addr_port_parse(span_str(where), &ap) != 0) {
		fprintf(stderr, "bad address %s\n", where);
		exit(2);
	}
	len = addr_to_sockaddr(&ap, &ss);
	fd = socket(ss.ss_family, SOCK_STREAM, 0);
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

static void print_latency(const char *name, double *v, size_t n)
{
	qsort(v, n, sizeof(*v), cmp_double);
	printf("%-34s p50 %8.1f us   p99 %8.1f us   max %8.1f us\n", name, v[n / 2],
	       v[n * 99 / 100], v[n - 1]);
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

static void echo_serve(const char *where)
{
	struct addr_port ap;
	struct sockaddr_storage ss;
	socklen_t len;
	int one = 1, fd, c;
	uint8_t in[ECHO_IN], out[ECHO_OUT] = {0};

	addr_port_parse(span_str(where), &ap);
	len = addr_to_sockaddr(&ap, &ss);
	fd = socket(ss.ss_family, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, len) != 0 || listen(fd, 1) != 0)
		die("listen");
	c = accept(fd, NULL, NULL);
	setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (;;) {
		struct pollfd p = {c, POLLIN, 0};

		/* as an event loop would: wait, then read */
		poll(&p, 1, -1);
		read_exactly(c, in, sizeof(in));
		if (write(c, out, sizeof(out)) != (ssize_t)sizeof(out))
			exit(1);
	}
}

static void ping(const char *where, size_t count)
{
	int fd = dial(where);
	uint8_t out[ECHO_IN] = {0}, in[ECHO_OUT];
	double *v = calloc(count, sizeof(*v));

	for (size_t i = 0; i < count; i++) {
		double t = now_us();

		if (write(fd, out, sizeof(out)) != (ssize_t)sizeof(out))
			die("write");
		read_exactly(fd, in, sizeof(in));
		v[i] = now_us() - t;
	}
	print_latency("TCP echo, window 1", v, count);
	free(v);
}

/* ---- SIMCO ---- */

struct load {
	int fd;
	struct simco_cli *cli;
	bool open, closed;
	uint32_t *pid; /* rule of each request */
	size_t done;   /* replies seen */
	size_t refused;
	double *sent, *latency;
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

static void on_event(void *arg, uint32_t pid, uint32_t lifetime)
{
	(void)arg, (void)pid, (void)lifetime;
}

static const struct simco_cli_ops cli_ops = {
	.open = on_open, .closed = on_closed, .event = on_event};

static void pump(struct load *l, bool wait)
{
	static uint8_t in[262144];
	static size_t have;
	size_t n, used;
	const uint8_t *out = simco_cli_output(l->cli, &n);

	while (n) {
		ssize_t w = send(l->fd, out, n, MSG_DONTWAIT);

		if (w < 0 && errno == EAGAIN)
			break;
		if (w < 0)
			die("send");
		simco_cli_sent(l->cli, (size_t)w);
		out = simco_cli_output(l->cli, &n);
	}
	struct pollfd p = {l->fd, (short)(POLLIN | (n ? POLLOUT : 0)), 0};

	poll(&p, 1, wait ? 5000 : 0);
	if (!(p.revents & POLLIN))
		return;
	ssize_t r = recv(l->fd, in + have, sizeof(in) - have, MSG_DONTWAIT);

	if (r == 0 || (r < 0 && errno != EAGAIN))
		die("recv");
	if (r > 0)
		have += (size_t)r;
	if (simco_cli_input(l->cli, in, have, &used) != SIMCO_OK)
		exit(1);
	memmove(in, in + used, have - used);
	have -= used;
}

static void load_start(struct load *l, const char *where, size_t count)
{
	struct simco_cli_opts opts = {.max_pending = 4096};

	memset(l, 0, sizeof(*l));
	l->fd = dial(where);
	l->cli = simco_cli_new(&cli_ops, l, &opts);
	l->pid = calloc(count, sizeof(*l->pid));
	l->sent = calloc(count, sizeof(*l->sent));
	l->latency = calloc(count, sizeof(*l->latency));
	if (!l->cli || !l->pid || !l->sent || !l->latency || simco_cli_start(l->cli) != SIMCO_OK)
		die("start");
	while (!l->open && !l->closed)
		pump(l, true);
	if (l->closed)
		exit(1);
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

/* The i-th of a set of distinct UDP flows between 10.1/16 and 198.18/15. */
static struct simco_msg per(size_t i)
{
	struct simco_msg m = {.type = SIMCO_PER_REQ, .lifetime = 600};
	uint8_t inner[4] = {10, 1, (uint8_t)(i / 40000 / 200), (uint8_t)(2 + i / 40000 % 200)};
	uint8_t outer[4] = {198, 18, 0, 1};

	m.per.direction = SIMCO_BIDIRECTIONAL;
	for (int k = 0; k < 2; k++) {
		struct simco_tuple *t = &m.tuple[k ? SIMCO_EXTERNAL : SIMCO_INTERNAL];

		t->ip_version = SIMCO_IPV4;
		t->prefix_len = 32;
		t->protocol = IPPROTO_UDP;
		t->location = k ? SIMCO_EXTERNAL : SIMCO_INTERNAL;
		t->port = (uint16_t)(k ? 5004 : 20000 + i % 40000);
		t->port_range = 1;
		memcpy(t->addr, k ? outer : inner, 4);
	}
	return m;
}

/* Sends all requests with at most `window` in flight. closing: PLC 0 of l->pid[i]. */
static void run(struct load *l, struct slot *slots, size_t count, size_t window, bool closing)
{
	size_t next = 0;

	l->done = 0;
	while (l->done < count && !l->closed) {
		while (next < count && next - l->done < window) {
			struct simco_msg m = closing ? (struct simco_msg){.type = SIMCO_PLC_REQ,
									  .pid = l->pid[next]}
						     : per(next);

			l->sent[next] = now_us();
			if (simco_cli_request(l->cli, &m, on_reply, &slots[next]) != SIMCO_OK)
				break;
			next++;
		}
		pump(l, true);
	}
}

static void load(const char *mode, const char *where, long pid, size_t count, size_t window)
{
	struct load l;
	struct slot *slots = calloc(count, sizeof(*slots));
	bool one = strcmp(mode, "one") == 0;

	load_start(&l, where, count);
	for (size_t i = 0; i < count; i++)
		slots[i] = (struct slot){&l, i};
	for (int closing = 0; closing < (strcmp(mode, "keep") == 0 ? 1 : 2); closing++) {
		double c = cpu_us(pid), t = now_us();
		char name[64];

		run(&l, slots, count, window, closing);
		t = now_us() - t;
		c = cpu_us(pid) - c;
		snprintf(name, sizeof(name), "SIMCO %s, window %zu", closing ? "close" : "open",
			 window);
		if (one)
			print_latency(name, l.latency, count);
		printf("%-34s %8.2f us CPU each   %9.0f /s   refused %zu\n", name,
		       c / (double)count, (double)count / t * 1e6, l.refused);
	}
	simco_cli_free(l.cli);
	close(l.fd);
	free(l.pid);
	free(l.sent);
	free(l.latency);
	free(slots);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		echo_serve(argv[2]);
	else if (argc == 4 && strcmp(argv[1], "ping") == 0)
		ping(argv[2], strtoul(argv[3], NULL, 10));
	else if (argc >= 5)
		load(argv[1], argv[2], strtol(argv[3], NULL, 10), strtoul(argv[4], NULL, 10),
		     argc > 5			   ? strtoul(argv[5], NULL, 10)
		     : strcmp(argv[1], "one") == 0 ? 1
						   : 256);
	else
		return 2;
	return 0;
}
