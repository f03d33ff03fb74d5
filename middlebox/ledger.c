#define _GNU_SOURCE /* fallocate() */
#include "middlebox/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/errcode.h"
#include "common/log.h"

#define MAGIC 0x53434c47u /* "SCLG" */
#define VERSION 2u
#define HEADER_LEN 4096u

/* Up to pid_mark it is the same in every version: PIDs are not used again. */
struct ledger_header {
	uint32_t magic, version;
	uint32_t slot_size, n_owners;
	uint8_t boot_id[16];
	uint32_t high;	   /* slots whose space is claimed */
	uint32_t pid_mark; /* no PID above it was ever used */
	uint32_t pid_next; /* a hint within the stride; lost in a crash without harm */
	uint32_t clean;	   /* closed in order: pid_next holds */
	uint32_t n_addresses;
};

_Static_assert(sizeof(struct ledger_header) <= HEADER_LEN, "the header fits its page");
_Static_assert(LEDGER_STEP * sizeof(struct rule) % 4096 == 0, "a step is whole pages");
_Static_assert(LEDGER_CHUNK % LEDGER_STEP == 0, "a chunk is whole steps");

#define ADDRESSES_AT (HEADER_LEN + (size_t)LEDGER_OWNERS * sizeof(struct ledger_owner))
#define ADDRESSES_LEN (((size_t)LEDGER_ADDRESSES * sizeof(struct addr) + 4095) / 4096 * 4096)
#define SLOTS_AT (ADDRESSES_AT + ADDRESSES_LEN)

static bool header_valid(const struct ledger_header *h, off_t size)
{
	return h->version == VERSION && h->slot_size == sizeof(struct rule) &&
	       h->n_owners == LEDGER_OWNERS && h->n_addresses == LEDGER_ADDRESSES &&
	       size >= (off_t)(SLOTS_AT + (size_t)h->high * sizeof(struct rule));
}

static int open_file(const char *file)
{
	int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0) {
		log_err("ledger %s: cannot open: %s", file, strerror(errno));
		return ERR_IO;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		log_err("ledger %s: held by another process", file);
		close(fd);
		return ERR_EXIST;
	}
	if (fchmod(fd, 0600) != 0)
		log_warn("ledger %s: cannot restrict its mode: %s", file, strerror(errno));
	return fd;
}

enum old { OLD_NONE, OLD_LAYOUT, OLD_BOOT, OLD_USABLE };

/* What the file is, and unless it is none of ours, the highest PID ever used. */
static enum old read_old(int fd, const uint8_t boot_id[16], struct ledger_header *h)
{
	struct stat st;

	if (pread(fd, h, sizeof(*h), 0) != (ssize_t)sizeof(*h) || fstat(fd, &st) != 0 ||
	    h->magic != MAGIC) {
		memset(h, 0, sizeof(*h));
		return OLD_NONE;
	}
	if (memcmp(h->boot_id, boot_id, 16) != 0)
		return OLD_BOOT;
	return header_valid(h, st.st_size) ? OLD_USABLE : OLD_LAYOUT;
}

static void write_header(struct ledger *l, const uint8_t boot_id[16], uint32_t pid_mark)
{
	l->h->slot_size = sizeof(struct rule);
	l->h->n_owners = LEDGER_OWNERS;
	l->h->n_addresses = LEDGER_ADDRESSES;
	memcpy(l->h->boot_id, boot_id, 16);
	l->h->high = 0;
	l->h->pid_mark = pid_mark;
	l->h->pid_next = pid_mark;
	l->h->clean = 1;
	l->h->version = VERSION;
	__atomic_store_n(&l->h->magic, MAGIC, __ATOMIC_RELEASE);
}

/* A number that agents of an earlier boot are unlikely to remember. */
static uint32_t random_mark(void)
{
	uint32_t v = 0;

	if (getrandom(&v, sizeof(v), 0) != (ssize_t)sizeof(v))
		v = (uint32_t)getpid() << 12;
	return v & 0x7fffffffu;
}

/* Slots below `high` are in use; a ledger that was copied may have holes there. */
static int map_file(struct ledger *l, const char *file, bool usable, uint32_t high)
{
	int e;

	if (!usable && ftruncate(l->fd, 0) != 0)
		return ERR_IO;
	e = posix_fallocate(l->fd, 0, (off_t)(SLOTS_AT + (size_t)high * sizeof(struct rule)));
	if (e == 0 && ftruncate(l->fd, (off_t)l->size) != 0)
		e = errno;
	if (e != 0) {
		log_err("ledger %s: no space: %s", file, strerror(e));
		return err_from_errno(e);
	}
	l->h = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	return l->h == MAP_FAILED ? ERR_NOMEM : 0;
}

static void note(bool *used, size_t n, uint16_t index)
{
	if (index < n)
		used[index] = true;
}

/* Names and addresses without rules make room for others. */
static void forget_unused(struct ledger *l)
{
	bool used[LEDGER_OWNERS] = {false}, ours[LEDGER_ADDRESSES] = {false};

	for (uint32_t i = 0; i < l->h->high; i++) {
		const struct rule *r = &l->slots[i];

		if (r->slot == SLOT_FREE)
			continue;
		note(used, LEDGER_OWNERS, r->owner);
		if (r->flags & RULE_NAT)
			note(ours, LEDGER_ADDRESSES, r->outside.address);
		if (r->flags & RULE_TWICE)
			note(ours, LEDGER_ADDRESSES, r->inside.address);
	}
	for (unsigned i = 0; i < LEDGER_ADDRESSES; i++) {
		if (!ours[i])
			l->addresses[i] = addr_none;
	}
	for (unsigned i = 0; i < LEDGER_OWNERS; i++) {
		l->owners[i].name[255] = 0;
		if (!used[i])
			memset(&l->owners[i], 0, sizeof(l->owners[i]));
	}
}

int ledger_open(struct ledger *l, const char *file, const uint8_t boot_id[16], uint32_t n_slots)
{
	struct ledger_header old = {0};
	enum old was = OLD_NONE;
	bool usable = false;
	int err = 0;

	*l = (struct ledger){.fd = -1, .n_slots = n_slots, .h = MAP_FAILED};
	if (file) {
		l->fd = open_file(file);
		if (l->fd < 0)
			return l->fd;
		was = read_old(l->fd, boot_id, &old);
		usable = was == OLD_USABLE;
		if (was == OLD_LAYOUT)
			log_warn("ledger %s: of version %u or damaged, version %u is needed: "
				 "its rules end",
				 file, old.version, VERSION);
		if (usable && old.high > n_slots)
			l->n_slots = old.high; /* the limit was lowered: keep what is there */
	}
	l->size = SLOTS_AT + (size_t)l->n_slots * sizeof(struct rule);
	if (file)
		err = map_file(l, file, usable, usable ? old.high : 0);
	else
		l->h = mmap(NULL, l->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (err != 0 || l->h == MAP_FAILED) {
		log_err("ledger: cannot map %zu octets", l->size);
		ledger_close(l);
		return err ? err : ERR_NOMEM;
	}
	l->owners = (struct ledger_owner *)(void *)((uint8_t *)l->h + HEADER_LEN);
	l->addresses = (struct addr *)(void *)((uint8_t *)l->h + ADDRESSES_AT);
	l->slots = (struct rule *)(void *)((uint8_t *)l->h + SLOTS_AT);
	l->fresh = !usable;
	if (!usable)
		write_header(l, boot_id, old.magic ? old.pid_mark : file ? random_mark() : 0);
	else
		forget_unused(l);
	if (!l->h->clean)
		l->h->pid_next = l->h->pid_mark;
	l->h->clean = 0;
	return 0;
}

void ledger_close(struct ledger *l)
{
	if (l->h != MAP_FAILED && l->h) {
		l->h->clean = 1;
		munmap(l->h, l->size);
	}
	if (l->fd >= 0)
		close(l->fd);
	*l = (struct ledger){.fd = -1, .h = MAP_FAILED};
}

bool ledger_usable(const char *file, const uint8_t boot_id[16])
{
	struct ledger_header h;
	enum old was;
	int fd;

	if (!file)
		return false;
	fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return false;
	was = read_old(fd, boot_id, &h);
	close(fd);
	return was == OLD_USABLE && h.high > 0;
}

uint32_t ledger_high(const struct ledger *l)
{
	return l->h->high;
}

int ledger_grow(struct ledger *l)
{
	uint32_t more = l->n_slots - l->h->high;
	off_t at = (off_t)(SLOTS_AT + (size_t)l->h->high * sizeof(struct rule));
	int e;

	if (more == 0)
		return ERR_LIMIT;
	if (more > LEDGER_STEP)
		more = LEDGER_STEP;
	if (l->fd >= 0) {
		e = posix_fallocate(l->fd, at, (off_t)((size_t)more * sizeof(struct rule)));
		if (e != 0) {
			log_err("ledger: no space for more rules: %s", strerror(e));
			return ERR_NOMEM;
		}
	}
	l->h->high += more;
	return 0;
}

void ledger_shrink(struct ledger *l, uint32_t high)
{
	size_t at = SLOTS_AT + (size_t)high * sizeof(struct rule);
	size_t n = (size_t)(l->h->high - high) * sizeof(struct rule);

	if (high >= l->h->high)
		return;
	l->h->high = high;
	if (l->fd < 0)
		(void)madvise((uint8_t *)l->h + at, n, MADV_DONTNEED);
	else if (fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
			   (off_t)n) != 0)
		log_debug("ledger: room stays claimed: %s", strerror(errno));
}

uint32_t ledger_next_pid(struct ledger *l)
{
	uint32_t next = l->h->pid_next + 1;

	if (next == 0)
		next = 1;
	/* Wrapped or past the stride: record the new stride first. */
	if (next > l->h->pid_mark || l->h->pid_mark - next >= LEDGER_PID_STRIDE) {
		uint32_t mark = next + LEDGER_PID_STRIDE - 1;

		__atomic_store_n(&l->h->pid_mark, mark < next ? UINT32_MAX : mark,
				 __ATOMIC_RELEASE);
	}
	l->h->pid_next = next;
	return next;
}

void ledger_set(struct rule *r, enum slot_state state)
{
	/* Another process reads this after we were killed between two stores. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&r->slot, (uint8_t)state, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

int ledger_owner(struct ledger *l, const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > SIMCO_OWNER_MAX)
		return -1;
	for (int i = 0; i < LEDGER_OWNERS; i++) {
		if (strcmp((const char *)l->owners[i].name, name) == 0)
			return i;
	}
	for (int i = 0; i < LEDGER_OWNERS; i++) {
		if (l->owners[i].name[0] == 0) {
			memcpy(l->owners[i].name, name, n + 1);
			return i;
		}
	}
	return -1;
}

const char *ledger_owner_name(const struct ledger *l, uint16_t owner)
{
	return owner < LEDGER_OWNERS ? (const char *)l->owners[owner].name : "";
}

int ledger_address(struct ledger *l, const struct addr *a)
{
	int room = -1;

	for (int i = LEDGER_ADDRESSES; i-- > 0;) {
		if (addr_eq(&l->addresses[i], a))
			return i;
		if (l->addresses[i].version == 0)
			room = i;
	}
	if (room >= 0)
		l->addresses[room] = *a;
	return room;
}
