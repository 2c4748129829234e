/*
 * Running a helper program to its end and taking its output.  Blocks the caller,
 * bounded; nothing is left running afterwards.
 */
#ifndef FREEZEPOINT_SPAWN_H
#define FREEZEPOINT_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"

/*
 * Runs argv[0] (a path, not searched for) with /dev/null as its input and error
 * stream and gathers up to size-1 bytes of its output, NUL-terminated.  Killed
 * after timeout_ms.  Returns the number of bytes; -ETIMEDOUT; -ECHILD where it
 * did not exit with 0; or another -errno.
 */
ssize_t spawn_capture(char *const argv[], int timeout_ms, char *output, size_t size,
                      struct err *err);

#endif
