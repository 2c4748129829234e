/*
 * A job: one supervised program with everything that it has outside itself:
 *   <cgroup v2>/freezepoint/NAME     its processes
 *   /run/freezepoint/NAME/           lock, control.sock (re-arming), request.sock
 *                                    (other freezepoint processes), status
 *   /run/freezepoint/.log/NAME/      what outlives it: CRIU's log of the last restore
 *                                    and of the last failed dump, a detached job's output
 *   /run/freezepoint/.preload/HASH.so  the preload library; kept until reboot, since
 *                                    images map it by that path.  In
 *                                    /var/cache/freezepoint/ where /run is noexec.
 *
 * The lock (flock on NAME/lock) is held by whoever keeps the job alive: the
 * supervisor and its keeper, which share the open file.
 */
#ifndef FREEZEPOINT_JOB_H
#define FREEZEPOINT_JOB_H

#include <limits.h>
#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/cgroup.h"
#include "lib/err.h"

#define JOB_RUNTIME_ROOT "/run/freezepoint"
#define JOB_LOG_ROOT     JOB_RUNTIME_ROOT "/.log"
/* For the preload library, where JOB_RUNTIME_ROOT is mounted noexec. */
#define JOB_PRELOAD_FALLBACK "/var/cache/freezepoint/preload"
#define JOB_REQUEST_SOCKET   "request.sock"
#define JOB_NAME_MAX         64

struct job {
    char name[JOB_NAME_MAX + 1];
    char runtime_path[PATH_MAX];
    char socket_path[108];
    struct cgroup group;
    int lock_fd;
    int socket_fd;  /* listening SEQPACKET, non-blocking */
    int request_fd; /* likewise, for root alone (lib/request.h) */
};

/* Letters, digits and "._+-", not starting with a punctuation mark. */
bool job_name_is_valid(const char *name);

/* The entries of a directory that are such names, sorted; freed with job_names_free().
 * 0 or -errno. */
struct job_names {
    struct dirent **list;
    int count;
};

int job_names_list(int directory_fd, struct job_names *out);
void job_names_free(struct job_names *names);

/* Claims the name and makes all of the above.  -EEXIST (ERR_FAILED) where a
 * running job has the name. */
int job_create(const char *name, struct job *out, struct err *err);

/* As job_create() with NAME, NAME.2, NAME.3 ... : the first that is free. */
int job_create_any(const char *name, struct job *out, struct err *err);

/* Takes away group, runtime directory and lock, and closes.  The group must be
 * empty.  Zeroed or released jobs are ignored. */
int job_destroy(struct job *job, struct err *err);

/* Closes the descriptors alone. */
void job_release(struct job *job);

/* Whether anybody keeps the job of that runtime directory alive: 1, 0 or -errno. */
int job_is_claimed(int directory_fd);

/* Whether programs here can map it from that path, before it is there; errors as above. */
int job_check_preload_place(const char *path, struct err *err);

#define JOB_NONE ((struct job){.group.fd = -1, .lock_fd = -1, .socket_fd = -1, .request_fd = -1})

/*
 * Makes the job's group anew, once nothing runs in it.  Needed after cgroup_kill():
 * a process that is cloned into a group which was ever killed dies at once, since
 * the kernel compares the group's count of kills with that of the parent's group
 * (kernel/cgroup/cgroup.c, cgroup_css_set_fork() and cgroup_post_fork()).
 */
int job_renew_group(struct job *job, struct err *err);

/* Makes the directory of what outlives a job's end; `path` gets it. */
int job_make_log_directory(const char *name, char *path, size_t size, struct err *err);

/* Writes the library where programs can map it, under its hash, unless it is there
 * with the same bytes; `path` gets where. */
int job_place_preload(const char *hash, const void *bytes, size_t size, char *path,
                      size_t path_size, struct err *err);

/* The same for an image's library, which its processes have mapped from `path`:
 * -EINVAL where that is no place of ours, ERR_LACK where it is mounted noexec. */
int job_put_back_preload(const char *path, const void *bytes, size_t size, struct err *err);

#endif
