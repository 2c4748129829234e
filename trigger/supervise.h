/*
 * The supervisor: one event loop over the program's notifications, its end,
 * freezepoint's own signals, re-arming processes and the disk.
 */
#ifndef FREEZEPOINT_SUPERVISE_H
#define FREEZEPOINT_SUPERVISE_H

#include <signal.h>

#include "lib/err.h"
#include "trigger/supervision.h"

struct supervise_result {
    int wait_status;      /* of the program, as waitpid(2) gives it */
    bool stopped;         /* a checkpoint with then_stop ended it */
    uint64_t checkpoints; /* images made */
    uint64_t failures;    /* checkpoints that failed */
    uint64_t hellos;      /* processes that announced the shim */
};

/* The signals that the supervisor takes over; to be blocked before the first
 * thread and child.  A signal that was ignored at start (nohup) is left out. */
void supervise_signals(sigset_t *set);

/*
 * Returns 0 once no process of the job is left, or -errno where supervision
 * itself broke down (the job may live on then).  `signal_fd` delivers
 * supervise_signals().  The job's probes are taken away by then.
 */
int supervise(struct supervision *job, int signal_fd, struct supervise_result *out,
              struct err *err);

#endif
