/*
 * The other end of the shim's re-arming (preload/abi.h): a restored process sends
 * the listener of its new filter.
 */
#ifndef FREEZEPOINT_REARM_H
#define FREEZEPOINT_REARM_H

#include "lib/err.h"
#include "lib/job.h"

/* The next process of the job that connects to its socket: a connection (CLOEXEC, the
 * caller's), -EAGAIN where there is none, or -errno.  Anybody else is turned away.
 * While the group is frozen such a process is in the midst of re-arming itself, with
 * the connection and perhaps a listener that CRIU cannot dump. */
int rearm_accept(const struct job *job, struct err *err);

/* Hears it, at most a second: the listener (CLOEXEC, the caller's), or -errno. */
int rearm_serve(int connection, struct err *err);

#endif
