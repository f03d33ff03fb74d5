/*
 * The REST server both daemons share: routing, tokens, JSON replies,
 * problem+json errors. rest.c is the only file that knows libmicrohttpd.
 *
 * Listens on unix sockets (mode 0660) and TCP. TCP needs the bearer token
 * when one is configured; without a token only loopback is accepted and only
 * when `open_loopback` is set.
 */
#ifndef SLUICE_COMMON_REST_H
#define SLUICE_COMMON_REST_H

#include "common/buf.h"
#include "common/jsonw.h"
#include "common/loop.h"

struct rest;

struct rest_request {
	const char *method; /* "GET", "DELETE" */
	const char *path;
	const char *id; /* what stood for "{id}", NULL without */
	uint64_t after; /* ?after=, 0 default: cursor of a page */
	unsigned limit; /* ?limit=, 100 default, 1..1000 */
};

struct rest_reply {
	unsigned status;	  /* 200 preset */
	const char *content_type; /* "application/json" preset */
	struct buf body;
	struct jsonw json; /* writes into body */
};

typedef void (*rest_fn)(const struct rest_request *req, struct rest_reply *rep, void *arg);

/* A table of routes ends with a row whose method is NULL. */
struct rest_route {
	const char *method;
	const char *path; /* "/v1/rules", "/v1/rules/{id}" */
	rest_fn fn;
};

struct rest_conf {
	const char *const *listen; /* "unix:/path" or "addr:port" */
	size_t n_listen;
	const char *token; /* bearer token, NULL: none */
	bool open_loopback;
	unsigned max_connections; /* default 64 */
};

/* NULL on failure, after logging why. Borrows routes. */
struct rest *rest_new(struct loop *l, const struct rest_conf *conf, const struct rest_route *routes,
		      void *arg);
void rest_free(struct rest *r); /* NULL is fine; removes its unix sockets */

/* The local address of the i-th TCP listener (its port when 0 was asked for); version 0: unix. */
struct addr_port rest_local(const struct rest *r, size_t i);

#define REST_BODY_MAX (64u * 1024)	  /* octets of a request's body */
#define REST_REPLY_MAX (8u * 1024 * 1024) /* octets of a reply's body */

/* Turns the reply into application/problem+json (RFC 9457). */
void rest_problem(struct rest_reply *rep, unsigned status, const char *title, const char *fmt, ...)
	ATTR_PRINTF(4, 5);

#endif
