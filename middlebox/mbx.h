/*
 * The middlebox daemon around its core: one loop, one firewall, SIMCO
 * connections, REST. A turn of the loop is: read every ready session, then one
 * commit, then the replies.
 */
#ifndef SLUICE_MIDDLEBOX_MBX_H
#define SLUICE_MIDDLEBOX_MBX_H

#include "common/addr.h"
#include "common/loop.h"
#include "middlebox/policy.h"

struct mbx;

/* How the firewall is opened: fw_open(), or a fake in tests. */
typedef struct fw *(*mbx_fw_open_fn)(const struct fw_config *cfg, bool adopt, int *err);

struct mbx_opts {
	mbx_fw_open_fn fw_open; /* NULL: fw_open() */
	const char *file;	/* of the policy, for reloads; borrowed */
	unsigned fw_force_off;	/* FW_FEATURE_ bits treated as absent (tests) */
	unsigned fw_omit;	/* FW_RULE_ bits left out (tests) */
};

/* Opens everything and listens; NULL after logging. Takes policy, on failure too. */
struct mbx *mbx_new(struct loop *l, struct mbx_policy *policy, const struct mbx_opts *opts);
/* SIGHUP: parse, check, swap, or keep the old policy and log why. 0 or ERR_*. */
int mbx_reload(struct mbx *m);
/* The same, but the policy is read aside while the loop goes on. */
void mbx_reload_start(struct mbx *m);
/* AST to every session; then `done` is called, at the latest after half a second. */
void mbx_shutdown(struct mbx *m, loop_fn done, void *arg);
/* Rules live on in kernel and ledger unless `remove`. NULL is fine. */
void mbx_free(struct mbx *m, bool remove);

/* Where the i-th SIMCO listener is (its port when 0 was asked for). */
struct addr_port mbx_simco_local(const struct mbx *m, size_t i);

#endif
