/*
 * A job as it is seen from outside: from its group's files, and from what its
 * supervisor tells (lib/job_status.h).  Nothing is changed, and nobody is kept waiting.
 *
 * Everything may change or end while it is looked at, and what the supervisor tells may
 * be damaged or newer: then a part is not known.
 */
#ifndef FREEZEPOINT_JOB_VIEW_H
#define FREEZEPOINT_JOB_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/cgroup.h"
#include "lib/err.h"
#include "lib/job_status.h"

enum job_state {
    JOB_UNKNOWN,  /* processes, and no word of a supervisor */
    JOB_STARTING, /* the program does not run yet */
    JOB_RUNNING,
    JOB_RESTORED, /* running, from an image */
    JOB_STOPPED,  /* its root process, by a signal */
    JOB_FROZEN,
    JOB_ORPHANED, /* the supervisor was killed, the program lives */
    JOB_ENDING,   /* no process is left */
};

const char *job_state_name(enum job_state state);

enum job_memory_source { JOB_MEMORY_UNKNOWN, JOB_MEMORY_GROUP, JOB_MEMORY_PSS, JOB_MEMORY_RSS };

struct job_view {
    const char *name;
    const Freezepoint__JobStatus *status; /* NULL: not known */
    const char *problem;                  /* why not, or NULL */
    enum job_state state;
    bool frozen;
    pid_t root; /* in our pid namespace; 0: not known, or none */
    size_t processes;
    enum job_memory_source memory_source;
    uint64_t memory_bytes;
    struct cgroup_pressure cpu, memory, io;
};

/* All of a view is gone when the visit returns.  Not 0 ends it, and is returned. */
typedef int job_visit(const struct job_view *view, void *context);

/* Every job, by name: those that somebody keeps alive, and those that have processes.
 * ERR_LACK where this user may not see them. */
int job_view_all(job_visit *visit, void *context, struct err *err);

#endif
