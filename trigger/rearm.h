/*
 * The other end of the shim's re-arming (preload/abi.h): a restored process sends
 * the listener of its new filter.
 */
#ifndef FREEZEPOINT_REARM_H
#define FREEZEPOINT_REARM_H

#include <stdbool.h>

#include "lib/err.h"
#include "lib/job.h"

/* Serves one connection on the job's socket.  Returns the listener (CLOEXEC, the
 * caller's), -EAGAIN where nobody is waiting, or -errno.  Only processes of the
 * job are heard; each has a second to speak. */
int rearm_accept(const struct job *job, struct err *err);

/* Whether somebody waits for rearm_accept(): while the group is frozen, whether a
 * process is in the midst of it, with a connection and perhaps a listener that
 * CRIU cannot dump. */
bool rearm_is_under_way(const struct job *job);

#endif
