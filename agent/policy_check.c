/*
 * What a schema row cannot say: names that must exist, things that must not be
 * given twice, settings that exclude each other. Every finding carries its line.
 */
#include <stdio.h>
#include <string.h>

#include "agent/policy_int.h"
#include "common/errcode.h"

#define PATH_HOPS ARRAY_LEN(((struct path *)0)->middlebox)

const struct zone *policy_zone_by_name(const struct policy *p, const char *name)
{
	const struct zone *zones = p->zones.v;

	for (size_t i = 0; i < p->zones.n; i++)
		if (!strcmp(zones[i].name, name))
			return &zones[i];
	return NULL;
}

/* Zones may overlap, since the longest prefix decides; two equal prefixes leave nothing to decide.
 */
static void check_zone_pair(const struct zone *a, const struct zone *b, struct conf_errors *errs)
{
	const struct addr_prefix *pa = a->networks.v, *pb = b->networks.v;
	char text[ADDR_STRLEN];

	for (size_t i = 0; i < a->networks.n; i++)
		for (size_t k = 0; k < b->networks.n; k++)
			if (addr_prefix_eq(&pa[i], &pb[k]))
				conf_error(errs, b->line, "zones",
					   "%s/%u belongs to zone \"%s\" (line %u) and to \"%s\"",
					   addr_str(&pb[k].addr, text), pb[k].len, a->name, a->line,
					   b->name);
}

static void check_zones(const struct policy *p, struct conf_errors *errs)
{
	const struct zone *z = p->zones.v;

	for (size_t i = 0; i < p->zones.n; i++)
		for (size_t k = i + 1; k < p->zones.n; k++)
			check_zone_pair(&z[i], &z[k], errs);
}

static void check_middleboxes(const struct policy *p, struct conf_errors *errs)
{
	const struct middlebox_conf *m = p->middleboxes.v;

	for (size_t i = 0; i < p->middleboxes.n; i++) {
		if (strlen(m[i].name) > 63)
			conf_error(errs, m[i].line, "middleboxes", "a name has at most 63 octets");
		if (!m[i].address.addr.version)
			continue; /* refused by the schema */
		if (!m[i].address.port)
			conf_error(errs, m[i].line, "middleboxes", "\"%s\": port 0 in address",
				   m[i].name);
		for (size_t k = 0; k < i; k++)
			if (addr_port_eq(&m[k].address, &m[i].address))
				conf_error(errs, m[i].line, "middleboxes",
					   "\"%s\" has the address of \"%s\" (line %u)", m[i].name,
					   m[k].name, m[k].line);
	}
}

/* Middleboxes keep the order of the file: the one nearest to the internal end first. */
static void resolve_hops(const struct policy *p, struct path *path, struct conf_errors *errs)
{
	const char *const *names = path->through.v;

	if (path->through.n > PATH_HOPS) {
		conf_error(errs, path->line, "paths", "%zu middleboxes in a row, at most %zu",
			   path->through.n, PATH_HOPS);
		return;
	}
	for (size_t i = 0; i < path->through.n; i++) {
		if (!names[i])
			continue;
		path->middlebox[i] = policy_middlebox(p, names[i]);
		if (!path->middlebox[i])
			conf_error(errs, path->line, "paths", "unknown middlebox \"%s\" in through",
				   names[i]);
		for (size_t k = 0; k < i; k++)
			if (names[k] && !strcmp(names[k], names[i]))
				conf_error(errs, path->line, "paths",
					   "middlebox \"%s\" stands in through twice", names[i]);
	}
	path->n_middleboxes = (unsigned)path->through.n;
}

static void check_paths(const struct policy *p, struct conf_errors *errs)
{
	struct path *paths = p->paths.v;

	for (size_t i = 0; i < p->paths.n; i++) {
		struct path *path = &paths[i];

		resolve_hops(p, path, errs);
		if (!path->from || !path->to)
			continue;
		path->from_zone = policy_zone_by_name(p, path->from);
		path->to_zone = policy_zone_by_name(p, path->to);
		if (!path->from_zone)
			conf_error(errs, path->line, "paths", "unknown zone \"%s\" in from",
				   path->from);
		if (!path->to_zone)
			conf_error(errs, path->line, "paths", "unknown zone \"%s\" in to",
				   path->to);
		for (size_t k = 0; k < i; k++)
			if (paths[k].from && paths[k].to && !strcmp(paths[k].from, path->from) &&
			    !strcmp(paths[k].to, path->to))
				conf_error(errs, path->line, "paths",
					   "a second path from \"%s\" to \"%s\" (first in line %u)",
					   path->from, path->to, paths[k].line);
	}
}

static void check_rest_listen(const struct policy *p, const char *text, struct conf_errors *errs)
{
	struct addr_port at;

	if (!strncmp(text, "unix:", 5)) {
		/* 107 octets is what a unix socket address holds. */
		if (text[5] != '/' || strlen(text + 5) > 107)
			conf_error(errs, p->rest.line, "rest.listen",
				   "\"%s\": an absolute path of at most 107 octets is needed",
				   text);
		return;
	}
	if (addr_port_parse(span_str(text), &at)) {
		conf_error(errs, p->rest.line, "rest.listen",
			   "\"%s\" is neither \"unix:/path\" nor \"address:port\"", text);
		return;
	}
	if (p->rest.token_file || (p->rest.open_loopback && addr_is_loopback(&at.addr)))
		return;
	conf_error(errs, p->rest.line, "rest.listen", "\"%s\" needs token_file%s", text,
		   addr_is_loopback(&at.addr) ? " or open_loopback" : "");
}

static void check_rest(const struct policy *p, struct conf_errors *errs)
{
	const char *const *listen = p->rest.listen.v;

	for (size_t i = 0; i < p->rest.listen.n; i++) {
		if (!listen[i])
			continue;
		check_rest_listen(p, listen[i], errs);
		for (size_t k = 0; k < i; k++)
			if (listen[k] && !strcmp(listen[k], listen[i]))
				conf_error(errs, p->rest.line, "rest.listen",
					   "\"%s\" is given twice", listen[i]);
	}
}

void policy_check(void *filled, struct conf_errors *errs)
{
	struct policy *p = filled;

	check_zones(p, errs);
	check_middleboxes(p, errs);
	check_paths(p, errs);
	policy_check_rtsp(p, errs);
	check_rest(p, errs);
}
