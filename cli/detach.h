/*
 * `--detach`, and `receive`: the supervisor goes on in the background; the process that
 * the user started waits only until the program runs.
 */
#ifndef FREEZEPOINT_DETACH_H
#define FREEZEPOINT_DETACH_H

#include <stddef.h>

#include "cli/session.h"
#include "lib/err.h"

/* Both sides of the pipe between them; -1: not used. */
struct detach {
    int report_fd; /* in the background */
    /* Where not NULL: called by the foreground process every tick_ms while it waits, from
     * detach_tick() on. */
    void (*tick)(void);
    int tick_ms;
    /* Where not NULL: called by the foreground process where the other one was killed
     * before it could report. */
    void (*abandoned)(void *context);
    void *context;
};

/*
 * Forks.  In the foreground process it does not return: it waits for the report,
 * prints its line and exits with 0 or, where the background process ended without
 * one, with its status, or 125 where that has none.  In the background it returns 0 in a
 * session of its own, with
 * /dev/null as its input; its error stream is still the user's.
 */
int detach_fork(struct detach *detach, struct err *err);

/* In the background. */
void detach_tick(const struct detach *detach);

/* From now on output and errors go to the file log_fd; `line` is what the
 * foreground prints before it exits with 0. */
int detach_report(struct detach *detach, int log_fd, const char *line, struct err *err);

/* Where a program's output goes that runs in the background, and what freezepoint has to
 * say later. */
struct detached_log {
    char path[PATH_MAX];
    int fd; /* -1: none */
};

/* Of the claimed job; becomes the session's output and error stream. */
int detached_log_open(struct detached_log *log, struct session *session, struct err *err);

/* What there is to say when it runs. */
void detached_log_line(const struct detached_log *log, const struct session *session, char *line,
                       size_t size);

#endif
