/*
 * Command line, signals, and the way from a policy file to a running middlebox.
 */
#include "middlebox/daemon.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/errcode.h"
#include "common/log.h"
#include "common/notify.h"
#include "config.h"
#include "middlebox/mbx.h"

#define DEFAULT_FILE SYSCONFDIR "/sluice/middlebox.json"

struct daemon {
	struct loop *loop;
	struct mbx *mbx;
};

struct arguments {
	const char *file;
	bool check, remove;
	unsigned force_off, omit, watch;
};

static void usage(FILE *to)
{
	fputs("usage: sluice-middlebox [--remove] [[-c] FILE]\n"
	      "       sluice-middlebox --check [FILE]\n"
	      "       sluice-middlebox --schema | --version | --help\n"
	      "\n"
	      "FILE is the policy, " DEFAULT_FILE " by default. The middlebox stays in the\n"
	      "foreground and logs to stderr. With --remove it takes its nftables table and\n"
	      "every rule away when it ends; otherwise they live on.\n",
	      to);
}

static int check_file(const char *file)
{
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	int rc = mbx_policy_load(file, &p, &errs);

	if (rc != 0)
		conf_errors_print(&errs, stderr);
	else
		printf("%s: ok\n", file);
	conf_errors_fini(&errs);
	mbx_policy_free(p);
	return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void on_reload(void *arg)
{
	struct daemon *d = arg;

	mbx_reload_start(d->mbx);
}

static void on_done(void *arg)
{
	struct daemon *d = arg;

	loop_stop(d->loop);
}

static void on_end(void *arg)
{
	struct daemon *d = arg;

	log_info("ending");
	mbx_shutdown(d->mbx, on_done, d);
}

static int run_loop(struct daemon *d)
{
	if (loop_signal(d->loop, SIGTERM, on_end, d) != 0 ||
	    loop_signal(d->loop, SIGINT, on_end, d) != 0 ||
	    loop_signal(d->loop, SIGHUP, on_reload, d) != 0) {
		log_err("start: cannot watch signals");
		return EXIT_FAILURE;
	}
	notify_ready("serving");
	log_info("sluice-middlebox " PACKAGE_VERSION " is serving");
	loop_run(d->loop);
	return EXIT_SUCCESS;
}

static int run(const struct arguments *args)
{
	struct mbx_opts opts = {
		.file = args->file, .fw_force_off = args->force_off, .fw_omit = args->omit};
	struct conf_errors errs = {0};
	struct mbx_policy *p = NULL;
	struct daemon d = {0};
	int rc = EXIT_FAILURE;

	if (mbx_policy_load(args->file, &p, &errs) != 0)
		conf_errors_print(&errs, stderr);
	conf_errors_fini(&errs);
	if (p == NULL)
		return EXIT_FAILURE;
	d.loop = loop_new();
	if (d.loop != NULL)
		d.mbx = mbx_new(d.loop, p, &opts);
	else
		mbx_policy_free(p);
	if (d.mbx != NULL && args->watch > 0)
		loop_watch(d.loop, args->watch);
	if (d.mbx != NULL)
		rc = run_loop(&d);
	mbx_free(d.mbx, args->remove);
	loop_free(d.loop);
	return rc;
}

static bool number(const char *text, unsigned *out)
{
	uint64_t v;

	if (span_u64(span_str(text), UINT32_MAX, &v) != 0)
		return false;
	*out = (unsigned)v;
	return true;
}

enum {
	OPT_CHECK = 256,
	OPT_SCHEMA,
	OPT_VERSION,
	OPT_HELP,
	OPT_REMOVE,
	OPT_FOREGROUND,
	OPT_OFF,
	OPT_OMIT,
	OPT_WATCH
};

/* The last three are for tests: what to do without, and what turn is long (us of CPU time). */
static const struct option options[] = {
	{"check", no_argument, NULL, OPT_CHECK},
	{"schema", no_argument, NULL, OPT_SCHEMA},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{"remove", no_argument, NULL, OPT_REMOVE},
	{"foreground", no_argument, NULL, OPT_FOREGROUND},
	{"test-force-off", required_argument, NULL, OPT_OFF},
	{"test-omit", required_argument, NULL, OPT_OMIT},
	{"test-turns", required_argument, NULL, OPT_WATCH},
	{NULL, 0, NULL, 0},
};

/* -1: go on; otherwise the exit status. */
static int take_option(int opt, struct arguments *args)
{
	switch (opt) {
	case 'c':
		args->file = optarg;
		return -1;
	case OPT_CHECK:
		args->check = true;
		return -1;
	case OPT_REMOVE:
		args->remove = true;
		return -1;
	case OPT_FOREGROUND:
		return -1;
	case OPT_OFF:
		return number(optarg, &args->force_off) ? -1 : EXIT_FAILURE;
	case OPT_OMIT:
		return number(optarg, &args->omit) ? -1 : EXIT_FAILURE;
	case OPT_WATCH:
		return number(optarg, &args->watch) ? -1 : EXIT_FAILURE;
	case OPT_SCHEMA:
		conf_schema_print(mbx_policy_schema(), "Policy of sluice-middlebox", stdout);
		return EXIT_SUCCESS;
	case OPT_VERSION:
		puts("sluice-middlebox " PACKAGE_VERSION);
		return EXIT_SUCCESS;
	case OPT_HELP:
		usage(stdout);
		return EXIT_SUCCESS;
	default:
		usage(stderr);
		return EXIT_FAILURE;
	}
}

int mbx_daemon(int argc, char **argv)
{
	struct arguments args = {.file = DEFAULT_FILE};
	int opt, status;

	while ((opt = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		status = take_option(opt, &args);
		if (status >= 0)
			return status;
	}
	if (optind < argc)
		args.file = argv[optind++];
	if (optind < argc) {
		usage(stderr);
		return EXIT_FAILURE;
	}
	return args.check ? check_file(args.file) : run(&args);
}
