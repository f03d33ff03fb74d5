/*
 * A firewall in memory behind fw.h, with a clock of its own and the faults of
 * a kernel on demand. For tests, fuzzing and benches of everything above.
 */
#ifndef SLUICE_MIDDLEBOX_FW_FAKE_H
#define SLUICE_MIDDLEBOX_FW_FAKE_H

#include "middlebox/fw.h"

/* Close with fw_close(). NULL: no memory. */
struct fw *fw_fake_new(void);
/* A second firewall in the same state. NULL: no memory. */
struct fw *fw_fake_copy(const struct fw *fw);

/* Elements and bindings whose timeout is reached leave. */
void fw_fake_set_time(struct fw *fw, uint64_t now_ms);

/* The next `count` transactions that contain an operation of `type` are refused. */
void fw_fake_refuse(struct fw *fw, enum fw_op_type type, unsigned count);
/* Called before each operation takes effect, in its batch. */
void fw_fake_on_op(struct fw *fw, void (*fn)(const struct fw_op *op, void *arg), void *arg);
/* Another process flushes everything; on_lost is called. */
void fw_fake_flush(struct fw *fw);
void fw_fake_quarantine(struct fw *fw, const struct addr_port *outside); /* NULL: none */
/* Traffic on an element. False: it is not there. */
bool fw_fake_traffic(struct fw *fw, const struct fw_match *m, uint64_t packets, uint64_t octets);
void fw_fake_no_counters(struct fw *fw);

size_t fw_fake_elements(const struct fw *fw); /* open */
size_t fw_fake_blocked(const struct fw *fw);  /* elements of disable rules */
size_t fw_fake_bindings(const struct fw *fw); /* outside halves */
size_t fw_fake_faces(const struct fw *fw);    /* inside halves, twice NAT */
/* Would a packet pass the forward hook (inside addresses)? */
bool fw_fake_passes(const struct fw *fw, uint8_t protocol, const struct addr_port *src,
		    const struct addr_port *dst);
/* Would it be dropped there although a static permit lets it through? */
bool fw_fake_blocks(const struct fw *fw, uint8_t protocol, const struct addr_port *src,
		    const struct addr_port *dst);
/* Takes what an FW_OPEN, FW_BLOCK or FW_BIND (its outside half) put there away, as others may. */
void fw_fake_remove(struct fw *fw, const struct fw_op *op);
/* Readings of counters so far. */
unsigned fw_fake_reads(const struct fw *fw);
/* FW_FORGET operations seen. */
uint64_t fw_fake_forgets(const struct fw *fw);
/* Bindings that contradicted another one: always a mistake of the caller. */
uint64_t fw_fake_conflicts(const struct fw *fw);

#endif
