/*
 * The relay. Its sockets are not connected: a connected one would answer
 * strangers with ICMP and count none of them. Instead each carries a socket
 * filter from before it is bound, which at first takes nothing and later what
 * comes from the remote only, so nothing foreign or early is ever queued.
 */
#define _GNU_SOURCE
#include "agent/relay.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"

#define BATCH 64
#define BATCHES_PER_WAKE 4
#define DATAGRAM_MAX 65536
#define PAIRS 32768	   /* ports 2i and 2i+1 are pair i */
#define MAX_BIND_TRIES 256 /* ports that somebody else on this host holds */

struct leg {
	struct relay *relay;
	struct leg *other;
	int fd;
	struct loop_io *io;
	struct addr_port local, remote;
	struct sockaddr_storage to;
	socklen_t to_len;
	bool open;
	struct relay_stats stats;
};

struct relay {
	struct relays *rs;
	unsigned components;
	unsigned pair[RELAY_SIDES];
	struct leg legs[RELAY_SIDES][RELAY_MAX_COMPONENTS];
};

struct relays {
	struct loop *loop;
	struct relay_cfg cfg;
	unsigned n;
	uint64_t taken[PAIRS / 64]; /* pairs of our own relays, on any address */
	uint8_t *octets;	    /* BATCH datagrams; untouched pages cost nothing */
	struct iovec in_iov[BATCH], out_iov[BATCH];
	struct mmsghdr in[BATCH], out[BATCH];
};

/* --- the gate in front of a socket ---------------------------------------- */

static int attach(int fd, struct sock_filter *code, size_t n)
{
	struct sock_fprog prog = {.len = (unsigned short)n, .filter = code};

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) != 0)
		return err_from_errno(errno);
	return 0;
}

static int gate_shut(int fd)
{
	struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};

	return attach(fd, nothing, ARRAY_LEN(nothing));
}

/*
 * Source address and source port, word by word; offset 0 is the UDP header, the
 * IP header is found at SKF_NET_OFF. A comparison that fails goes on to the
 * next statement, "take nothing", one that holds skips it.
 */
static int gate_open(int fd, const struct addr_port *from)
{
	struct sock_filter code[3 * 5 + 1];
	uint32_t source = (uint32_t)SKF_NET_OFF + (from->addr.version == 6 ? 8 : 12);
	size_t n = 0;

	for (uint32_t i = 0; i < addr_len(&from->addr); i += 4) {
		const uint8_t *b = from->addr.b + i;
		uint32_t word =
			(uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];

		code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, source + i);
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word, 1, 0);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0);
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, from->port, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	return attach(fd, code, n);
}

/* How many datagrams the kernel discarded at this socket; wraps. */
static uint32_t kernel_drops(int fd)
{
	uint32_t info[SK_MEMINFO_VARS] = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len) != 0 ||
	    len < (SK_MEMINFO_DROPS + 1) * sizeof(info[0]))
		return 0;
	return info[SK_MEMINFO_DROPS];
}

/* --- forwarding ----------------------------------------------------------- */

/* Reads at most one batch; the number of datagrams, 0 when there is nothing (more). */
static unsigned receive(struct relays *rs, struct leg *leg)
{
	int n = recvmmsg(leg->fd, rs->in, BATCH, MSG_DONTWAIT, NULL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		log_debug("relay: receiving: %s", err_str(err_from_errno(errno)));
	return n > 0 ? (unsigned)n : 0;
}

/* What the kernel does not take now is dropped: late media is worth nothing. */
static unsigned forward(struct relays *rs, struct leg *leg, unsigned n)
{
	struct leg *to = leg->other;
	unsigned i = 0;

	for (unsigned k = 0; k < n; k++) {
		rs->out_iov[k].iov_len = rs->in[k].msg_len;
		rs->out[k].msg_hdr.msg_name = &to->to;
		rs->out[k].msg_hdr.msg_namelen = to->to_len;
	}
	while (i < n) {
		int sent = sendmmsg(to->fd, rs->out + i, n - i, MSG_DONTWAIT);

		if (sent > 0) {
			for (unsigned k = 0; k < (unsigned)sent; k++)
				leg->stats.octets += rs->in[i + k].msg_len;
			leg->stats.packets += (unsigned)sent;
			leg->stats.last_ms = loop_now_ms(rs->loop);
			i += (unsigned)sent;
			continue;
		}
		if (errno == EAGAIN || errno == ENOBUFS) {
			leg->stats.dropped += n - i;
			break;
		}
		/* This one cannot be sent; that says nothing about the next. */
		leg->stats.dropped++;
		i++;
	}
	return n;
}

static void on_readable(unsigned events, void *arg)
{
	struct leg *leg = arg;
	struct relays *rs = leg->relay->rs;
	unsigned n = BATCH;

	(void)events;
	for (int i = 0; i < BATCHES_PER_WAKE && n == BATCH; i++) {
		n = receive(rs, leg);
		if (n == 0)
			break;
		if (leg->open)
			forward(rs, leg, n);
		else
			leg->stats.dropped += n;
	}
}

/* --- ports ---------------------------------------------------------------- */

static bool pair_taken(const struct relays *rs, unsigned pair)
{
	return rs->taken[pair / 64] >> (pair % 64) & 1;
}

static void pair_take(struct relays *rs, unsigned pair)
{
	rs->taken[pair / 64] |= (uint64_t)1 << (pair % 64);
}

static void pair_give_back(struct relays *rs, unsigned pair)
{
	rs->taken[pair / 64] &= ~((uint64_t)1 << (pair % 64));
}

/* The whole pairs of the range: the first one and how many. */
static unsigned pairs_of(const struct port_range *ports, unsigned *first)
{
	unsigned end = (ports->last + 1u) / 2;

	*first = (ports->first + 1u) / 2;
	return end > *first ? end - *first : 0;
}

static int leg_open_socket(struct leg *leg)
{
	int on = 1;
	int family = leg->local.addr.version == 6 ? AF_INET6 : AF_INET;

	leg->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (leg->fd < 0)
		return err_from_errno(errno);
	if (family == AF_INET6 &&
	    setsockopt(leg->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0)
		return err_from_errno(errno);
	return gate_shut(leg->fd);
}

/* 0, or ERR_EXIST when somebody has the port. */
static int leg_bind(struct leg *leg, uint16_t port)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int err;

	if (leg->fd < 0) {
		err = leg_open_socket(leg);
		if (err != 0)
			return err;
	}
	leg->local.port = port;
	len = addr_to_sockaddr(&leg->local, &sa);
	if (bind(leg->fd, (struct sockaddr *)&sa, len) != 0)
		return err_from_errno(errno);
	return 0;
}

static void leg_close(struct leg *leg)
{
	loop_io_free(leg->io);
	leg->io = NULL;
	if (leg->fd >= 0)
		close(leg->fd);
	leg->fd = -1;
}

static int bind_pair(struct relay *r, enum relay_side side, unsigned pair)
{
	struct leg *legs = r->legs[side];
	int err;

	for (unsigned c = 0; c < r->components; c++) {
		err = leg_bind(&legs[c], (uint16_t)(2 * pair + c));
		if (err == 0)
			continue;
		/* What is bound cannot be bound again; a fresh socket can. */
		for (unsigned k = 0; k < c; k++)
			leg_close(&legs[k]);
		return err;
	}
	return 0;
}

/* Starts anywhere (RFC 6056), so that ports are not guessed from their predecessors. */
static int take_ports(struct relay *r, enum relay_side side)
{
	struct relays *rs = r->rs;
	unsigned first, tries = 0, n = pairs_of(&rs->cfg.ports, &first);
	uint32_t start;
	int err;

	if (getrandom(&start, sizeof(start), GRND_NONBLOCK) != sizeof(start))
		return ERR_IO;
	for (unsigned i = 0; i < n && tries < MAX_BIND_TRIES; i++) {
		unsigned pair = first + (start % n + i) % n;

		if (pair_taken(rs, pair))
			continue;
		err = bind_pair(r, side, pair);
		if (err == 0) {
			pair_take(rs, pair);
			r->pair[side] = pair;
			return 0;
		}
		if (err != ERR_EXIST)
			return err;
		tries++;
	}
	return ERR_AGAIN;
}

/* --- remotes -------------------------------------------------------------- */

static bool is_own_port(const struct relay *r, const struct addr_port *remote)
{
	if (!pair_taken(r->rs, remote->port / 2))
		return false;
	return addr_eq(&remote->addr, &r->legs[RELAY_CLIENT][0].local.addr) ||
	       addr_eq(&remote->addr, &r->legs[RELAY_FAR][0].local.addr);
}

static bool remote_valid(const struct leg *leg, const struct addr_port *remote)
{
	static const uint8_t broadcast[4] = {255, 255, 255, 255};

	if (remote->addr.version != leg->local.addr.version || remote->port == 0)
		return false;
	if (addr_is_any(&remote->addr) || addr_is_multicast(&remote->addr))
		return false;
	if (remote->addr.version == 4 && memcmp(remote->addr.b, broadcast, sizeof(broadcast)) == 0)
		return false;
	return !is_own_port(leg->relay, remote);
}

/* Nothing new arrives behind a shut gate, so this ends. */
static void drain(struct leg *leg)
{
	unsigned n;

	while ((n = receive(leg->relay->rs, leg)) > 0)
		leg->stats.dropped += n;
}

static int leg_shut(struct leg *leg)
{
	int err = gate_shut(leg->fd);

	leg->open = false;
	if (err == 0)
		drain(leg);
	return err;
}

static int component_open(struct leg *a, struct leg *b)
{
	int err = gate_open(a->fd, &a->remote);

	if (err == 0)
		err = gate_open(b->fd, &b->remote);
	if (err == 0)
		a->open = b->open = true;
	return err;
}

int relay_set_remote(struct relay *r, enum relay_side side, unsigned component,
		     const struct addr_port *remote)
{
	struct leg *leg, *other;
	int err, other_err;

	if (component >= r->components)
		return ERR_INVALID;
	leg = &r->legs[side][component];
	other = leg->other;
	if (leg->open && addr_port_eq(&leg->remote, remote))
		return 0;
	leg->remote = (struct addr_port){0};
	err = leg_shut(leg);
	other_err = leg_shut(other);
	if (err == 0)
		err = other_err;
	if (err != 0 || remote->addr.version == 0)
		return err;
	if (!remote_valid(leg, remote))
		return ERR_INVALID;
	leg->remote = *remote;
	leg->to_len = addr_to_sockaddr(remote, &leg->to);
	if (other->remote.addr.version == 0)
		return 0;
	err = component_open(leg, other);
	if (err != 0) {
		leg->remote = (struct addr_port){0};
		leg_shut(leg);
		leg_shut(other);
	}
	return err;
}

struct addr_port relay_local(const struct relay *r, enum relay_side side, unsigned component)
{
	return component < r->components ? r->legs[side][component].local : (struct addr_port){0};
}

struct relay_stats relay_stats(const struct relay *r, enum relay_side side, unsigned component)
{
	struct relay_stats s = {0};

	if (component < r->components) {
		s = r->legs[side][component].stats;
		s.dropped += kernel_drops(r->legs[side][component].fd);
	}
	return s;
}

/* --- life ----------------------------------------------------------------- */

static bool local_valid(const struct addr *a)
{
	return a->version != 0 && !addr_is_any(a) && !addr_is_multicast(a);
}

static struct relay *relay_alloc(struct relays *rs, const struct addr local[RELAY_SIDES],
				 unsigned components)
{
	struct relay *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->rs = rs;
	r->components = components;
	rs->n++;
	for (unsigned s = 0; s < RELAY_SIDES; s++) {
		r->pair[s] = PAIRS;
		for (unsigned c = 0; c < RELAY_MAX_COMPONENTS; c++) {
			struct leg *leg = &r->legs[s][c];

			leg->relay = r;
			leg->other = &r->legs[RELAY_SIDES - 1 - s][c];
			leg->fd = -1;
			leg->local.addr = local[s];
		}
	}
	return r;
}

static int side_open(struct relay *r, enum relay_side side)
{
	int err = take_ports(r, side);

	for (unsigned c = 0; err == 0 && c < r->components; c++) {
		struct leg *leg = &r->legs[side][c];

		leg->io = loop_io_new(r->rs->loop, leg->fd, LOOP_READ, on_readable, leg);
		if (leg->io == NULL)
			err = ERR_NOMEM;
	}
	return err;
}

int relay_new(struct relays *rs, const struct addr local[RELAY_SIDES], unsigned components,
	      struct relay **out)
{
	struct relay *r;
	int err;

	if (components < 1 || components > RELAY_MAX_COMPONENTS ||
	    !local_valid(&local[RELAY_CLIENT]) || !local_valid(&local[RELAY_FAR]))
		return ERR_INVALID;
	if (rs->n >= rs->cfg.max_relays)
		return ERR_LIMIT;
	r = relay_alloc(rs, local, components);
	if (r == NULL)
		return ERR_NOMEM;
	err = side_open(r, RELAY_CLIENT);
	if (err == 0)
		err = side_open(r, RELAY_FAR);
	if (err != 0) {
		relay_free(r);
		return err;
	}
	*out = r;
	return 0;
}

void relay_free(struct relay *r)
{
	if (r == NULL)
		return;
	for (unsigned s = 0; s < RELAY_SIDES; s++) {
		for (unsigned c = 0; c < r->components; c++)
			leg_close(&r->legs[s][c]);
		if (r->pair[s] != PAIRS)
			pair_give_back(r->rs, r->pair[s]);
	}
	r->rs->n--;
	free(r);
}

int relays_set_cfg(struct relays *rs, const struct relay_cfg *cfg)
{
	unsigned first;

	if (cfg->ports.first == 0 || pairs_of(&cfg->ports, &first) == 0)
		return ERR_INVALID;
	rs->cfg = *cfg;
	return 0;
}

static void wire_up(struct relays *rs)
{
	for (unsigned i = 0; i < BATCH; i++) {
		void *datagram = rs->octets + (size_t)i * DATAGRAM_MAX;

		rs->in_iov[i] = (struct iovec){.iov_base = datagram, .iov_len = DATAGRAM_MAX};
		rs->out_iov[i].iov_base = datagram;
		rs->in[i].msg_hdr.msg_iov = &rs->in_iov[i];
		rs->in[i].msg_hdr.msg_iovlen = 1;
		rs->out[i].msg_hdr.msg_iov = &rs->out_iov[i];
		rs->out[i].msg_hdr.msg_iovlen = 1;
	}
}

struct relays *relays_new(struct loop *l, const struct relay_cfg *cfg)
{
	struct relays *rs = calloc(1, sizeof(*rs));

	if (rs == NULL)
		return NULL;
	rs->loop = l;
	rs->octets = malloc((size_t)BATCH * DATAGRAM_MAX);
	if (rs->octets == NULL || relays_set_cfg(rs, cfg) != 0) {
		relays_free(rs);
		return NULL;
	}
	wire_up(rs);
	return rs;
}

void relays_free(struct relays *rs)
{
	if (rs == NULL)
		return;
	free(rs->octets);
	free(rs);
}

unsigned relays_count(const struct relays *rs)
{
	return rs->n;
}
