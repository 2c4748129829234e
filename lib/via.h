/*
 * The command that reaches the other side of a migration, such as `ssh HOST freezepoint
 * receive`: run by sh, spoken to over its standard input and output; its error stream is
 * ours.  In our session and process group, so that it can ask for a password.
 */
#ifndef FREEZEPOINT_VIA_H
#define FREEZEPOINT_VIA_H

#include <sys/types.h>

#include "lib/err.h"

struct via {
    pid_t pid;   /* 0: none */
    int pidfd;   /* -1: none */
    int in, out; /* what it says, what it is told; CLOEXEC */
};

#define VIA_NONE ((struct via){.pid = 0, .pidfd = -1, .in = -1, .out = -1})

/* All signals are let through to it. */
int via_open(const char *command, struct via *out, struct err *err);

/* Ends what is said to it, gives it a moment, then kills it; reaps.  Safe on VIA_NONE. */
void via_close(struct via *via);

#endif
