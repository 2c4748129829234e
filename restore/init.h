/*
 * The mini-init of a restored tree: pid 1 of a fresh pid and mount namespace,
 * outside the job's group.  It starts CRIU inside that group, becomes the parent
 * of what CRIU restores (rst_sibling), reaps, forwards signals, and tells the
 * supervisor how the program ended.  It lives on when the supervisor dies, and
 * the tree ends with it.
 */
#ifndef FREEZEPOINT_INIT_H
#define FREEZEPOINT_INIT_H

#include <sys/types.h>

#include "lib/criu.h"
#include "lib/err.h"

struct init_request {
    const char *criu;
    int group_fd;       /* cgroup v2 directory that CRIU and the tree are born in */
    int work_fd;        /* directory for CRIU's log and statistics */
    pid_t root;         /* the tree's root, as the image numbers it */
    pid_t max_pid;      /* the highest number that the image needs */
    const int *streams; /* descriptors for CRIU to inherit, under these numbers */
    size_t stream_count;
};

struct init {
    pid_t pid; /* a child of ours */
    int pidfd;
    int socket;  /* carries the program's wait status (an int) when it ends; then end of file */
    int work_fd; /* its number in the mini-init, for CRIU's work_dir_fd */
    struct criu_worker worker; /* a child of the mini-init: never to be waited for */
};

#define INIT_NONE                                                                                  \
    ((struct init){.pidfd = -1, .socket = -1, .work_fd = -1, .worker = CRIU_WORKER_NONE})

/* Starts it, and CRIU in it; both go on by themselves. */
int init_start(const struct init_request *request, struct init *out, struct err *err);

/* Waits until CRIU is being started: out->worker. */
int init_await_worker(struct init *init, struct err *err);

/* Kills the mini-init and with it the tree; closes. Safe on INIT_NONE. */
void init_kill(struct init *init);

/* Closes descriptors alone: the tree lives on. */
void init_release(struct init *init);

#endif
