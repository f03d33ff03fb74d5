/*
 * Messages: octets to struct simco_msg and back, driven by the format table
 * and the attribute table. Linear and without copies: variable attributes
 * point into the input.
 */
#include <string.h>

#include "proto-simco/simco_int.h"

int simco_decode_header(const void *in, size_t n, uint16_t *type, uint16_t *length, uint32_t *tid)
{
	struct wire c;

	if (n < SIMCO_HEADER_LEN)
		return SIMCO_ERR_MORE;
	wire_init_read(&c, span_of(in, n));
	*type = wire_read_u16(&c);
	*length = wire_read_u16(&c);
	*tid = wire_read_u32(&c);
	return SIMCO_OK;
}

/* The has_ flag of an attribute that may be absent from some message, or NULL. */
static bool *presence(struct simco_msg *m, const struct simco_slot *s)
{
	switch (s->attr) {
	case SIMCO_ATTR_CHALLENGE:
		return &m->has_challenge;
	case SIMCO_ATTR_TOKEN:
		return &m->has_token;
	case SIMCO_ATTR_GID:
		return &m->has_gid;
	case SIMCO_ATTR_EXTENSIONS:
		return &m->has_extensions;
	case SIMCO_ATTR_ACTIVITY:
		return &m->has_activity;
	case SIMCO_ATTR_REASON:
		return &m->has_reason;
	case SIMCO_ATTR_TUPLE:
		return s->tuple == SIMCO_INSIDE ? &m->has_inside : NULL;
	default:
		return NULL;
	}
}

static bool present(const struct simco_msg *m, const struct simco_slot *s)
{
	const bool *has;

	if (!(s->flags & SLOT_OPTIONAL))
		return true;
	has = presence((struct simco_msg *)(uintptr_t)m, s);
	return has != NULL && *has;
}

/* §5.2.3: at least one attribute of an SA reply needs to be present. */
static bool complete(const struct simco_msg *m)
{
	return m->type != SIMCO_SA_REP || m->has_challenge || m->has_token;
}

/* Does the attribute belong here? Reply tuples are told apart by location. */
static bool slot_takes(const struct simco_slot *s, uint16_t attr, struct span value)
{
	if (s->attr != attr)
		return false;
	if (!(s->flags & SLOT_REPLY))
		return true;
	return value.n >= 4 && value.p[3] == s->tuple;
}

static bool slot_read(struct simco_msg *m, const struct simco_slot *s, struct span value)
{
	const struct simco_attr_row *row = simco_attr_find(s->attr);
	struct wire c;
	bool *has;

	if (value.n < row->min || value.n > row->max)
		return false;
	wire_init_read(&c, value);
	if (!row->read(m, s, &c) || c.error != 0 || (row->check != NULL && !row->check(m, s)))
		return false;
	has = presence(m, s);
	if (has != NULL)
		*has = true;
	return true;
}

static bool at_end(const struct simco_slot *s, const struct simco_format *f)
{
	return s == f->slots + SIMCO_MAX_SLOTS || s->attr == 0;
}

/* Walks wire and figure together; neither ever goes back. */
static bool payload_read(struct simco_msg *m, const struct simco_format *f, struct span payload)
{
	const struct simco_slot *s = f->slots;
	struct wire c;

	wire_init_read(&c, payload);
	while (wire_left(&c) > 0) {
		uint16_t attr = wire_read_u16(&c);
		struct span value = wire_read_span(&c, wire_read_u16(&c));

		if (c.error != 0)
			return false;
		while (!at_end(s, f) && !slot_takes(s, attr, value)) {
			if (!(s->flags & SLOT_OPTIONAL))
				return false;
			s++;
		}
		if (at_end(s, f) || !slot_read(m, s, value))
			return false;
		if (!(s->flags & SLOT_REPEATED))
			s++;
	}
	for (; !at_end(s, f); s++)
		if (!(s->flags & SLOT_OPTIONAL))
			return false;
	return complete(m);
}

int simco_decode(struct simco_msg *out, const void *in, size_t n, size_t *used)
{
	const struct simco_format *f;
	uint16_t type, length;
	uint32_t tid;

	if (simco_decode_header(in, n, &type, &length, &tid) != SIMCO_OK)
		return SIMCO_ERR_MORE;
	if (length > SIMCO_MESSAGE_MAX - SIMCO_HEADER_LEN)
		return SIMCO_ERR_TOOBIG;
	if (n - SIMCO_HEADER_LEN < length)
		return SIMCO_ERR_MORE;

	memset(out, 0, sizeof(*out));
	out->type = type;
	out->tid = tid;
	*used = SIMCO_HEADER_LEN + (size_t)length;
	f = simco_format_find(type);
	if (f == NULL ||
	    !payload_read(out, f, span_of((const uint8_t *)in + SIMCO_HEADER_LEN, length)))
		return SIMCO_ERR_MALFORMED;
	return SIMCO_OK;
}

uint32_t simco_msg_pid(const struct simco_msg *m, size_t i)
{
	struct wire c;

	if (m->pid_list != NULL)
		return m->pid_list[i];
	wire_init_read(&c, span_of(m->pids + i * 8 + SIMCO_ATTR_HEADER_LEN, 4));
	return wire_read_u32(&c);
}

static size_t slot_length(const struct simco_msg *m, const struct simco_slot *s)
{
	const struct simco_attr_row *row = simco_attr_find(s->attr);

	return row->length != NULL ? row->length(m, s) : row->min;
}

/* Octets of the attribute(s) at this slot, or a negative error. */
static long slot_size(const struct simco_msg *m, const struct simco_slot *s)
{
	const struct simco_attr_row *row = simco_attr_find(s->attr);
	size_t n;

	if (s->flags & SLOT_REPEATED) {
		if (m->n_pids > 0 && m->pid_list == NULL && m->pids == NULL)
			return SIMCO_ERR_MALFORMED;
		return m->n_pids > SIMCO_PIDS_MAX ? SIMCO_ERR_TOOBIG : (long)m->n_pids * 8;
	}
	if (!present(m, s))
		return 0;
	if (row->check != NULL && !row->check(m, s))
		return SIMCO_ERR_MALFORMED;
	n = slot_length(m, s);
	return n > row->max ? SIMCO_ERR_MALFORMED : (long)(SIMCO_ATTR_HEADER_LEN + n);
}

long simco_encoded_size(const struct simco_msg *m)
{
	const struct simco_format *f = simco_format_find(m->type);
	long total = SIMCO_HEADER_LEN;

	if (f == NULL || !complete(m))
		return SIMCO_ERR_MALFORMED;
	for (const struct simco_slot *s = f->slots; !at_end(s, f); s++) {
		long n = slot_size(m, s);

		if (n < 0)
			return n;
		total += n;
	}
	return total;
}

static void slot_write(const struct simco_msg *m, const struct simco_slot *s, struct wire *c)
{
	if (s->flags & SLOT_REPEATED) {
		for (size_t i = 0; i < m->n_pids; i++) {
			wire_write_u16(c, SIMCO_ATTR_PID);
			wire_write_u16(c, 4);
			wire_write_u32(c, simco_msg_pid(m, i));
		}
	} else if (present(m, s)) {
		wire_write_u16(c, s->attr);
		wire_write_u16(c, (uint16_t)slot_length(m, s));
		simco_attr_find(s->attr)->write(m, s, c);
	}
}

long simco_encode(const struct simco_msg *m, void *out, size_t n)
{
	const struct simco_format *f = simco_format_find(m->type);
	long size = simco_encoded_size(m);
	struct wire c;

	if (size < 0)
		return size;
	if ((size_t)size > n)
		return SIMCO_ERR_TOOBIG;
	wire_init_write(&c, out, n);
	wire_write_u16(&c, m->type);
	wire_write_u16(&c, (uint16_t)(size - SIMCO_HEADER_LEN));
	wire_write_u32(&c, m->tid);
	for (const struct simco_slot *s = f->slots; !at_end(s, f); s++)
		slot_write(m, s, &c);
	return (long)c.pos;
}
