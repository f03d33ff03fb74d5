/*
 * Sets and their elements: how keys are packed, and element messages from
 * templates that are encoded once per set and only patched afterwards.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

/* nft's names of key types, six bits a field, so that `nft list` prints elements rightly. */
#define TYPE_IPADDR 7u
#define TYPE_IP6ADDR 8u
#define TYPE_PROTOCOL 12u
#define TYPE_SERVICE 13u

/* Newer than Debian 12's headers (kernel 6.3). */
#define MSG_DESTROYSETELEM 30

/* Fields of a full tuple in key order. */
enum field { F_PROTO, F_SADDR, F_SPORT, F_DADDR, F_DPORT };

static void add_field(struct fw_set *s, enum field f)
{
	bool addr = f == F_SADDR || f == F_DADDR;
	uint8_t len = (uint8_t)(addr ? (s->version == 4 ? 4 : 16) : f == F_PROTO ? 1 : 2);
	uint32_t type = addr	       ? (s->version == 4 ? TYPE_IPADDR : TYPE_IP6ADDR)
			: f == F_PROTO ? TYPE_PROTOCOL
				       : TYPE_SERVICE;

	s->field_len[s->fields++] = len;
	s->key_len = (uint8_t)(s->key_len + (len + 3) / 4 * 4);
	s->key_type = s->key_type << 6 | type;
}

static void describe(struct fw_set *s, const char *name, uint8_t version, uint8_t shape)
{
	memset(s, 0, sizeof(*s));
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->version = version;
	s->shape = shape;
	add_field(s, F_PROTO);
	if (shape & 1)
		add_field(s, F_SADDR);
	if (shape & 2)
		add_field(s, F_SPORT);
	if (shape & 4)
		add_field(s, F_DADDR);
	if (shape & 8)
		add_field(s, F_DPORT);
}

/* Adds a nested value and returns where the value starts. */
static uint16_t put_value(struct nlmsghdr *h, uint16_t type, size_t len)
{
	static const uint8_t zero[FW_KEY_MAX];
	struct nlattr *nest = mnl_attr_nest_start(h, type);
	uint16_t at = (uint16_t)(h->nlmsg_len + FW_ATTR_HDR);

	mnl_attr_put(h, NFTA_DATA_VALUE, len, zero);
	mnl_attr_nest_end(h, nest);
	return at;
}

static uint16_t put_number(struct nlmsghdr *h, uint16_t type)
{
	uint16_t at = (uint16_t)(h->nlmsg_len + FW_ATTR_HDR);

	mnl_attr_put_u64(h, type, 0);
	return at;
}

/* Octets and packets, in this order, from *at on, with an attribute header between. */
static uint16_t put_counter(struct nlmsghdr *h)
{
	struct nlattr *expr = mnl_attr_nest_start(h, NFTA_SET_ELEM_EXPR), *data;
	uint16_t at;

	mnl_attr_put_strz(h, NFTA_EXPR_NAME, "counter");
	data = mnl_attr_nest_start(h, NFTA_EXPR_DATA);
	at = put_number(h, NFTA_COUNTER_BYTES);
	put_number(h, NFTA_COUNTER_PACKETS);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, expr);
	return at;
}

enum kind { ADD, ADD_COUNTER, DEL, GET };

static void make_template(struct fw_tmpl *t, const struct fw_nft *f, const struct fw_set *s,
			  enum kind kind)
{
	uint8_t mem[1024] __attribute__((aligned(8))) = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(mem);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	int type = kind == GET			      ? NFT_MSG_GETSETELEM
		   : kind != DEL		      ? NFT_MSG_NEWSETELEM
		   : f->features & FW_FEATURE_DESTROY ? MSG_DESTROYSETELEM
						      : NFT_MSG_DELSETELEM;
	bool add = kind == ADD || kind == ADD_COUNTER;
	struct nlattr *list, *elem;

	h->nlmsg_type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type);
	/* Never NLM_F_EXCL: a failing message costs an RCU grace period (8-16 ms). */
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | (add ? NLM_F_CREATE : 0));
	g->nfgen_family = NFPROTO_INET;
	g->version = NFNETLINK_V0;
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, f->cfg->table);
	mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, s->name);
	list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
	elem = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
	t->key = put_value(h, NFTA_SET_ELEM_KEY, s->key_len);
	t->key_end = s->interval ? put_value(h, NFTA_SET_ELEM_KEY_END, s->key_len) : 0;
	t->data = add && s->map ? put_value(h, NFTA_SET_ELEM_DATA, FW_DATA_LEN) : 0;
	/* An equal timeout alone does not refresh: both, always. */
	t->timeout = add ? put_number(h, NFTA_SET_ELEM_TIMEOUT) : 0;
	t->expiry = add ? put_number(h, NFTA_SET_ELEM_EXPIRATION) : 0;
	t->counter = kind == ADD_COUNTER ? put_counter(h) : 0;
	mnl_attr_nest_end(h, elem);
	mnl_attr_nest_end(h, list);
	t->list = (uint16_t)((uint8_t *)list - mem);
	t->elem = (uint16_t)((uint8_t *)elem - mem);
	t->len = h->nlmsg_len <= FW_TMPL_MAX ? (uint16_t)h->nlmsg_len : 0;
	memcpy(t->mem, mem, t->len);
}

static void make_templates(struct fw_nft *f, struct fw_set *s)
{
	make_template(&s->add, f, s, ADD);
	make_template(&s->add_counter, f, s, ADD_COUNTER);
	make_template(&s->del, f, s, DEL);
	make_template(&s->get, f, s, GET);
}

static void init_bank(struct fw_nft *f, unsigned bank)
{
	uint8_t version = bank & 1 ? 6 : 4;
	bool block = bank >= 2;
	const char *family = block ? "block_" : "";
	char name[24];

	for (unsigned i = 1; i <= FW_EXACT; i++) {
		if (i == FW_EXACT && !block)
			break; /* fixed */
		if (i == FW_EXACT)
			snprintf(name, sizeof(name), "%sexact%u", family, version);
		else
			snprintf(name, sizeof(name), "%swild%u_%u", family, version, i);
		describe(&f->shapes[bank][i], name, version, (uint8_t)i);
		f->shapes[bank][i].block = block;
		make_templates(f, &f->shapes[bank][i]);
	}
	for (unsigned i = 0; i < FW_LAYERS; i++) {
		snprintf(name, sizeof(name), "%srange%u_%u", family, version, i);
		describe(&f->layers[bank][i], name, version, FW_EXACT);
		f->layers[bank][i].interval = true;
		f->layers[bank][i].block = block;
		make_templates(f, &f->layers[bank][i]);
	}
}

void fw_sets_init(struct fw_nft *f)
{
	describe(&f->fixed[FW_EXACT4], "exact4", 4, 15);
	describe(&f->fixed[FW_EXACT6], "exact6", 6, 15);
	describe(&f->fixed[FW_DNAT4], "dnat4", 4, 4 | 8);
	describe(&f->fixed[FW_SNAT4], "snat4", 4, 1 | 2);
	describe(&f->fixed[FW_PEER_DNAT4], "peer_dnat4", 4, 15);
	describe(&f->fixed[FW_PEER_SNAT4], "peer_snat4", 4, 15);
	for (size_t i = FW_DNAT4; i < FW_FIXED_SETS; i++)
		f->fixed[i].map = true;
	for (size_t i = 0; i < FW_FIXED_SETS; i++)
		make_templates(f, &f->fixed[i]);
	for (unsigned bank = 0; bank < FW_BANKS; bank++)
		init_bank(f, bank);
}

void fw_sets_each(struct fw_nft *f, void (*fn)(struct fw_set *s, void *arg), void *arg)
{
	for (size_t i = 0; i < FW_FIXED_SETS; i++)
		fn(&f->fixed[i], arg);
	for (unsigned bank = 0; bank < FW_BANKS; bank++) {
		for (unsigned i = 1; i < FW_SHAPES; i++)
			if (f->shapes[bank][i].version)
				fn(&f->shapes[bank][i], arg);
		for (unsigned i = 0; i < FW_LAYERS; i++)
			fn(&f->layers[bank][i], arg);
	}
}

void fw_set_absent(struct fw_set *s, void *arg ATTR_UNUSED)
{
	s->state = FW_SET_ABSENT;
}

/* Writes an address and a port behind one another, each padded to 4 octets; the end. */
static uint8_t *pack_port(uint8_t *p, uint16_t port)
{
	p[0] = (uint8_t)(port >> 8);
	p[1] = (uint8_t)port;
	p[2] = p[3] = 0;
	return p + 4;
}

static uint8_t *pack_addr(uint8_t *p, const struct addr *a, uint8_t version)
{
	size_t len = version == 4 ? 4 : 16;

	memcpy(p, a->b, len);
	return p + len;
}

static uint8_t *pack_proto(uint8_t *p, uint8_t protocol)
{
	p[0] = protocol;
	p[1] = p[2] = p[3] = 0;
	return p + 4;
}

static uint8_t *pack_addr_port(uint8_t *p, const struct addr_port *a)
{
	return pack_port(pack_addr(p, &a->addr, a->addr.version), a->port);
}

uint8_t fw_match_version(const struct fw_match *m)
{
	return m->src.addr.version ? m->src.addr.version : m->dst.addr.version;
}

unsigned fw_bank(bool block, const struct fw_match *m)
{
	return (block ? 2u : 0u) + (fw_match_version(m) == 6);
}

static bool port_exact(const struct port_range *r)
{
	return r->first == r->last;
}

static bool port_any(const struct port_range *r)
{
	return r->first == 0 && r->last == 65535;
}

static bool prefix_exact(const struct addr_prefix *p)
{
	return p->addr.version && p->len == addr_len(&p->addr) * 8;
}

static bool prefix_any(const struct addr_prefix *p)
{
	return p->len == 0;
}

bool fw_match_exact(const struct fw_match *m)
{
	return prefix_exact(&m->src) && prefix_exact(&m->dst) && port_exact(&m->sport) &&
	       port_exact(&m->dport);
}

/* Exact fields as a mask, or -1 where a prefix or range needs an interval set. */
static int shape_of(const struct fw_match *m)
{
	int shape = 0;

	if (prefix_exact(&m->src))
		shape |= 1;
	else if (!prefix_any(&m->src))
		return -1;
	if (port_exact(&m->sport))
		shape |= 2;
	else if (!port_any(&m->sport))
		return -1;
	if (prefix_exact(&m->dst))
		shape |= 4;
	else if (!prefix_any(&m->dst))
		return -1;
	if (port_exact(&m->dport))
		shape |= 8;
	else if (!port_any(&m->dport))
		return -1;
	return shape ? shape : -1;
}

static void pack_match(struct fw_elem *e, const struct fw_match *m)
{
	const struct fw_set *s = e->set;
	uint8_t *p = pack_proto(e->key, m->protocol);

	if (s->shape & 1)
		p = pack_addr(p, &m->src.addr, s->version);
	if (s->shape & 2)
		p = pack_port(p, m->sport.first);
	if (s->shape & 4)
		p = pack_addr(p, &m->dst.addr, s->version);
	if (s->shape & 8)
		pack_port(p, m->dport.first);
}

/* The last address of a prefix. */
static struct addr prefix_last(const struct addr_prefix *p, uint8_t version)
{
	struct addr a = p->addr;

	for (unsigned bit = p->len; bit < (version == 4 ? 32u : 128u); bit++)
		a.b[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	return a;
}

static void pack_range(struct fw_elem *e, const struct fw_match *m, uint8_t version)
{
	struct addr src = prefix_last(&m->src, version), dst = prefix_last(&m->dst, version);
	uint8_t *p = pack_proto(e->key, m->protocol), *q = pack_proto(e->end, m->protocol);

	p = pack_port(pack_addr(p, &m->src.addr, version), m->sport.first);
	q = pack_port(pack_addr(q, &src, version), m->sport.last);
	pack_port(pack_addr(p, &m->dst.addr, version), m->dport.first);
	pack_port(pack_addr(q, &dst, version), m->dport.last);
}

/* The set of a wildcard shape, unless the cap on shapes sends it to the interval sets. */
static struct fw_set *shape_set(struct fw_nft *f, unsigned bank, int shape)
{
	unsigned in_use = 0;

	if (shape < 0)
		return NULL;
	if (shape == FW_EXACT && bank < 2)
		return &f->fixed[bank ? FW_EXACT6 : FW_EXACT4];
	if (shape == FW_EXACT || f->shapes[bank][shape].state != FW_SET_ABSENT)
		return &f->shapes[bank][shape];
	for (unsigned i = 0; i < FW_EXACT; i++)
		in_use += f->shapes[bank][i].state != FW_SET_ABSENT;
	return in_use < FW_SHAPES_MAX ? &f->shapes[bank][shape] : NULL;
}

/*
 * One element per protocol. Elements with set NULL belong to the interval sets,
 * whose layer fw_range.c chooses; their key and end are packed for any layer.
 */
int fw_match_elems(struct fw_nft *f, bool block, const struct fw_match *m, struct fw_elem *elems)
{
	uint8_t version = fw_match_version(m);
	int n = 0;

	if ((version != 4 && version != 6) ||
	    (m->src.addr.version && m->dst.addr.version &&
	     m->src.addr.version != m->dst.addr.version) ||
	    m->sport.first > m->sport.last || m->dport.first > m->dport.last)
		return ERR_INVALID;
	for (unsigned i = 0; i < 2; i++) {
		static const uint8_t both[] = {IPPROTO_UDP, IPPROTO_TCP};
		struct fw_match one = *m;
		struct fw_elem *e = &elems[n];

		if (m->protocol && i > 0)
			break;
		if (!m->protocol)
			one.protocol = both[i];
		e->set = shape_set(f, fw_bank(block, m), shape_of(m));
		if (e->set)
			pack_match(e, &one);
		else
			pack_range(e, &one, version);
		n++;
	}
	return n;
}

static void pack_binding(struct fw_nft *f, const struct fw_binding *b, uint8_t protocol,
			 struct fw_elem *e)
{
	e[0].set = &f->fixed[FW_DNAT4];
	pack_addr_port(pack_proto(e[0].key, protocol), &b->outside);
	pack_addr_port(e[0].data, &b->inside);
	e[1].set = &f->fixed[FW_SNAT4];
	pack_addr_port(pack_proto(e[1].key, protocol), &b->inside);
	pack_addr_port(e[1].data, &b->outside);
	if (!b->inside_face.addr.version)
		return;
	/* Inside half of twice NAT: the way out is told by where it goes, the way in by both. */
	e[2].set = &f->fixed[FW_PEER_DNAT4];
	pack_addr_port(pack_addr_port(pack_proto(e[2].key, protocol), &b->inside), &b->inside_face);
	pack_addr_port(e[2].data, &b->external);
	e[3].set = &f->fixed[FW_PEER_SNAT4];
	pack_addr_port(pack_addr_port(pack_proto(e[3].key, protocol), &b->external), &b->inside);
	pack_addr_port(e[3].data, &b->inside_face);
}

int fw_binding_elems(struct fw_nft *f, const struct fw_binding *b, struct fw_elem *elems)
{
	bool twice = b->inside_face.addr.version != 0;
	int per = twice ? 4 : 2;

	if (b->inside.addr.version != 4 || b->outside.addr.version != 4 ||
	    f->cfg->nat == FW_NAT_NONE)
		return ERR_UNSUPPORTED;
	if (twice && (f->cfg->nat != FW_NAT_TWICE || b->inside_face.addr.version != 4 ||
		      b->external.addr.version != 4))
		return ERR_UNSUPPORTED;
	if (b->protocol) {
		pack_binding(f, b, b->protocol, elems);
		return per;
	}
	pack_binding(f, b, IPPROTO_UDP, elems);
	pack_binding(f, b, IPPROTO_TCP, elems + per);
	return 2 * per;
}

static void put_be64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

/*
 * Every message costs the kernel a look for the table and the set, so that one
 * with several elements is cheaper. Where the element begins if there were a
 * message of its own around it, so that offsets of the template hold; or NULL.
 */
static uint8_t *put_template(struct fw_batch *b, const struct fw_tmpl *t, const struct fw_elem *e)
{
	uint8_t *p = fw_batch_room(b);
	uint16_t size = (uint16_t)(t->len - t->elem);
	struct nlattr *list;

	if (!p || !t->len)
		return NULL;
	if (b->open == t && b->len - b->last < FW_MSG_MAX) {
		list = (struct nlattr *)(void *)(b->mem + b->last + t->list);
		list->nla_len = (uint16_t)(list->nla_len + size);
		memcpy(p, t->mem + t->elem, size);
		p -= t->elem;
		fw_batch_extend(b, size);
	} else {
		memcpy(p, t->mem, t->len);
		fw_batch_add(b, t->len);
		b->open = t;
	}
	memcpy(p + t->key, e->key, e->set->key_len);
	if (t->key_end)
		memcpy(p + t->key_end, e->end, e->set->key_len);
	if (t->data)
		memcpy(p + t->data, e->data, FW_DATA_LEN);
	return p;
}

int fw_elem_add(struct fw_batch *b, const struct fw_elem *e, uint64_t ms, const uint64_t *counter)
{
	const struct fw_tmpl *t = counter ? &e->set->add_counter : &e->set->add;
	uint8_t *p = put_template(b, t, e);

	if (!p)
		return ERR_NOMEM;
	put_be64(p + t->timeout, ms);
	put_be64(p + t->expiry, ms);
	if (counter) {
		put_be64(p + t->counter, counter[1]);
		put_be64(p + t->counter + 8 + FW_ATTR_HDR, counter[0]);
	}
	return 0;
}

int fw_elem_del(struct fw_batch *b, const struct fw_elem *e)
{
	return put_template(b, &e->set->del, e) ? 0 : ERR_NOMEM;
}

static void read_counter(const struct nlattr *expr, struct fw_elem_state *out)
{
	const struct nlattr *data = fw_attrs_find(fw_attrs_in(expr), NFTA_EXPR_DATA);

	if (!data)
		return;
	out->octets = fw_attr_be64(fw_attrs_find(fw_attrs_in(data), NFTA_COUNTER_BYTES));
	out->packets = fw_attr_be64(fw_attrs_find(fw_attrs_in(data), NFTA_COUNTER_PACKETS));
}

static void read_data(const struct nlattr *elem, struct fw_elem_state *out)
{
	const struct nlattr *a = fw_attrs_find(fw_attrs_in(elem), NFTA_SET_ELEM_DATA);
	const void *data;

	a = a ? fw_attrs_find(fw_attrs_in(a), NFTA_DATA_VALUE) : NULL;
	data = fw_attr_data(a, FW_DATA_LEN);
	if (data)
		memcpy(out->data, data, FW_DATA_LEN);
}

static void on_element(const struct nlmsghdr *h, void *arg)
{
	struct fw_elem_state *out = arg;
	const struct nlattr *a = fw_attrs_find(fw_attrs_of(h), NFTA_SET_ELEM_LIST_ELEMENTS);

	a = a ? fw_attrs_find(fw_attrs_in(a), NFTA_LIST_ELEM) : NULL;
	if (!a)
		return;
	out->found = true;
	out->remaining_ms = fw_attr_be64(fw_attrs_find(fw_attrs_in(a), NFTA_SET_ELEM_EXPIRATION));
	read_data(a, out);
	a = fw_attrs_find(fw_attrs_in(a), NFTA_SET_ELEM_EXPR);
	if (a)
		read_counter(a, out);
}

int fw_elem_get(struct fw_nl *nl, const struct fw_elem *e, struct fw_elem_state *out)
{
	uint8_t mem[FW_TMPL_MAX] __attribute__((aligned(8)));
	const struct fw_tmpl *t = &e->set->get;
	int err;

	memset(out, 0, sizeof(*out));
	memcpy(mem, t->mem, t->len);
	memcpy(mem + t->key, e->key, e->set->key_len);
	if (t->key_end)
		memcpy(mem + t->key_end, e->end, e->set->key_len);
	err = fw_nl_ask(nl, (struct nlmsghdr *)(void *)mem, on_element, out);
	if (err && err != -ENOENT) {
		log_warn("fw: asking for an element of %s: %s", e->set->name, strerror(-err));
		return ERR_KERNEL;
	}
	return 0;
}
