/*
 * A process beside us that ends a trial where we are killed: what the program has
 * started would run on, or stand frozen, in a group that nobody removes.
 */
#ifndef FREEZEPOINT_TRIAL_GUARD_H
#define FREEZEPOINT_TRIAL_GUARD_H

#include <sys/types.h>

#include "lib/err.h"
#include "trigger/trial.h"

struct trial_guard {
    pid_t pid; /* a child of ours; 0: none */
    int fd;    /* our end: closed unsaid, it is our death; -1: none */
};

#define TRIAL_GUARD_NONE ((struct trial_guard){.fd = -1})

int trial_guard_start(const struct trial *trial, struct trial_guard *out, struct err *err);

/* The trial has ended.  Safe on TRIAL_GUARD_NONE. */
void trial_guard_end(struct trial_guard *guard);

#endif
