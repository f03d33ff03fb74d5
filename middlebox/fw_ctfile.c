/*
 * Conntrack's entries as a file. The kernel writes it without the locks that a
 * dump takes for every bucket of the table: a table with few entries costs a
 * fraction of a millisecond instead of ten. But between two reads it may lose
 * its place, so that only what one read() tells for certain is taken.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/span.h"
#include "middlebox/fw_ct.h"

#define READ_MAX 4096u /* octets that the kernel gives at a time, at least */
#define LINE_MOST 512u /* more than a line has: that much is left when all of them fit */

/* One word of a line; false when it is no valid one. */
static bool read_word(struct span word, struct fw_tuple *t, unsigned *seen)
{
	static const char *const names[] = {"src", "dst", "sport", "dport"};
	struct span name = span_cut(&word, '=');
	uint64_t port;

	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (!span_eq_str(name, names[i]))
			continue;
		*seen |= 1u << i;
		if (i < 2)
			return addr_parse(word, i == 0 ? &t->src.addr : &t->dst.addr) == 0;
		if (span_u64(word, UINT16_MAX, &port) != 0)
			return false;
		*(i == 2 ? &t->src.port : &t->dst.port) = (uint16_t)port;
	}
	return true;
}

/* "ipv4 2 udp 17 29 src=... dst=... sport=... dport=... [UNREPLIED] src=..." */
int fw_ct_line(struct span line, struct fw_tuple *orig, struct fw_tuple *reply)
{
	struct fw_tuple *t = orig;
	unsigned words = 0, seen = 0;
	uint64_t protocol = 0;

	while (line.n > 0) {
		struct span word = span_cut(&line, ' ');

		if (word.n == 0)
			continue;
		if (++words == 4) {
			if (span_u64(word, UINT8_MAX, &protocol) != 0)
				return ERR_MALFORMED;
			if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
				return ERR_NOENT;
		}
		if (seen == 15 && t == orig) {
			t = reply;
			seen = 0;
		}
		if (words > 4 && (t == orig || seen != 15) && !read_word(word, t, &seen))
			return ERR_MALFORMED;
	}
	orig->protocol = reply->protocol = (uint8_t)protocol;
	return t == reply && seen == 15 ? 0 : ERR_MALFORMED;
}

/* All of the file, when one read() surely gave it. */
static ssize_t read_whole(int fd, uint8_t *in, size_t size)
{
	uint8_t more;
	ssize_t n;

	do
		n = read(fd, in, size);
	while (n < 0 && errno == EINTR);
	if (n < 0 || (size_t)n > size - LINE_MOST || read(fd, &more, 1) != 0)
		return -1;
	return n;
}

int fw_ct_file_each(const char *path, fw_ct_entry_fn fn, void *arg)
{
	uint8_t in[READ_MAX];
	struct span text;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return ERR_UNSUPPORTED;
	n = read_whole(fd, in, sizeof(in));
	close(fd);
	if (n < 0)
		return ERR_TOOBIG;
	text = span_of(in, (size_t)n);
	while (text.n > 0) {
		struct fw_tuple orig, reply;
		int err = fw_ct_line(span_cut(&text, '\n'), &orig, &reply);

		if (err == 0)
			fn(&orig, &reply, arg);
		else if (err != ERR_NOENT)
			return err;
	}
	return 0;
}
