/*
 * A text that is shown again and again: in place on a terminal, one after the other
 * elsewhere.  Ends with ^C, and when nobody reads any more.
 */
#ifndef FREEZEPOINT_WATCH_H
#define FREEZEPOINT_WATCH_H

#include <stdbool.h>
#include <stdio.h>

#include "lib/err.h"

struct watch {
    /* Writes the text as it is now; -errno ends it. */
    int (*compose)(FILE *to, void *context, struct err *err);
    void *context;
    int interval_ms;
    bool in_place;         /* where standard output is a terminal that can */
    const char *separator; /* between two texts, where not in place */
};

/* Takes standard output and the signals that end it for itself.  0, or -errno; another
 * signal than ^C ends the process, after the terminal has been put right. */
int watch_run(const struct watch *watch, struct err *err);

#endif
