/*
 * Whether two configurations make the same rules, so that a reload which
 * changes something else leaves the kernel alone.
 */
#include <string.h>

#include "middlebox/fw.h"

static bool same_names(const char *const *a, const char *const *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(a[i], b[i]) != 0)
			return false;
	}
	return true;
}

static bool same_permits(const struct fw_permit *a, const struct fw_permit *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (a[i].protocol != b[i].protocol || !addr_prefix_eq(&a[i].from, &b[i].from) ||
		    !addr_prefix_eq(&a[i].to, &b[i].to) || !port_range_eq(a[i].ports, b[i].ports))
			return false;
	}
	return true;
}

static bool same_sources(const struct fw_source *a, const struct fw_source *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!addr_prefix_eq(&a[i].from, &b[i].from) ||
		    !addr_eq(&a[i].to_address, &b[i].to_address) ||
		    !port_range_eq(a[i].ports, b[i].ports))
			return false;
	}
	return true;
}

static bool same_statics(const struct fw_static *a, const struct fw_static *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (a[i].protocol != b[i].protocol || !addr_port_eq(&a[i].outside, &b[i].outside) ||
		    !addr_port_eq(&a[i].inside, &b[i].inside))
			return false;
	}
	return true;
}

static bool same_control(const struct addr_port *a, const struct addr_port *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!addr_port_eq(&a[i], &b[i]))
			return false;
	}
	return true;
}

bool fw_pools_same(const struct fw_pool *a, size_t na, const struct fw_pool *b, size_t nb)
{
	for (size_t i = 0; na == nb && i < na; i++) {
		if (!addr_eq(&a[i].address, &b[i].address) ||
		    !port_range_eq(a[i].ports, b[i].ports))
			return false;
	}
	return na == nb;
}

bool fw_config_same(const struct fw_config *a, const struct fw_config *b)
{
	return strcmp(a->table, b->table) == 0 && a->mode == b->mode && a->mark == b->mark &&
	       a->nat == b->nat && a->counters == b->counters && a->force_off == b->force_off &&
	       a->omit == b->omit && a->n_inside_if == b->n_inside_if &&
	       a->n_outside_if == b->n_outside_if && a->n_permits == b->n_permits &&
	       a->n_sources == b->n_sources && a->n_statics == b->n_statics &&
	       a->n_control == b->n_control &&
	       same_names(a->inside_if, b->inside_if, a->n_inside_if) &&
	       same_names(a->outside_if, b->outside_if, a->n_outside_if) &&
	       same_permits(a->permits, b->permits, a->n_permits) &&
	       fw_pools_same(a->pools, a->n_pools, b->pools, b->n_pools) &&
	       same_sources(a->sources, b->sources, a->n_sources) &&
	       same_statics(a->statics, b->statics, a->n_statics) &&
	       same_control(a->control, b->control, a->n_control);
}
