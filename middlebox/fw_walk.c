/*
 * The walk over all conntrack entries for wildcards (rule e), by a thread.
 *
 * A dump is slow when there are few entries: the kernel visits every bucket of
 * the table, taking a lock each, and pauses only when a buffer is full; until
 * then that processor does nothing else, not even forward packets. So few
 * entries are read from the file, and of many a little at a time.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "common/errcode.h"
#include "common/thread.h"
#include "middlebox/fw_ct.h"
#include "middlebox/fw_nft.h"

#define RECEIVE_BUFFER (1 << 20)
#define PLUGS 8u /* answers that fill the smallest receive buffer; see start_dump() */

struct fw_walk {
	pthread_t thread;
	bool running;
	int fd; /* eventfd: the walk has ended */
	atomic_bool stop;
	/* The thread's while it runs. */
	struct fw_nl nl; /* of the dump; fd -1: not open */
	struct fw_ct_del del;
	unsigned features; /* FW_FEATURE_LATE_DUMP, FW_FEATURE_CT_FILE */
	uint32_t seq;
	struct fw_op op[FW_WALK_OPS];
	size_t n_op;
	int err;
};

/* ---- Which entries ------------------------------------------------------------------ */

static bool read_addr(const struct nlattr *ip, uint16_t v4, uint16_t v6, struct addr *out)
{
	const void *p = fw_attr_data(fw_attrs_find(fw_attrs_in(ip), v4), 4);

	if (p) {
		*out = addr_v4(p);
		return true;
	}
	p = fw_attr_data(fw_attrs_find(fw_attrs_in(ip), v6), 16);
	if (p)
		*out = addr_v6(p);
	return p != NULL;
}

static uint16_t read_port(const struct nlattr *proto, uint16_t type)
{
	const uint8_t *p = fw_attr_data(fw_attrs_find(fw_attrs_in(proto), type), 2);

	return p ? (uint16_t)(p[0] * 256u + p[1]) : 0;
}

static bool read_tuple(const struct nlattr *a, struct fw_tuple *t)
{
	const struct nlattr *ip, *proto;
	const uint8_t *num;

	if (!a)
		return false;
	ip = fw_attrs_find(fw_attrs_in(a), CTA_TUPLE_IP);
	proto = fw_attrs_find(fw_attrs_in(a), CTA_TUPLE_PROTO);
	num = proto ? fw_attr_data(fw_attrs_find(fw_attrs_in(proto), CTA_PROTO_NUM), 1) : NULL;
	if (!ip || !num || !read_addr(ip, CTA_IP_V4_SRC, CTA_IP_V6_SRC, &t->src.addr) ||
	    !read_addr(ip, CTA_IP_V4_DST, CTA_IP_V6_DST, &t->dst.addr))
		return false;
	t->protocol = *num;
	t->src.port = read_port(proto, CTA_PROTO_SRC_PORT);
	t->dst.port = read_port(proto, CTA_PROTO_DST_PORT);
	return true;
}

static bool end_fits(const struct addr_prefix *p, const struct port_range *r,
		     const struct addr_port *a)
{
	return (p->len == 0 || addr_prefix_contains(p, &a->addr)) && a->port >= r->first &&
	       a->port <= r->last;
}

/* The same reasoning as with exact tuples: either way of the match, or the far end to A2. */
static bool tuple_fits(const struct fw_op *op, const struct fw_tuple *t)
{
	const struct fw_match *m = &op->match;
	const struct addr_port *a2 = &op->binding.outside;

	if (t->protocol != IPPROTO_UDP && t->protocol != IPPROTO_TCP)
		return false;
	if (m->protocol && m->protocol != t->protocol)
		return false;
	if (t->src.addr.version != fw_match_version(m))
		return false;
	if (end_fits(&m->src, &m->sport, &t->src) && end_fits(&m->dst, &m->dport, &t->dst))
		return true;
	if (end_fits(&m->src, &m->sport, &t->dst) && end_fits(&m->dst, &m->dport, &t->src))
		return true;
	return a2->addr.version && addr_port_eq(a2, &t->dst) &&
	       (end_fits(&m->src, &m->sport, &t->src) || end_fits(&m->dst, &m->dport, &t->src));
}

static void on_entry(const struct fw_tuple *orig, const struct fw_tuple *reply, void *arg)
{
	struct fw_walk *w = arg;

	for (size_t i = 0; i < w->n_op; i++) {
		if (tuple_fits(&w->op[i], orig) || tuple_fits(&w->op[i], reply)) {
			fw_ct_del_put(&w->del, orig->protocol, &orig->src, &orig->dst);
			return;
		}
	}
}

static void on_message(struct fw_walk *w, const struct nlmsghdr *h)
{
	struct fw_attrs attrs = fw_attrs_of(h);
	struct fw_tuple orig, reply;

	if (read_tuple(fw_attrs_find(attrs, CTA_TUPLE_ORIG), &orig) &&
	    read_tuple(fw_attrs_find(attrs, CTA_TUPLE_REPLY), &reply))
		on_entry(&orig, &reply, w);
}

/* ---- The dump ------------------------------------------------------------------------- */

static int open_dump(struct fw_walk *w)
{
	int one = 1, err = fw_nl_open(&w->nl);

	if (err) {
		w->nl.fd = -1;
		return err;
	}
	/* What does not fit into a receive buffer that is made full is no error. */
	(void)setsockopt(w->nl.fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	return 0;
}

static size_t put_header(uint8_t *mem, uint16_t type, uint16_t flags, uint32_t seq, size_t extra)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(mem);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = seq;
	if (extra)
		mnl_nlmsg_put_extra_header(h, extra);
	return h->nlmsg_len;
}

/*
 * The kernel starts a dump inside sendto(), under the mutex of conntrack's
 * netlink, for which every deletion has to wait then. It goes on inside recv(),
 * under this socket's own mutex. While the receive buffer is full it does not
 * dump, but the dump is begun. So the buffer is made small and full first, of
 * answers to messages that do nothing, and large again afterwards: recv() of
 * the first of those answers does all of the walk.
 *
 * No documentation promises that. A kernel that dumps at once is merely slow,
 * and where a dump is not resumed recv() finds an empty queue; see walk().
 */
static int start_dump(struct fw_walk *w)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	uint8_t mem[(PLUGS + 2) * NLMSG_HDRLEN] __attribute__((aligned(8)));
	int least = 0, most = RECEIVE_BUFFER;
	size_t len = 0;
	ssize_t n;

	if (w->features & FW_FEATURE_LATE_DUMP) {
		(void)setsockopt(w->nl.fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof(least));
		for (unsigned i = 0; i < PLUGS; i++)
			len += put_header(mem + len, NLMSG_NOOP, NLM_F_ACK, 0, 0);
	}
	w->seq = w->nl.seq++;
	len += put_header(mem + len, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP,
			  w->seq, sizeof(struct nfgenmsg));
	do
		n = sendto(w->nl.fd, mem, len, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	(void)setsockopt(w->nl.fd, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most));
	return 0;
}

/*
 * One datagram. 1: there is more; 0: that was the end; or a negative errno.
 * The kernel makes datagrams as large as the largest buffer that it has seen,
 * but no smaller than about a page, or 8 KiB where pages are larger.
 */
static int read_some(struct fw_walk *w)
{
	uint8_t in[8192] __attribute__((aligned(8)));
	size_t size = sysconf(_SC_PAGESIZE) > 4096 ? sizeof(in) : 4096;
	ssize_t n = recv(w->nl.fd, in, size, MSG_DONTWAIT | MSG_TRUNC);
	const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)in;
	int left = (int)n;

	if (n < 0 && errno == EINTR)
		return 1;
	if (n <= 0 || (size_t)n > size)
		return n < 0 ? -errno : -EIO;
	for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
		const int *error = mnl_nlmsg_get_payload(h); /* of an error and of an end */

		if (h->nlmsg_seq != w->seq)
			continue;
		if (h->nlmsg_type == NLMSG_DONE)
			return mnl_nlmsg_get_payload_len(h) >= sizeof(*error) ? *error : 0;
		if (h->nlmsg_type != NLMSG_ERROR)
			on_message(w, h);
		else if (!(w->features & FW_FEATURE_LATE_DUMP) ||
			 *error != -ENOBUFS) /* that was the full buffer */
			return *error ? *error : -EIO;
	}
	return 1;
}

static int dump(struct fw_walk *w)
{
	int err = w->nl.fd < 0 ? open_dump(w) : 0;

	if (!err)
		err = start_dump(w);
	if (err)
		return err;
	do
		err = atomic_load(&w->stop) ? -ECANCELED : read_some(w);
	while (err > 0);
	return err;
}

/*
 * The socket is kept: closing one makes the kernel wait for what nftables has
 * yet to free, tens of milliseconds. After a failure it has a dump or answers
 * left in it.
 */
static int dump_or_close(struct fw_walk *w)
{
	int err = dump(w);

	if (err)
		fw_nl_close(&w->nl);
	return err;
}

static void walk(struct fw_walk *w)
{
	int err = ERR_UNSUPPORTED;

	if (w->features & FW_FEATURE_CT_FILE)
		err = fw_ct_file_each(FW_CT_FILE, on_entry, w);
	if (err && err != ERR_TOOBIG)
		w->features &= ~FW_FEATURE_CT_FILE;
	w->err = err ? dump_or_close(w) : 0;
	if (w->err && w->features & FW_FEATURE_LATE_DUMP && !atomic_load(&w->stop)) {
		w->features &= ~FW_FEATURE_LATE_DUMP;
		w->err = dump_or_close(w);
	}
	fw_ct_del_flush(&w->del);
}

/* ---- The thread ------------------------------------------------------------------------- */

static void *in_thread(void *arg)
{
	struct fw_walk *w = arg;

	walk(w);
	thread_ring(w->fd);
	return NULL;
}

struct fw_walk *fw_walk_new(unsigned features)
{
	struct fw_walk *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->features = features;
	w->nl.fd = -1;
	w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->fd >= 0 && fw_ct_del_open(&w->del) == 0)
		return w;
	if (w->fd >= 0)
		close(w->fd);
	free(w);
	return NULL;
}

void fw_walk_free(struct fw_walk *w)
{
	if (!w)
		return;
	atomic_store(&w->stop, true);
	if (w->running)
		pthread_join(w->thread, NULL);
	fw_ct_del_close(&w->del);
	fw_nl_close(&w->nl);
	close(w->fd);
	free(w);
}

/* Without a thread, for want of memory, it is done here. */
void fw_walk_start(struct fw_walk *w, const struct fw_op *const *op, size_t n)
{
	for (w->n_op = 0; w->n_op < n; w->n_op++)
		w->op[w->n_op] = *op[w->n_op];
	w->running = thread_start(&w->thread, in_thread, w) == 0;
	if (!w->running)
		in_thread(w);
}

int fw_walk_fd(const struct fw_walk *w)
{
	return w->fd;
}

bool fw_walk_ended(struct fw_walk *w, struct fw_walk_end *out)
{
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0)
		return false;
	if (w->running)
		pthread_join(w->thread, NULL);
	w->running = false;
	*out = (struct fw_walk_end){w->err, w->features, w->del.total, w->del.error};
	w->del.total = 0;
	w->del.error = 0;
	return true;
}
