/*
 * What works but deserves a warning: the policy against this host's settings.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "middlebox/policy.h"

/* Numbers of a /proc/sys file into v[max]; how many. */
static size_t read_numbers(const char *path, uint64_t *v, size_t max)
{
	char text[128];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	struct span rest;
	size_t count = 0;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	for (ssize_t i = 0; i < n; i++)
		text[i] = text[i] == '\t' || text[i] == '\n' ? ' ' : text[i];
	rest = span_trim(span_of(text, (size_t)n));
	while (rest.n > 0 && count < max) {
		struct span one = span_cut(&rest, ' ');

		rest = span_trim(rest);
		if (span_u64(one, UINT64_MAX, &v[count]) != 0)
			break;
		count++;
	}
	return count;
}

static void warn_ephemeral(const struct mbx_policy *p, void (*fn)(const char *, void *), void *arg)
{
	const struct mbx_pool *v = p->nat.outside.v;
	char text[256], addr[ADDR_STRLEN];
	uint64_t range[2];

	if (read_numbers("/proc/sys/net/ipv4/ip_local_port_range", range, 2) != 2)
		return;
	for (size_t i = 0; i < p->nat.outside.n; i++) {
		if (v[i].ports.first > range[1] || v[i].ports.last < range[0])
			continue;
		snprintf(text, sizeof(text),
			 "pool ports %u-%u of %s overlap net.ipv4.ip_local_port_range %llu-%llu: "
			 "this host's own connections may take them",
			 v[i].ports.first, v[i].ports.last, addr_str(&v[i].address, addr),
			 (unsigned long long)range[0], (unsigned long long)range[1]);
		fn(text, arg);
	}
}

void mbx_policy_warnings(const struct mbx_policy *p, void (*fn)(const char *text, void *arg),
			 void *arg)
{
	const struct mbx_agent *a = p->agents.v;
	uint64_t quota = 0, max;
	char text[256];

	for (size_t i = 0; i < p->agents.n; i++)
		quota += a[i].max_rules;
	if (quota > p->limits.rules) {
		snprintf(text, sizeof(text),
			 "max_rules of all agents is %llu, but limits.rules is %llu",
			 (unsigned long long)quota, (unsigned long long)p->limits.rules);
		fn(text, arg);
	}
	quota = quota < p->limits.rules ? quota : p->limits.rules;
	if (!p->nat.present)
		return;
	warn_ephemeral(p, fn, arg);
	if (read_numbers("/proc/sys/net/netfilter/nf_conntrack_max", &max, 1) == 1 && max != 0 &&
	    quota > max) {
		snprintf(text, sizeof(text),
			 "%llu rules are allowed, but net.netfilter.nf_conntrack_max is %llu",
			 (unsigned long long)quota, (unsigned long long)max);
		fn(text, arg);
	}
}
