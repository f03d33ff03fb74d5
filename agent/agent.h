/*
 * The agent's context: what every module of it is given. No module reaches for
 * a global.
 */
#ifndef SLUICE_AGENT_AGENT_H
#define SLUICE_AGENT_AGENT_H

#include "agent/binding.h"
#include "agent/policy.h"
#include "common/loop.h"
#include "common/rest.h"

struct mb_clients; /* agent/mb_client.h: SIMCO sessions to the middleboxes */
struct rtsp;	   /* agent/rtsp/rtsp.h */

struct agent {
	struct loop *loop;
	struct policy *policy; /* replaced on reload */
	struct mb_clients *middleboxes;
	struct bindings *bindings;
	struct rtsp *rtsp;
	struct rest *rest;
	uint64_t started_ms;
	char *rest_token;
	/*
	 * Policies of before, newest first: sessions that began under one keep
	 * pointing into it.
	 */
	struct old_policy {
		struct policy *policy;
		struct old_policy *next;
	} * old;
	uint64_t reloads, refused_reloads;
	/* Shutting down: */
	bool stopping, sessions_done;
	struct loop_timer *stop_timer;
	uint64_t stop_ms; /* latest end */
	loop_fn stopped;
	void *stopped_arg;
};

/* What is known about a path's middleboxes right now (for out=auto and early failures). */
struct path_state {
	bool up;	  /* every middlebox of the path has an OPEN session */
	bool translates;  /* at least one of them is a NAT for this IP version */
	const char *down; /* name of the first one that is not up, or NULL */
};
struct path_state agent_path_state(const struct agent *a, const struct path *path,
				   uint8_t ip_version);

/* Builds everything from the policy and opens the listeners; NULL after logging. Takes policy. */
struct agent *agent_new(struct loop *l, struct policy *policy);
/* SIGHUP: parse, check, swap, or keep the old and log why. */
void agent_reload(struct agent *a, const char *file);
/*
 * SIGTERM: TEARDOWN and release everything; `done` is called when that is
 * finished or after 5 s.
 */
void agent_shutdown(struct agent *a, loop_fn done, void *arg);
void agent_free(struct agent *a);

#endif
