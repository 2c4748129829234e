#include "lib/job_view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/job.h"
#include "lib/proc.h"

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_UNKNOWN] = "unknown",   [JOB_STARTING] = "starting", [JOB_RUNNING] = "running",
        [JOB_RESTORED] = "restored", [JOB_STOPPED] = "stopped",   [JOB_FROZEN] = "frozen",
        [JOB_ORPHANED] = "orphaned", [JOB_ENDING] = "ending",
    };
    return names[state];
}

struct pids {
    pid_t *list;
    size_t count;
};

static int compare_pids(const void *left, const void *right)
{
    pid_t a = *(const pid_t *)left, b = *(const pid_t *)right;
    return (a > b) - (a < b);
}

static bool is_among(const struct pids *pids, pid_t pid)
{
    return pids->count && bsearch(&pid, pids->list, pids->count, sizeof(pid), compare_pids);
}

/* Of the processes without a parent in the group the one that the supervisor told, while
 * it lives.  *state gets the letter of its state. */
static void find_root(const struct pids *pids, pid_t told, struct job_view *view, char *state)
{
    for (size_t i = 0; i < pids->count; i++) {
        struct proc_info info;
        struct err ignored;
        bool is_told = pids->list[i] == told;
        if ((view->root && !is_told) || proc_read(pids->list[i], &info, &ignored) ||
            is_among(pids, info.parent))
            continue;
        view->root = info.pid;
        *state = info.state;
    }
}

/*
 * The group's own count where the memory controller is on.  It holds the page cache that
 * the job has filled, too, but costs nothing.  Else the sum over the processes of what
 * each has present, with its part of what it shares (PSS): with the whole of that (RSS)
 * a server's workers would count its memory many times.  RSS where PSS is denied.
 */
static void measure_memory(const struct pids *pids, int group_fd, struct job_view *view)
{
    view->memory_source = JOB_MEMORY_GROUP;
    if (cgroup_memory(group_fd, &view->memory_bytes) == 0)
        return;
    view->memory_source = pids->count ? JOB_MEMORY_PSS : JOB_MEMORY_UNKNOWN;
    view->memory_bytes = 0;
    for (size_t i = 0; i < pids->count; i++) {
        struct proc_info info;
        struct err ignored;
        uint64_t bytes;
        int error = proc_pss(pids->list[i], &bytes);
        if (!error)
            view->memory_bytes += bytes;
        if (!error || error == -ESRCH || proc_read(pids->list[i], &info, &ignored))
            continue;
        view->memory_bytes += info.rss_bytes;
        view->memory_source = JOB_MEMORY_RSS;
    }
}

static enum job_state state_of(const struct job_view *view, char root_state)
{
    bool populated = view->processes > 0;
    if (!view->status)
        return view->frozen ? JOB_FROZEN : populated || view->problem ? JOB_UNKNOWN : JOB_STARTING;
    if (!job_status_is_alive(view->status))
        return populated ? JOB_ORPHANED : JOB_ENDING;
    if (!populated)
        return view->status->supervised ? JOB_ENDING : JOB_STARTING;
    if (view->frozen)
        return JOB_FROZEN;
    if (!view->status->supervised)
        return JOB_STARTING;
    if (root_state == 'T')
        return JOB_STOPPED;
    return view->status->restored_from[0] ? JOB_RESTORED : JOB_RUNNING;
}

static void look_at_group(int group_fd, struct job_view *view, char *root_state)
{
    struct err ignored;
    _cleanup_free_ pid_t *list = NULL;
    ssize_t count = cgroup_processes(group_fd, &list, &ignored);
    struct pids pids = {.list = list, .count = count > 0 ? (size_t)count : 0};
    if (pids.count)
        qsort(pids.list, pids.count, sizeof(*pids.list), compare_pids);
    view->processes = pids.count;
    view->frozen = cgroup_frozen(group_fd) > 0;
    find_root(&pids, view->status ? (pid_t)view->status->root_pid : 0, view, root_state);
    measure_memory(&pids, group_fd, view);
    cgroup_pressure(group_fd, "cpu", &view->cpu);
    cgroup_pressure(group_fd, "memory", &view->memory);
    cgroup_pressure(group_fd, "io", &view->io);
}

static int denied(const char *name, struct err *err)
{
    return err_lack(err, "what is in '" JOB_RUNTIME_ROOT "/%s' is for root alone; run it with sudo",
                    name);
}

static int visit_existing(const char *name, int directory_fd, const struct cgroup *group,
                          job_visit *visit, void *context, struct err *err)
{
    struct err problem;
    Freezepoint__JobStatus *status = NULL;
    struct job_view view = {.name = name};
    char root_state = 0;
    int error = job_status_read(directory_fd, &status, &problem);
    if (error == -EACCES)
        return denied(name, err);
    view.status = status;
    view.problem = error && error != -ENOENT ? problem.text : NULL;
    if (group->fd >= 0)
        look_at_group(group->fd, &view, &root_state);
    view.state = state_of(&view, root_state);
    error = visit(&view, context);
    if (status)
        freezepoint__job_status__free_unpacked(status, NULL);
    return error;
}

static int visit_name(int root_fd, const char *name, job_visit *visit, void *context,
                      struct err *err)
{
    struct err ignored;
    _cleanup_(cgroup_release) struct cgroup group = {.fd = -1};
    _cleanup_close_ int directory_fd =
        openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory_fd < 0)
        return 0; /* it has just ended, or is something else */
    cgroup_open(name, &group, &ignored);
    if (group.fd < 0 || cgroup_populated(group.fd) <= 0) {
        int claimed = job_is_claimed(directory_fd);
        if (claimed == -EACCES)
            return denied(name, err);
        if (claimed <= 0)
            return 0;
    }
    return visit_existing(name, directory_fd, &group, visit, context, err);
}

int job_view_all(job_visit *visit, void *context, struct err *err)
{
    _cleanup_(job_names_free) struct job_names names = {0};
    _cleanup_close_ int root_fd = open(JOB_RUNTIME_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return errno == ENOENT ? 0 : err_set(err, errno, "open '" JOB_RUNTIME_ROOT "'");
    int error = job_names_list(root_fd, &names);
    if (error)
        return err_set(err, -error, "read '" JOB_RUNTIME_ROOT "'");
    for (int i = 0; i < names.count && !error; i++)
        error = visit_name(root_fd, names.list[i]->d_name, visit, context, err);
    return error;
}
