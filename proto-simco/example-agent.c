/*
 * An end host as its own SIMCO agent: what a program that only has libsimco
 * does to let one UDP flow through a middlebox. Plain blocking sockets.
 *
 *   example-agent MIDDLEBOX PORT INTERNAL:PORT EXTERNAL:PORT
 *   example-agent 10.1.0.1 7626 10.1.0.2:5000 198.51.100.1:6000
 *
 * It opens a session, reserves an outside address (PRR), enables the flow (PEA),
 * lists its rules (PRL), releases the flow (PLC with lifetime 0) and ends the
 * session (ST). IPv6 addresses with a port are written [ADDRESS]:PORT.
 *
 * Build it outside the tree with:
 *   cc example-agent.c $(pkg-config --cflags --libs simco)
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <simco.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIFETIME 60
#define UDP 17

/* One question at a time, so one answer is enough. */
struct answer {
	bool there;
	bool lost; /* the session ended instead */
	struct simco_msg msg;
	uint32_t pids[32]; /* PRL: the octets are gone after the callback */
	size_t n_pids;
};

struct session {
	int fd;
	struct simco_cli *cli;
	bool closed;
};

static const char *tuple_text(const struct simco_tuple *t, char *text, size_t size)
{
	char addr[INET6_ADDRSTRLEN];

	if (t->protocols_only)
		snprintf(text, size, "no address (protocol %u only)", t->protocol);
	else if (inet_ntop(t->ip_version == SIMCO_IPV4 ? AF_INET : AF_INET6, t->addr, addr,
			   sizeof(addr)) != NULL)
		snprintf(text, size, "%s port %u", addr, t->port);
	else
		snprintf(text, size, "?");
	return text;
}

static void on_open(void *arg, const struct simco_capabilities *caps, uint32_t extensions)
{
	(void)arg;
	(void)extensions;
	printf("session open: %s%s%s, lifetimes up to %u s\n",
	       caps->mb_type & SIMCO_MB_FIREWALL ? "firewall" : "no firewall",
	       caps->mb_type & SIMCO_MB_NAT ? ", NAT" : "",
	       caps->mb_type & SIMCO_MB_PORT_TRANSLATION ? " with port translation" : "",
	       caps->max_lifetime);
}

static void on_closed(void *arg, uint16_t type)
{
	struct session *s = arg;

	s->closed = true;
	printf("session over%s%s\n", type != 0 ? ": " : "", type != 0 ? simco_type_name(type) : "");
}

static void on_event(void *arg, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	(void)arg, (void)reason; /* not asked for in SE */
	printf("the middlebox says: rule %u now lives for %u s\n", pid, lifetime);
}

static const struct simco_cli_ops ops = {.open = on_open, .closed = on_closed, .event = on_event};

/* `m` is valid during the call only: keep what is needed. */
static void on_reply(void *arg, const struct simco_msg *m)
{
	struct answer *a = arg;

	a->there = true;
	a->lost = m == NULL;
	if (m == NULL)
		return;
	a->msg = *m;
	for (a->n_pids = 0; a->n_pids < m->n_pids && a->n_pids < 32; a->n_pids++)
		a->pids[a->n_pids] = simco_msg_pid(m, a->n_pids);
}

/* Sends what the machine has to say. */
static bool flush(struct session *s)
{
	size_t n;
	const uint8_t *out;

	while (out = simco_cli_output(s->cli, &n), n > 0) {
		ssize_t sent = send(s->fd, out, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		simco_cli_sent(s->cli, (size_t)sent);
	}
	return true;
}

/* One round: send, receive, let the machine work. False when the session is over. */
static bool turn(struct session *s)
{
	uint8_t in[4096];
	size_t used;
	ssize_t n;

	if (s->closed || !flush(s))
		return false;
	n = recv(s->fd, in, sizeof(in), 0);
	if (n <= 0) {
		simco_cli_end(s->cli);
		return false;
	}
	return simco_cli_input(s->cli, in, (size_t)n, &used) == SIMCO_OK;
}

/* Asks and waits. True when the middlebox agreed. */
static bool ask(struct session *s, struct simco_msg *m, struct answer *a)
{
	int err;

	*a = (struct answer){.there = false};
	err = simco_cli_request(s->cli, m, on_reply, a);
	if (err != SIMCO_OK) {
		printf("%s cannot be sent: %s\n", simco_type_name(m->type), simco_err_name(err));
		return false;
	}
	printf("> %s\n", simco_type_name(m->type));
	while (!a->there && turn(s))
		;
	if (!a->there || a->lost) {
		printf("< the session ended before the answer\n");
		return false;
	}
	printf("< %s\n", simco_type_name(a->msg.type));
	return a->msg.type >> 8 == SIMCO_POSITIVE;
}

static bool reserve(struct session *s, uint8_t version, struct answer *a)
{
	struct simco_msg m = {
		.type = SIMCO_PRR_REQ,
		.prr = {.nat_mode = SIMCO_NAT_TRADITIONAL,
			.parity = SIMCO_PARITY_ANY,
			.inside_version = version,
			.outside_version = version,
			.protocol = UDP,
			.port_range = 1},
		.lifetime = LIFETIME,
	};
	char text[96];

	if (!ask(s, &m, a))
		return false;
	printf("  rule %u, group %u, %u s: reserved outside is %s\n", a->msg.pid, a->msg.gid,
	       a->msg.lifetime, tuple_text(&a->msg.tuple[SIMCO_OUTSIDE], text, sizeof(text)));
	return true;
}

static bool enable(struct session *s, uint32_t pid, const struct simco_tuple tuple[2],
		   struct answer *a)
{
	struct simco_msg m = {
		.type = SIMCO_PEA_REQ,
		.pid = pid,
		.per = {.parity = SIMCO_PER_PARITY_ANY, .direction = SIMCO_BIDIRECTIONAL},
		.tuple = {[SIMCO_INTERNAL] = tuple[0], [SIMCO_EXTERNAL] = tuple[1]},
		.lifetime = LIFETIME,
	};
	char text[96];

	if (!ask(s, &m, a))
		return false;
	printf("  rule %u lives for %u s: the far end may send to %s\n", a->msg.pid,
	       a->msg.lifetime, tuple_text(&a->msg.tuple[SIMCO_OUTSIDE], text, sizeof(text)));
	return true;
}

static bool list(struct session *s, struct answer *a)
{
	struct simco_msg m = {.type = SIMCO_PRL_REQ};

	if (!ask(s, &m, a))
		return false;
	printf("  %zu rules:", a->msg.n_pids);
	for (size_t i = 0; i < a->n_pids; i++)
		printf(" %u", a->pids[i]);
	printf("%s\n", a->n_pids < a->msg.n_pids ? " ..." : "");
	return true;
}

static bool release(struct session *s, uint32_t pid, struct answer *a)
{
	struct simco_msg m = {.type = SIMCO_PLC_REQ, .pid = pid, .lifetime = 0};

	return ask(s, &m, a) && a->msg.type == SIMCO_PRD_REP;
}

/* Reserve, enable, list; whatever happened, nothing stays behind. */
static bool let_flow_through(struct session *s, const struct simco_tuple tuple[2])
{
	struct answer a;
	uint32_t pid;
	bool ok;

	if (!reserve(s, tuple[0].ip_version, &a))
		return false;
	pid = a.msg.pid;
	ok = enable(s, pid, tuple, &a) && list(s, &a);
	return release(s, pid, &a) && ok;
}

static bool parse_tuple(const char *text, uint8_t location, struct simco_tuple *t)
{
	const char *colon = strrchr(text, ':');
	char addr[INET6_ADDRSTRLEN] = "";
	size_t n = colon != NULL ? (size_t)(colon - text) : 0;
	unsigned long port;
	char *end;

	if (n > 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	if (n == 0 || n >= sizeof(addr))
		return false;
	memcpy(addr, text, n);
	port = strtoul(colon + 1, &end, 10);
	if (end == colon + 1 || *end != '\0' || port == 0 || port > 65535)
		return false;
	*t = (struct simco_tuple){
		.protocol = UDP,
		.location = location,
		.port = (uint16_t)port,
		.port_range = 1,
	};
	t->ip_version = strchr(addr, ':') != NULL ? SIMCO_IPV6 : SIMCO_IPV4;
	t->prefix_len = t->ip_version == SIMCO_IPV4 ? 32 : 128;
	return inet_pton(t->ip_version == SIMCO_IPV4 ? AF_INET : AF_INET6, addr, t->addr) == 1;
}

static int connect_to(const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list_head, *ai;
	int fd = -1;

	if (getaddrinfo(host, port, &hints, &list_head) != 0)
		return -1;
	for (ai = list_head; ai != NULL && fd < 0; ai = ai->ai_next) {
		fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
		if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen) != 0) {
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(list_head);
	return fd;
}

static bool run(struct session *s, const struct simco_tuple tuple[2])
{
	bool ok;

	if (simco_cli_start(s->cli) != SIMCO_OK)
		return false;
	printf("> SE request\n");
	while (simco_cli_state(s->cli) != SIMCO_OPEN)
		if (!turn(s))
			return false;
	ok = let_flow_through(s, tuple);
	if (simco_cli_terminate(s->cli) == SIMCO_OK) {
		printf("> ST request\n");
		while (turn(s))
			;
	}
	return ok;
}

int main(int argc, char **argv)
{
	const struct simco_cli_opts opts = {.max_pending = 1};
	struct simco_tuple tuple[2];
	struct session s = {.fd = -1};
	bool ok;

	if (argc != 5 || !parse_tuple(argv[3], SIMCO_INTERNAL, &tuple[0]) ||
	    !parse_tuple(argv[4], SIMCO_EXTERNAL, &tuple[1])) {
		fprintf(stderr, "usage: %s MIDDLEBOX PORT INTERNAL:PORT EXTERNAL:PORT\n", argv[0]);
		return 2;
	}
	s.fd = connect_to(argv[1], argv[2]);
	if (s.fd < 0) {
		fprintf(stderr, "cannot connect to %s port %s\n", argv[1], argv[2]);
		return 1;
	}
	s.cli = simco_cli_new(&ops, &s, &opts);
	ok = s.cli != NULL && run(&s, tuple);
	simco_cli_free(s.cli);
	close(s.fd);
	printf("%s\n", ok ? "done, nothing left behind" : "failed");
	return ok ? 0 : 1;
}
