/*
 * Connection tracking (rules d and e). An entry that was there before a
 * binding, or outlives it, sends media to the wrong place for as long as
 * packets keep coming, so entries go with the elements.
 *
 * The kernel finds an entry by either of its tuples. A0->A3 is the original
 * tuple of a flow that began inside and the reply tuple of one that began
 * outside; A3->A2 the other way round, and also that of somebody else's flow
 * that sits on our port. So the two of them name everything that can exist.
 */
#define _GNU_SOURCE /* recvmmsg() */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

#define FLUSH_AT 65536u /* octets collected before they are sent */
#define JOBS_MAX 4096u
#define ACTIVE_MAX 64u /* jobs that one dump serves: bounds the work per entry */
#define TRIES_MAX 3u
#define ANSWERS 64
#define SLICE_NS 1000000 /* one slice of a dump */

/* A forgotten wildcard, waiting for a dump that began after it. */
struct job {
	struct fw_op op;
	bool active;   /* served by the dump that is running */
	uint8_t tries; /* dumps that failed */
};

struct fw_ct {
	struct fw_nft *f;
	struct fw_nl nl;   /* deletions */
	struct fw_nl dump; /* fd -1: not opened yet */
	uint32_t dump_seq;
	bool dumping;
	uint8_t *mem;
	size_t len, cap;
	struct job *jobs;
	size_t n_jobs, jobs_cap;
};

struct tuple {
	uint8_t protocol;
	struct addr_port src, dst;
};

/*
 * Most deletions find nothing, and each of these answers ENOENT: they are
 * dropped before they are queued. Without the filter they are merely read.
 */
static void ignore_absent(const struct fw_nl *nl)
{
	/* Loads are big-endian, the two fields are in host order. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, offsetof(struct nlmsghdr, nlmsg_type)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(NLMSG_ERROR), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 sizeof(struct nlmsghdr) + offsetof(struct nlmsgerr, error)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)-ENOENT), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};

	(void)setsockopt(nl->fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

int fw_ct_new(struct fw_nft *f)
{
	struct fw_ct *ct = calloc(1, sizeof(*ct));
	int err;

	if (!ct)
		return ERR_NOMEM;
	ct->f = f;
	ct->dump.fd = -1;
	err = fw_nl_open(&ct->nl);
	if (err) {
		log_err("fw: opening netlink: %s", strerror(-err));
		free(ct);
		return ERR_KERNEL;
	}
	ignore_absent(&ct->nl);
	f->ct = ct;
	return 0;
}

void fw_ct_free(struct fw_ct *ct)
{
	if (!ct)
		return;
	fw_nl_close(&ct->nl);
	fw_nl_close(&ct->dump);
	free(ct->mem);
	free(ct->jobs);
	free(ct);
}

static void *room(struct fw_ct *ct)
{
	uint8_t *mem;

	if (ct->cap - ct->len >= 512)
		return ct->mem + ct->len;
	mem = realloc(ct->mem, FLUSH_AT + 1024);
	if (!mem)
		return NULL;
	ct->mem = mem;
	ct->cap = FLUSH_AT + 1024;
	return ct->mem + ct->len;
}

static struct nlmsghdr *start_delete(struct fw_ct *ct, uint8_t version)
{
	struct nlmsghdr *h = room(ct);
	struct nfgenmsg *g;

	if (!h)
		return NULL;
	mnl_nlmsg_put_header(h);
	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
	h->nlmsg_flags = NLM_F_REQUEST;
	h->nlmsg_seq = ct->nl.seq++;
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = version == 4 ? AF_INET : AF_INET6;
	g->version = NFNETLINK_V0;
	return h;
}

static void end_delete(struct fw_ct *ct, const struct nlmsghdr *h)
{
	ct->len += (h->nlmsg_len + 3) & ~3u;
	ct->f->stats.conntrack_deletes++;
	if (ct->len >= FLUSH_AT)
		fw_ct_flush(ct);
}

static void put_delete(struct fw_ct *ct, uint8_t protocol, const struct addr_port *src,
		       const struct addr_port *dst)
{
	uint8_t version = src->addr.version;
	struct nlmsghdr *h = start_delete(ct, version);
	struct nlattr *tuple, *part;

	if (!h)
		return;
	tuple = mnl_attr_nest_start(h, CTA_TUPLE_ORIG);
	part = mnl_attr_nest_start(h, CTA_TUPLE_IP);
	mnl_attr_put(h, version == 4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, addr_len(&src->addr),
		     src->addr.b);
	mnl_attr_put(h, version == 4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, addr_len(&dst->addr),
		     dst->addr.b);
	mnl_attr_nest_end(h, part);
	part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(h, CTA_PROTO_NUM, protocol);
	mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(src->port));
	mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(dst->port));
	mnl_attr_nest_end(h, part);
	mnl_attr_nest_end(h, tuple);
	end_delete(ct, h);
}

static void read_answer(const uint8_t *mem, unsigned len)
{
	const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)mem;
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

	if (mnl_nlmsg_ok(h, (int)len) && h->nlmsg_type == NLMSG_ERROR && e->error &&
	    e->error != -ENOENT)
		log_warn("fw: deleting a conntrack entry: %s", strerror(-e->error));
}

/* Every answer is a datagram of its own: many are read at once. */
static void read_answers(struct fw_ct *ct)
{
	uint8_t in[ANSWERS][128] __attribute__((aligned(8)));
	struct iovec iov[ANSWERS];
	struct mmsghdr m[ANSWERS];
	int n;

	do {
		for (unsigned i = 0; i < ANSWERS; i++) {
			iov[i] = (struct iovec){in[i], sizeof(in[i])};
			m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
		}
		n = recvmmsg(ct->nl.fd, m, ANSWERS, MSG_DONTWAIT, NULL);
		for (int i = 0; i < n; i++)
			read_answer(in[i], m[i].msg_len);
		ct->nl.lost += n < 0 && errno == ENOBUFS;
	} while (n == ANSWERS || (n < 0 && (errno == EINTR || errno == ENOBUFS)));
}

/* Sends what was collected. Absent entries answer ENOENT, which is as good. */
void fw_ct_flush(struct fw_ct *ct)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n;

	if (!ct->len)
		return;
	do
		n = sendto(ct->nl.fd, ct->mem, ct->len, 0, (const struct sockaddr *)&kernel,
			   sizeof(kernel));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		log_err("fw: deleting conntrack entries: %s", strerror(errno));
	ct->len = 0;
	read_answers(ct);
}

/* The ends of a flow: A0 and A3, whichever way the match points. */
static void ends_of(const struct fw_op *op, struct addr_port *a0, struct addr_port *a3)
{
	struct addr_port src = {op->match.src.addr, op->match.sport.first};
	struct addr_port dst = {op->match.dst.addr, op->match.dport.first};
	bool inward = op->binding.inside.addr.version && addr_port_eq(&dst, &op->binding.inside);

	*a0 = inward ? dst : src;
	*a3 = inward ? src : dst;
}

static void forget_exact(struct fw_ct *ct, const struct fw_op *op, uint8_t protocol)
{
	struct addr_port a0, a3;

	ends_of(op, &a0, &a3);
	put_delete(ct, protocol, &a0, &a3);
	if (op->binding.outside.addr.version)
		put_delete(ct, protocol, &a3, &op->binding.outside);
	else
		put_delete(ct, protocol, &a3, &a0);
	if (op->binding.inside_face.addr.version)
		put_delete(ct, protocol, &a0, &op->binding.inside_face);
}

static void forget_wild(struct fw_ct *ct, const struct fw_op *op)
{
	struct job *jobs;
	size_t cap;

	while (ct->n_jobs >= JOBS_MAX && fw_ct_work(ct))
		;
	if (ct->n_jobs == ct->jobs_cap) {
		cap = ct->jobs_cap ? ct->jobs_cap * 2 : 16;
		jobs = realloc(ct->jobs, cap * sizeof(*jobs));
		if (!jobs) {
			log_err("fw: out of memory: conntrack entries of a wildcard stay");
			return;
		}
		ct->jobs = jobs;
		ct->jobs_cap = cap;
	}
	ct->jobs[ct->n_jobs++] = (struct job){.op = *op};
}

void fw_ct_forget(struct fw_ct *ct, const struct fw_op *op)
{
	const struct fw_config *cfg = ct->f->cfg;

	/* In a pure firewall the sets are asked for every packet: entries decide nothing. */
	if ((cfg->mode == FW_ENFORCE && cfg->nat == FW_NAT_NONE) || cfg->omit & FW_RULE_FORGET)
		return;
	if (!fw_match_exact(&op->match)) {
		forget_wild(ct, op);
		return;
	}
	if (op->match.protocol != IPPROTO_TCP)
		forget_exact(ct, op, IPPROTO_UDP);
	if (op->match.protocol != IPPROTO_UDP)
		forget_exact(ct, op, IPPROTO_TCP);
}

uint64_t fw_ct_lost(const struct fw_ct *ct)
{
	return ct->nl.lost;
}

bool fw_ct_quarantined(const struct fw_ct *ct, uint8_t protocol, const struct addr_port *outside)
{
	for (size_t i = 0; i < ct->n_jobs; i++) {
		const struct fw_op *op = &ct->jobs[i].op;

		if (addr_port_eq(&op->binding.outside, outside) &&
		    (!protocol || !op->match.protocol || protocol == op->match.protocol))
			return true;
	}
	return false;
}

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

static bool read_tuple(const struct nlattr *a, struct tuple *t)
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
static bool tuple_fits(const struct fw_op *op, const struct tuple *t)
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

static void on_entry(struct fw_ct *ct, const struct nlmsghdr *h)
{
	struct fw_attrs w = fw_attrs_of(h);
	struct tuple orig, reply;

	if (!read_tuple(fw_attrs_find(w, CTA_TUPLE_ORIG), &orig) ||
	    !read_tuple(fw_attrs_find(w, CTA_TUPLE_REPLY), &reply))
		return;
	for (size_t i = 0; i < ct->n_jobs && i < ACTIVE_MAX; i++) {
		const struct job *j = &ct->jobs[i];

		if (j->active && (tuple_fits(&j->op, &orig) || tuple_fits(&j->op, &reply))) {
			put_delete(ct, orig.protocol, &orig.src, &orig.dst);
			return;
		}
	}
}

static bool start_dump(struct fw_ct *ct)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	uint8_t mem[64] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	int err = ct->dump.fd < 0 ? fw_nl_open(&ct->dump) : 0;

	if (err) {
		ct->dump.fd = -1;
		log_err("fw: opening netlink: %s", strerror(-err));
		return false;
	}
	h = mnl_nlmsg_put_header(mem);
	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	h->nlmsg_seq = ct->dump_seq = ct->dump.seq++;
	mnl_nlmsg_put_extra_header(h, sizeof(struct nfgenmsg));
	if (sendto(ct->dump.fd, h, h->nlmsg_len, 0, (const struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0) {
		log_err("fw: reading conntrack: %s", strerror(errno));
		fw_nl_close(&ct->dump);
		return false;
	}
	ct->dumping = true;
	for (size_t i = 0; i < ct->n_jobs && i < ACTIVE_MAX; i++)
		ct->jobs[i].active = true;
	return true;
}

/* The dump is over: its jobs are done, or, had it failed, tried again a few times. */
static void end_dump(struct fw_ct *ct, bool failed)
{
	size_t kept = 0;

	/*
	 * The socket is kept: closing one makes the kernel wait for what nftables has yet to
	 * free, tens of milliseconds. After a failure there may be answers left in it.
	 */
	if (failed)
		fw_nl_close(&ct->dump);
	ct->dumping = false;
	fw_ct_flush(ct);
	for (size_t i = 0; i < ct->n_jobs; i++) {
		struct job *j = &ct->jobs[i];

		if (j->active && (!failed || ++j->tries >= TRIES_MAX)) {
			if (failed)
				log_err("fw: conntrack entries of a wildcard could not be read");
			continue;
		}
		j->active = false;
		ct->jobs[kept++] = *j;
	}
	ct->n_jobs = kept;
}

/* One datagram of the dump. True when there may be more. */
static bool read_dump(struct fw_ct *ct)
{
	uint8_t in[32768] __attribute__((aligned(8)));
	ssize_t n = recv(ct->dump.fd, in, sizeof(in), MSG_DONTWAIT);
	const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)in;
	int left = (int)n;

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0) {
		end_dump(ct, true);
		return false;
	}
	for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
		if (h->nlmsg_seq != ct->dump_seq)
			continue;
		if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
			end_dump(ct, h->nlmsg_type == NLMSG_ERROR);
			return false;
		}
		on_entry(ct, h);
	}
	return true;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

bool fw_ct_work(struct fw_ct *ct)
{
	int64_t until = now_ns() + SLICE_NS;

	if (!ct->dumping) {
		if (!ct->n_jobs)
			return false;
		if (!start_dump(ct)) {
			for (size_t i = 0; i < ct->n_jobs; i++)
				ct->jobs[i].active = true;
			end_dump(ct, true);
			return ct->n_jobs > 0;
		}
	}
	while (read_dump(ct) && now_ns() < until)
		;
	return ct->dumping || ct->n_jobs > 0;
}
