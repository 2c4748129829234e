/*
 * Running a program only to watch it: in a group of its own, with the caller's streams,
 * held before its first instruction until its watchers are ready.
 */
#ifndef FREEZEPOINT_TRIAL_H
#define FREEZEPOINT_TRIAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "lib/cgroup.h"
#include "lib/err.h"

struct trial {
    struct cgroup group;
    pid_t child;   /* ours: the program, or the init of its namespaces */
    pid_t program; /* what is going to be the program */
    int pidfd;     /* of child; -1: none */
    int go;        /* closing it ends what is still held */
    int failed;    /* tells why it could not be executed */
};

#define TRIAL_NONE ((struct trial){.group.fd = -1, .pidfd = -1, .go = -1, .failed = -1})

struct trial_plan {
    const char *path;
    char *const *argv;
    bool own_namespaces;   /* of processes and mounts */
    bool output_to_errors; /* its stream 1 is our 2 */
};

int trial_hold(const struct trial_plan *plan, struct trial *out, struct err *err);

/* Lets it go on to its execve(2), whose error is returned, *exec_failed set. */
int trial_go(struct trial *trial, bool *exec_failed, struct err *err);

/* SIGTERM for what is left of it, SIGKILL for what ignores that; removes the group.
 * Safe on TRIAL_NONE. */
int trial_end(struct trial *trial, struct err *err);

#endif
