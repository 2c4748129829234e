/*
 * The text of a job's processes: whether breakpoints are in it.
 */
#ifndef FREEZEPOINT_TEXT_H
#define FREEZEPOINT_TEXT_H

#include <stddef.h>

#include "lib/err.h"
#include "trigger/target.h"

/*
 * Waits until no process of the group has a breakpoint at these places.  They must not
 * run meanwhile.  -EBUSY where one stays: it is somebody else's.
 */
int text_await_clean(int group_fd, const struct target *targets, size_t count, int timeout_ms,
                     struct err *err);

#endif
