#include "tests/unit/rule_script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "middlebox/core.h"
#include "middlebox/fw_fake.h"
#include "middlebox/tuple.h"

#define MAX_WORDS 48
#define MAX_AGENTS 8
#define MAX_VARS 64
#define START_MS 1000000u

struct heard { /* a reply (encoded and decoded again) or an event */
	struct heard *next;
	struct simco_msg m;
	uint8_t *mem;
};

struct party {
	char name[32], agent[32];
	bool open;
	struct heard *first, **last;
};

struct script {
	const char *path;
	unsigned line;
	bool bad, built, batch;
	struct core_conf conf;
	struct agent_conf agents[MAX_AGENTS];
	char agent_names[MAX_AGENTS][32];
	struct agent_permit permits[MAX_AGENTS][4];
	char *owners[MAX_AGENTS][4];
	char owner_text[MAX_AGENTS][64];
	struct fw_pool pools[4], inside_pools[4];
	char ledger[64];
	struct fw *fw;
	struct core *core;
	uint64_t now;
	struct party parties[16];
	size_t n_parties;
	struct {
		char name[24], value[96];
	} vars[MAX_VARS];
	size_t n_vars;
	char *word[MAX_WORDS];
	size_t n_words;
	char buf[1024];
};

static void fail(struct script *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct script *s, const char *fmt, ...)
{
	va_list ap;

	s->bad = true;
	fprintf(stderr, "%s:%u: ", s->path, s->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* ---- words and variables ------------------------------------------------------ */

static const char *var_get(const struct script *s, const char *name, size_t n)
{
	for (size_t i = 0; i < s->n_vars; i++) {
		if (strlen(s->vars[i].name) == n && memcmp(s->vars[i].name, name, n) == 0)
			return s->vars[i].value;
	}
	return NULL;
}

static void var_set(struct script *s, const char *name, const char *value)
{
	if (s->n_vars == MAX_VARS) {
		fail(s, "too many variables");
		return;
	}
	snprintf(s->vars[s->n_vars].name, sizeof(s->vars[0].name), "%s", name);
	snprintf(s->vars[s->n_vars].value, sizeof(s->vars[0].value), "%s", value);
	s->n_vars++;
}

static size_t name_len(const char *p)
{
	return strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
}

/* Text with the variables put in; "N+M" of numbers is their sum. */
static const char *expand(struct script *s, const char *text, char *out, size_t size)
{
	size_t n = 0;
	unsigned a, b;
	int used = 0;

	while (*text && n + 1 < size) {
		if (*text == '$') {
			size_t len = name_len(text + 1);
			const char *v = var_get(s, text + 1, len);

			if (!v) {
				fail(s, "variable %s is not set", text);
				v = "";
			}
			n += (size_t)snprintf(out + n, size - n, "%s", v);
			text += 1 + len;
		} else {
			out[n++] = *text++;
		}
	}
	out[n < size ? n : size - 1] = 0;
	if (sscanf(out, "%u+%u%n", &a, &b, &used) == 2 && out[used] == 0)
		snprintf(out, size, "%u", a + b);
	return out;
}

static const char *raw(const struct script *s, const char *key)
{
	size_t n = strlen(key);

	for (size_t i = 0; i < s->n_words; i++) {
		if (strncmp(s->word[i], key, n) == 0 && s->word[i][n] == '=')
			return s->word[i] + n + 1;
	}
	return NULL;
}

static const char *text_of(struct script *s, const char *key, const char *preset)
{
	static char out[4][128];
	static unsigned turn;
	const char *v = raw(s, key);

	return v ? expand(s, v, out[turn++ % 4], sizeof(out[0])) : preset;
}

static uint32_t number(struct script *s, const char *key, uint32_t preset)
{
	const char *v = text_of(s, key, NULL);

	return v ? (uint32_t)strtoul(v, NULL, 0) : preset;
}

static uint8_t proto(const char *v)
{
	return (uint8_t)(strcmp(v, "udp") == 0	 ? 17
			 : strcmp(v, "tcp") == 0 ? 6
			 : strcmp(v, "any") == 0 ? 0
						 : atoi(v));
}

/* ---- tuples ------------------------------------------------------------------- */

static struct simco_tuple parse_tuple(struct script *s, const char *text, uint8_t protocol,
				      uint8_t location)
{
	struct simco_tuple t = {.protocol = protocol, .location = location, .port_range = 1};
	const char *colon = strrchr(text, ':');
	struct addr_prefix p;
	struct span a;

	if (strncmp(text, "protocols", 9) == 0) {
		t.protocols_only = true;
		t.ip_version = text[9] == '6' ? SIMCO_IPV6 : SIMCO_IPV4;
		return t;
	}
	a = colon ? span_of(text, (size_t)(colon - text)) : SPAN_EMPTY;
	if (a.n > 2 && a.p[0] == '[')
		a = span_sub(a, 1, a.n - 2);
	if (!colon || addr_prefix_parse(a, &p) != 0) {
		fail(s, "not a tuple: %s", text);
		return t;
	}
	t.ip_version = p.addr.version == 6 ? SIMCO_IPV6 : SIMCO_IPV4;
	t.prefix_len = p.len;
	memcpy(t.addr, p.addr.b, 16);
	if (colon[1] != '*')
		t.port = (uint16_t)strtoul(colon + 1, NULL, 10);
	if (strchr(colon, '+'))
		t.port_range = (uint16_t)strtoul(strchr(colon, '+') + 1, NULL, 10);
	return t;
}

static void tuple_text(const struct simco_tuple *t, char *out, size_t size)
{
	struct tuple v = tuple_from_simco(t);
	struct addr a = tuple_addr(&v);
	char addr[ADDR_STRLEN], len[8] = "", port[16] = "*", range[16] = "";

	if (t->protocols_only) {
		snprintf(out, size, "protocols%s", t->ip_version == SIMCO_IPV6 ? "6" : "");
		return;
	}
	if (!tuple_addr_exact(&v))
		snprintf(len, sizeof(len), "/%u", t->prefix_len);
	if (t->port)
		snprintf(port, sizeof(port), "%u", t->port);
	if (t->port_range != 1)
		snprintf(range, sizeof(range), "+%u", t->port_range);
	snprintf(out, size, a.version == 6 ? "[%s%s]:%s%s" : "%s%s:%s%s", addr_str(&a, addr), len,
		 port, range);
}

/* ---- the core under test ------------------------------------------------------ */

static struct party *party(struct script *s, const char *name)
{
	for (size_t i = 0; i < s->n_parties; i++) {
		if (strcmp(s->parties[i].name, name) == 0)
			return &s->parties[i];
	}
	fail(s, "no session %s", name);
	return NULL;
}

static void hear(struct party *p, const struct simco_msg *m, uint8_t *mem)
{
	struct heard *h = calloc(1, sizeof(*h));

	h->m = *m;
	h->mem = mem;
	*p->last = h;
	p->last = &h->next;
}

static void on_reply(void *arg, void *session, struct simco_msg *reply)
{
	struct script *s = arg;
	struct simco_msg back;
	uint8_t *mem = malloc(SIMCO_MESSAGE_MAX);
	long n = simco_encode(reply, mem, SIMCO_MESSAGE_MAX);
	size_t used;

	if (n < 0 || simco_decode(&back, mem, (size_t)n, &used) != SIMCO_OK) {
		fail(s, "a reply of type 0x%04x cannot be sent (%ld)", reply->type, n);
		free(mem);
		return;
	}
	hear(session, &back, mem);
}

static void on_event(void *arg, void *session, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	struct simco_msg m = {
		.type = SIMCO_ARE, .pid = pid, .lifetime = lifetime, .reason = reason};

	(void)arg;
	hear(session, &m, NULL);
}

static const struct core_ops ops = {.reply = on_reply, .event = on_event};

static void open_core(struct script *s)
{
	if (!s->fw)
		s->fw = fw_fake_new();
	fw_fake_set_time(s->fw, s->now);
	s->core = core_new(&s->conf, s->fw, &ops, s, s->now);
	if (!s->core) {
		fail(s, "the core does not start");
		return;
	}
	for (size_t i = 0; i < s->n_parties; i++) {
		if (s->parties[i].open)
			core_session_open(s->core, &s->parties[i], s->parties[i].agent);
	}
}

static void build(struct script *s)
{
	if (s->built)
		return;
	s->built = true;
	for (size_t i = 0; i < s->conf.n_agents; i++) {
		struct agent_conf *a = &s->agents[i];

		if (a->n_permits == 0) {
			struct agent_permit *p = s->permits[i];

			for (unsigned v = 0; v < 2; v++) {
				p[v].internal.addr.version = v ? 6 : 4;
				p[v].external.addr.version = v ? 6 : 4;
				p[v].ports = (struct port_range){0, 65535};
			}
			a->n_permits = 2;
		}
		a->permits = s->permits[i];
	}
	open_core(s);
}

static void add_party(struct script *s, const char *name, const char *agent)
{
	struct party *p = &s->parties[s->n_parties++];

	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(p->agent, sizeof(p->agent), "%s", agent);
	p->open = true;
	p->last = &p->first;
	if (s->built)
		core_session_open(s->core, p, p->agent);
}

/* ---- configuration ------------------------------------------------------------ */

static void add_pool(struct script *s, const char *text, struct fw_pool *pools, size_t *n)
{
	const char *colon = strrchr(text, ':');

	if (!colon || addr_parse(span_of(text, (size_t)(colon - text)), &pools[*n].address) != 0 ||
	    port_range_parse(span_str(colon + 1), &pools[*n].ports) != 0)
		fail(s, "not a pool: %s", text);
	(*n)++;
}

static void cmd_config(struct script *s)
{
	const char *nat = text_of(s, "nat", NULL);

	if (nat)
		s->conf.nat = strcmp(nat, "napt") == 0	  ? FW_NAT_NAPT
			      : strcmp(nat, "twice") == 0 ? FW_NAT_TWICE
							  : FW_NAT_NONE;
	s->conf.max_rules = number(s, "max_rules", s->conf.max_rules);
	s->conf.max_lifetime = number(s, "max_lifetime", s->conf.max_lifetime);
	s->conf.grace_ms = number(s, "grace", s->conf.grace_ms / 1000) * 1000;
	if (raw(s, "ipv4"))
		s->conf.ipv4 = strcmp(raw(s, "ipv4"), "no") != 0;
	if (raw(s, "ipv6"))
		s->conf.ipv6 = strcmp(raw(s, "ipv6"), "no") != 0;
	if (raw(s, "ledger")) {
		snprintf(s->ledger, sizeof(s->ledger), "/tmp/sluice-script-%ld", (long)getpid());
		unlink(s->ledger);
		s->conf.ledger_file = s->ledger;
	}
	for (size_t i = 1; i < s->n_words; i++) {
		if (strncmp(s->word[i], "pool=", 5) == 0)
			add_pool(s, s->word[i] + 5, s->pools, &s->conf.n_pools);
		if (strncmp(s->word[i], "inside_pool=", 12) == 0)
			add_pool(s, s->word[i] + 12, s->inside_pools, &s->conf.n_inside_pools);
	}
}

static void cmd_agent(struct script *s)
{
	size_t i = s->conf.n_agents++;
	struct agent_conf *a = &s->agents[i];
	const char *may = text_of(s, "may", "reserve,enable");
	char *save = NULL;

	snprintf(s->agent_names[i], sizeof(s->agent_names[i]), "%s", s->word[1]);
	a->name = s->agent_names[i];
	a->may = (strstr(may, "reserve") ? AGENT_MAY_RESERVE : 0) |
		 (strstr(may, "enable") ? AGENT_MAY_ENABLE : 0) |
		 (strstr(may, "disable") ? AGENT_MAY_DISABLE : 0);
	a->wildcards = raw(s, "wildcards") != NULL;
	a->max_rules = number(s, "quota", 1000);
	a->max_lifetime = number(s, "max_lifetime", 0);
	a->idle_timeout = number(s, "idle", 0);
	if (raw(s, "pool"))
		addr_parse(span_str(raw(s, "pool")), &a->pool);
	if (raw(s, "owners")) {
		snprintf(s->owner_text[i], sizeof(s->owner_text[i]), "%s", raw(s, "owners"));
		for (char *o = strtok_r(s->owner_text[i], ",", &save); o && a->n_owners < 4;
		     o = strtok_r(NULL, ",", &save))
			s->owners[i][a->n_owners++] = o;
		a->owners = (const char *const *)s->owners[i];
	}
	add_party(s, s->word[1], s->word[1]);
}

static void cmd_permit(struct script *s)
{
	for (size_t i = 0; i < s->conf.n_agents; i++) {
		struct agent_conf *a = &s->agents[i];
		struct agent_permit *p = &s->permits[i][a->n_permits];

		if (strcmp(a->name, s->word[1]) != 0)
			continue;
		addr_prefix_parse(span_str(text_of(s, "internal", "0.0.0.0/0")), &p->internal);
		addr_prefix_parse(span_str(text_of(s, "external", "0.0.0.0/0")), &p->external);
		p->protocol = proto(text_of(s, "proto", "any"));
		port_range_parse(span_str(text_of(s, "ports", "1-65535")), &p->ports);
		p->has_external_ports = raw(s, "external_ports") != NULL;
		if (p->has_external_ports)
			port_range_parse(span_str(raw(s, "external_ports")), &p->external_ports);
		a->n_permits++;
		return;
	}
	fail(s, "no agent %s", s->word[1]);
}

/* ---- requests ----------------------------------------------------------------- */

static uint8_t version_of(const char *v)
{
	return (uint8_t)(*v == '4' ? SIMCO_IPV4 : *v == '6' ? SIMCO_IPV6 : SIMCO_IP_ANY);
}

static uint8_t parity_of(const char *v)
{
	return (uint8_t)(*v == 'o' ? SIMCO_PARITY_ODD : *v == 'e' ? SIMCO_PARITY_EVEN : 0);
}

static void fill_prr(struct script *s, struct simco_msg *m)
{
	const char *nat = text_of(s, "nat", "traditional");

	m->prr.nat_mode = (uint8_t)(*nat == 't' && nat[1] == 'w' ? SIMCO_NAT_TWICE
				    : *nat == 't'		 ? SIMCO_NAT_TRADITIONAL
								 : atoi(nat));
	m->prr.parity = parity_of(text_of(s, "parity", "any"));
	m->prr.inside_version = version_of(text_of(s, "ipi", "4"));
	m->prr.outside_version = version_of(text_of(s, "ipo", "4"));
	m->prr.protocol = proto(text_of(s, "proto", "udp"));
	m->prr.port_range = (uint16_t)number(s, "range", 1);
}

static void fill_tuples(struct script *s, struct simco_msg *m)
{
	const char *dir = text_of(s, "dir", "both");
	uint8_t p1 = proto(text_of(s, "proto", "udp")), p2 = p1;
	unsigned l1 = SIMCO_INTERNAL, l2 = SIMCO_EXTERNAL;

	if (raw(s, "proto2"))
		p2 = proto(raw(s, "proto2"));
	if (raw(s, "loc"))
		sscanf(raw(s, "loc"), "%u,%u", &l1, &l2);
	m->tuple[SIMCO_INTERNAL] =
		parse_tuple(s, text_of(s, "internal", "10.1.0.9:5000"), p1, (uint8_t)l1);
	m->tuple[SIMCO_EXTERNAL] =
		parse_tuple(s, text_of(s, "external", "198.51.100.7:6000"), p2, (uint8_t)l2);
	m->per.direction = (uint8_t)(*dir == 'i'   ? SIMCO_INBOUND
				     : *dir == 'o' ? SIMCO_OUTBOUND
				     : *dir == 'b' ? SIMCO_BIDIRECTIONAL
						   : atoi(dir));
	m->per.parity = raw(s, "parity") ? SIMCO_PER_PARITY_SAME : SIMCO_PER_PARITY_ANY;
}

static uint16_t request_type(const char *name)
{
	static const struct {
		const char *name;
		uint16_t type;
	} types[] = {{"PRR", SIMCO_PRR_REQ}, {"PER", SIMCO_PER_REQ}, {"PEA", SIMCO_PEA_REQ},
		     {"PDR", SIMCO_PDR_REQ}, {"PLC", SIMCO_PLC_REQ}, {"PRS", SIMCO_PRS_REQ},
		     {"PRL", SIMCO_PRL_REQ}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].name, name) == 0)
			return types[i].type;
	}
	return 0;
}

static void cmd_send(struct script *s)
{
	struct party *p = party(s, s->word[1]);
	struct simco_msg m = {.type = request_type(s->word[2]), .tid = 7};

	m.lifetime = number(s, "lifetime", m.type == SIMCO_PRR_REQ ? 30 : 120);
	m.pid = number(s, "pid", 0);
	m.has_gid = raw(s, "group") != NULL;
	m.gid = number(s, "group", 0);
	if (m.type == SIMCO_PRR_REQ)
		fill_prr(s, &m);
	if (m.type == SIMCO_PER_REQ || m.type == SIMCO_PEA_REQ || m.type == SIMCO_PDR_REQ)
		fill_tuples(s, &m);
	if (!m.type || !p || s->bad) {
		fail(s, "cannot send");
		return;
	}
	core_request(s->core, p, &m, s->now);
	if (!s->batch)
		core_commit(s->core, s->now);
}

/* ---- expectations ------------------------------------------------------------- */

static void compare(struct script *s, const char *key, const char *got)
{
	const char *want = raw(s, key);
	char text[128];

	if (!want)
		return;
	if (*want == '$' && want[1 + name_len(want + 1)] == 0 &&
	    !var_get(s, want + 1, name_len(want + 1))) {
		var_set(s, want + 1, got);
		return;
	}
	expand(s, want, text, sizeof(text));
	if (strcmp(text, got) != 0)
		fail(s, "%s is %s, expected %s", key, got, text);
}

static void compare_number(struct script *s, const char *key, uint64_t got)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)got);
	compare(s, key, text);
}

static void compare_tuple(struct script *s, const char *name, const struct simco_tuple *t)
{
	struct tuple v = tuple_from_simco(t);
	struct addr a = tuple_addr(&v);
	char key[32], text[96];

	tuple_text(t, text, sizeof(text));
	compare(s, name, text);
	snprintf(key, sizeof(key), "%s.addr", name);
	compare(s, key, addr_str(&a, text));
	snprintf(key, sizeof(key), "%s.port", name);
	compare_number(s, key, t->port);
	snprintf(key, sizeof(key), "%s.range", name);
	compare_number(s, key, t->port_range);
	snprintf(key, sizeof(key), "%s.version", name);
	compare_number(s, key, a.version);
	snprintf(key, sizeof(key), "%s.proto", name);
	compare_number(s, key, t->protocol);
	snprintf(key, sizeof(key), "%s.parity", name);
	compare(s, key, t->port & 1 ? "odd" : "even");
}

static void compare_pids(struct script *s, const struct simco_msg *m)
{
	char text[96], list[128], one[16];
	const char *want = raw(s, "pids");

	compare_number(s, "count", m->n_pids);
	if (!want)
		return;
	snprintf(list, sizeof(list), ",%s,", expand(s, want, text, sizeof(text)));
	for (size_t i = 0; i < m->n_pids; i++) {
		snprintf(one, sizeof(one), ",%u,", simco_msg_pid(m, i));
		if (!strstr(list, one))
			fail(s, "the list has %u", simco_msg_pid(m, i));
	}
}

static uint16_t reply_type(const char *name)
{
	static const struct {
		const char *name;
		uint16_t type;
	} types[] = {{"PRR_REP", SIMCO_PRR_REP}, {"PER_REP", SIMCO_PER_REP},
		     {"PDR_REP", SIMCO_PDR_REP}, {"PLC_REP", SIMCO_PLC_REP},
		     {"PRD_REP", SIMCO_PRD_REP}, {"PRS_REP", SIMCO_PRS_REP},
		     {"PES_REP", SIMCO_PES_REP}, {"PDS_REP", SIMCO_PDS_REP},
		     {"PRL_REP", SIMCO_PRL_REP}, {"ARE", SIMCO_ARE}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].name, name) == 0)
			return types[i].type;
	}
	return (uint16_t)strtoul(name, NULL, 16);
}

static struct heard *take_heard(struct party *p)
{
	struct heard *h = p->first;

	if (!h)
		return NULL;
	p->first = h->next;
	if (!p->first)
		p->last = &p->first;
	return h;
}

static void compare_msg(struct script *s, const struct simco_msg *m)
{
	static const char *const places[] = {"internal", "inside", "outside", "external"};
	char owner[256];

	compare_number(s, "pid", m->pid);
	compare_number(s, "gid", m->gid);
	compare_number(s, "lifetime", m->lifetime);
	compare_number(s, "reason", m->reason);
	compare_number(s, "dir", m->per.direction);
	compare_number(s, "parity", m->per.parity);
	if (raw(s, "owner")) {
		snprintf(owner, sizeof(owner), "%.*s", (int)m->owner_len, (const char *)m->owner);
		compare(s, "owner", owner);
	}
	for (size_t i = 0; i < 4; i++)
		compare_tuple(s, places[i], &m->tuple[i]);
	if (raw(s, "noinside") && m->has_inside)
		fail(s, "there is an inside tuple");
	if (m->type == SIMCO_PRL_REP)
		compare_pids(s, m);
}

static void cmd_expect(struct script *s)
{
	struct party *p = party(s, s->word[1]);
	struct heard *h = p ? take_heard(p) : NULL;

	if (!p)
		return;
	if (strcmp(s->word[2], "nothing") == 0) {
		if (h)
			fail(s, "%s heard %s", s->word[1], simco_type_name(h->m.type));
	} else if (!h) {
		fail(s, "%s heard nothing", s->word[1]);
	} else if (h->m.type != reply_type(s->word[2])) {
		fail(s, "%s heard 0x%04x (%s)", s->word[1], h->m.type, simco_type_name(h->m.type));
	} else {
		if (h->m.type != SIMCO_ARE && h->m.tid != 7)
			fail(s, "wrong transaction identifier");
		compare_msg(s, &h->m);
	}
	if (h)
		free(h->mem);
	free(h);
}

/* ---- time and the kernel ------------------------------------------------------ */

static void ticks(struct script *s)
{
	for (unsigned i = 0; core_tick(s->core, s->now); i++) {
		if (i > 100000) {
			fail(s, "the tick never ends");
			return;
		}
	}
}

static void cmd_time(struct script *s)
{
	uint64_t ms = strtoull(s->word[1], NULL, 10);
	uint64_t end = s->now + (strstr(s->word[1], "ms") ? ms : ms * 1000), due;

	for (;;) {
		due = core_deadline(s->core);
		if (due > end)
			break;
		if (due > s->now)
			s->now = due;
		fw_fake_set_time(s->fw, s->now);
		ticks(s);
	}
	s->now = end;
	fw_fake_set_time(s->fw, s->now);
	ticks(s);
}

/* words[at..at+3]: udp FROM -> TO */
static bool flow(struct script *s, size_t at, uint8_t *protocol, struct addr_port *from,
		 struct addr_port *to)
{
	char a[96], b[96];

	if (s->n_words < at + 4)
		return false;
	*protocol = proto(s->word[at]);
	expand(s, s->word[at + 1], a, sizeof(a));
	expand(s, s->word[at + 3], b, sizeof(b));
	return addr_port_parse(span_str(a), from) == 0 && addr_port_parse(span_str(b), to) == 0;
}

static void cmd_kernel(struct script *s)
{
	struct addr_port from, to;
	uint8_t protocol;
	bool pass = strcmp(s->word[1], "passes") == 0;
	bool block = strcmp(s->word[1], "blocks") == 0, spare = strcmp(s->word[1], "spares") == 0;

	compare_number(s, "elements", fw_fake_elements(s->fw));
	compare_number(s, "blocked", fw_fake_blocked(s->fw));
	compare_number(s, "bindings", fw_fake_bindings(s->fw));
	compare_number(s, "faces", fw_fake_faces(s->fw));
	compare_number(s, "forgets", fw_fake_forgets(s->fw));
	if (!pass && !block && !spare && strcmp(s->word[1], "drops") != 0)
		return;
	if (!flow(s, 2, &protocol, &from, &to)) {
		fail(s, "not a flow");
	} else if (block || spare) {
		if (fw_fake_blocks(s->fw, protocol, &from, &to) != block)
			fail(s, "the kernel %s it", block ? "spares" : "blocks");
	} else if (fw_fake_passes(s->fw, protocol, &from, &to) != pass) {
		fail(s, "the kernel %s it", pass ? "drops" : "passes");
	}
}

static void cmd_traffic(struct script *s)
{
	struct fw_match m = {0};
	struct addr_port from, to;

	if (!flow(s, 1, &m.protocol, &from, &to)) {
		fail(s, "not a flow");
		return;
	}
	m.src = (struct addr_prefix){from.addr, from.addr.version == 6 ? 128 : 32};
	m.dst = (struct addr_prefix){to.addr, to.addr.version == 6 ? 128 : 32};
	m.sport = (struct port_range){from.port, from.port};
	m.dport = (struct port_range){to.port, to.port};
	if (!fw_fake_traffic(s->fw, &m, strtoull(s->word[5], NULL, 10), 100))
		fail(s, "no such element");
}

static void cmd_refuse(struct script *s)
{
	static const struct {
		const char *word;
		enum fw_op_type type;
	} types[] = {{"open", FW_OPEN},	    {"close", FW_CLOSE}, {"bind", FW_BIND},
		     {"unbind", FW_UNBIND}, {"block", FW_BLOCK}, {"unblock", FW_UNBLOCK}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].word, s->word[1]) == 0) {
			fw_fake_refuse(s->fw, types[i].type,
				       (unsigned)strtoul(s->word[2], NULL, 10));
			return;
		}
	}
	fail(s, "no operation %s", s->word[1]);
}

static void difference(const char *text, void *arg)
{
	fail(arg, "audit: %s", text);
}

static void cmd_flush(struct script *s)
{
	fw_fake_flush(s->fw);
	fw_reinstall(s->fw);
	while (core_restore(s->core, s->now))
		;
}

static void cmd_restart(struct script *s)
{
	core_free(s->core);
	open_core(s);
}

static void cmd_close(struct script *s)
{
	struct party *p = party(s, s->word[1]);

	if (p)
		core_session_close(s->core, p);
	if (p)
		p->open = false;
}

static void cmd_operator(struct script *s)
{
	char text[32];

	if (core_end_rule(s->core,
			  (uint32_t)strtoul(expand(s, s->word[1], text, sizeof(text)), NULL, 10),
			  s->now) != 0)
		fail(s, "the operator could not end it");
}

static void run_line(struct script *s)
{
	const char *c = s->word[0];

	if (strcmp(c, "CONFIG") == 0) {
		cmd_config(s);
		return;
	}
	if (strcmp(c, "AGENT") == 0) {
		cmd_agent(s);
		return;
	}
	if (strcmp(c, "PERMIT") == 0) {
		cmd_permit(s);
		return;
	}
	build(s);
	if (!s->core)
		return;
	if (strcmp(c, "SEND") == 0)
		cmd_send(s);
	else if (strcmp(c, "EXPECT") == 0)
		cmd_expect(s);
	else if (strcmp(c, "TIME") == 0)
		cmd_time(s);
	else if (strcmp(c, "KERNEL") == 0)
		cmd_kernel(s);
	else if (strcmp(c, "TRAFFIC") == 0)
		cmd_traffic(s);
	else if (strcmp(c, "REFUSE") == 0)
		cmd_refuse(s);
	else if (strcmp(c, "SESSION") == 0)
		add_party(s, s->word[1], s->word[2]);
	else if (strcmp(c, "CLOSE") == 0)
		cmd_close(s);
	else if (strcmp(c, "OPERATOR") == 0)
		cmd_operator(s);
	else if (strcmp(c, "AUDIT") == 0)
		core_audit(s->core, s->now, difference, s);
	else if (strcmp(c, "FLUSH") == 0)
		cmd_flush(s);
	else if (strcmp(c, "RESTART") == 0)
		cmd_restart(s);
	else if (strcmp(c, "BATCH") == 0)
		s->batch = true;
	else if (strcmp(c, "COMMIT") == 0) {
		s->batch = false;
		core_commit(s->core, s->now);
	} else
		fail(s, "unknown command %s", c);
}

static void split(struct script *s)
{
	char *save = NULL, *hash = strchr(s->buf, '#');

	if (hash)
		*hash = 0;
	s->n_words = 0;
	for (char *w = strtok_r(s->buf, " \t\n", &save); w && s->n_words < MAX_WORDS;
	     w = strtok_r(NULL, " \t\n", &save))
		s->word[s->n_words++] = w;
	for (size_t i = s->n_words; i < MAX_WORDS; i++)
		s->word[i] = s->buf + sizeof(s->buf) - 1; /* an empty word */
	s->buf[sizeof(s->buf) - 1] = 0;
}

static void finish(struct script *s)
{
	for (size_t i = 0; i < s->n_parties; i++) {
		struct heard *h;

		while ((h = take_heard(&s->parties[i]))) {
			if (!s->bad)
				fail(s, "%s was not asked about %s", s->parties[i].name,
				     simco_type_name(h->m.type));
			free(h->mem);
			free(h);
		}
	}
	if (s->fw && fw_fake_conflicts(s->fw))
		fail(s, "bindings contradicted each other");
	core_free(s->core);
	fw_close(s->fw, true);
	if (*s->ledger)
		unlink(s->ledger);
}

bool rule_script_run(const char *path)
{
	struct script *s = calloc(1, sizeof(*s));
	FILE *f = fopen(path, "r");
	bool good;

	s->path = path;
	s->now = START_MS;
	s->conf.max_rules = 10000;
	s->conf.max_lifetime = 3600;
	s->conf.grace_ms = 10000;
	s->conf.ipv4 = s->conf.ipv6 = true;
	s->conf.pools = s->pools;
	s->conf.inside_pools = s->inside_pools;
	s->conf.agents = s->agents;
	if (!f)
		fail(s, "cannot read");
	while (f && !s->bad && fgets(s->buf, sizeof(s->buf) - 1, f)) {
		s->line++;
		split(s);
		if (s->n_words)
			run_line(s);
	}
	if (f)
		fclose(f);
	finish(s);
	good = !s->bad;
	free(s);
	return good;
}
