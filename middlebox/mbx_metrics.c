/*
 * The middlebox's figures as Prometheus text, format 0.0.4.
 */
#include "middlebox/mbx_int.h"

struct metric {
	const char *name, *type, *help;
	uint64_t value;
};

static void put(struct buf *b, const struct metric *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_printf(b,
			   "# HELP sluice_middlebox_%s %s\n# TYPE sluice_middlebox_%s %s\n"
			   "sluice_middlebox_%s %llu\n",
			   v[i].name, v[i].help, v[i].name, v[i].type, v[i].name,
			   (unsigned long long)v[i].value);
}

static void put_rules(struct buf *b, const struct core_stats *s)
{
	buf_printf(b,
		   "# HELP sluice_middlebox_rules Policy rules by state.\n"
		   "# TYPE sluice_middlebox_rules gauge\n"
		   "sluice_middlebox_rules{state=\"reserved\"} %llu\n"
		   "sluice_middlebox_rules{state=\"enabled\"} %llu\n"
		   "sluice_middlebox_rules{state=\"disabled\"} %llu\n",
		   (unsigned long long)s->reserved, (unsigned long long)s->enabled,
		   (unsigned long long)s->disabled);
}

/* A histogram: what a request waits for at most is the turn that runs and its own. */
static void put_turns(struct buf *b, const struct loop_turns *t)
{
	uint64_t sum = 0;

	buf_append_str(b, "# HELP sluice_middlebox_turn_seconds Turns of the event loop.\n"
			  "# TYPE sluice_middlebox_turn_seconds histogram\n");
	for (unsigned i = 0; i < LOOP_TURN_BOUNDS; i++) {
		sum += t->within[i];
		buf_printf(b, "sluice_middlebox_turn_seconds_bucket{le=\"%g\"} %llu\n",
			   loop_turn_bounds[i], (unsigned long long)sum);
	}
	buf_printf(b,
		   "sluice_middlebox_turn_seconds_bucket{le=\"+Inf\"} %llu\n"
		   "sluice_middlebox_turn_seconds_sum %.6f\n"
		   "sluice_middlebox_turn_seconds_count %llu\n",
		   (unsigned long long)t->n, (double)t->ns / 1e9, (unsigned long long)t->n);
}

static void put_features(struct buf *b, unsigned features)
{
	buf_append_str(b, "# HELP sluice_middlebox_kernel_feature Probed kernel features.\n"
			  "# TYPE sluice_middlebox_kernel_feature gauge\n");
	for (unsigned i = 0; mbx_feature_name(i) != NULL; i++)
		buf_printf(b, "sluice_middlebox_kernel_feature{feature=\"%s\"} %u\n",
			   mbx_feature_name(i), features >> i & 1);
}

void mbx_metrics(const struct mbx *m, struct buf *out)
{
	struct core_stats c = core_stats(m->core);
	struct fw_stats f = fw_stats(m->fw);
	struct loop_turns turns = loop_turns(m->loop);
	const struct metric v[] = {
		{"uptime_seconds", "gauge", "Seconds since the daemon started.",
		 (loop_now_ms(m->loop) - m->started_ms) / 1000},
		{"bindings", "gauge", "NAT bindings.", c.bindings},
		{"elements", "gauge", "Elements in the kernel's sets.", c.elements},
		{"requests_total", "counter", "SIMCO policy requests.", c.requests},
		{"requests_refused_total", "counter", "SIMCO policy requests refused.", c.refused},
		{"rules_expired_total", "counter", "Rules that reached their lifetime.", c.expired},
		{"connections", "gauge", "SIMCO connections.", m->n_conns},
		{"connections_total", "counter", "SIMCO connections accepted.",
		 m->counters.accepted},
		{"sessions_refused_total", "counter", "SIMCO sessions refused.",
		 m->counters.refused},
		{"sessions_cut_total", "counter", "Connections cut: half open or slow.",
		 m->counters.cut},
		{"protocol_errors_total", "counter", "Sessions ended by malformed input.",
		 m->counters.protocol_errors},
		{"kernel_installed", "gauge", "1 while our tables are in the kernel.", !m->lost},
		{"kernel_batches_total", "counter", "Netlink transactions.", f.batches},
		{"kernel_operations_total", "counter", "Operations in them.", f.ops},
		{"kernel_aborts_total", "counter", "Transactions the kernel aborted.", f.aborts},
		{"kernel_resubmits_total", "counter", "Transactions sent again after an abort.",
		 f.resubmits},
		{"kernel_refused_total", "counter", "Operations the kernel refused.", f.refused},
		{"kernel_conntrack_deletes_total", "counter",
		 "Connection tracking entries deleted.", f.conntrack_deletes},
		{"kernel_conntrack_dumps_total", "counter",
		 "Dumps of connection tracking, for wildcards.", f.dumps},
		{"kernel_reinstalls_total", "counter", "Tables installed again after a loss.",
		 f.reinstalls},
		{"kernel_enobufs_total", "counter", "Netlink messages lost.", f.enobufs},
	};

	put(out, v, ARRAY_LEN(v));
	put_rules(out, &c);
	put_turns(out, &turns);
	put_features(out, fw_features(m->fw));
}
