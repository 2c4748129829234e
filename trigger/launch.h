/*
 * Starting the program: a child born in the job's group, with its own session,
 * the filter installed and the shim in LD_PRELOAD.
 */
#ifndef FREEZEPOINT_LAUNCH_H
#define FREEZEPOINT_LAUNCH_H

#include <linux/filter.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"

struct launch {
    const char *path;        /* what to exec */
    char *const *argv;       /* NULL-terminated; argv[0] as the user gave it */
    const char *preload;     /* the library's path */
    int group_fd;            /* cgroup v2 directory to be born in */
    const int *streams;      /* three descriptors that become 0, 1, 2 */
    const char *terminal;    /* the pty slave that becomes the controlling terminal, or NULL */
    const sigset_t *signals; /* the mask to restore */
    const struct sock_filter *filter;
    size_t filter_length;
};

struct launched {
    pid_t pid;
    int pidfd;    /* CLOEXEC, the caller's */
    int listener; /* CLOEXEC, the caller's */
};

/*
 * Returns once the program has been exec'ed.  Where that failed the error is
 * -ENOENT, -EACCES, ... of execve(2), and *exec_failed is true; nothing runs then.
 */
int launch_start(const struct launch *launch, struct launched *out, bool *exec_failed,
                 struct err *err);

#endif
