#include "trigger/describe.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "preload/abi.h"
#include "trigger/carry.h"
#include "trigger/manifest_fill.h"

#define RESTORER_END_MS 5000

static void read_line(const char *path, char *line, size_t size)
{
    line[0] = '\0';
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    if (file && fgets(line, (int)size, file))
        line[strcspn(line, "\n")] = '\0';
}

static Freezepoint__Host *describe_host(void)
{
    Freezepoint__Host *host = calloc(1, sizeof(*host));
    if (!host)
        return NULL;
    freezepoint__host__init(host);
    struct utsname names;
    uname(&names);
    char boot_id[64];
    read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
    host->hostname = manifest_copy(names.nodename);
    host->kernel_release = manifest_copy(names.release);
    host->architecture = manifest_copy(names.machine);
    host->boot_id = manifest_copy(boot_id);
    return host;
}

static Freezepoint__Point *describe_point(const struct supervision *job, const struct hit *hit)
{
    Freezepoint__Point *point = calloc(1, sizeof(*point));
    if (!point)
        return NULL;
    freezepoint__point__init(point);
    if (hit->rule == HIT_AT_ONCE)
        return point;
    const struct supervised_point *given = &job->points[hit->rule];
    point->spec = manifest_copy(given->spec);
    point->library = manifest_copy_bytes(given->library);
    point->function = manifest_copy(given->function);
    point->hit = hit->number;
    point->rule = (uint32_t)hit->rule;
    struct proc_info thread;
    struct err ignored;
    if (proc_read(hit->tid, &thread, &ignored) == 0) {
        point->tid = (uint32_t)thread.inner_pid;
        point->pid = (uint32_t)thread.inner_tgid;
        point->comm = manifest_copy_bytes(thread.comm);
    }
    return point;
}

static Freezepoint__Command *describe_command(const struct supervision *job)
{
    Freezepoint__Command *command = calloc(1, sizeof(*command));
    if (!command)
        return NULL;
    freezepoint__command__init(command);
    size_t count = 0;
    while (job->argv[count])
        count++;
    command->argv = calloc(count + 1, sizeof(*command->argv));
    for (size_t i = 0; command->argv && i < count; i++)
        command->argv[command->n_argv++] = manifest_copy_bytes(job->argv[i]);
    command->executable = manifest_copy_bytes(job->executable);
    command->cwd = manifest_copy_bytes(job->cwd);
    return command;
}

static Freezepoint__Preload *describe_preload(const struct supervision *job)
{
    Freezepoint__Preload *preload = calloc(1, sizeof(*preload));
    if (!preload)
        return NULL;
    freezepoint__preload__init(preload);
    preload->path = manifest_copy_bytes(job->preload_path);
    preload->file = manifest_copy_bytes(IMAGE_PRELOAD);
    preload->control_offset = job->control_offset;
    return preload;
}

static void describe_rules(const struct supervision *job, Freezepoint__Manifest *manifest)
{
    for (size_t i = 0; i < job->point_count; i++) {
        const struct supervised_point *point = &job->points[i];
        Freezepoint__Rule *rule =
            MANIFEST_ADD(manifest, points, Freezepoint__Rule, freezepoint__rule__init);
        if (!rule)
            return;
        rule->spec = manifest_copy(point->spec);
        rule->library = manifest_copy_bytes(point->library);
        rule->function = manifest_copy(point->function);
        rule->first = point->first;
        rule->every = point->every;
        rule->done = point->done;
        rule->hits = point->hits;
    }
}

void describe_hits(const struct supervision *job, Freezepoint__Manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_points; i++) {
        manifest->points[i]->hits = job->points[i].hits;
        manifest->points[i]->done = job->points[i].done;
    }
}

static Freezepoint__StdioKind stdio_kind_of(enum stdio_kind kind)
{
    switch (kind) {
    case STDIO_PIPE:
        return FREEZEPOINT__STDIO_KIND__STDIO_PIPE;
    case STDIO_TTY:
        return FREEZEPOINT__STDIO_KIND__STDIO_TTY;
    case STDIO_UNUSED:
        break;
    }
    return FREEZEPOINT__STDIO_KIND__STDIO_OTHER;
}

static void describe_streams(const struct supervision *job, Freezepoint__Manifest *manifest)
{
    for (uint32_t fd = 0; fd < 3; fd++) {
        const struct stdio_stream *stream = &job->streams[fd];
        Freezepoint__Stdio *entry =
            MANIFEST_ADD(manifest, stdio, Freezepoint__Stdio, freezepoint__stdio__init);
        if (!entry)
            return;
        entry->fd = fd;
        entry->kind = stdio_kind_of(stream->kind);
        entry->key = manifest_copy(stream->key);
        entry->direction = fd == 0 ? FREEZEPOINT__STDIO_DIRECTION__STDIO_INPUT
                                   : FREEZEPOINT__STDIO_DIRECTION__STDIO_OUTPUT;
    }
}

static uint64_t find_control(const struct supervision *job, pid_t pid)
{
    uint64_t address;
    if (proc_find_mapping(pid, job->preload_path, &address))
        return 0;
    address += job->control_offset;
    uint64_t magic;
    if (proc_memory_read(pid, address, &magic, sizeof(magic)) || magic != FZ_CONTROL_MAGIC)
        return 0;
    return address;
}

static uint32_t highest_of(pid_t pid, uint32_t highest)
{
    struct proc_info info;
    struct err ignored;
    bool higher = proc_read(pid, &info, &ignored) == 0 && (uint32_t)info.inner_max > highest;
    return higher ? (uint32_t)info.inner_max : highest;
}

/* Among them those that have ended but have not been waited for: they are in no
 * group, but in the image. */
static uint32_t highest_child(pid_t pid, const char *thread, uint32_t highest)
{
    char path[300];
    snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid, thread);
    _cleanup_fclose_ FILE *children = fopen(path, "re");
    for (int child; children && fscanf(children, "%d", &child) == 1;)
        highest = highest_of(child, highest);
    return highest;
}

/* Of a process: itself, its threads, its children, and the groups and sessions that
 * they are in, whose leaders may be gone but are made again by CRIU for the time of
 * the restore. */
static uint32_t highest_number(pid_t pid, uint32_t highest)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    _cleanup_closedir_ DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.')
            continue;
        highest = highest_of(atoi(entry->d_name), highest);
        highest = highest_child(pid, entry->d_name, highest);
    }
    return highest;
}

struct fingerprints {
    Freezepoint__Manifest *manifest;
    const char *preload_path;
};

static void add_fingerprint(const char *path, void *context)
{
    struct fingerprints *prints = context;
    Freezepoint__Manifest *manifest = prints->manifest;
    if (!strcmp(path, prints->preload_path))
        return;
    for (size_t i = 0; i < manifest->n_fingerprint; i++) {
        const ProtobufCBinaryData *known = &manifest->fingerprint[i]->path;
        if (known->len == strlen(path) && !memcmp(known->data, path, known->len))
            return;
    }
    struct stat about;
    if (stat(path, &about) < 0 || !S_ISREG(about.st_mode))
        return;
    Freezepoint__Fingerprint *print = MANIFEST_ADD(manifest, fingerprint, Freezepoint__Fingerprint,
                                                   freezepoint__fingerprint__init);
    if (!print)
        return;
    print->path = manifest_copy_bytes(path);
    print->size = (uint64_t)about.st_size;
    print->mtime_ns = about.st_mtim.tv_sec * 1000000000LL + about.st_mtim.tv_nsec;
    print->inode = about.st_ino;
}

/* What the command names: the script of an interpreter, a configuration file. */
static void fingerprint_command(const struct supervision *job, Freezepoint__Manifest *manifest)
{
    struct fingerprints prints = {.manifest = manifest, .preload_path = job->preload_path};
    add_fingerprint(job->executable, &prints);
    for (size_t i = 1; job->argv[i]; i++) {
        char path[PATH_MAX];
        bool absolute = job->argv[i][0] == '/';
        int length = snprintf(path, sizeof(path), "%s%s%s", absolute ? "" : job->cwd,
                              absolute ? "" : "/", job->argv[i]);
        if (job->argv[i][0] && length < (int)sizeof(path))
            add_fingerprint(path, &prints);
    }
}

static void describe_process(const struct supervision *job, pid_t pid,
                             Freezepoint__Manifest *manifest)
{
    struct proc_info info, parent;
    struct err ignored;
    if (proc_read(pid, &info, &ignored))
        return;
    Freezepoint__Process *process =
        MANIFEST_ADD(manifest, processes, Freezepoint__Process, freezepoint__process__init);
    if (!process)
        return;
    char executable[4096];
    proc_link(pid, "exe", executable, sizeof(executable));
    process->pid = (uint32_t)info.inner_pid;
    if (proc_read(info.parent, &parent, &ignored) == 0)
        process->ppid = (uint32_t)parent.inner_pid;
    process->comm = manifest_copy_bytes(info.comm);
    process->executable = manifest_copy_bytes(executable);
    process->threads = info.threads;
    process->rss_bytes = info.rss_bytes;
    process->control_address = find_control(job, pid);
    manifest->max_pid = highest_number(pid, manifest->max_pid);
    struct fingerprints prints = {.manifest = manifest, .preload_path = job->preload_path};
    add_fingerprint(executable, &prints);
    proc_mapped_files(pid, PROC_MAPPED_CODE, add_fingerprint, &prints);
    proc_read_files(pid, add_fingerprint, &prints);
}

static Freezepoint__TcpMode tcp_of(enum tcp_mode mode)
{
    switch (mode) {
    case TCP_MODE_ESTABLISHED:
        return FREEZEPOINT__TCP_MODE__TCP_ESTABLISHED;
    case TCP_MODE_CLOSE:
        return FREEZEPOINT__TCP_MODE__TCP_CLOSE;
    case TCP_MODE_NONE:
        break;
    }
    return FREEZEPOINT__TCP_MODE__TCP_NONE;
}

static void describe_mark(Freezepoint__Manifest *manifest, const struct hit *hit)
{
    const struct mark *seen = &hit->mark;
    Freezepoint__Mark *mark = calloc(1, sizeof(*mark));
    if (!mark)
        return;
    freezepoint__mark__init(mark);
    manifest->mark = mark;
    mark->cgroup_id = seen->cgroup_id;
    mark->host_pid = seen->pid;
    mark->host_tid = seen->tid;
    mark->pid = seen->inner_pid;
    mark->tid = seen->inner_tid;
    mark->comm = manifest_copy_bytes(seen->comm);
    mark->point_ns = seen->time_ns;
    mark->frozen_ns = hit->kernel_frozen_ns;
    mark->thawed_ns = hit->kernel_thawed_ns;
    mark->resumed_ns = hit->kernel_resumed_ns;
    mark->lost = hit->marks_lost;
}

void describe_timings(Freezepoint__Manifest *manifest, const struct hit *hit)
{
    Freezepoint__Timings *timings = manifest->timings;
    timings->notified_ns = hit->notified_ns;
    timings->frozen_ns = hit->frozen_ns;
    timings->dump_ready_ns = hit->dump_ready_ns;
    timings->dumped_ns = hit->dumped_ns;
    timings->thawed_ns = hit->thawed_ns;
    if (hit->mark.kind == MARK_POINT)
        describe_mark(manifest, hit);
}

uint64_t describe_pause(const Freezepoint__Manifest *manifest)
{
    const Freezepoint__Mark *mark = manifest->mark;
    if (mark && mark->frozen_ns && mark->resumed_ns > mark->frozen_ns)
        return mark->resumed_ns - mark->frozen_ns;
    const Freezepoint__Timings *times = manifest->timings;
    return (times->thawed_ns ? times->thawed_ns : times->dumped_ns) - times->frozen_ns;
}

pid_t describe_root(const struct supervision *job, struct err *err)
{
    /* It is of the group until it has ended, and would be a second tree in it. */
    if (job->restorer >= 0 && fd_wait(job->restorer, POLLIN, RESTORER_END_MS) == 0)
        return err_text(err, ETIMEDOUT, "the CRIU that restored the job does not end");
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(job->job->group.fd, &pids, err);
    if (count < 0)
        return (pid_t)count;
    pid_t root = 0;
    size_t roots = 0;
    for (ssize_t i = 0; i < count; i++) {
        struct proc_info info;
        /* The dying are of no tree: they have no parent any more (PPid 0). */
        if (proc_read(pids[i], &info, err) || info.state == 'Z' || info.state == 'X')
            continue;
        bool inside = false;
        for (ssize_t j = 0; j < count && !inside; j++)
            inside = pids[j] == info.parent;
        if (!inside) {
            root = pids[i];
            roots++;
        }
    }
    if (roots == 1)
        return root;
    if (roots == 0)
        return err_text(err, ESRCH, "the job has no process left");
    return err_text(err, ENOTSUP,
                    "the job is %zu separate process trees (the program put itself into the "
                    "background and ended), and CRIU dumps one; keep it in the foreground",
                    roots);
}

static int refuse(struct err *err)
{
    return err_text(err, ENOMEM, "the job could not be described");
}

int describe_job(const struct supervision *job, const struct hit *hit, pid_t root,
                 Freezepoint__Manifest **out, struct err *err)
{
    Freezepoint__Manifest *manifest = calloc(1, sizeof(*manifest));
    if (!manifest)
        return refuse(err);
    freezepoint__manifest__init(manifest);
    *out = manifest;
    manifest->created_unix_ns = proc_realtime_ns();
    manifest->name = manifest_copy(job->image_name);
    manifest->freezepoint_version = manifest_copy(FREEZEPOINT_VERSION);
    manifest->host = describe_host();
    manifest->reason = hit->rule == HIT_AT_ONCE ? FREEZEPOINT__REASON__REASON_REQUEST
                                                : FREEZEPOINT__REASON__REASON_POINT;
    manifest->point = describe_point(job, hit);
    manifest->then_stop = job->then_stop;
    manifest->tcp = tcp_of(job->tcp);
    manifest->command = describe_command(job);
    manifest->preload = describe_preload(job);
    manifest->timings = calloc(1, sizeof(*manifest->timings));
    if (manifest->timings)
        freezepoint__timings__init(manifest->timings);
    describe_rules(job, manifest);
    describe_streams(job, manifest);
    fingerprint_command(job, manifest);
    struct proc_info info;
    int error = proc_read(root, &info, err);
    if (error)
        return error;
    manifest->root_pid = (uint32_t)info.inner_pid;
    bool whole = manifest->host && manifest->point && manifest->command && manifest->preload &&
                 manifest->timings;
    return whole ? 0 : refuse(err);
}

int describe_processes(const struct supervision *job, pid_t root, const struct image_draft *draft,
                       Freezepoint__Manifest *manifest, struct err *err)
{
    /* It was looked for before they stopped. */
    pid_t found = describe_root(job, err);
    if (found < 0)
        return found;
    if (found != root)
        return err_text(err, ESRCH, "the job's first process ended just now");
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(job->job->group.fd, &pids, err);
    if (count < 0)
        return (int)count;
    for (ssize_t i = 0; i < count; i++)
        describe_process(job, pids[i], manifest);
    if (carry_files(pids, (size_t)count, draft, manifest, err))
        log_info("carry", "%s", err->text);
    return manifest->n_processes ? 0 : refuse(err);
}
