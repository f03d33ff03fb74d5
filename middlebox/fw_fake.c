#include "middlebox/fw_fake.h"

#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/table.h"
#include "middlebox/fw_int.h"
#include "middlebox/tuple.h"

enum what { ELEMENT, BLOCK, OUTSIDE, FACE };
#define WHATS 4

/* One thing in the kernel; the key is everything that names it, without padding. */
struct thing {
	struct thing *next;
	enum what what;
	struct fw_match m;
	struct fw_binding b;
	uint64_t until_ms, packets, octets;
};

#define BUCKETS 16384u

struct fake {
	struct fw fw;
	struct thing *bucket[BUCKETS];
	size_t n[WHATS];
	uint64_t now_ms, forgets, conflicts;
	unsigned refuse[FW_FORGET + 1];
	void (*on_op)(const struct fw_op *op, void *arg);
	void *on_op_arg;
	fw_lost_fn lost;
	void *lost_arg;
	struct addr_port quarantine;
	bool quarantined, no_counters;
	unsigned reads;
	struct fw_stats stats;
};

static struct fake *fake(const struct fw *fw)
{
	return (struct fake *)(void *)(uintptr_t)fw;
}

static const uint64_t hash_key[2] = {1, 2};

static uint32_t hash_end(uint32_t seed, const struct addr *a, uint32_t extra)
{
	uint8_t k[24];

	memcpy(k, a->b, 16);
	memcpy(k + 16, &extra, 4);
	memcpy(k + 20, &seed, 4);
	return (uint32_t)siphash(hash_key, (struct span){k, sizeof(k)});
}

static uint32_t thing_hash(const struct thing *t)
{
	uint32_t h = t->what;

	if (t->what == ELEMENT || t->what == BLOCK) {
		h = hash_end(h, &t->m.src.addr, (uint32_t)t->m.sport.first << 16 | t->m.sport.last);
		h = hash_end(h + t->m.src.len, &t->m.dst.addr,
			     (uint32_t)t->m.dport.first << 16 | t->m.dport.last);
		return h + t->m.dst.len + t->m.protocol;
	}
	h = hash_end(h, &t->b.inside.addr, t->b.inside.port) + t->b.protocol;
	if (t->what == FACE)
		h = hash_end(h, &t->b.external.addr, t->b.external.port);
	return h;
}

static bool thing_eq(const struct thing *a, const struct thing *b)
{
	if (a->what != b->what)
		return false;
	if (a->what == ELEMENT || a->what == BLOCK)
		return match_eq(&a->m, &b->m);
	if (a->b.protocol != b->b.protocol || !addr_port_eq(&a->b.inside, &b->b.inside))
		return false;
	return a->what == OUTSIDE || addr_port_eq(&a->b.external, &b->b.external);
}

static struct thing **find(const struct fake *f, const struct thing *want)
{
	struct thing **at = (struct thing **)&f->bucket[thing_hash(want) % BUCKETS];

	while (*at && !thing_eq(*at, want))
		at = &(*at)->next;
	return at;
}

static void put(struct fake *f, const struct thing *want)
{
	struct thing **at = find(f, want);

	if (*at) {
		(*at)->until_ms = want->until_ms;
		if (want->what == OUTSIDE && !addr_port_eq(&(*at)->b.outside, &want->b.outside))
			f->conflicts++;
		if (want->what == FACE &&
		    !addr_port_eq(&(*at)->b.inside_face, &want->b.inside_face))
			f->conflicts++;
		(*at)->b = want->b; /* as the driver does with a map's other data */
		return;
	}
	*at = malloc(sizeof(**at));
	if (!*at)
		abort();
	**at = *want;
	f->n[want->what]++;
}

static void take(struct fake *f, const struct thing *want)
{
	struct thing **at = find(f, want), *t = *at;

	if (!t)
		return;
	*at = t->next;
	f->n[t->what]--;
	free(t);
}

static void apply(struct fake *f, const struct fw_op *op)
{
	struct thing t = {
		.what = ELEMENT,
		.m = op->match,
		.b = op->binding,
		.until_ms = f->now_ms + op->lifetime_ms,
	};
	bool bind = op->type == FW_BIND || op->type == FW_UNBIND;

	if (bind)
		t.what = OUTSIDE;
	if (op->type == FW_BLOCK || op->type == FW_UNBLOCK)
		t.what = BLOCK;
	if (op->type == FW_FORGET)
		f->forgets++;
	else if (op->type == FW_OPEN || op->type == FW_BIND || op->type == FW_BLOCK)
		put(f, &t);
	else
		take(f, &t);
	if (bind && op->binding.inside_face.addr.version) {
		t.what = FACE;
		if (op->type == FW_BIND)
			put(f, &t);
		else
			take(f, &t);
	}
}

static void fake_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn)
{
	struct fake *f = fake(fw);

	f->stats.batches++;
	f->stats.ops += n;
	for (size_t i = 0; i < n_txn; i++)
		result[i] = 0;
	for (size_t i = 0; i < n; i++) {
		if (f->refuse[ops[i].type] == 0 || result[ops[i].txn])
			continue;
		f->refuse[ops[i].type]--;
		f->stats.refused++;
		result[ops[i].txn] = ERR_KERNEL;
	}
	for (size_t i = 0; i < n; i++) {
		if (result[ops[i].txn])
			continue;
		if (f->on_op)
			f->on_op(&ops[i], f->on_op_arg);
		apply(f, &ops[i]);
	}
}

/* ---- the rest of the contract ------------------------------------------------- */

static void clear(struct fake *f)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		while (f->bucket[i]) {
			struct thing *t = f->bucket[i];

			f->bucket[i] = t->next;
			free(t);
		}
	}
	memset(f->n, 0, sizeof(f->n));
}

static int fake_reconfigure(struct fw *fw, const struct fw_config *cfg)
{
	(void)fw;
	(void)cfg;
	return 0;
}

static void fake_close(struct fw *fw, bool remove)
{
	(void)remove;
	clear(fake(fw));
	free(fake(fw));
}

static const struct thing *element(const struct fw *fw, const struct fw_match *m)
{
	struct thing t = {.what = ELEMENT, .m = *m};

	return *find(fake(fw), &t);
}

static int fake_counters(struct fw *fw, const struct fw_match *m, uint64_t *packets,
			 uint64_t *octets)
{
	const struct thing *t = element(fw, m);

	fake(fw)->reads++;
	if (fake(fw)->no_counters)
		return ERR_UNSUPPORTED;
	if (!t)
		return ERR_NOENT;
	*packets = t->packets;
	*octets = t->octets;
	return 0;
}

/* A half of a binding, and whether its other address is the one. */
static int audit_half(struct fw *fw, const struct fw_op *op, enum what what, uint64_t *until_ms)
{
	struct thing want = {.what = what, .b = op->binding};
	const struct thing *t = *find(fake(fw), &want);

	if (!t)
		return ERR_NOENT;
	if (what == OUTSIDE ? !addr_port_eq(&t->b.outside, &want.b.outside)
			    : !addr_port_eq(&t->b.inside_face, &want.b.inside_face))
		return ERR_EXIST;
	*until_ms = t->until_ms < *until_ms ? t->until_ms : *until_ms;
	return 0;
}

static int fake_audit(struct fw *fw, const struct fw_op *op, uint64_t *remaining_ms)
{
	struct thing want = {.what = op->type == FW_BLOCK ? BLOCK : ELEMENT, .m = op->match};
	uint64_t until = UINT64_MAX;
	const struct thing *t;
	int err = 0;

	if (op->type == FW_BIND) {
		err = audit_half(fw, op, OUTSIDE, &until);
		if (!err && op->binding.inside_face.addr.version)
			err = audit_half(fw, op, FACE, &until);
	} else {
		t = *find(fake(fw), &want);
		err = t ? 0 : ERR_NOENT;
		until = t ? t->until_ms : 0;
	}
	if (!err)
		*remaining_ms = until - fake(fw)->now_ms;
	return err;
}

static bool fake_quarantined(struct fw *fw, uint8_t protocol, const struct addr_port *outside)
{
	(void)protocol;
	return fake(fw)->quarantined && addr_port_eq(outside, &fake(fw)->quarantine);
}

static size_t fake_fds(const struct fw *fw, int fds[2])
{
	(void)fw;
	(void)fds;
	return 0;
}

static void fake_poll(struct fw *fw)
{
	(void)fw;
}

static bool fake_work(struct fw *fw)
{
	(void)fw;
	return false;
}

static void fake_on_lost(struct fw *fw, fw_lost_fn fn, void *arg)
{
	fake(fw)->lost = fn;
	fake(fw)->lost_arg = arg;
}

static int fake_reinstall(struct fw *fw)
{
	fake(fw)->stats.reinstalls++;
	return 0;
}

static unsigned fake_features(const struct fw *fw)
{
	(void)fw;
	return FW_FEATURE_DESTROY | FW_FEATURE_UPDATE_TIMEOUT | FW_FEATURE_BATCH_ACK;
}

static struct fw_stats fake_stats(const struct fw *fw)
{
	return fake(fw)->stats;
}

static void fake_foreign_drops(struct fw *fw, void (*fn)(const char *text, void *arg), void *arg)
{
	(void)fw;
	(void)fn;
	(void)arg;
}

static const struct fw_ops fake_ops = {
	.reconfigure = fake_reconfigure,
	.close = fake_close,
	.commit = fake_commit,
	.counters = fake_counters,
	.audit = fake_audit,
	.quarantined = fake_quarantined,
	.fds = fake_fds,
	.poll = fake_poll,
	.work = fake_work,
	.on_lost = fake_on_lost,
	.reinstall = fake_reinstall,
	.features = fake_features,
	.stats = fake_stats,
	.foreign_drops = fake_foreign_drops,
};

/* ---- handles for tests -------------------------------------------------------- */

struct fw *fw_fake_new(void)
{
	struct fake *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->fw.ops = &fake_ops;
	return &f->fw;
}

struct fw *fw_fake_copy(const struct fw *fw)
{
	const struct fake *from = fake(fw);
	struct fw *copy = fw_fake_new();

	if (!copy)
		return NULL;
	fake(copy)->now_ms = from->now_ms;
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct thing *t = from->bucket[i]; t; t = t->next) {
			struct thing same = *t;

			same.next = NULL;
			put(fake(copy), &same);
		}
	}
	return copy;
}

void fw_fake_set_time(struct fw *fw, uint64_t now_ms)
{
	struct fake *f = fake(fw);

	f->now_ms = now_ms;
	for (size_t i = 0; i < BUCKETS; i++) {
		struct thing **at = &f->bucket[i];

		while (*at) {
			struct thing *t = *at;

			if (t->until_ms > now_ms) {
				at = &t->next;
				continue;
			}
			*at = t->next;
			f->n[t->what]--;
			free(t);
		}
	}
}

void fw_fake_refuse(struct fw *fw, enum fw_op_type type, unsigned count)
{
	fake(fw)->refuse[type] = count;
}

void fw_fake_on_op(struct fw *fw, void (*fn)(const struct fw_op *op, void *arg), void *arg)
{
	fake(fw)->on_op = fn;
	fake(fw)->on_op_arg = arg;
}

void fw_fake_flush(struct fw *fw)
{
	clear(fake(fw));
	if (fake(fw)->lost)
		fake(fw)->lost(fake(fw)->lost_arg);
}

void fw_fake_quarantine(struct fw *fw, const struct addr_port *outside)
{
	fake(fw)->quarantined = outside != NULL;
	if (outside)
		fake(fw)->quarantine = *outside;
}

bool fw_fake_traffic(struct fw *fw, const struct fw_match *m, uint64_t packets, uint64_t octets)
{
	struct thing want = {.what = ELEMENT, .m = *m}, *t = *find(fake(fw), &want);

	if (!t)
		return false;
	t->packets += packets;
	t->octets += octets;
	return true;
}

void fw_fake_no_counters(struct fw *fw)
{
	fake(fw)->no_counters = true;
}

size_t fw_fake_elements(const struct fw *fw)
{
	return fake(fw)->n[ELEMENT];
}

size_t fw_fake_blocked(const struct fw *fw)
{
	return fake(fw)->n[BLOCK];
}

size_t fw_fake_bindings(const struct fw *fw)
{
	return fake(fw)->n[OUTSIDE];
}

size_t fw_fake_faces(const struct fw *fw)
{
	return fake(fw)->n[FACE];
}

void fw_fake_remove(struct fw *fw, const struct fw_op *op)
{
	struct thing t = {.what = op->type == FW_BIND	 ? OUTSIDE
				  : op->type == FW_BLOCK ? BLOCK
							 : ELEMENT,
			  .m = op->match,
			  .b = op->binding};

	take(fake(fw), &t);
}

static bool in_range(struct port_range r, uint16_t p)
{
	return p >= r.first && p <= r.last;
}

static bool covered(const struct fw *fw, enum what what, uint8_t protocol,
		    const struct addr_port *src, const struct addr_port *dst)
{
	const struct fake *f = fake(fw);

	for (size_t i = 0; i < BUCKETS; i++) {
		for (const struct thing *t = f->bucket[i]; t; t = t->next) {
			if (t->what == what && (t->m.protocol == 0 || t->m.protocol == protocol) &&
			    addr_prefix_contains(&t->m.src, &src->addr) &&
			    addr_prefix_contains(&t->m.dst, &dst->addr) &&
			    in_range(t->m.sport, src->port) && in_range(t->m.dport, dst->port))
				return true;
		}
	}
	return false;
}

bool fw_fake_passes(const struct fw *fw, uint8_t protocol, const struct addr_port *src,
		    const struct addr_port *dst)
{
	return covered(fw, ELEMENT, protocol, src, dst);
}

bool fw_fake_blocks(const struct fw *fw, uint8_t protocol, const struct addr_port *src,
		    const struct addr_port *dst)
{
	return !covered(fw, ELEMENT, protocol, src, dst) && covered(fw, BLOCK, protocol, src, dst);
}

unsigned fw_fake_reads(const struct fw *fw)
{
	return fake(fw)->reads;
}

uint64_t fw_fake_forgets(const struct fw *fw)
{
	return fake(fw)->forgets;
}

uint64_t fw_fake_conflicts(const struct fw *fw)
{
	return fake(fw)->conflicts;
}
