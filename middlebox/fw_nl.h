/*
 * Netlink for the nftables driver: a socket, a growing batch of messages, and
 * synchronous questions. Knows message framing, not what messages mean.
 *
 * nfnetlink works inside sendto(): when it returns the kernel has committed or
 * aborted, and every error is already queued. So nothing is sent with an ACK;
 * an empty receive queue means success.
 */
#ifndef SLUICE_MIDDLEBOX_FW_NL_H
#define SLUICE_MIDDLEBOX_FW_NL_H

#include "common/base.h"

struct mnl_socket;
struct nlmsghdr;

struct fw_nl {
	struct mnl_socket *s;
	int fd;
	uint32_t portid;
	uint32_t seq;  /* of the next message */
	uint64_t lost; /* times that messages to us were lost (ENOBUFS) */
};

/* Opens NETLINK_NETFILTER non-blocking with large buffers. 0 or a negative errno. */
int fw_nl_open(struct fw_nl *nl);
void fw_nl_close(struct fw_nl *nl);

/* One batch, from begin to end. Messages are numbered from first_seq in the order of adding. */
struct fw_batch {
	uint8_t *mem;
	size_t len, cap;
	uint32_t first_seq, n; /* n: messages, BATCH_BEGIN included */
	bool nomem;	       /* sticky: nothing may be sent */
	size_t last;	       /* where the last message is */
	const void *open;      /* what the last message may be extended by, NULL: nothing */
	struct fw_nl *nl;
};

#define FW_MSG_MAX 8192u /* more than any message that we build needs */

void fw_batch_init(struct fw_batch *b, struct fw_nl *nl);
void fw_batch_fini(struct fw_batch *b);
/* Empties it and puts NFNL_MSG_BATCH_BEGIN of nftables. Questions may be asked while it grows. */
void fw_batch_begin(struct fw_batch *b);
/* Room for one message of up to FW_MSG_MAX octets, zeroed header; NULL after a failed allocation.
 */
void *fw_batch_room(struct fw_batch *b);
/* Adds the message that was built in fw_batch_room(); numbers it. Its index in the batch. */
uint32_t fw_batch_add(struct fw_batch *b, size_t len);
/* Lets `len` octets from fw_batch_room() belong to the last message. */
void fw_batch_extend(struct fw_batch *b, size_t len);
/* Nothing is added to the last message any more. */
void fw_batch_seal(struct fw_batch *b);

/* Called for each message that the kernel refused; index 0 is the batch as a whole. */
typedef void (*fw_batch_err_fn)(uint32_t index, int error, void *arg);

/*
 * Ends the batch and sends it. 0: committed. 1: aborted, fn has been called for every bad
 * message. Negative errno: could not be sent, or (-ENOBUFS) the outcome is unknown.
 */
int fw_batch_send(struct fw_batch *b, fw_batch_err_fn fn, void *arg);

/* Return false to stop listening (the rest is still drained). */
typedef void (*fw_nl_msg_fn)(const struct nlmsghdr *h, void *arg);

/* Sends one request (its seq is set here), hands over what comes back. 0 or a negative errno. */
int fw_nl_ask(struct fw_nl *nl, struct nlmsghdr *req, fw_nl_msg_fn fn, void *arg);
/* The same for a dump; waits for its end. -EINTR: the ruleset changed meanwhile, ask again. */
int fw_nl_dump(struct fw_nl *nl, struct nlmsghdr *req, fw_nl_msg_fn fn, void *arg);

/* A walk over attributes; mnl's own macros do not pass -Wconversion. */
struct nlattr;
struct fw_attrs {
	const uint8_t *p, *end;
};
#define FW_ATTR_HDR 4u				       /* octets of an attribute's header */
struct fw_attrs fw_attrs_of(const struct nlmsghdr *h); /* behind the nfgenmsg */
struct fw_attrs fw_attrs_in(const struct nlattr *nest);
const struct nlattr *fw_attrs_next(struct fw_attrs *w);		      /* NULL at the end */
const struct nlattr *fw_attrs_find(struct fw_attrs w, uint16_t type); /* NULL: absent */
/* Octets of the payload if it has exactly `len` of them, else NULL. */
const void *fw_attr_data(const struct nlattr *a, size_t len);
uint64_t fw_attr_be64(const struct nlattr *a); /* 0 if it is no such number */

#endif
