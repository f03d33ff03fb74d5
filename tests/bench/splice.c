/*
 * The least that can stand between a client and a server: passes octets on,
 * both ways, and looks at none of them.
 *
 *   splice LISTEN-ADDRESS PORT TARGET-ADDRESS PORT       (IPv4)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct end {
	int fd;
	struct end *other;
	int dead;
	struct end *grave;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET};

	a.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
		die(host);
	return a;
}

static struct end *end_new(int ep, int fd)
{
	struct end *e = calloc(1, sizeof(*e));
	struct epoll_event ev = {.events = EPOLLIN};
	int one = 1;

	if (e == NULL)
		die("calloc");
	e->fd = fd;
	ev.data.ptr = e;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		die("epoll_ctl");
	return e;
}

/* The connect blocks: what is measured is CPU time. */
static void accept_one(int ep, int listener, const struct sockaddr_in *target)
{
	int in = accept(listener, NULL, NULL), out;
	struct end *a, *b;

	if (in < 0)
		return;
	out = socket(AF_INET, SOCK_STREAM, 0);
	if (out < 0 || connect(out, (const struct sockaddr *)target, sizeof(*target)) < 0) {
		close(in);
		close(out);
		return;
	}
	a = end_new(ep, in);
	b = end_new(ep, out);
	a->other = b;
	b->other = a;
}

static void pass(struct end *e, struct end **graves)
{
	static char buf[65536];
	ssize_t n, k = 0, at;

	if (e->dead)
		return;
	n = recv(e->fd, buf, sizeof(buf), 0);
	for (at = 0; at < n; at += k) {
		k = send(e->other->fd, buf + at, (size_t)(n - at), MSG_NOSIGNAL);
		if (k < 0)
			break;
	}
	if (n > 0 && k >= 0)
		return;
	e->dead = e->other->dead = 1;
	e->grave = *graves;
	*graves = e;
}

int main(int argc, char **argv)
{
	struct sockaddr_in at, target;
	struct epoll_event evs[64], ev = {.events = EPOLLIN};
	struct end *graves = NULL;
	int listener, ep, one = 1, i, n;

	if (argc != 5) {
		fprintf(stderr, "usage: splice ADDRESS PORT TARGET PORT\n");
		return 2;
	}
	at = address(argv[1], argv[2]);
	target = address(argv[3], argv[4]);
	signal(SIGPIPE, SIG_IGN);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    listen(listener, 1024) < 0)
		die("listen");
	ep = epoll_create1(0);
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("epoll");
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		n = epoll_wait(ep, evs, 64, -1);
		for (i = 0; i < n; i++) {
			if (evs[i].data.ptr == NULL)
				accept_one(ep, listener, &target);
			else
				pass(evs[i].data.ptr, &graves);
		}
		while (graves != NULL) {
			struct end *e = graves;

			graves = e->grave;
			close(e->fd);
			close(e->other->fd);
			free(e->other);
			free(e);
		}
	}
}
