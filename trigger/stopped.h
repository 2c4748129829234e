/*
 * Ending a stop by SIGSTOP without a trace of it in an image.
 *
 * SIGCONT ends a stop when it is sent; what happens to it then is another matter.  One
 * that stays pending, since it is caught or blocked and the process is frozen, would be
 * in the image, and CRIU cannot restore that: it queues the signal again for a process
 * that it traces, which traps (kernel/signal.c, prepare_signal() and
 * ptrace_trap_notify()).  So it is sent to a thread for which the kernel drops it; or,
 * where there is none, is taken back by a stop signal that has no effect.
 */
#ifndef FREEZEPOINT_STOPPED_H
#define FREEZEPOINT_STOPPED_H

#include <sys/types.h>

#include "lib/err.h"

/* Of a process of the frozen group, `tid` one of its threads.  `root` is the job's, in
 * whose process group nobody is stopped by a terminal's signals.  -ENOTSUP where SIGCONT
 * stays pending. */
int stopped_continue(pid_t pid, pid_t tid, pid_t root, struct err *err);

#endif
