/*
 * LD_PRELOAD for the tests of faults: clocks that jump, a host that was
 * suspended, netlink sockets that are too small or say that they lost
 * something. The test writes what it wants into the file $FAULTS, which is
 * mapped here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Eight octets each; tests/netns/lib/faults.py knows the order. */
struct wishes {
	volatile int64_t suspended_ns;	/* CLOCK_BOOTTIME is so far ahead of CLOCK_MONOTONIC */
	volatile int64_t wall_ns;	/* CLOCK_REALTIME is so far off */
	volatile int64_t netlink_room;	/* receive buffer of netlink sockets, 0: what was asked */
	volatile int64_t netlink_lose;	/* so many reads answer ENOBUFS, and read nothing */
	volatile int64_t netlink_lost;	/* so many have */
	volatile int64_t netlink_skip;	/* so many are read before */
	volatile int64_t memory_every;	/* every so manieth allocation fails, 0: none */
	volatile int64_t memory_failed; /* so many have */
};

#define REAL(name) ((__typeof__(&name))real(#name))
#define TIMERS 16
#define STEP_MS 10

static struct {
	int fd;
	int64_t at_ns; /* on our clock; 0: not set */
} timers[TIMERS];
static int64_t seen_ns; /* timers are set for this suspension */

static struct wishes *mapped; /* once it is: before that allocations are the start's own */

static void *real(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static struct wishes *wishes(void)
{
	static struct wishes none, *it;
	const char *file = getenv("FAULTS");
	int fd;

	if (it)
		return it;
	it = &none;
	fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
	if (fd >= 0) {
		void *p = mmap(NULL, sizeof(*it), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (p != MAP_FAILED)
			mapped = it = p;
		close(fd);
	}
	seen_ns = it->suspended_ns;
	return it;
}

static struct timespec shift(struct timespec t, int64_t ns)
{
	int64_t sum = t.tv_sec * 1000000000ll + t.tv_nsec + ns;

	return (struct timespec){.tv_sec = sum / 1000000000, .tv_nsec = sum % 1000000000};
}

/* ---- memory --------------------------------------------------------------------------- */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

static int starves(void)
{
	static int64_t count;

	if (!mapped || mapped->memory_every <= 0 || ++count % mapped->memory_every != 0)
		return 0;
	mapped->memory_failed++;
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t n)
{
	return starves() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	return starves() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	return starves() ? NULL : __libc_realloc(p, n);
}

/* ---- clocks --------------------------------------------------------------------------- */

int clock_gettime(clockid_t id, struct timespec *t)
{
	static int (*next)(clockid_t, struct timespec *);
	int rc;

	if (!next)
		next = REAL(clock_gettime);
	rc = next(id, t);
	if (rc == 0 && id == CLOCK_BOOTTIME)
		*t = shift(*t, wishes()->suspended_ns);
	if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		*t = shift(*t, wishes()->wall_ns);
	return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec t;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &t);
	*tv = (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
	return 0;
}

time_t time(time_t *out)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	if (out)
		*out = t.tv_sec;
	return t.tv_sec;
}

/* What the kernel does with timers of CLOCK_BOOTTIME: they expire by it. */
static void set_real(int fd, int64_t at_ns)
{
	struct itimerspec s = {.it_value = shift((struct timespec){0}, at_ns - seen_ns)};

	if (at_ns == 0)
		s.it_value = (struct timespec){0};
	else if (s.it_value.tv_sec <= 0)
		s.it_value = (struct timespec){.tv_nsec = 1};
	REAL(timerfd_settime)(fd, TFD_TIMER_ABSTIME, &s, NULL);
}

int timerfd_create(int clock, int flags)
{
	int fd = REAL(timerfd_create)((clockid_t)clock, flags);

	(void)wishes();
	for (int i = 0; i < TIMERS && fd >= 0 && clock == CLOCK_BOOTTIME; i++) {
		if (timers[i].fd != 0)
			continue;
		timers[i].fd = fd;
		break;
	}
	return fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *set, struct itimerspec *old)
{
	for (int i = 0; i < TIMERS; i++) {
		if (timers[i].fd != fd || !(flags & TFD_TIMER_ABSTIME))
			continue;
		timers[i].at_ns = set->it_value.tv_sec * 1000000000ll + set->it_value.tv_nsec;
		set_real(fd, timers[i].at_ns);
		return 0;
	}
	return REAL(timerfd_settime)(fd, flags, set, old);
}

static void wake(void)
{
	if (seen_ns == wishes()->suspended_ns)
		return;
	seen_ns = wishes()->suspended_ns;
	for (int i = 0; i < TIMERS; i++) {
		if (timers[i].fd != 0)
			set_real(timers[i].fd, timers[i].at_ns);
	}
}

/* Looks now and then whether the host was "suspended" meanwhile. */
int epoll_wait(int ep, struct epoll_event *events, int max, int timeout)
{
	static int (*next)(int, struct epoll_event *, int, int);
	int n, step;

	if (!next)
		next = REAL(epoll_wait);
	for (;;) {
		wake();
		step = timeout >= 0 && timeout < STEP_MS ? timeout : STEP_MS;
		n = next(ep, events, max, step);
		if (n != 0)
			return n;
		if (timeout >= 0 && (timeout -= step) <= 0)
			return 0;
	}
}

/* ---- netlink -------------------------------------------------------------------------- */

static int is_netlink(int fd)
{
	int domain = 0;
	socklen_t n = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0 && domain == AF_NETLINK;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
	int room = (int)wishes()->netlink_room;

	if (level == SOL_SOCKET && name == SO_RCVBUFFORCE && room > 0 && is_netlink(fd))
		return REAL(setsockopt)(fd, level, SO_RCVBUF, &room, sizeof(room));
	return REAL(setsockopt)(fd, level, name, value, n);
}

static int loses(int fd)
{
	struct wishes *w = wishes();

	if (w->netlink_lose <= 0 || !is_netlink(fd))
		return 0;
	if (w->netlink_skip > 0) {
		w->netlink_skip--;
		return 0;
	}
	w->netlink_lose--;
	w->netlink_lost++;
	errno = ENOBUFS;
	return 1;
}

ssize_t recv(int fd, void *to, size_t n, int flags)
{
	static ssize_t (*next)(int, void *, size_t, int);

	if (!next)
		next = REAL(recv);
	return loses(fd) ? -1 : next(fd, to, n, flags);
}

int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
	return loses(fd) ? -1 : REAL(recvmmsg)(fd, m, n, flags, timeout);
}
