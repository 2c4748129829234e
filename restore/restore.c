#include "restore/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/dir.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "restore/adopt.h"
#include "restore/carried.h"

#define STALL_MS       (60 * 1000)
#define END_TIMEOUT_MS (5 * 1000)
#define LOG_NAME       "restore.log"

/* Reads the memory pages' sums beside CRIU. */
struct verification {
    const struct image *image;
    pthread_t thread;
    bool running;
    volatile bool cancel;
    int result;
    struct err err;
};

static void *verify_in_thread(void *context)
{
    struct verification *self = context;
    self->result = image_verify_pages(self->image, &self->cancel, &self->err);
    return NULL;
}

static int verification_start(struct verification *self, const struct image *image, struct err *err)
{
    self->image = image;
    int errnum = pthread_create(&self->thread, NULL, verify_in_thread, self);
    if (errnum)
        return err_set(err, errnum, "start a thread");
    self->running = true;
    return 0;
}

static int verification_await(struct verification *self, struct err *err)
{
    if (self->running)
        pthread_join(self->thread, NULL);
    self->running = false;
    if (self->result)
        *err = self->err;
    return self->result;
}

static void verification_cancel(struct verification *self)
{
    self->cancel = true;
    struct err ignored;
    verification_await(self, &ignored);
}

/* The image brings the library that its processes have mapped; CRIU maps it again
 * from the path where it was. */
static int place_preload(const struct image *image, struct restored *out, struct err *err)
{
    const Freezepoint__Preload *preload = image->manifest->preload;
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%.*s", (int)preload->path.len, (const char *)preload->path.data);
    _cleanup_close_ int fd = openat(image->dirfd, IMAGE_PRELOAD, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) < 0)
        return err_set(err, errno, "open '%s/" IMAGE_PRELOAD "'", image->path);
    _cleanup_free_ void *bytes = malloc((size_t)about.st_size + 1);
    if (!bytes || fd_read_all(fd, bytes, (size_t)about.st_size) != about.st_size)
        return err_text(err, EIO, "read '%s/" IMAGE_PRELOAD "'", image->path);
    int error = job_put_back_preload(path, bytes, (size_t)about.st_size, err);
    if (error)
        return error;
    out->preload_size = (size_t)about.st_size;
    out->preload_bytes = steal_pointer(&bytes);
    return 0;
}

static int open_work_directory(const char *name, char *log_path, size_t size, struct err *err)
{
    char path[PATH_MAX - 16];
    int error = job_make_log_directory(name, path, sizeof(path), err);
    if (error)
        return error;
    snprintf(log_path, size, "%s/" LOG_NAME, path);
    /* Or a former restore's would explain the failure of this one. */
    unlink(log_path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open '%s'", path) : fd;
}

/* Pairs the image's keys with the descriptors of the plan; each key once. */
static size_t pair_streams(const struct restore_request *request, InheritFd *entries,
                           InheritFd **list, int *streams)
{
    const Freezepoint__Manifest *manifest = request->image->manifest;
    size_t count = 0;
    for (size_t i = 0; i < manifest->n_stdio; i++) {
        const Freezepoint__Stdio *stream = manifest->stdio[i];
        bool known = stream->fd > 2 || stream->kind == FREEZEPOINT__STDIO_KIND__STDIO_OTHER ||
                     request->plan->app_fd[stream->fd] < 0;
        for (size_t k = 0; k < count && !known; k++)
            known = !strcmp(entries[k].key, stream->key);
        if (known || count == 3)
            continue;
        inherit_fd__init(&entries[count]);
        entries[count].key = stream->key;
        entries[count].fd = streams[count] = request->plan->app_fd[stream->fd];
        list[count] = &entries[count];
        count++;
    }
    return count;
}

static int send_request(const struct restore_request *request, const struct init *init,
                        InheritFd **streams, size_t stream_count, struct err *err)
{
    const Freezepoint__Manifest *manifest = request->image->manifest;
    CriuOpts options = CRIU_OPTS__INIT;
    options.images_dir_fd = -1;
    options.images_dir = (char *)request->image->criu_path;
    options.has_work_dir_fd = true;
    options.work_dir_fd = init->work_fd;
    options.log_file = (char *)LOG_NAME;
    options.has_log_level = true;
    options.log_level = request->criu_log_level;
    options.has_notify_scripts = true;
    options.notify_scripts = true;
    options.has_rst_sibling = true;
    options.rst_sibling = true;
    options.has_manage_cgroups_mode = true;
    options.manage_cgroups_mode = CRIU_CG_MODE__IGNORE;
    options.has_ext_unix_sk = true;
    options.ext_unix_sk = true;
    options.has_file_locks = true;
    options.file_locks = true;
    options.has_link_remap = true;
    options.link_remap = true;
    options.has_tcp_established = true;
    options.tcp_established =
        manifest->tcp == FREEZEPOINT__TCP_MODE__TCP_ESTABLISHED && !request->tcp_close;
    options.has_tcp_close = true;
    options.tcp_close = manifest->tcp == FREEZEPOINT__TCP_MODE__TCP_CLOSE || request->tcp_close;
    /* Only open connections need it, and making the nftables table alone takes
     * 17 ms (criu/net.c, network_lock). */
    options.has_network_lock = true;
    options.network_lock = options.tcp_established && !request->fenced
                               ? CRIU_NETWORK_LOCK_METHOD__NFTABLES
                               : CRIU_NETWORK_LOCK_METHOD__SKIP;
    options.n_inherit_fd = stream_count;
    options.inherit_fd = streams;
    options.config_file = (char *)request->criu_config;
    CriuReq message = CRIU_REQ__INIT;
    message.type = CRIU_REQ_TYPE__RESTORE;
    message.opts = &options;
    return criu_send(init->worker.socket, &message, err);
}

static void free_response(CriuResp **response)
{
    if (*response)
        criu_resp__free_unpacked(*response, NULL);
}

/* The processes, but not CRIU, which was born in their group.  Held by ptrace they count as
 * frozen, and are when CRIU lets go of them (kernel/signal.c, ptrace_stop()). */
static int freeze(int group_fd, pid_t worker, struct err *err)
{
    int error = cgroup_put_above(group_fd, worker, err);
    return error ? error : cgroup_write_freeze(group_fd, true, err);
}

/* CRIU's pre-resume: memory and registers are the image's, nothing runs yet. */
static int before_resume(const struct restore_request *request, struct verification *verification,
                         struct restored *out, struct err *err)
{
    /* First, since whatever CRIU holds runs as soon as that is killed. */
    int error = request->frozen ? freeze(request->job->group.fd, out->init.worker.pid, err) : 0;
    fault_point("restore:pre-resume");
    if (!error)
        error = verification_await(verification, err);
    if (error)
        return error;
    uint64_t generation = request->generation ? request->generation : request->image->generation;
    error = adopt_tree(request->job, request->image->manifest, generation, &out->root, err);
    if (!error && request->placed)
        request->placed(request->context);
    return error ? error : keeper_settle(request->keeper, err);
}

/* Where CRIU dies after it has made processes, they are no longer held by it. */
static int explain_death(const struct restore_request *request, int error, const char *log_path,
                         struct err *err)
{
    if (error != -EPIPE)
        return error;
    struct err ignored;
    cgroup_kill(request->job->group.fd, &ignored);
    return criu_explain("the restore failed", NULL, log_path, err);
}

/* CRIU resumes the processes also where this notification is answered with a
 * failure (criu/cr-restore.c ignores it there): it must not live to do so. */
static int refuse_resume(const struct restore_request *request, int error)
{
    struct err ignored;
    cgroup_kill(request->job->group.fd, &ignored);
    return error;
}

static bool is_notification(const CriuResp *response, const char *script)
{
    return response->type == CRIU_REQ_TYPE__NOTIFY && response->notify &&
           response->notify->script && !strcmp(response->notify->script, script);
}

/* A process with many threads may end while CRIU lets go of them one by one; CRIU takes
 * the threads that are gone for a failure and kills the tree (criu/cr-restore.c,
 * finalize_restore_detach()).  The program ran all the same, and what ran must not be
 * run again, if its first process has a status of its own. */
static bool has_ended_by_itself(const struct init *init)
{
    int status;
    return fd_wait(init->socket, POLLIN, END_TIMEOUT_MS) > 0 &&
           recv(init->socket, &status, sizeof(status), MSG_PEEK | MSG_DONTWAIT) ==
               (ssize_t)sizeof(status) &&
           !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Until CRIU's post-resume: the tree runs, and CRIU has nothing left to do but to say
 * so once more and to end (criu/cr-restore.c, restore_root_task()). */
static int talk(const struct restore_request *request, struct init *init,
                struct verification *verification, const char *log_path, struct restored *out,
                struct err *err)
{
    for (bool resumed = false;;) {
        _cleanup_(free_response) CriuResp *response = NULL;
        /* The processes that it makes read the memory, children of the mini-init like
         * itself, while it waits for them. */
        int error = criu_receive(&init->worker, init->pid, STALL_MS, &response, err);
        if (error)
            return explain_death(request, error, log_path, err);
        if (response->type != CRIU_REQ_TYPE__NOTIFY) {
            if (resumed && has_ended_by_itself(init))
                return 0;
            return criu_explain("the restore failed", response, log_path, err);
        }
        if (is_notification(response, "pre-resume")) {
            error = before_resume(request, verification, out, err);
            if (error)
                return refuse_resume(request, error);
            resumed = true;
        }
        error = criu_acknowledge(init->worker.socket, true, err);
        if (is_notification(response, "post-resume"))
            return 0;
        if (error)
            return explain_death(request, error, log_path, err);
    }
}

int restore_begin(const struct restore_request *request, struct restored *out, struct err *err)
{
    *out = RESTORED_NONE;
    _cleanup_close_ int work_fd =
        open_work_directory(request->job->name, out->log_path, sizeof(out->log_path), err);
    if (work_fd < 0)
        return work_fd;
    InheritFd entries[3], *list[3];
    int streams[3];
    struct init_request init_request = {
        .criu = request->criu,
        .group_fd = request->job->group.fd,
        .work_fd = work_fd,
        .root = (pid_t)request->image->manifest->root_pid,
        .max_pid = (pid_t)request->image->manifest->max_pid,
        .streams = streams,
        .stream_count = pair_streams(request, entries, list, streams),
    };
    return init_start(&init_request, &out->init, err);
}

/* What CRIU will need beside its own files. */
static int place_files(const struct restore_request *request, struct restored *restored,
                       struct err *err)
{
    int error = image_verify_small(request->image, err);
    if (!error)
        error = place_preload(request->image, restored, err);
    return error ? error : carried_place(request->image, err);
}

static int run_restore(const struct restore_request *request, struct verification *verification,
                       struct restored *restored, struct err *err)
{
    struct init *init = &restored->init;
    InheritFd entries[3], *list[3];
    int streams[3];
    size_t stream_count = pair_streams(request, entries, list, streams);
    int error = init_await_worker(init, err);
    if (error)
        return error;
    fault_point("restore:init-started");
    struct keeper_guard guard = {.worker = init->worker.pidfd, .kill_worker = true};
    error = keeper_guard_set(request->keeper, &guard, err);
    if (!error) {
        error = send_request(request, init, list, stream_count, err);
        if (error)
            error = explain_death(request, error, restored->log_path, err);
    }
    fault_point("restore:criu-running");
    if (!error)
        error = talk(request, init, verification, restored->log_path, restored, err);
    return error;
}

int restore_image(const struct restore_request *request, struct restored *restored, struct err *err)
{
    uint64_t start_ns = proc_monotonic_ns();
    int error = place_files(request, restored, err);
    restored->verify_ns = proc_monotonic_ns() - start_ns;
    fault_point("restore:placed");
    struct verification verification = {0};
    if (!error)
        error = verification_start(&verification, request->image, err);
    if (!error)
        error = run_restore(request, &verification, restored, err);
    fault_point("restore:resumed");
    /* After a failure it stays: input must not begin, and the keeper is about to
     * be ended. */
    if (!error)
        error = keeper_guard_clear(request->keeper, err);
    restored->criu_ns = proc_monotonic_ns() - start_ns - restored->verify_ns;
    if (!error) {
        restored->root_pidfd = proc_pidfd_open(restored->root);
        if (restored->root_pidfd < 0 && restored->root_pidfd != -ESRCH)
            error = err_set(err, -restored->root_pidfd, "pidfd_open");
    }
    verification_cancel(&verification);
    if (!error)
        fault_point("restore:running");
    return error;
}

void restore_abandon(struct restored *restored)
{
    init_kill(&restored->init);
    restored_release(restored);
}

void restored_release(struct restored *restored)
{
    init_release(&restored->init);
    fd_close(&restored->root_pidfd);
    cleanup_free(&restored->preload_bytes);
    restored->preload_bytes = NULL;
}
