#include "middlebox/fw_nl.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#define SOCKET_BUFFER (32 << 20) /* a limit, not an allocation: a whole batch is one skb */
#define DUMP_WAIT_MS 2000
#define ASK_TRIES 4

int fw_nl_open(struct fw_nl *nl)
{
	int size = SOCKET_BUFFER, one = 1, err;

	memset(nl, 0, sizeof(*nl));
	nl->fd = -1;
	nl->s = mnl_socket_open2(NETLINK_NETFILTER, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (!nl->s)
		return -errno;
	if (mnl_socket_bind(nl->s, 0, MNL_SOCKET_AUTOPID) < 0) {
		err = -errno;
		mnl_socket_close(nl->s);
		nl->s = NULL;
		return err;
	}
	nl->fd = mnl_socket_get_fd(nl->s);
	nl->portid = mnl_socket_get_portid(nl->s);
	nl->seq = 1;
	/* Without CAP_NET_ADMIN these fail; then opening the table says so. */
	(void)setsockopt(nl->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	(void)setsockopt(nl->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	/* Errors without a copy of the offending message. */
	(void)setsockopt(nl->fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	return 0;
}

void fw_nl_close(struct fw_nl *nl)
{
	if (nl->s)
		mnl_socket_close(nl->s);
	nl->s = NULL;
	nl->fd = -1;
}

void fw_batch_init(struct fw_batch *b, struct fw_nl *nl)
{
	memset(b, 0, sizeof(*b));
	b->nl = nl;
}

void fw_batch_fini(struct fw_batch *b)
{
	free(b->mem);
	b->mem = NULL;
	b->cap = b->len = 0;
}

void *fw_batch_room(struct fw_batch *b)
{
	uint8_t *mem;
	size_t cap;

	if (b->nomem)
		return NULL;
	if (b->cap - b->len < FW_MSG_MAX) {
		cap = b->cap ? b->cap * 2 : 16 * FW_MSG_MAX;
		mem = realloc(b->mem, cap);
		if (!mem) {
			b->nomem = true;
			return NULL;
		}
		b->mem = mem;
		b->cap = cap;
	}
	return b->mem + b->len;
}

uint32_t fw_batch_add(struct fw_batch *b, size_t len)
{
	struct nlmsghdr *h = (struct nlmsghdr *)(void *)(b->mem + b->len);

	h->nlmsg_seq = b->first_seq + b->n;
	b->last = b->len;
	b->open = NULL;
	b->len += (len + 3) & ~(size_t)3;
	return b->n++;
}

void fw_batch_extend(struct fw_batch *b, size_t len)
{
	struct nlmsghdr *h = (struct nlmsghdr *)(void *)(b->mem + b->last);

	h->nlmsg_len += (uint32_t)len;
	b->len += len;
}

void fw_batch_seal(struct fw_batch *b)
{
	b->open = NULL;
}

static void put_frame(struct fw_batch *b, uint16_t type)
{
	struct nlmsghdr *h = fw_batch_room(b);
	struct nfgenmsg *g;

	if (!h)
		return;
	mnl_nlmsg_put_header(h);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST;
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = AF_UNSPEC;
	g->version = NFNETLINK_V0;
	g->res_id = htons(NFNL_SUBSYS_NFTABLES);
	fw_batch_add(b, h->nlmsg_len);
}

void fw_batch_begin(struct fw_batch *b)
{
	b->len = 0;
	b->n = 0;
	b->nomem = false;
	b->first_seq = b->nl->seq;
	put_frame(b, NFNL_MSG_BATCH_BEGIN);
}

/* Waits until the socket has something to read. */
static int wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, DUMP_WAIT_MS);
	while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

static int send_all(const struct fw_nl *nl, const void *mem, size_t len)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n;

	do
		n = sendto(nl->fd, mem, len, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int fw_batch_send(struct fw_batch *b, fw_batch_err_fn fn, void *arg)
{
	uint8_t in[8192] __attribute__((aligned(8)));
	int err, result = 0;

	put_frame(b, NFNL_MSG_BATCH_END);
	if (b->nomem)
		return -ENOMEM;
	b->nl->seq += b->n;
	err = send_all(b->nl, b->mem, b->len);
	if (err)
		return err;
	for (;;) {
		ssize_t n = recv(b->nl->fd, in, sizeof(in), MSG_DONTWAIT);
		const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)in;
		int left = (int)n;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENOBUFS) {
			b->nl->lost++;
			result = -ENOBUFS;
			continue;
		}
		if (n <= 0)
			return result;
		for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
			uint32_t index = h->nlmsg_seq - b->first_seq;

			if (h->nlmsg_type != NLMSG_ERROR || !e->error || index >= b->n)
				continue;
			if (result == 0)
				result = 1;
			fn(index, -e->error, arg);
		}
	}
}

/* Leftovers of a question that was given up must not answer the next one. */
static void drain(const struct fw_nl *nl)
{
	uint8_t in[4096];

	while (recv(nl->fd, in, sizeof(in), MSG_DONTWAIT | MSG_TRUNC) > 0 || errno == ENOBUFS)
		;
}

static int ask(struct fw_nl *nl, struct nlmsghdr *req, fw_nl_msg_fn fn, void *arg)
{
	uint8_t in[16384] __attribute__((aligned(8)));
	int err, result = 0;

	req->nlmsg_seq = nl->seq++;
	err = send_all(nl, req, req->nlmsg_len);
	if (err)
		return err;
	for (;;) {
		ssize_t n = recv(nl->fd, in, sizeof(in), MSG_DONTWAIT);
		const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)in;
		int left = (int)n;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENOBUFS) {
			nl->lost++;
			return -ENOBUFS;
		}
		if (n <= 0)
			return result;
		for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

			if (h->nlmsg_seq != req->nlmsg_seq)
				continue;
			if (h->nlmsg_type == NLMSG_ERROR)
				result = e->error;
			else
				fn(h, arg);
		}
	}
}

int fw_nl_ask(struct fw_nl *nl, struct nlmsghdr *req, fw_nl_msg_fn fn, void *arg)
{
	int err;

	for (unsigned tries = 0; tries < ASK_TRIES; tries++) {
		err = ask(nl, req, fn, arg);
		if (err != -ENOBUFS)
			break; /* else the answer may be what was lost */
	}
	return err;
}

int fw_nl_dump(struct fw_nl *nl, struct nlmsghdr *req, fw_nl_msg_fn fn, void *arg)
{
	static const size_t size = 65536;
	uint8_t *in;
	int err, result = 1;
	bool changed = false;

	in = malloc(size);
	if (!in)
		return -ENOMEM;
	req->nlmsg_flags |= NLM_F_REQUEST | NLM_F_DUMP;
	req->nlmsg_seq = nl->seq++;
	err = send_all(nl, req, req->nlmsg_len);
	while (!err && result == 1) {
		ssize_t n = recv(nl->fd, in, size, MSG_DONTWAIT);
		const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)in;
		int left = (int)n;

		if (n < 0 && errno == EAGAIN)
			err = wait_readable(nl->fd);
		else if (n < 0 && errno != EINTR)
			err = -errno;
		nl->lost += err == -ENOBUFS;
		for (; n > 0 && mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

			if (h->nlmsg_seq != req->nlmsg_seq)
				continue;
			changed |= (h->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
			if (h->nlmsg_type == NLMSG_DONE)
				result = 0;
			else if (h->nlmsg_type == NLMSG_ERROR)
				result = e->error;
			else
				fn(h, arg);
		}
	}
	free(in);
	if (err)
		drain(nl);
	return err ? err : result ? result : changed ? -EINTR : 0;
}

struct fw_attrs fw_attrs_of(const struct nlmsghdr *h)
{
	const uint8_t *p = (const uint8_t *)h;
	size_t skip = sizeof(*h) + sizeof(struct nfgenmsg);

	return (struct fw_attrs){p + (skip < h->nlmsg_len ? skip : h->nlmsg_len), p + h->nlmsg_len};
}

struct fw_attrs fw_attrs_in(const struct nlattr *nest)
{
	const uint8_t *p = (const uint8_t *)nest;

	return (struct fw_attrs){p + FW_ATTR_HDR, p + nest->nla_len};
}

const struct nlattr *fw_attrs_next(struct fw_attrs *w)
{
	const struct nlattr *a = (const struct nlattr *)(const void *)w->p;
	size_t left = (size_t)(w->end - w->p), step;

	if (left < FW_ATTR_HDR || a->nla_len < FW_ATTR_HDR || a->nla_len > left)
		return NULL;
	step = (a->nla_len + 3u) & ~(size_t)3;
	w->p += step < left ? step : left;
	return a;
}

const struct nlattr *fw_attrs_find(struct fw_attrs w, uint16_t type)
{
	const struct nlattr *a;

	while ((a = fw_attrs_next(&w)))
		if (mnl_attr_get_type(a) == type)
			return a;
	return NULL;
}

const void *fw_attr_data(const struct nlattr *a, size_t len)
{
	return a && a->nla_len == FW_ATTR_HDR + len ? mnl_attr_get_payload(a) : NULL;
}

uint64_t fw_attr_be64(const struct nlattr *a)
{
	const void *p = fw_attr_data(a, sizeof(uint64_t));
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return be64toh(v);
}
