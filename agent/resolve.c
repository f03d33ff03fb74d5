/*
 * The resolver over c-ares; the only file here that knows it. An entry is one
 * question: out while callers wait for its answer, then kept for the TTL. A
 * question cannot be taken back from c-ares: when its callers gave up it still
 * counts against the limit until c-ares is done with it.
 */
#include "agent/resolve.h"

#include <ares.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/table.h"

#define NAME_MAX_LEN 253 /* RFC 1035 §2.3.4, without the final dot */
#define LABEL_MAX_LEN 63
#define TRIES 3

const struct resolver_limits resolver_default_limits = {
	.timeout_ms = 2000,
	.max_lookups = 256,
	.max_waiting = 4096,
	.max_cached = 1024,
	.max_ttl = 300,
};

/* Shared by the entry that keeps it and the queries that have yet to report it. */
struct answer {
	unsigned refs;
	size_t n;
	struct addr addrs[RESOLVER_MAX_ADDRS];
};

struct resolver_query {
	TAILQ_ENTRY(resolver_query) same; /* of the entry's waiting, or done */
	TAILQ_ENTRY(resolver_query) late; /* of patience; only while waiting */
	struct resolver *r;
	struct entry *e; /* what it waits for; NULL when done */
	uint64_t deadline;
	resolver_fn fn;
	void *arg;
	int err;
	struct answer *answer;
};

TAILQ_HEAD(queries, resolver_query);

struct entry {
	struct table_node node;
	struct resolver *r;
	struct queries waiting;
	TAILQ_ENTRY(entry) age; /* of cached */
	struct answer *answer;	/* NULL: the question is out */
	uint64_t expires;
	uint8_t ip_version;
	size_t key_len;
	uint8_t key[]; /* the version, then the name in lower case */
};

struct watch {
	struct watch *next;
	struct resolver *r;
	int fd;
	struct loop_io *io;
};

struct resolver {
	struct loop *loop;
	struct resolver_limits limits;
	bool library;
	ares_channel channel;
	struct watch *watches;
	struct loop_timer *ares_timer; /* when c-ares wants to be called */
	struct loop_timer *patience_timer;
	struct loop_timer *done_timer;
	struct table entries;
	TAILQ_HEAD(, entry) cached; /* oldest first */
	struct queries patience;    /* earliest deadline first: all wait equally long */
	struct queries done;
	unsigned n_lookups, n_cached, n_waiting;
};

/* --- answers -------------------------------------------------------------- */

static struct answer *answer_ref(struct answer *a)
{
	if (a != NULL)
		a->refs++;
	return a;
}

static void answer_unref(struct answer *a)
{
	if (a != NULL && --a->refs == 0)
		free(a);
}

static struct answer *answer_new(void)
{
	struct answer *a = calloc(1, sizeof(*a));

	return answer_ref(a);
}

static void answer_add(struct answer *a, const struct addr *addr)
{
	if (a->n == RESOLVER_MAX_ADDRS)
		return;
	for (size_t i = 0; i < a->n; i++)
		if (addr_eq(&a->addrs[i], addr))
			return;
	a->addrs[a->n++] = *addr;
}

/* Connecting a UDP socket sends nothing; it only asks the routing table. */
static bool have_route(const struct addr *a)
{
	struct addr_port to = {.addr = *a, .port = 53};
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(&to, &sa);
	int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool have;

	if (fd < 0)
		return false;
	have = connect(fd, (struct sockaddr *)&sa, len) == 0;
	close(fd);
	return have;
}

/* One version before the other (after RFC 6724 §6 rule 1), else as the servers said. */
static void answer_order(struct answer *a)
{
	struct addr sorted[RESOLVER_MAX_ADDRS];
	uint8_t first = 4;
	size_t n = 0;

	for (size_t i = 0; i < a->n; i++) {
		if (a->addrs[i].version != 6)
			continue;
		first = have_route(&a->addrs[i]) ? 6 : 4;
		break;
	}
	for (size_t i = 0; i < a->n; i++)
		if (a->addrs[i].version == first)
			sorted[n++] = a->addrs[i];
	for (size_t i = 0; i < a->n; i++)
		if (a->addrs[i].version != first)
			sorted[n++] = a->addrs[i];
	memcpy(a->addrs, sorted, n * sizeof(sorted[0]));
}

/* --- entries -------------------------------------------------------------- */

static struct span entry_key(const struct table_node *node)
{
	const struct entry *e = CONTAINER_OF(node, struct entry, node);

	return span_of(e->key, e->key_len);
}

static struct entry *entry_new(struct resolver *r, uint8_t ip_version, struct span key)
{
	struct entry *e = calloc(1, sizeof(*e) + key.n);

	if (e == NULL)
		return NULL;
	e->r = r;
	e->ip_version = ip_version;
	e->key_len = key.n;
	memcpy(e->key, key.p, key.n);
	TAILQ_INIT(&e->waiting);
	table_add(&r->entries, &e->node);
	return e;
}

static void entry_free(struct entry *e)
{
	struct resolver *r = e->r;

	if (e->answer != NULL) {
		TAILQ_REMOVE(&r->cached, e, age);
		r->n_cached--;
		answer_unref(e->answer);
	}
	table_remove(&r->entries, &e->node);
	free(e);
}

/* Keeps the entry with its answer, or frees it. */
static void entry_keep(struct entry *e, struct answer *a, uint64_t ttl)
{
	struct resolver *r = e->r;

	if (ttl > r->limits.max_ttl)
		ttl = r->limits.max_ttl;
	if (a == NULL || ttl == 0 || r->limits.max_cached == 0) {
		entry_free(e);
		return;
	}
	while (r->n_cached >= r->limits.max_cached)
		entry_free(TAILQ_FIRST(&r->cached));
	e->answer = answer_ref(a);
	e->expires = loop_now_ms(r->loop) + ttl * 1000;
	TAILQ_INSERT_TAIL(&r->cached, e, age);
	r->n_cached++;
}

/* --- queries -------------------------------------------------------------- */

static void query_stop_waiting(struct resolver_query *q)
{
	TAILQ_REMOVE(&q->e->waiting, q, same);
	TAILQ_REMOVE(&q->r->patience, q, late);
	q->r->n_waiting--;
	q->e = NULL;
}

/* The callback runs later: whoever called us may be in the middle of something. */
static void query_done(struct resolver_query *q, int err, struct answer *a)
{
	struct resolver *r = q->r;

	if (q->e != NULL)
		query_stop_waiting(q);
	q->err = err;
	q->answer = answer_ref(a);
	TAILQ_INSERT_TAIL(&r->done, q, same);
	if (!loop_timer_is_set(r->done_timer))
		loop_timer_set(r->done_timer, 0);
}

static void query_wait(struct resolver_query *q, struct entry *e)
{
	struct resolver *r = q->r;

	q->e = e;
	q->deadline = loop_now_ms(r->loop) + r->limits.timeout_ms;
	TAILQ_INSERT_TAIL(&e->waiting, q, same);
	TAILQ_INSERT_TAIL(&r->patience, q, late);
	r->n_waiting++;
	if (!loop_timer_is_set(r->patience_timer))
		loop_timer_set(r->patience_timer, r->limits.timeout_ms);
}

void resolver_cancel(struct resolver_query *q)
{
	if (q == NULL)
		return;
	if (q->e != NULL)
		query_stop_waiting(q);
	else
		TAILQ_REMOVE(&q->r->done, q, same);
	answer_unref(q->answer);
	free(q);
}

static void on_done(void *arg)
{
	struct resolver *r = arg;
	struct resolver_query *last = TAILQ_LAST(&r->done, queries), *q;
	bool more = last != NULL;

	/* What is done while we report waits for the next turn. */
	while (more && (q = TAILQ_FIRST(&r->done)) != NULL) {
		resolver_fn fn = q->fn;
		void *fn_arg = q->arg;
		struct answer *a = answer_ref(q->answer);
		int err = q->err;

		more = q != last;
		resolver_cancel(q);
		fn(err, a != NULL ? a->addrs : NULL, a != NULL ? a->n : 0, fn_arg);
		answer_unref(a);
	}
	if (!TAILQ_EMPTY(&r->done) && !loop_timer_is_set(r->done_timer))
		loop_timer_set(r->done_timer, 0);
}

static void on_patience(void *arg)
{
	struct resolver *r = arg;
	uint64_t now = loop_now_ms(r->loop);
	struct resolver_query *q;

	while ((q = TAILQ_FIRST(&r->patience)) != NULL && q->deadline <= now)
		query_done(q, ERR_TIMEOUT, NULL);
	if (q != NULL)
		loop_timer_set(r->patience_timer, q->deadline - now);
}

/* --- c-ares and the loop -------------------------------------------------- */

static void arm(struct resolver *r)
{
	struct timeval tv;

	if (ares_timeout(r->channel, NULL, &tv) == NULL)
		loop_timer_clear(r->ares_timer);
	else
		loop_timer_set(r->ares_timer,
			       (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000 + 1);
}

static void on_ares_timer(void *arg)
{
	struct resolver *r = arg;

	ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	arm(r);
}

static void on_socket(unsigned events, void *arg)
{
	struct watch *w = arg;
	struct resolver *r = w->r;
	int fd = w->fd;

	/* Frees the watch when it closes the socket. */
	ares_process_fd(r->channel, events & LOOP_READ ? fd : ARES_SOCKET_BAD,
			events & LOOP_WRITE ? fd : ARES_SOCKET_BAD);
	arm(r);
}

static void watch_remove(struct watch **at)
{
	struct watch *w = *at;

	*at = w->next;
	loop_io_free(w->io);
	free(w);
}

static void watch_add(struct resolver *r, int fd, unsigned events)
{
	struct watch *w = calloc(1, sizeof(*w));

	if (w != NULL) {
		w->r = r;
		w->fd = fd;
		w->io = loop_io_new(r->loop, fd, events, on_socket, w);
	}
	if (w == NULL || w->io == NULL) {
		/* Its queries time out. */
		log_err("resolver: cannot watch a socket: %s", err_str(ERR_NOMEM));
		free(w);
		return;
	}
	w->next = r->watches;
	r->watches = w;
}

static void on_socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct resolver *r = arg;
	unsigned events = (readable ? LOOP_READ : 0) | (writable ? LOOP_WRITE : 0);
	struct watch **at;

	for (at = &r->watches; *at != NULL && (*at)->fd != fd; at = &(*at)->next)
		;
	if (*at == NULL) {
		if (events != 0)
			watch_add(r, fd, events);
	} else if (events == 0) {
		watch_remove(at);
	} else {
		loop_io_set((*at)->io, events);
	}
}

static int error_of(int status)
{
	switch (status) {
	case ARES_ENODATA:
	case ARES_ENOTFOUND:
	case ARES_ENONAME:
		return ERR_NOENT;
	case ARES_ETIMEOUT:
		return ERR_TIMEOUT;
	case ARES_ENOMEM:
		return ERR_NOMEM;
	case ARES_EBADRESP:
	case ARES_EFORMERR:
	case ARES_EBADSTR:
		return ERR_MALFORMED;
	case ARES_EBADNAME:
		return ERR_INVALID;
	default:
		return ERR_UNREACHABLE;
	}
}

/* Out-pointers are written on success only. */
static int collect(const struct ares_addrinfo *ai, uint8_t ip_version, struct answer **out,
		   uint64_t *ttl)
{
	struct answer *a = answer_new();
	int least = INT32_MAX;

	if (a == NULL)
		return ERR_NOMEM;
	for (const struct ares_addrinfo_node *n = ai->nodes; n != NULL; n = n->ai_next) {
		struct addr_port ap;

		if (addr_from_sockaddr(n->ai_addr, &ap) != 0)
			continue;
		if (n->ai_ttl < least)
			least = n->ai_ttl;
		/* An AAAA record with a mapped IPv4 address gets nobody around what IPv4 may do. */
		if (addr_unmap(ap.addr).version != ap.addr.version)
			continue;
		if (ip_version == 0 || ap.addr.version == ip_version)
			answer_add(a, &ap.addr);
	}
	for (const struct ares_addrinfo_cname *c = ai->cnames; c != NULL; c = c->next)
		if (c->ttl < least)
			least = c->ttl;
	if (a->n == 0) {
		answer_unref(a);
		return ERR_NOENT;
	}
	answer_order(a);
	*ttl = least > 0 ? (uint64_t)least : 0;
	*out = a;
	return 0;
}

/* May run within ares_getaddrinfo(), when nobody need be asked. */
static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *ai)
{
	struct entry *e = arg;
	struct answer *a = NULL;
	struct resolver_query *q;
	uint64_t ttl = 0;
	int err;

	(void)timeouts;
	e->r->n_lookups--;
	if (status == ARES_SUCCESS && ai != NULL)
		err = collect(ai, e->ip_version, &a, &ttl);
	else
		err = error_of(status);
	if (ai != NULL)
		ares_freeaddrinfo(ai);
	while ((q = TAILQ_FIRST(&e->waiting)) != NULL)
		query_done(q, err, a);
	entry_keep(e, a, ttl);
	answer_unref(a);
}

/* --- asking --------------------------------------------------------------- */

static bool label_valid(struct span label)
{
	if (label.n == 0 || label.n > LABEL_MAX_LEN)
		return false;
	for (size_t i = 0; i < label.n; i++) {
		uint8_t c = label.p[i];
		bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');

		/* Not in RFC 952, but devices do have names with underscores. */
		if (!alnum && c != '_' && (c != '-' || i == 0 || i == label.n - 1))
			return false;
	}
	return true;
}

/*
 * Letters, digits and hyphens (RFC 1123 §2.1), in lower case already. A name
 * whose last label is a number is a bad address, not a name: 127.1, 10.0.0.256.
 */
static bool name_valid(struct span name)
{
	struct span label = SPAN_EMPTY;
	uint64_t number;

	if (name.n > 0 && name.p[name.n - 1] == '.')
		name.n--;
	if (name.n == 0 || name.n > NAME_MAX_LEN || name.p[name.n - 1] == '.')
		return false;
	while (name.n > 0) {
		label = span_cut(&name, '.');
		if (!label_valid(label))
			return false;
	}
	return span_u64(label, UINT64_MAX, &number) == ERR_MALFORMED;
}

static int ask_numeric(struct resolver_query *q, const struct addr *addr, uint8_t ip_version)
{
	struct addr plain = addr_unmap(*addr);
	struct answer *a;

	if (ip_version != 0 && plain.version != ip_version)
		return ERR_NOENT;
	a = answer_new();
	if (a == NULL)
		return ERR_NOMEM;
	answer_add(a, &plain);
	query_done(q, 0, a);
	answer_unref(a);
	return 0;
}

/* The query hangs on the entry before c-ares, which may answer at once, gets it. */
static int ask_dns(struct resolver_query *q, const char *name, uint8_t ip_version, struct span key)
{
	struct ares_addrinfo_hints hints = {.ai_flags = ARES_AI_NOSORT, .ai_socktype = SOCK_DGRAM};
	struct resolver *r = q->r;
	struct entry *e;

	if (r->n_lookups >= r->limits.max_lookups)
		return ERR_LIMIT;
	e = entry_new(r, ip_version, key);
	if (e == NULL)
		return ERR_NOMEM;
	r->n_lookups++;
	query_wait(q, e);
	hints.ai_family = ip_version == 4 ? AF_INET : ip_version == 6 ? AF_INET6 : AF_UNSPEC;
	ares_getaddrinfo(r->channel, name, NULL, &hints, on_answer, e);
	arm(r);
	return 0;
}

static struct entry *entry_find(struct resolver *r, struct span key)
{
	struct table_node *node = table_get(&r->entries, key);
	struct entry *e;

	if (node == NULL)
		return NULL;
	e = CONTAINER_OF(node, struct entry, node);
	if (e->answer != NULL && e->expires <= loop_now_ms(r->loop)) {
		entry_free(e);
		return NULL;
	}
	return e;
}

static int ask(struct resolver_query *q, const char *name, uint8_t ip_version)
{
	uint8_t key[1 + NAME_MAX_LEN + 1];
	struct span text = span_str(name);
	struct entry *e;
	struct addr addr;

	if (ip_version != 0 && ip_version != 4 && ip_version != 6)
		return ERR_INVALID;
	if (addr_parse(text, &addr) == 0)
		return ask_numeric(q, &addr, ip_version);
	if (text.n >= sizeof(key))
		return ERR_INVALID;
	key[0] = ip_version;
	for (size_t i = 0; i < text.n; i++) {
		uint8_t c = text.p[i];

		key[i + 1] = c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c;
	}
	if (!name_valid(span_of(key + 1, text.n)))
		return ERR_INVALID;
	e = entry_find(q->r, span_of(key, text.n + 1));
	if (e != NULL && e->answer != NULL) {
		query_done(q, 0, e->answer);
		return 0;
	}
	if (q->r->n_waiting >= q->r->limits.max_waiting)
		return ERR_LIMIT;
	if (e == NULL)
		return ask_dns(q, name, ip_version, span_of(key, text.n + 1));
	query_wait(q, e);
	return 0;
}

struct resolver_query *resolver_lookup(struct resolver *r, const char *name, uint8_t ip_version,
				       resolver_fn fn, void *arg)
{
	struct resolver_query *q = calloc(1, sizeof(*q));
	int err;

	if (q == NULL)
		return NULL;
	q->r = r;
	q->fn = fn;
	q->arg = arg;
	err = ask(q, name, ip_version);
	if (err != 0)
		query_done(q, err, NULL);
	return q;
}

/* --- life ----------------------------------------------------------------- */

static int use_servers(ares_channel channel, const struct addr_port *servers, size_t n)
{
	struct ares_addr_port_node nodes[RESOLVER_MAX_SERVERS];

	memset(nodes, 0, sizeof(nodes));
	for (size_t i = 0; i < n; i++) {
		const struct addr *a = &servers[i].addr;

		nodes[i].next = i + 1 < n ? &nodes[i + 1] : NULL;
		nodes[i].family = a->version == 6 ? AF_INET6 : AF_INET;
		memcpy(&nodes[i].addr, a->b, addr_len(a));
		nodes[i].udp_port = nodes[i].tcp_port = servers[i].port;
	}
	return ares_set_servers_ports(channel, nodes) == ARES_SUCCESS ? 0 : ERR_NOMEM;
}

static int open_channel(struct resolver *r, const struct addr_port *servers, size_t n)
{
	/* ARES_FLAG_NOSEARCH means nothing to ares_getaddrinfo(): no domains to search in does. */
	int what = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB |
		   (n > 0 ? ARES_OPT_DOMAINS : 0);
	struct ares_options o = {
		.flags = ARES_FLAG_NOALIASES,
		.ndomains = 0,
		/* c-ares doubles it with every round: all tries fit into our timeout. */
		.timeout = (int)(r->limits.timeout_ms / 8) + 1,
		.tries = TRIES,
		.sock_state_cb = on_socket_state,
		.sock_state_cb_data = r,
	};

	if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
		return ERR_NOMEM;
	r->library = true;
	if (ares_init_options(&r->channel, &o, what) != ARES_SUCCESS) {
		r->channel = NULL;
		return ERR_NOMEM;
	}
	return n > 0 ? use_servers(r->channel, servers, n) : 0;
}

struct resolver *resolver_new_limited(struct loop *l, const struct addr_port *servers, size_t n,
				      const struct resolver_limits *limits)
{
	struct resolver *r;

	if (n > RESOLVER_MAX_SERVERS)
		return NULL;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return NULL;
	r->loop = l;
	r->limits = *limits;
	TAILQ_INIT(&r->cached);
	TAILQ_INIT(&r->patience);
	TAILQ_INIT(&r->done);
	r->ares_timer = loop_timer_new(l, on_ares_timer, r);
	r->patience_timer = loop_timer_new(l, on_patience, r);
	r->done_timer = loop_timer_new(l, on_done, r);
	if (table_init(&r->entries, entry_key) != 0 || r->ares_timer == NULL ||
	    r->patience_timer == NULL || r->done_timer == NULL ||
	    open_channel(r, servers, n) != 0) {
		resolver_free(r);
		return NULL;
	}
	return r;
}

struct resolver *resolver_new(struct loop *l, const struct addr_port *servers, size_t n)
{
	return resolver_new_limited(l, servers, n, &resolver_default_limits);
}

void resolver_free(struct resolver *r)
{
	struct resolver_query *q;

	if (r == NULL)
		return;
	while ((q = TAILQ_FIRST(&r->patience)) != NULL)
		resolver_cancel(q);
	while ((q = TAILQ_FIRST(&r->done)) != NULL)
		resolver_cancel(q);
	/* Ends every question that is out, and its entry with it. */
	if (r->channel != NULL)
		ares_destroy(r->channel);
	if (r->library)
		ares_library_cleanup();
	while (r->watches != NULL)
		watch_remove(&r->watches);
	while (!TAILQ_EMPTY(&r->cached))
		entry_free(TAILQ_FIRST(&r->cached));
	table_fini(&r->entries);
	loop_timer_free(r->ares_timer);
	loop_timer_free(r->patience_timer);
	loop_timer_free(r->done_timer);
	free(r);
}
