#include "tests/unit/core_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                 \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static uint8_t random_next(struct kit_input *in)
{
	in->state ^= in->state << 13;
	in->state ^= in->state >> 7;
	in->state ^= in->state << 17;
	return (uint8_t)(in->state >> 32);
}

static uint8_t data_next(struct kit_input *in)
{
	if (in->n == 0)
		return 0;
	in->n--;
	return *in->p++;
}

struct kit_input kit_random(uint64_t seed)
{
	return (struct kit_input){.next = random_next,
				  .state = seed * 2654435761u + 88172645463325252u};
}

struct kit_input kit_data(const uint8_t *p, size_t n)
{
	return (struct kit_input){.next = data_next, .p = p, .n = n};
}

/* ---- life --------------------------------------------------------------------- */

static void on_reply(void *arg, void *session, struct simco_msg *reply)
{
	struct kit *k = arg;
	static uint8_t mem[SIMCO_MESSAGE_MAX];
	struct simco_msg back;
	size_t used;
	long n = simco_encode(reply, mem, sizeof(mem));

	(void)session;
	CHECK(n > 0);
	CHECK(simco_decode(&back, mem, (size_t)n, &used) == SIMCO_OK);
	CHECK(back.type == reply->type && back.tid == 7);
	k->answered++;
	k->last = back;
	if (reply->type == SIMCO_PRR_REP || reply->type == SIMCO_PER_REP ||
	    reply->type == SIMCO_PDR_REP) {
		k->pids[k->n_pids % 32] = reply->pid;
		k->gids[k->n_pids % 32] = reply->gid;
		k->n_pids++;
		k->last_pid = reply->pid;
		k->last_gid = reply->gid;
	}
}

static void on_event(void *arg, void *session, uint32_t pid, uint32_t lifetime, uint32_t reason)
{
	struct kit *k = arg;

	(void)reason;

	(void)session;
	(void)lifetime;
	CHECK(pid != 0);
	k->events++;
}

static const struct core_ops ops = {.reply = on_reply, .event = on_event};

void kit_start(struct kit *k)
{
	static const char *const names[KIT_AGENTS] = {"a", "b", "c"};

	fw_fake_set_time(k->fw, k->now);
	k->core = core_new(&k->conf, k->fw, &ops, k, k->now);
	CHECK(k->core);
	for (unsigned i = 0; i < KIT_AGENTS; i++)
		CHECK(core_session_open(k->core, &k->session[i], names[i]) == 0);
	core_session_extensions(k->core, &k->session[0], SIMCO_EXT_ACTIVITY);
}

void kit_stop(struct kit *k)
{
	core_free(k->core);
	k->core = NULL;
}

void kit_open(struct kit *k, enum fw_nat_mode nat, const char *file)
{
	static const char *const names[KIT_AGENTS] = {"a", "b", "c"};

	memset(k, 0, sizeof(*k));
	k->now = 1000000;
	k->pools[0] = (struct fw_pool){{4, {192, 0, 2, 1}}, {16384, 16447}};
	k->pools[1] = (struct fw_pool){{4, {192, 0, 2, 2}}, {20000, 20031}};
	k->inside_pool = (struct fw_pool){{4, {10, 9, 9, 9}}, {30000, 30063}};
	for (unsigned v = 0; v < 2; v++) {
		k->permits[v].internal.addr.version = v ? 6 : 4;
		k->permits[v].external.addr.version = v ? 6 : 4;
		k->permits[v].ports = (struct port_range){0, 65535};
	}
	k->owners[0] = "b";
	for (unsigned i = 0; i < KIT_AGENTS; i++) {
		struct agent_conf *a = &k->agents[i];

		a->name = names[i];
		a->may = AGENT_MAY_RESERVE | AGENT_MAY_ENABLE | AGENT_MAY_DISABLE;
		a->pool = k->pools[i == 2].address;
		a->max_rules = 60;
		a->wildcards = i != 1;
		a->permits = k->permits;
		a->n_permits = 2;
		a->idle_timeout = i == 2 ? 40 : 0;
	}
	k->agents[0].owners = k->owners;
	k->agents[0].n_owners = 1;
	k->conf = (struct core_conf){
		.max_rules = 150,
		.max_lifetime = 3600,
		.grace_ms = 10000,
		.nat = nat,
		.pools = k->pools,
		.n_pools = nat == FW_NAT_NONE ? 0 : 2,
		.inside_pools = &k->inside_pool,
		.n_inside_pools = nat == FW_NAT_TWICE,
		.agents = k->agents,
		.n_agents = KIT_AGENTS,
		.ipv4 = true,
		.ipv6 = true,
	};
	if (file) {
		snprintf(k->file, sizeof(k->file), "%s", file);
		k->conf.ledger_file = k->file;
	}
	k->fw = fw_fake_new();
	kit_start(k);
}

void kit_close(struct kit *k)
{
	kit_stop(k);
	fw_close(k->fw, true);
	if (*k->file)
		unlink(k->file);
}

/* ---- steps -------------------------------------------------------------------- */

static uint8_t below(struct kit_input *in, uint8_t n)
{
	return (uint8_t)(in->next(in) % n);
}

static struct simco_tuple any_tuple(struct kit_input *in, uint8_t location, uint8_t protocol)
{
	struct simco_tuple t = {
		.ip_version = SIMCO_IPV4,
		.prefix_len = 32,
		.protocol = protocol,
		.location = location,
		.addr = {10, 1, 0, (uint8_t)(1 + below(in, 3))},
		.port = (uint16_t)(5000 + below(in, 6)),
		.port_range = 1,
	};
	uint8_t odd = in->next(in);

	if (location == SIMCO_EXTERNAL)
		t.addr[0] = 198;
	if (odd < 20)
		t.port_range = (uint16_t)(1 + below(in, 6));
	else if (odd < 24)
		t.prefix_len = (uint8_t)(24 + below(in, 9));
	else if (odd < 28)
		t.port = 0;
	else if (odd < 32)
		t.protocols_only = true;
	else if (odd < 36)
		t.addr[0] = in->next(in);
	else if (odd < 40)
		t.port = (uint16_t)(in->next(in) << 8 | in->next(in));
	else if (odd < 42)
		t.port_range = (uint16_t)(in->next(in) << 8 | in->next(in));
	else if (odd < 52) {
		t.ip_version = SIMCO_IPV6;
		t.prefix_len = 128;
	}
	return t;
}

static uint8_t any_protocol(struct kit_input *in)
{
	uint8_t v = below(in, 32);

	return (uint8_t)(v < 24 ? 17 : v < 30 ? 6 : v == 30 ? 0 : in->next(in));
}

static uint32_t any_pid(struct kit *k, struct kit_input *in)
{
	uint8_t v = below(in, 36);

	return v < 32 ? k->pids[v] : v < 34 ? k->last_pid : in->next(in);
}

static uint32_t any_lifetime(struct kit_input *in)
{
	uint8_t v = in->next(in);

	return v < 8 ? 0 : v < 12 ? UINT32_MAX : v;
}

static void any_request(struct kit *k, struct kit_input *in, struct simco_msg *m)
{
	static const uint16_t types[] = {
		SIMCO_PRR_REQ, SIMCO_PRR_REQ, SIMCO_PRR_REQ, SIMCO_PER_REQ,
		SIMCO_PER_REQ, SIMCO_PER_REQ, SIMCO_PEA_REQ, SIMCO_PEA_REQ,
		SIMCO_PEA_REQ, SIMCO_PLC_REQ, SIMCO_PLC_REQ, SIMCO_PLC_REQ,
		SIMCO_PRS_REQ, SIMCO_PRS_REQ, SIMCO_PRL_REQ, SIMCO_PDR_REQ};
	uint8_t protocol = any_protocol(in);

	memset(m, 0, sizeof(*m));
	m->tid = 7;
	m->type = types[below(in, ARRAY_LEN(types))];
	m->lifetime = any_lifetime(in);
	if (m->type == SIMCO_PLC_REQ && (in->next(in) & 1))
		m->lifetime = 0;
	m->pid = any_pid(k, in);
	if (below(in, 3) == 0) {
		m->has_gid = true;
		m->gid = below(in, 8) ? k->last_gid : k->gids[below(in, 32)];
	}
	m->prr = (struct simco_prr_params){
		.nat_mode = (uint8_t)(1 + below(in, 2)),
		.parity = below(in, 3),
		.inside_version = (uint8_t)(below(in, 8) ? 1 : below(in, 3)),
		.outside_version = (uint8_t)(below(in, 8) ? 1 : below(in, 3)),
		.protocol = protocol,
		.port_range = (uint16_t)(below(in, 6) ? 1 : below(in, 70)),
	};
	if (below(in, 40) == 0)
		m->prr.port_range = 0xffff;
	m->per = (struct simco_per_params){
		.parity = (uint8_t)(below(in, 4) ? 0 : 3),
		.direction = (uint8_t)(1 + below(in, 3)),
	};
	m->tuple[SIMCO_INTERNAL] = any_tuple(in, SIMCO_INTERNAL, protocol);
	m->tuple[SIMCO_EXTERNAL] = any_tuple(in, SIMCO_EXTERNAL, protocol);
	if (m->tuple[SIMCO_INTERNAL].port_range > 1 && (in->next(in) & 3))
		m->tuple[SIMCO_EXTERNAL].port_range = m->tuple[SIMCO_INTERNAL].port_range;
}

/* What an agent really sends: through the codec. */
static void ask(struct kit *k, unsigned agent, const struct simco_msg *m)
{
	uint8_t mem[512];
	struct simco_msg on_wire;
	size_t used;
	long n = simco_encode(m, mem, sizeof(mem));

	if (n < 0 || simco_decode(&on_wire, mem, (size_t)n, &used) != SIMCO_OK)
		return;
	if (core_request(k->core, &k->session[agent], &on_wire, k->now) == 0)
		k->asked++; /* else there is no memory for it */
}

static void ticks(struct kit *k)
{
	fw_fake_set_time(k->fw, k->now);
	for (unsigned i = 0; core_tick(k->core, k->now); i++)
		CHECK(i < 10000);
}

uint16_t kit_ask(struct kit *k, unsigned agent, struct simco_msg *m)
{
	memset(&k->last, 0, sizeof(k->last));
	m->tid = 7;
	ask(k, agent, m);
	core_commit(k->core, k->now);
	while (core_deadline(k->core) == 0)
		core_tick(k->core, k->now);
	return k->last.type;
}

void kit_time(struct kit *k, uint64_t ms)
{
	uint64_t end = k->now + ms;

	for (;;) {
		uint64_t due = core_deadline(k->core);

		if (due > end)
			break;
		k->now = due > k->now ? due : k->now;
		ticks(k);
	}
	k->now = end;
	ticks(k);
}

static void raw_request(struct kit *k, struct kit_input *in)
{
	uint8_t mem[256];
	struct simco_msg m;
	size_t n = in->next(in), used;

	for (size_t i = 0; i < n; i++)
		mem[i] = in->next(in);
	if (simco_decode(&m, mem, n, &used) != SIMCO_OK || m.type >> 8 != SIMCO_REQUEST ||
	    (m.type & 0xff) < 0x10)
		return;
	m.tid = 7;
	if (core_request(k->core, &k->session[0], &m, k->now) == 0)
		k->asked++;
}

static void settle(struct kit *k)
{
	core_commit(k->core, k->now);
	for (unsigned i = 0; core_deadline(k->core) == 0; i++) {
		core_tick(k->core, k->now);
		CHECK(i < 10000);
	}
	CHECK(k->asked == k->answered);
}

static void no_refusals(struct kit *k)
{
	for (unsigned t = FW_OPEN; t <= FW_UNBLOCK; t++)
		fw_fake_refuse(k->fw, t, 0);
}

void kit_step(struct kit *k, struct kit_input *in)
{
	static const enum fw_op_type refusable[] = {FW_OPEN,   FW_CLOSE, FW_BIND,
						    FW_UNBIND, FW_BLOCK, FW_UNBLOCK};
	struct simco_msg m;
	uint8_t what = below(in, 64);

	if (what < 40) {
		any_request(k, in, &m);
		ask(k, below(in, KIT_AGENTS), &m);
		if (what < 30)
			core_commit(k->core, k->now);
	} else if (what < 50) {
		settle(k);
	} else if (what < 54) {
		core_commit(k->core, k->now);
		kit_time(k, in->next(in) * 100ull);
	} else if (what == 54) {
		fw_fake_refuse(k->fw, refusable[below(in, ARRAY_LEN(refusable))], 1 + below(in, 2));
	} else if (what == 55 && *k->file) {
		settle(k);
		kit_stop(k);
		kit_start(k);
	} else if (what == 56) {
		settle(k);
		(void)core_end_rule(k->core, any_pid(k, in), k->now);
	} else if (what == 57) {
		settle(k);
		core_session_close(k->core, &k->session[1]);
		while (core_session_open(k->core, &k->session[1], "b") == ERR_NOMEM)
			;
	} else if (what == 58) {
		settle(k);
		no_refusals(k);
		fw_fake_flush(k->fw);
		CHECK(fw_reinstall(k->fw) == 0);
		while (core_restore(k->core, k->now))
			;
	} else if (what < 62) {
		raw_request(k, in);
	}
}

/* ---- what must hold ----------------------------------------------------------- */

struct first {
	const struct rule *r;
	uint8_t direction;
	bool earlier;
};

static void is_earlier(struct rule *twin, bool mirrored, void *arg)
{
	struct first *f = arg;
	unsigned d = mirrored ? SIMCO_BIDIRECTIONAL - f->direction : f->direction;

	if ((twin->direction & d) && twin < f->r)
		f->earlier = true;
}

/* Both directions of it are one element: anything to anything, disabled. */
static bool both_the_same(const struct rule *r, unsigned i)
{
	struct fw_match in, out;

	rule_match(r, SIMCO_INBOUND, i, &in);
	rule_match(r, SIMCO_OUTBOUND, i, &out);
	return r->direction == SIMCO_BIDIRECTIONAL && match_eq(&in, &out);
}

/* Distinct elements that the rules of a kind want. */
static size_t wanted_elements(struct core *c, enum rule_kind kind)
{
	size_t n = 0;

	for (uint32_t s = 0; s < ledger_high(&c->t.led); s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot == SLOT_FREE || r->kind != kind)
			continue;
		CHECK(r->slot == SLOT_FINAL);
		for (unsigned i = 0; i < rule_pairs(r); i++) {
			for (uint8_t d = SIMCO_INBOUND; d <= SIMCO_OUTBOUND; d++) {
				struct first f = {.r = r, .direction = d};

				if (!(r->direction & d))
					continue;
				f.earlier = d == SIMCO_OUTBOUND && both_the_same(r, i);
				rule_each_twin(&c->t, r, i, is_earlier, &f);
				n += !f.earlier;
			}
		}
	}
	return n;
}

static size_t reserved_ports(struct core *c, unsigned flag)
{
	size_t n = 0;

	for (uint32_t s = 0; s < ledger_high(&c->t.led); s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot == SLOT_FINAL && r->kind == RULE_RESERVED && (r->flags & flag))
			n += r->prr.port_range;
	}
	return n;
}

static size_t taken(struct portpool **pools, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += pools[i]->proto[0].n_taken + pools[i]->proto[1].n_taken;
	return n;
}

static void print_difference(const char *text, void *arg)
{
	(void)arg;
	fprintf(stderr, "audit: %s\n", text);
}

void kit_check(struct kit *k)
{
	struct core *c = k->core;

	settle(k);
	no_refusals(k);
	kit_time(k, 1001); /* what a refusal put off is done by now */
	CHECK(fw_fake_conflicts(k->fw) == 0);
	CHECK(core_audit(c, k->now, print_difference, NULL) == 0);
	CHECK(fw_fake_elements(k->fw) == wanted_elements(c, RULE_ENABLED));
	CHECK(fw_fake_blocked(k->fw) == wanted_elements(c, RULE_DISABLED));
	CHECK(fw_fake_bindings(k->fw) == c->nat.n_bindings);
	CHECK(taken(c->nat.pools, c->nat.n_pools) ==
	      c->nat.n_bindings + reserved_ports(c, RULE_NAT));
	CHECK(taken(c->nat.faces, c->nat.n_faces) ==
	      fw_fake_faces(k->fw) + reserved_ports(c, RULE_TWICE));
	CHECK(c->t.n_rules == c->t.n_heap);
}

void kit_end_all(struct kit *k)
{
	struct core *c = k->core;

	settle(k);
	no_refusals(k);
	for (uint32_t s = 0; s < ledger_high(&c->t.led); s++) {
		struct rule *r = rule_at(&c->t, s);

		if (r->slot != SLOT_FREE)
			CHECK(core_end_rule(c, r->pid, k->now) == 0);
	}
	CHECK(c->t.n_rules == 0 && c->t.n_heap == 0 && c->nat.n_bindings == 0);
	CHECK(fw_fake_elements(k->fw) == 0 && fw_fake_bindings(k->fw) == 0 &&
	      fw_fake_faces(k->fw) == 0);
	CHECK(taken(c->nat.pools, c->nat.n_pools) == 0);
	CHECK(taken(c->nat.faces, c->nat.n_faces) == 0);
	for (unsigned i = 0; i < KIT_AGENTS; i++)
		CHECK(rule_count(&c->t, c->agents[i].owner) == 0);
}
