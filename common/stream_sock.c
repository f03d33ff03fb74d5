/*
 * Socket calls beneath streams: creating, binding, options, original
 * destinations. Knows no event loop.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/stream_int.h"

/* Of <linux/netfilter_ipv4.h> and its v6 twin, which clash with <netinet/in.h>. */
#define ORIGINAL_DST 80

#define KEEPALIVE_IDLE 60 /* seconds */
#define KEEPALIVE_INTERVAL 15
#define KEEPALIVE_PROBES 4

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) == 0 ? 0
									 : err_from_errno(errno);
}

int stream_sock_tune(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_from_errno(errno);
	/* These only make a connection better; a socket pair has none of them. */
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
	return 0;
}

static int set_transparent(int fd, uint8_t version)
{
	return version == 4 ? set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1)
			    : set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
}

static int new_socket(uint8_t version, bool transparent)
{
	int fd, err = 0;

	if (version != 4 && version != 6)
		return ERR_INVALID;
	fd = socket(version == 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
		    0);
	if (fd < 0)
		return err_from_errno(errno);
	if (transparent)
		err = set_transparent(fd, version);
	if (err != 0) {
		close(fd);
		return err;
	}
	return fd;
}

static int bind_from(int fd, const struct addr_port *from)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(from, &ss);

	/* The port is chosen by connect(), so that only the whole tuple must be free. */
	if (from->port == 0)
		set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	else
		set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	return bind(fd, (struct sockaddr *)&ss, len) == 0 ? 0 : err_from_errno(errno);
}

int stream_sock_connect(const struct addr_port *to, const struct stream_opts *opts)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(to, &ss);
	int fd = new_socket(to->addr.version, opts->transparent);
	int err;

	if (fd < 0)
		return fd;
	err = stream_sock_tune(fd);
	if (err == 0 && opts->from.addr.version != 0)
		err = bind_from(fd, &opts->from);
	if (err == 0 && connect(fd, (struct sockaddr *)&ss, len) != 0 && errno != EINPROGRESS)
		err = err_from_errno(errno);
	if (err != 0) {
		close(fd);
		return err;
	}
	return fd;
}

int stream_sock_listen(const struct addr_port *at, bool transparent)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(at, &ss);
	int fd = new_socket(at->addr.version, transparent);
	int err;

	if (fd < 0)
		return fd;
	err = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (err == 0 && at->addr.version == 6)
		err = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (err == 0 && (bind(fd, (struct sockaddr *)&ss, len) != 0 || listen(fd, SOMAXCONN) != 0))
		err = err_from_errno(errno);
	if (err != 0) {
		close(fd);
		return err;
	}
	return fd;
}

int stream_sock_end(int e)
{
	int err = err_from_errno(e);

	switch (err) {
	case ERR_OK:
		return ERR_CLOSED;
	case ERR_CLOSED:
	case ERR_REFUSED:
	case ERR_UNREACHABLE:
	case ERR_TIMEOUT:
		return err;
	default:
		return ERR_IO;
	}
}

int stream_sock_error(int fd)
{
	int e = 0;
	socklen_t len = sizeof(e);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) != 0)
		e = errno;
	return e == 0 ? 0 : stream_sock_end(e);
}

struct addr_port stream_sock_local(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr_port ap = {.port = 0};

	if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
		(void)addr_from_sockaddr((struct sockaddr *)&ss, &ap);
	return ap;
}

struct addr_port stream_sock_peer(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr_port ap = {.port = 0};

	if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0)
		(void)addr_from_sockaddr((struct sockaddr *)&ss, &ap);
	return ap;
}

/* Is it an address of this host? A socket may be bound to no other. */
static bool is_own(const struct addr *a)
{
	struct addr_port ap = {.addr = *a};
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&ap, &ss);
	int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool own;

	if (fd < 0)
		return false;
	own = bind(fd, (struct sockaddr *)&ss, len) == 0;
	close(fd);
	return own;
}

int stream_sock_original_dst(int fd, const struct addr_port *listen, struct addr_port *out)
{
	struct addr_port local = stream_sock_local(fd), dst = local;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int level = local.addr.version == 4 ? IPPROTO_IP : IPPROTO_IPV6;

	if (local.addr.version == 0)
		return ERR_NOENT;
	/* After TPROXY the local address is the answer, whatever this call says. */
	memset(&ss, 0, sizeof(ss));
	if (getsockopt(fd, level, ORIGINAL_DST, &ss, &len) == 0)
		(void)addr_from_sockaddr((struct sockaddr *)&ss, &dst);
	if (listen != NULL) {
		if (addr_port_eq(&dst, listen))
			return ERR_NOENT;
		if (addr_is_any(&listen->addr) && dst.port == listen->port && is_own(&dst.addr))
			return ERR_NOENT;
	}
	*out = dst;
	return 0;
}
