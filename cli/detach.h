/*
 * `--detach`: the supervisor goes on in the background; the process that the user
 * started waits only until the program runs.
 */
#ifndef FREEZEPOINT_DETACH_H
#define FREEZEPOINT_DETACH_H

#include "lib/err.h"

/* Both sides of the pipe between them; -1: not used. */
struct detach {
    int report_fd; /* in the background */
};

/*
 * Forks.  In the foreground process it does not return: it waits for the report,
 * prints its line and exits with 0 or, where the background process ended without
 * one, with 125.  In the background it returns 0 in a session of its own, with
 * /dev/null as its input; its error stream is still the user's.
 */
int detach_fork(struct detach *detach, struct err *err);

/* From now on output and errors go to the file log_fd; `line` is what the
 * foreground prints before it exits with 0. */
int detach_report(struct detach *detach, int log_fd, const char *line, struct err *err);

#endif
