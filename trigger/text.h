/*
 * The text of a job's processes: whether breakpoints are in it.
 */
#ifndef FREEZEPOINT_TEXT_H
#define FREEZEPOINT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"
#include "trigger/target.h"

struct text_wait {
    int group_fd;
    const struct target *targets;
    size_t count;
    int timeout_ms;
    /* Whether our own breakpoints are certainly gone. */
    bool (*ours_are_gone)(void *context);
    void *context;
};

/*
 * Waits until no process of the group has a breakpoint at these places.  They must not
 * run meanwhile.
 *
 * What stays when our own are gone is another job's or a tracer's, whose uprobe the kernel
 * sets in every process that maps the file.  It is taken out by hand, with what it counts
 * in a semaphore, and *others gets true: the processes have it again once any uprobe is
 * set at its place.  Should the other be taken away before that, the kernel finds nothing
 * to do here (kernel/events/uprobes.c, verify_opcode()).
 */
int text_await_clean(const struct text_wait *wait, bool *others, struct err *err);

/*
 * The probes are set, in processes that have just been restored and do not run yet.  The
 * kernel counted a semaphore up when its text was mapped, if another's probe was there
 * already, and then it got the image's memory: those that are too low are put right.
 */
void text_settle_semaphores(int group_fd, const struct target *targets, size_t count);

#endif
