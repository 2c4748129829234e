/*
 * What this machine can do for freezepoint, found out by doing it: no version is
 * compared and no capability bit is read.
 *
 * Each probe runs in a process of its own, so that the filters, namespaces and
 * breakpoints that it tries end with it.  It is bounded, and takes away whatever
 * it has made before it answers.  Nothing is kept between calls.  Forks: call
 * from a single-threaded process that does not reap children behind one's back.
 */
#ifndef FREEZEPOINT_PROBE_H
#define FREEZEPOINT_PROBE_H

#include <stdbool.h>

enum probe_status {
    PROBE_OK,
    PROBE_LIMITED, /* works, but not all of it, or not well */
    PROBE_MISSING,
};

struct probe_result {
    enum probe_status status;
    char found[1024]; /* one line: what is there, or how it failed */
    char remedy[512]; /* what to do about it; empty where the status is PROBE_OK */
};

struct probe {
    const char *name;
    bool needed; /* by `run` and `restore`; the others by single options of theirs */
    int timeout_ms;
    const char *lost; /* what does not work without it */
    void (*perform)(struct probe_result *result);
};

extern const struct probe probes[]; /* ended by a NULL name */

/* Always fills *out; a probe that crashes or overruns its time is PROBE_MISSING. */
void probe_run(const struct probe *probe, struct probe_result *out);

/* "ok", "limited", "missing". */
const char *probe_status_name(enum probe_status status);

/*
 * Whether CRIU can dump a process of another user than ours.  It reads every
 * target's limits with prlimit(2) (criu/cr-dump.c, dump_task_rlimits), which
 * takes equal user ids or CAP_SYS_RESOURCE (kernel/sys.c,
 * check_prlimit_permission).  One fork, well under a millisecond.  0, -EPERM
 * where it cannot, or another -errno where no such process could be made.
 */
int probe_other_user_dump(void);

#endif
