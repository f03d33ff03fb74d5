/*
 * Command line, signals, and the life of the process.
 */
#include "agent/daemon.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/agent.h"
#include "common/log.h"
#include "common/notify.h"
#include "config.h"

#define POLICY_FILE SYSCONFDIR "/sluice/agent.json"

struct daemon {
	struct loop *loop;
	struct agent *agent;
	struct loop_timer *watchdog;
	const char *file;
};

static void usage(FILE *to)
{
	fprintf(to, "usage: sluice-agent [[-c] FILE]\n"
		    "       sluice-agent --check [FILE]\n"
		    "       sluice-agent --schema | --version | --help\n"
		    "\n"
		    "FILE is the policy, " POLICY_FILE " by default. --check names every error\n"
		    "in it and exits; --schema prints the JSON Schema of policies.\n"
		    "\n"
		    "\n"
		    "SIGHUP reads the policy again; SIGTERM and SIGINT end every session first.\n");
}

/* 2 with every finding on stderr when it is bad. */
static int load(const char *file, struct policy **p)
{
	struct conf_errors errs = {.n = 0};
	int err = policy_load(file, p, &errs);

	conf_errors_print(&errs, stderr);
	conf_errors_fini(&errs);
	return err ? 2 : 0;
}

static int check(const char *file)
{
	struct policy *p = NULL;
	int status = load(file, &p);

	if (!status)
		printf("%s: ok\n", file);
	policy_free(p);
	return status;
}

static void on_hup(void *arg)
{
	struct daemon *d = arg;

	agent_reload(d->agent, d->file);
}

static void on_stopped(void *arg)
{
	struct daemon *d = arg;

	loop_stop(d->loop);
}

static void on_term(void *arg)
{
	struct daemon *d = arg;

	agent_shutdown(d->agent, on_stopped, d);
}

static void on_watchdog(void *arg)
{
	struct daemon *d = arg;

	notify_watchdog();
	loop_timer_set(d->watchdog, notify_watchdog_ms() / 2);
}

/* 0 when signals and the watchdog are looked after. */
static int watch(struct daemon *d)
{
	d->watchdog = loop_timer_new(d->loop, on_watchdog, d);
	if (!d->watchdog || loop_signal(d->loop, SIGHUP, on_hup, d) ||
	    loop_signal(d->loop, SIGTERM, on_term, d) || loop_signal(d->loop, SIGINT, on_term, d))
		return 1;
	if (notify_watchdog_ms())
		loop_timer_set(d->watchdog, notify_watchdog_ms() / 2);
	return 0;
}

static int run(const char *file)
{
	struct daemon d = {.file = file};
	struct policy *p = NULL;
	int status = load(file, &p);

	if (status)
		return status;
	signal(SIGPIPE, SIG_IGN);
	d.loop = loop_new();
	if (!d.loop) {
		policy_free(p);
		return 1;
	}
	d.agent = agent_new(d.loop, p);
	status = d.agent ? watch(&d) : 1;
	if (!status) {
		log_info("agent: %s %s with %s", d.agent->policy->identity, PACKAGE_VERSION, file);
		notify_ready("running");
		loop_run(d.loop);
		log_info("agent: stopped");
	}
	loop_timer_free(d.watchdog);
	agent_free(d.agent);
	loop_free(d.loop);
	return status;
}

int agent_daemon(int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'C'},
		{"schema", no_argument, NULL, 'S'},	  {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},	  {NULL, 0, NULL, 0},
	};
	const char *file = NULL;
	bool only_check = false;
	int c;

	while ((c = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			file = optarg;
			break;
		case 'C':
			only_check = true;
			break;
		case 'S':
			conf_schema_print(policy_schema(), "sluice-agent", stdout);
			return 0;
		case 'V':
			printf("sluice-agent %s\n", PACKAGE_VERSION);
			return 0;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind < argc && !file)
		file = argv[optind++];
	if (optind < argc) {
		usage(stderr);
		return 2;
	}
	if (!file)
		file = POLICY_FILE;
	return only_check ? check(file) : run(file);
}
