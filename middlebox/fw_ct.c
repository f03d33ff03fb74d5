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
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_ct.h"
#include "middlebox/fw_nft.h"

#define FLUSH_AT 65536u /* octets collected before they are sent */
#define JOBS_MAX 4096u
#define TRIES_MAX 3u
#define ANSWERS 64
#define WALK_FEATURES (FW_FEATURE_LATE_DUMP | FW_FEATURE_CT_FILE)

/* A forgotten wildcard, waiting for a walk that began after it. */
struct job {
	struct fw_op op;
	bool active;   /* served by the walk that is going on */
	uint8_t tries; /* walks that failed */
};

struct fw_ct {
	struct fw_nft *f;
	struct fw_ct_del del;
	struct fw_walk *walk;
	bool walking;
	struct job *jobs;
	size_t n_jobs, jobs_cap;
};

/* ---- Deleting ------------------------------------------------------------------------- */

/*
 * Most deletions find nothing, and each of these answers ENOENT: they are
 * dropped before they are queued. Without the filter they are merely read.
 */
static bool ignore_absent(const struct fw_nl *nl)
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

	return setsockopt(nl->fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) == 0;
}

static void *room(struct fw_ct_del *d)
{
	uint8_t *mem;

	if (d->cap - d->len >= 512)
		return d->mem + d->len;
	mem = realloc(d->mem, FLUSH_AT + 1024);
	if (!mem) {
		d->error = ENOMEM;
		return NULL;
	}
	d->mem = mem;
	d->cap = FLUSH_AT + 1024;
	return d->mem + d->len;
}

/* Puts an attribute with room for a value; where the value begins. */
static uint8_t put_hole(struct nlmsghdr *h, uint16_t type, size_t len)
{
	static const uint8_t zeros[16];

	mnl_attr_put(h, type, len, zeros);
	return (uint8_t)(h->nlmsg_len - ((len + 3) & ~(size_t)3));
}

static void make_template(struct fw_ct_tmpl *t, bool v6)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(t->mem);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	struct nlattr *tuple, *part;

	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
	h->nlmsg_flags = NLM_F_REQUEST;
	g->nfgen_family = v6 ? AF_INET6 : AF_INET;
	g->version = NFNETLINK_V0;
	tuple = mnl_attr_nest_start(h, CTA_TUPLE_ORIG);
	part = mnl_attr_nest_start(h, CTA_TUPLE_IP);
	t->src = put_hole(h, v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, v6 ? 16 : 4);
	t->dst = put_hole(h, v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST, v6 ? 16 : 4);
	mnl_attr_nest_end(h, part);
	part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
	t->protocol = put_hole(h, CTA_PROTO_NUM, 1);
	t->sport = put_hole(h, CTA_PROTO_SRC_PORT, 2);
	t->dport = put_hole(h, CTA_PROTO_DST_PORT, 2);
	mnl_attr_nest_end(h, part);
	mnl_attr_nest_end(h, tuple);
	t->len = (uint8_t)h->nlmsg_len;
}

static void put_port(uint8_t *p, uint16_t port)
{
	p[0] = (uint8_t)(port >> 8);
	p[1] = (uint8_t)port;
}

void fw_ct_del_put(struct fw_ct_del *d, uint8_t protocol, const struct addr_port *src,
		   const struct addr_port *dst)
{
	const struct fw_ct_tmpl *t = &d->tmpl[src->addr.version == 6];
	uint8_t *p = room(d);

	if (!p)
		return;
	memcpy(p, t->mem, t->len);
	((struct nlmsghdr *)(void *)p)->nlmsg_seq = d->nl.seq++;
	memcpy(p + t->src, src->addr.b, addr_len(&src->addr));
	memcpy(p + t->dst, dst->addr.b, addr_len(&src->addr));
	p[t->protocol] = protocol;
	put_port(p + t->sport, src->port);
	put_port(p + t->dport, dst->port);
	d->len += t->len;
	d->total++;
	d->unread++;
	if (d->len >= FLUSH_AT)
		fw_ct_del_flush(d);
}

static void read_answer(struct fw_ct_del *d, const uint8_t *mem, unsigned len)
{
	const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)mem;
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

	if (mnl_nlmsg_ok(h, (int)len) && h->nlmsg_type == NLMSG_ERROR && e->error &&
	    e->error != -ENOENT)
		d->error = -e->error;
}

/* Every answer is a datagram of its own: many are read at once. */
static void read_answers(struct fw_ct_del *d)
{
	uint8_t in[ANSWERS][128] __attribute__((aligned(8)));
	struct iovec iov[ANSWERS];
	struct mmsghdr m[ANSWERS];
	int n;

	d->unread = 0;
	do {
		for (unsigned i = 0; i < ANSWERS; i++) {
			iov[i] = (struct iovec){in[i], sizeof(in[i])};
			m[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
		}
		n = recvmmsg(d->nl.fd, m, ANSWERS, MSG_DONTWAIT, NULL);
		for (int i = 0; i < n; i++)
			read_answer(d, in[i], m[i].msg_len);
		d->nl.lost += n < 0 && errno == ENOBUFS;
	} while (n == ANSWERS || (n < 0 && (errno == EINTR || errno == ENOBUFS)));
}

void fw_ct_del_flush(struct fw_ct_del *d)
{
	static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n;

	if (!d->len)
		return;
	do
		n = sendto(d->nl.fd, d->mem, d->len, 0, (const struct sockaddr *)&kernel,
			   sizeof(kernel));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		d->error = errno;
	d->len = 0;
	/* What is left in the queue are failures that only the log is told of: no hurry. */
	if (!d->quiet || d->unread >= ANSWERS)
		read_answers(d);
}

int fw_ct_del_open(struct fw_ct_del *d)
{
	int err = fw_nl_open(&d->nl);

	if (err)
		return err;
	make_template(&d->tmpl[0], false);
	make_template(&d->tmpl[1], true);
	d->quiet = ignore_absent(&d->nl);
	return 0;
}

void fw_ct_del_close(struct fw_ct_del *d)
{
	fw_nl_close(&d->nl);
	free(d->mem);
	d->mem = NULL;
	d->len = d->cap = 0;
}

/* ---- Forgetting ------------------------------------------------------------------------ */

int fw_ct_new(struct fw_nft *f)
{
	struct fw_ct *ct = calloc(1, sizeof(*ct));
	int err;

	if (!ct)
		return ERR_NOMEM;
	ct->f = f;
	err = fw_ct_del_open(&ct->del);
	if (err) {
		log_err("fw: opening netlink: %s", strerror(-err));
		free(ct);
		return ERR_KERNEL;
	}
	ct->walk = fw_walk_new(WALK_FEATURES & ~f->cfg->force_off);
	if (!ct->walk) {
		log_err("fw: opening netlink and an eventfd: %s", strerror(errno));
		fw_ct_del_close(&ct->del);
		free(ct);
		return ERR_KERNEL;
	}
	f->features |= WALK_FEATURES & ~f->cfg->force_off;
	f->ct = ct;
	return 0;
}

void fw_ct_free(struct fw_ct *ct)
{
	if (!ct)
		return;
	fw_walk_free(ct->walk);
	fw_ct_del_close(&ct->del);
	free(ct->jobs);
	free(ct);
}

static void note_deleted(struct fw_ct *ct, uint64_t *n, int *error)
{
	ct->f->stats.conntrack_deletes += *n;
	*n = 0;
	if (*error)
		log_warn("fw: deleting conntrack entries: %s", strerror(*error));
	*error = 0;
}

void fw_ct_flush(struct fw_ct *ct)
{
	fw_ct_del_flush(&ct->del);
	note_deleted(ct, &ct->del.total, &ct->del.error);
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
	fw_ct_del_put(&ct->del, protocol, &a0, &a3);
	if (op->binding.outside.addr.version)
		fw_ct_del_put(&ct->del, protocol, &a3, &op->binding.outside);
	else
		fw_ct_del_put(&ct->del, protocol, &a3, &a0);
	if (op->binding.inside_face.addr.version)
		fw_ct_del_put(&ct->del, protocol, &a0, &op->binding.inside_face);
}

static void wait_for_walk(struct fw_ct *ct)
{
	struct pollfd p = {.fd = fw_walk_fd(ct->walk), .events = POLLIN};

	fw_ct_work(ct);
	(void)poll(&p, 1, -1);
	fw_ct_poll(ct);
}

static void forget_wild(struct fw_ct *ct, const struct fw_op *op)
{
	struct job *jobs;
	size_t cap;

	while (ct->n_jobs >= JOBS_MAX)
		wait_for_walk(ct);
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
	return ct->del.nl.lost;
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

/* ---- Walking ---------------------------------------------------------------------------- */

void fw_ct_work(struct fw_ct *ct)
{
	const struct fw_op *op[FW_WALK_OPS];
	size_t n;

	if (ct->walking || !ct->n_jobs)
		return;
	for (n = 0; n < ct->n_jobs && n < FW_WALK_OPS; n++) {
		ct->jobs[n].active = true;
		op[n] = &ct->jobs[n].op;
	}
	ct->walking = true;
	fw_walk_start(ct->walk, op, n);
}

/* Its jobs are done, or, had it failed, tried again a few times. */
static void end_jobs(struct fw_ct *ct, int err)
{
	size_t kept = 0;

	for (size_t i = 0; i < ct->n_jobs; i++) {
		struct job *j = &ct->jobs[i];

		if (j->active && (!err || ++j->tries >= TRIES_MAX)) {
			if (err)
				log_err("fw: conntrack entries of a wildcard could not be read: %s",
					strerror(-err));
			continue;
		}
		j->active = false;
		ct->jobs[kept++] = *j;
	}
	ct->n_jobs = kept;
}

void fw_ct_poll(struct fw_ct *ct)
{
	struct fw_walk_end end;

	if (!fw_walk_ended(ct->walk, &end))
		return;
	ct->walking = false;
	ct->f->stats.dumps++;
	ct->f->features = (ct->f->features & ~WALK_FEATURES) | end.features;
	note_deleted(ct, &end.deleted, &end.del_error);
	end_jobs(ct, end.err);
	fw_ct_work(ct);
}

size_t fw_ct_waiting(const struct fw_ct *ct)
{
	return ct->n_jobs;
}

int fw_ct_fd(const struct fw_ct *ct)
{
	return fw_walk_fd(ct->walk);
}
