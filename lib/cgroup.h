/*
 * The cgroup v2 hierarchy: finding it, a group for each job, its freezer.
 *
 * A group is named by an absolute path in the file system and used through a
 * directory descriptor, so that a renamed mount cannot lead elsewhere.
 * Reference: Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files".
 */
#ifndef FREEZEPOINT_CGROUP_H
#define FREEZEPOINT_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct cgroup {
    char path[PATH_MAX]; /* <mount>/freezepoint/NAME */
    int fd;              /* O_PATH-like directory descriptor, CLOEXEC; -1: none */
};

/* Where cgroup v2 is mounted, from /proc/self/mountinfo (the mount with the
 * whole hierarchy is preferred).  ERR_LACK where there is none. */
int cgroup_find_mount(char *path, size_t size, struct err *err);

/* Makes <mount>/freezepoint/NAME (EEXIST passes through where it exists and
 * holds processes; an empty left-over is removed first).  cgroup_release() closes only. */
int cgroup_make(const char *name, struct cgroup *out, struct err *err);
void cgroup_release(struct cgroup *group);

/* Opens <mount>/freezepoint/NAME where it is; -ENOENT where there is none. */
int cgroup_open(const char *name, struct cgroup *out, struct err *err);

/* Removes the group and groups below it, then the freezepoint directory if it
 * became empty.  EBUSY while processes are in it (waits a little for zombies
 * that are about to go). */
int cgroup_remove(const char *path, struct err *err);

/* Writes cgroup.freeze and waits until cgroup.events says so, at most
 * timeout_ms.  Split in two for callers that must do something in between. */
int cgroup_set_frozen(int group_fd, bool frozen, int timeout_ms, struct err *err);
int cgroup_write_freeze(int group_fd, bool frozen, struct err *err);
int cgroup_wait_frozen(int group_fd, bool frozen, int timeout_ms, struct err *err);

/* Waits until no process of it is left, at most timeout_ms. */
int cgroup_wait_empty(int group_fd, int timeout_ms, struct err *err);

/* 1: has live processes, 0: empty, or -errno. */
int cgroup_populated(int group_fd);

/* The processes of the group and of groups below it, in this process's pid
 * namespace.  *pids is malloc'ed.  Returns the count or -errno. */
ssize_t cgroup_processes(int group_fd, pid_t **pids, struct err *err);

/* Moves a process of the group to the group above, where it is frozen no more. */
int cgroup_put_above(int group_fd, pid_t pid, struct err *err);

/* SIGKILL for everything in it: cgroup.kill (5.14+). */
int cgroup_kill(int group_fd, struct err *err);

/* Opens cgroup.events for poll(POLLPRI); the caller's.  -errno on failure.  It
 * polls ready until it is read itself (fs/kernfs/file.c, kernfs_generic_poll). */
int cgroup_open_events(int group_fd);

/* As cgroup_populated(), read from what cgroup_open_events() opened. */
int cgroup_events_populated(int events_fd);

/* 1: frozen, 0: not, or -errno. */
int cgroup_frozen(int group_fd);

/* What its processes and their page cache occupy: memory.current.  -ENOENT where the
 * memory controller is not on in this hierarchy (on hybrid systems v1 has it). */
int cgroup_memory(int group_fd, uint64_t *bytes);

/* The part of the time (percent, over the last 10, 60 and 300 s) in which some or all of
 * the processes that had something to do waited for a resource, and the whole of it.
 * Documentation/accounting/psi.rst */
struct cgroup_stall {
    bool known; /* kernels before 5.13 have no "full" of cpu */
    double avg10, avg60, avg300;
    uint64_t total_us;
};

struct cgroup_pressure {
    struct cgroup_stall some, full;
};

/* Of "cpu", "memory" or "io"; not known where the kernel does not count it. */
void cgroup_pressure(int group_fd, const char *resource, struct cgroup_pressure *out);

#endif
