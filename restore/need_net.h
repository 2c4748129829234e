/*
 * The ports, addresses and interfaces that a job needs where it is to run.
 */
#ifndef FREEZEPOINT_NEED_NET_H
#define FREEZEPOINT_NEED_NET_H

#include <sys/types.h>

#include "lib/err.h"
#include "migrate.pb-c.h"
#include "restore/refusal.h"

/* The source's side: fills need->ports, local and connections, to be freed with
 * need_net_free(), also after a failure.  -ENOTCONN where a connection leads to another
 * program of this host, over its loopback interface: that one cannot come along. */
int need_net_gather(const pid_t *pids, size_t count, Freezepoint__Stream__Need *need,
                    struct err *err);
void need_net_free(Freezepoint__Stream__Need *need);

/* The target's side.  `device` is where addresses that come along are brought up, or NULL. */
void need_net_check(const Freezepoint__Stream__Need *need, const char *device,
                    struct refusals *refusals);

/* Whether packets can be kept away here, where that is needed.  `id` is the migration's. */
void need_net_check_fence(const Freezepoint__Stream__Need *need, const char *id,
                          struct refusals *refusals);

#endif
