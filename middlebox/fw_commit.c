/*
 * Operations into kernel transactions. One batch per chunk of operations; what
 * the kernel refuses is taken out, transaction by transaction, and the rest is
 * sent again. A refusal costs an RCU grace period (8-16 ms, for everybody in
 * the namespace), so nothing here provokes one in normal operation.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/errcode.h"
#include "common/log.h"
#include "middlebox/fw_nft.h"

#define CHUNK 512	 /* operations in one batch */
#define SINGLY_BUDGET 32 /* aborts per commit before the rest is refused unseen */
#define ALL UINT32_MAX

struct message {
	uint32_t op; /* index; UINT32_MAX: belongs to none, such as a set being made */
	bool removal;
};

/* What a batch that is being built has done to an element; fallback kernels only. */
struct touched {
	struct fw_elem elem;
	bool present;
};

struct fw_commit {
	struct message *messages; /* by index in the batch */
	size_t messages_cap;
	uint32_t *last; /* by transaction: its last operation */
	size_t last_cap;
	struct touched *touched;
	size_t n_touched, touched_cap;
	struct fw_range saved[FW_BANKS][FW_RANGES_MAX];
	bool ranges_changed, sets_made;
	/* The commit in progress. */
	const struct fw_op *ops;
	int *result;
	unsigned budget;
	bool whole; /* the batch failed as a whole, naming nobody */
	bool lost;  /* answers were lost: some may not have been named, the outcome is unknown */
	bool clash; /* a map had other data under a key: not an error yet, replace it */
	bool raced; /* a removal found nothing: not an error, build again */
};

int fw_commit_new(struct fw_nft *f)
{
	f->commit = calloc(1, sizeof(*f->commit));
	return f->commit ? 0 : ERR_NOMEM;
}

void fw_commit_free(struct fw_nft *f)
{
	if (!f->commit)
		return;
	free(f->commit->messages);
	free(f->commit->last);
	free(f->commit->touched);
	free(f->commit);
	f->commit = NULL;
}

/* Room for `want` entries of `size` octets. */
static int grow(void *array, size_t *cap, size_t want, size_t size)
{
	void **p = array;
	size_t n = *cap ? *cap : 256;
	void *mem;

	if (want <= *cap)
		return 0;
	while (n < want)
		n *= 2;
	mem = realloc(*p, n * size);
	if (!mem)
		return ERR_NOMEM;
	*p = mem;
	*cap = n;
	return 0;
}

static const char *protocol_name(uint8_t protocol, char *dst, size_t size)
{
	if (protocol == IPPROTO_UDP)
		return "udp";
	if (protocol == IPPROTO_TCP)
		return "tcp";
	snprintf(dst, size, "%u", protocol);
	return protocol ? dst : "udp+tcp";
}

static const char *end_text(const struct addr_prefix *p, const struct port_range *r, char *dst,
			    size_t size)
{
	char a[ADDR_STRLEN];
	bool whole = p->addr.version && p->len == addr_len(&p->addr) * 8;
	int n;

	if (p->len == 0)
		n = snprintf(dst, size, "any");
	else if (whole)
		n = snprintf(dst, size, "%s", addr_str(&p->addr, a));
	else
		n = snprintf(dst, size, "%s/%u", addr_str(&p->addr, a), p->len);
	if (n < 0 || (size_t)n >= size)
		return dst;
	if (r->first == r->last)
		snprintf(dst + n, size - (size_t)n, " port %u", r->first);
	else
		snprintf(dst + n, size - (size_t)n, " ports %u-%u", r->first, r->last);
	return dst;
}

static void log_refused(const struct fw_op *op, const char *why)
{
	static const char *const names[] = {
		[FW_OPEN] = "FW_OPEN",	   [FW_CLOSE] = "FW_CLOSE", [FW_BIND] = "FW_BIND",
		[FW_UNBIND] = "FW_UNBIND", [FW_BLOCK] = "FW_BLOCK", [FW_UNBLOCK] = "FW_UNBLOCK",
		[FW_FORGET] = "FW_FORGET",
	};
	char proto[8], a[ADDR_PORT_STRLEN + 16], b[ADDR_PORT_STRLEN + 16];

	if (op->type == FW_BIND || op->type == FW_UNBIND)
		log_err("fw: %s %s %s <-> %s refused: %s", names[op->type],
			protocol_name(op->binding.protocol, proto, sizeof(proto)),
			addr_port_str(&op->binding.inside, a),
			addr_port_str(&op->binding.outside, b), why);
	else
		log_err("fw: %s %s %s -> %s refused: %s", names[op->type],
			protocol_name(op->match.protocol, proto, sizeof(proto)),
			end_text(&op->match.src, &op->match.sport, a, sizeof(a)),
			end_text(&op->match.dst, &op->match.dport, b, sizeof(b)), why);
}

static void refuse(struct fw_nft *f, const struct fw_op *op, const char *why)
{
	struct fw_commit *c = f->commit;

	if (c->result[op->txn])
		return;
	c->result[op->txn] = ERR_KERNEL;
	f->stats.refused++;
	log_refused(op, why);
}

/* Remembers whose the messages are that were added since the last call. */
static int note_messages(struct fw_nft *f, uint32_t from, uint32_t op, bool removal)
{
	struct fw_commit *c = f->commit;

	if (f->batch.nomem ||
	    grow(&c->messages, &c->messages_cap, f->batch.n, sizeof(*c->messages)))
		return ERR_NOMEM;
	for (; from < f->batch.n; from++)
		c->messages[from] = (struct message){.op = op, .removal = removal};
	return 0;
}

/*
 * Without DESTROYSETELEM a removal of what is not there aborts the batch, so
 * the kernel is asked first; what this very batch does comes on top.
 */
static int present(struct fw_nft *f, const struct fw_elem *e, struct fw_elem_state *state)
{
	const struct fw_commit *c = f->commit;

	for (size_t i = c->n_touched; i-- > 0;) {
		const struct touched *t = &c->touched[i];

		if (t->elem.set != e->set || memcmp(t->elem.key, e->key, e->set->key_len) != 0 ||
		    (e->set->interval && memcmp(t->elem.end, e->end, e->set->key_len) != 0))
			continue;
		memset(state, 0, sizeof(*state));
		state->found = t->present;
		return 0;
	}
	return fw_elem_get(&f->nl, e, state);
}

static int touch(struct fw_nft *f, const struct fw_elem *e, bool now_present)
{
	struct fw_commit *c = f->commit;

	if (f->features & FW_FEATURE_DESTROY)
		return 0;
	if (grow(&c->touched, &c->touched_cap, c->n_touched + 1, sizeof(*c->touched)))
		return ERR_NOMEM;
	c->touched[c->n_touched++] = (struct touched){.elem = *e, .present = now_present};
	return 0;
}

static int put_removal(struct fw_nft *f, const struct fw_elem *e, bool known_present, uint32_t op)
{
	uint32_t from = f->batch.n;
	struct fw_elem_state state;
	int err;

	if (e->set->state == FW_SET_ABSENT)
		return 0;
	if (!(f->features & FW_FEATURE_DESTROY) && !known_present) {
		err = present(f, e, &state);
		if (err || !state.found)
			return err;
	}
	err = fw_elem_del(&f->batch, e);
	if (!err)
		err = touch(f, e, false);
	return err ? err : note_messages(f, from, op, true);
}

/*
 * Adds or refreshes. Where the kernel cannot update a timeout in place the
 * element is replaced within the batch; its counters go on. The same is done in
 * a map that turned out to have other data under the key, which aborts a batch:
 * it cannot happen while whoever unbinds says so, but then it must not last.
 */
static int put_element(struct fw_nft *f, const struct fw_elem *e, uint64_t ms, uint32_t op)
{
	bool update = f->features & FW_FEATURE_UPDATE_TIMEOUT && !(e->set->map && f->commit->clash);
	bool counted = f->cfg->counters && !e->set->map;
	struct fw_elem_state state = {0};
	uint64_t counter[2];
	uint32_t from;
	int err = 0;

	if (e->set->state == FW_SET_ABSENT) {
		from = f->batch.n;
		fw_layout_wild(f, e->set);
		f->commit->sets_made = true;
		err = note_messages(f, from, UINT32_MAX, false);
	}
	if (!err && !update) {
		if (counted || !(f->features & FW_FEATURE_DESTROY))
			err = present(f, e, &state);
		if (!err && (state.found || f->features & FW_FEATURE_DESTROY))
			err = put_removal(f, e, true, op);
	}
	if (err)
		return err;
	counter[0] = state.packets;
	counter[1] = state.octets;
	from = f->batch.n;
	err = fw_elem_add(&f->batch, e, ms ? ms : 1, counted && state.found ? counter : NULL);
	if (!err)
		err = touch(f, e, true);
	return err ? err : note_messages(f, from, op, false);
}

static bool adds(const struct fw_op *op)
{
	return op->type == FW_OPEN || op->type == FW_BIND || op->type == FW_BLOCK;
}

/* Finds the interval set for an element that fw_match_elems() left without one. */
static int choose_layer(struct fw_nft *f, const struct fw_op *op, struct fw_elem *e)
{
	bool block = op->type == FW_BLOCK || op->type == FW_UNBLOCK;
	struct fw_match m = op->match;
	struct fw_range *slot;

	m.protocol = e->key[0];
	if (!f->commit->ranges_changed) {
		memcpy(f->commit->saved, f->ranges, sizeof(f->ranges));
		f->commit->ranges_changed = true;
	}
	if (adds(op)) {
		e->set = fw_range_place(f, block, &m, fw_now_ms() + op->lifetime_ms);
		return e->set ? 0 : ERR_LIMIT;
	}
	e->set = fw_range_find(f, block, &m, &slot);
	if (e->set)
		slot->expires_ms = 0;
	return 0;
}

static int put_op(struct fw_nft *f, const struct fw_op *op, uint32_t index)
{
	struct fw_elem elems[FW_OP_ELEMS];
	int n, err = 0;

	if (op->type == FW_FORGET)
		return 0;
	if (op->type == FW_BIND || op->type == FW_UNBIND)
		n = fw_binding_elems(f, &op->binding, elems);
	else
		n = fw_match_elems(f, op->type == FW_BLOCK || op->type == FW_UNBLOCK, &op->match,
				   elems);
	if (n < 0)
		return n;
	for (int i = 0; i < n && !err; i++) {
		if (!elems[i].set)
			err = choose_layer(f, op, &elems[i]);
		if (err || !elems[i].set)
			continue;
		if (adds(op))
			err = put_element(f, &elems[i], op->lifetime_ms, index);
		else
			err = put_removal(f, &elems[i], false, index);
	}
	return err;
}

/* Undoes what building a batch assumed of its success. */
static void settle(struct fw_nft *f, bool done)
{
	struct fw_commit *c = f->commit;

	if (c->sets_made)
		fw_layout_settle(f, done);
	if (c->ranges_changed && !done)
		memcpy(f->ranges, c->saved, sizeof(f->ranges));
	c->sets_made = c->ranges_changed = false;
}

/* True when an operation could not even be encoded; its transaction is refused then. */
static bool build_failed(struct fw_nft *f, size_t from, size_t to, uint32_t txn)
{
	struct fw_commit *c = f->commit;
	uint32_t last = ALL;

	c->n_touched = 0;
	fw_batch_begin(&f->batch);
	if (note_messages(f, 0, UINT32_MAX, false)) {
		for (size_t i = from; i < to; i++)
			refuse(f, &c->ops[i], err_str(ERR_NOMEM));
		return false;
	}
	for (size_t i = from; i < to; i++) {
		const struct fw_op *op = &c->ops[i];
		int err;

		if (c->result[op->txn] || (txn != ALL && op->txn != txn))
			continue;
		/* A message that is refused names one transaction. */
		if (op->txn != last)
			fw_batch_seal(&f->batch);
		last = op->txn;
		err = put_op(f, op, (uint32_t)i);
		if (err) {
			refuse(f, op, err_str(err));
			settle(f, false);
			return true;
		}
	}
	return false;
}

static void on_refused(uint32_t index, int error, void *arg)
{
	struct fw_nft *f = arg;
	struct fw_commit *c = f->commit;
	struct message m;

	if (index >= f->batch.n - 1) /* the end */
		index = 0;
	m = c->messages[index];
	if (m.op == UINT32_MAX) {
		log_err("fw: batch of %u messages refused: %s", f->batch.n, strerror(error));
		c->whole = true;
	} else if (m.removal && error == ENOENT && !(f->features & FW_FEATURE_DESTROY)) {
		c->raced = true; /* it expired after we had asked */
	} else if (!m.removal && !c->clash && c->ops[m.op].type == FW_BIND &&
		   (error == EEXIST || error == EBUSY)) {
		c->clash = c->raced = true;
	} else {
		refuse(f, &c->ops[m.op], strerror(error));
	}
}

/* Builds and sends operations [from, to) of one or ALL transactions. True: the kernel has them. */
static bool attempt(struct fw_nft *f, size_t from, size_t to, uint32_t txn)
{
	struct fw_commit *c = f->commit;
	int err;

	c->whole = c->raced = c->lost = false;
	while (build_failed(f, from, to, txn))
		;
	if (f->batch.n <= 1) {
		settle(f, true);
		return true;
	}
	f->stats.batches++;
	err = fw_batch_send(&f->batch, on_refused, f);
	settle(f, err == 0);
	if (err == 0)
		return true;
	c->lost = err == -ENOBUFS;
	if (c->lost) {
		log_warn("fw: answers to a batch of %u messages were lost", f->batch.n);
		return false;
	}
	f->stats.aborts++;
	if (err < 0) {
		log_err("fw: sending %zu octets: %s", f->batch.len, strerror(-err));
		c->whole = true;
	}
	return false;
}

static void commit_singly(struct fw_nft *f, size_t from, size_t to)
{
	struct fw_commit *c = f->commit;

	for (size_t i = from; i < to; i++) {
		const struct fw_op *op = &c->ops[i];
		bool first = true;

		for (size_t k = from; k < i && first; k++)
			first = c->ops[k].txn != op->txn;
		if (!first || c->result[op->txn])
			continue;
		while (!c->result[op->txn]) {
			if (c->budget == 0) {
				refuse(f, op, "too many refusals in one turn");
			} else if (attempt(f, from, to, op->txn)) {
				break;
			} else {
				c->budget--;
				if (!c->raced && !c->lost)
					refuse(f, op, "the batch failed");
			}
		}
	}
}

/*
 * Sending again does no harm: operations say what is to be there, not what is to change. So that
 * is also how the outcome is found out of a batch whose answers were lost. As long as the refusals
 * that were read take somebody out, all the others go together.
 */
static void commit_chunk(struct fw_nft *f, size_t from, size_t to)
{
	struct fw_commit *c = f->commit;
	uint64_t refused;

	c->clash = false;
	for (bool first = true;; first = false) {
		refused = f->stats.refused;
		if (attempt(f, from, to, ALL))
			return;
		if (c->whole || c->budget == 0 || !(first || f->stats.refused > refused))
			break;
		c->budget--;
		f->stats.resubmits++;
	}
	commit_singly(f, from, to);
}

/* The end of the chunk that starts at `from`: no transaction lies across it. */
static size_t chunk_end(const struct fw_commit *c, size_t from, size_t n)
{
	size_t end = from + 1, until = c->last[c->ops[from].txn];

	if (n - from <= CHUNK)
		return n;
	while (end < n && (end - from < CHUNK || end <= until)) {
		if (c->last[c->ops[end].txn] > until)
			until = c->last[c->ops[end].txn];
		end++;
	}
	while (end <= until)
		end++;
	return end < n ? end : n;
}

void fw_nft_commit(struct fw *fw, const struct fw_op *ops, size_t n, int *result, size_t n_txn)
{
	struct fw_nft *f = fw_nft_of(fw);
	struct fw_commit *c = f->commit;

	for (size_t i = 0; i < n_txn; i++)
		result[i] = 0;
	c->ops = ops;
	c->result = result;
	c->budget = SINGLY_BUDGET;
	f->stats.ops += n;
	if (grow(&c->last, &c->last_cap, n_txn, sizeof(*c->last))) {
		for (size_t i = 0; i < n; i++)
			refuse(f, &ops[i], err_str(ERR_NOMEM));
		return;
	}
	for (size_t i = 0; i < n; i++)
		c->last[ops[i].txn] = (uint32_t)i;
	for (size_t from = 0, to; from < n; from = to) {
		to = chunk_end(c, from, n);
		commit_chunk(f, from, to);
	}
	/* After the elements: the next packet of a flow must not bring its old entry back. */
	for (size_t i = 0; i < n; i++)
		if (ops[i].type == FW_FORGET && !result[ops[i].txn])
			fw_ct_forget(f->ct, &ops[i]);
	fw_ct_flush(f->ct);
}
