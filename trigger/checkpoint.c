#include "trigger/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "trigger/callers.h"
#include "trigger/filter.h"
#include "trigger/manifest_fill.h"
#include "trigger/rearm.h"
#include "trigger/uprobes.h"

#define FREEZE_TIMEOUT_MS (10 * 1000)
#define COMMIT_NICE       10

/* Each is of another process, unless somebody connects for fun. */
#define PUT_OFF_MAX 1000

/* The library belongs to the image: /run does not outlive a reboot. */
static int save_preload(const struct checkpoint *checkpoint, struct err *err)
{
    const struct supervision *job = checkpoint->job;
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/" IMAGE_PRELOAD, checkpoint->draft.path);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "make '%s'", path);
    ssize_t n = fd_write_all(fd, job->preload_bytes, job->preload_size);
    return n < 0 ? err_set(err, (int)-n, "write '%s'", path) : 0;
}

static int start_worker(struct checkpoint *checkpoint, struct err *err)
{
    const struct supervision *job = checkpoint->job;
    pid_t root = describe_root(job, err);
    if (root < 0)
        return root;
    struct proc_info info;
    int error = proc_read(root, &info, err);
    if (error)
        return error;
    const char *external[4] = {NULL};
    size_t count = 0;
    for (int i = 0; i < 3; i++) {
        const struct stdio_stream *stream = &job->streams[i];
        bool known = false;
        for (size_t k = 0; k < count; k++)
            known |= !strcmp(external[k], stream->key);
        if (stream->kind == STDIO_TTY && !known)
            external[count++] = stream->key;
    }
    struct dump_request request = {
        .criu = job->criu,
        .images_path = checkpoint->draft.criu_path,
        .job_name = job->job->name,
        .inside = job->init,
        .root = info.inner_pid,
        .external = external,
        .config = job->criu_config,
        .tcp = job->tcp,
        .fenced = checkpoint->handover != NULL,
        .leave_running = !job->then_stop,
        .log_level = job->criu_log_level,
    };
    error = dump_prepare(&request, &checkpoint->dump, err);
    if (error)
        return error;
    checkpoint->root = root;
    struct keeper_guard guard = {.worker = checkpoint->dump.worker.pidfd,
                                 .draft = checkpoint->draft.path};
    return keeper_guard_set(job->keeper, &guard, err);
}

int checkpoint_arm(struct checkpoint *checkpoint, const struct supervision *job, struct err *err)
{
    checkpoint->job = job;
    int error = 0;
    if (!checkpoint->draft_open) {
        error = image_draft_begin(job->store, job->image_name, &checkpoint->draft, err);
        if (error)
            return error;
        checkpoint->draft_open = true;
        error = save_preload(checkpoint, err);
    }
    if (!error)
        error = start_worker(checkpoint, err);
    if (error)
        checkpoint_release(checkpoint);
    else
        checkpoint->armed = true;
    fault_point("dump:armed");
    return error;
}

/* Thaws whatever way the scope is left. */
struct thaw_guard {
    int group_fd;
    bool frozen;
};

static void thaw(struct thaw_guard *guard)
{
    struct err err;
    if (guard->frozen && cgroup_write_freeze(guard->group_fd, false, &err))
        log_warning("freeze", "%s", err.text);
    guard->frozen = false;
}

/* Earlier than that.  After a failure the guard tries once more. */
static int thaw_now(struct thaw_guard *guard, struct err *err)
{
    int error = cgroup_write_freeze(guard->group_fd, false, err);
    guard->frozen = error != 0;
    return error;
}

/* Asked now, since starting CRIU takes longer than many a dump. */
static void enter_criu_version(const struct checkpoint *checkpoint)
{
    char version[32];
    struct err ignored;
    if (criu_version(checkpoint->job->criu, version, sizeof(version), &ignored))
        snprintf(version, sizeof(version), "unknown");
    checkpoint->manifest->criu_version = manifest_copy(version);
}

static void commit(struct checkpoint *checkpoint)
{
    enter_criu_version(checkpoint);
    callers_describe(&checkpoint->stack, checkpoint->job->preload_path, checkpoint->manifest);
    checkpoint->commit_result = image_draft_commit(
        &checkpoint->draft, checkpoint->manifest, &checkpoint->generation, &checkpoint->commit_err);
}

static void *commit_in_thread(void *context)
{
    struct checkpoint *checkpoint = context;
    /* Of this thread alone (setpriority(2), "C library/kernel differences"): the
     * program has waited long enough. */
    setpriority(PRIO_PROCESS, 0, COMMIT_NICE);
    commit(checkpoint);
    eventfd_write(checkpoint->done_fd, 1);
    return NULL;
}

static int start_commit(struct checkpoint *checkpoint, struct err *err)
{
    checkpoint->done_fd = eventfd(0, EFD_CLOEXEC);
    if (checkpoint->done_fd < 0)
        return err_set(err, errno, "eventfd");
    int errnum = pthread_create(&checkpoint->thread, NULL, commit_in_thread, checkpoint);
    if (errnum)
        return err_set(err, errnum, "start a thread");
    checkpoint->committing = true;
    return 0;
}

/* The images are complete, the tree is still held. */
static int commit_before_stop(struct checkpoint *checkpoint, struct hit *hit, struct err *err)
{
    describe_timings(checkpoint->manifest, hit);
    int error = dump_settle_log(&checkpoint->dump, err);
    if (error)
        return error;
    commit(checkpoint);
    if (checkpoint->commit_result)
        *err = checkpoint->commit_err;
    return checkpoint->commit_result;
}

static int hand_over(struct checkpoint *checkpoint, struct hit *hit, struct err *err)
{
    describe_timings(checkpoint->manifest, hit);
    return handover_decide(checkpoint->handover, &checkpoint->draft, checkpoint->manifest, hit,
                           checkpoint->dump.worker.pidfd, err);
}

/* Committed, or running elsewhere, before CRIU ends the tree, so that a failure lets it
 * live. */
static int stop(struct checkpoint *checkpoint, struct hit *hit, struct err *err)
{
    int error = checkpoint->handover ? hand_over(checkpoint, hit, err)
                                     : commit_before_stop(checkpoint, hit, err);
    struct err settle_err;
    int unsettled = dump_settle(&checkpoint->dump, !error, &settle_err);
    /* A worker in a restored tree's pid namespace dies with the tree that it ends,
     * often before it can answer.  Whether it was that or something else: the
     * image stands, and nothing has run since it was taken. */
    if (!error && unsettled)
        error = cgroup_kill(checkpoint->job->job->group.fd, err);
    return error;
}

static void set_probes(const struct supervision *job)
{
    struct err err;
    if (job->probes && uprobes_set(job->probes, &err))
        log_warning("probe", "not set again: %s", err.text);
}

/* A restored tree that ends as soon as it is let go takes its pid namespace along, and
 * the worker in it, often before that can answer.  The images stand all the same. */
static int let_go(struct checkpoint *checkpoint, struct err *err)
{
    const struct supervision *job = checkpoint->job;
    set_probes(job);
    int error = dump_settle(&checkpoint->dump, true, err);
    bool ended = job->init && cgroup_populated(job->job->group.fd) == 0;
    return ended ? 0 : error;
}

/* From the worker's go-ahead to images that are written, beside which it is
 * described what they are of. */
static int dump_held(struct checkpoint *checkpoint, struct thaw_guard *guard, struct hit *hit,
                     struct err *err)
{
    struct dump *dump = &checkpoint->dump;
    int error = dump_await_held(dump, err);
    if (error)
        return error;
    fault_point("dump:held");
    if (checkpoint->job->probes)
        error = uprobes_await_lifted(checkpoint->job->probes, checkpoint->job, err);
    if (error)
        return error;
    error = thaw_now(guard, err);
    if (!error)
        error = dump_go_on(dump, err);
    fault_point("dump:dumping");
    if (error)
        return error;
    struct err why, ignored;
    observe_hit(checkpoint->observer, hit, false);
    if (hit->mark.kind)
        callers_copy(hit, &checkpoint->stack);
    int undescribed = describe_processes(checkpoint->job, checkpoint->root, &checkpoint->draft,
                                         checkpoint->manifest, &why);
    error = dump_await_written(dump, err);
    if (!error && checkpoint->handover)
        error = handover_freeze(checkpoint->handover, err);
    hit->dumped_ns = proc_monotonic_ns();
    fault_point("dump:written");
    if (error || !undescribed)
        return error;
    dump_settle(dump, false, &ignored);
    *err = why;
    return undescribed;
}

/* Whether something is under way that no image can hold. */
static bool is_early(struct checkpoint *checkpoint)
{
    const struct supervision *job = checkpoint->job;
    struct err ignored;
    if (checkpoint->handover && handover_is_early(checkpoint->handover, &ignored) > 0) {
        log_debug("checkpoint", "put off: a connection has not been accepted");
        return true;
    }
    int rearming = job->init ? rearm_accept(job->job, &ignored) : -EAGAIN;
    if (rearming < 0)
        return false;
    fd_close(&checkpoint->rearming);
    checkpoint->rearming = rearming;
    log_debug("checkpoint", "put off: a process is re-arming itself");
    return true;
}

/* A process of a restored tree that is re-arming itself cannot be dumped, and cannot
 * finish while it is frozen.  The thread of the hit has its answer, but has not come
 * to see it: it is taken back, once the worker has let go of the thread. */
static int put_off(struct checkpoint *checkpoint, const struct hit *hit, struct err *err)
{
    /* A probe's hit cannot be had again: it is tried. */
    if (checkpoint->put_off == PUT_OFF_MAX || hit->mark.kind)
        return 0;
    if (!is_early(checkpoint))
        return 0;
    checkpoint->put_off++;
    dump_call_off(&checkpoint->dump);
    freezepoint__manifest__free_unpacked(checkpoint->manifest, NULL);
    checkpoint->manifest = NULL;
    int error = hit->rule == HIT_AT_ONCE ? 0 : filter_take_back(hit->tid, err);
    return error ? error : CHECKPOINT_PUT_OFF;
}

/* The breakpoints go before CRIU begins: it must find neither them nor a process that
 * they have stopped. */
static int lift_probes(struct checkpoint *checkpoint, struct err *err)
{
    const struct supervision *job = checkpoint->job;
    if (!job->probes)
        return 0;
    int error = uprobes_lift(job->probes, job, err);
    if (error)
        return err_wrap(err, "lift the probes");
    describe_hits(job, checkpoint->manifest);
    fault_point("dump:lifted");
    return dump_begin(&checkpoint->dump, err);
}

static int freeze_and_dump(struct checkpoint *checkpoint, struct hit *hit, void (*release)(void *),
                           void *context, struct err *err)
{
    const struct supervision *job = checkpoint->job;
    int group_fd = job->job->group.fd;
    _cleanup_(thaw) struct thaw_guard guard = {.group_fd = group_fd, .frozen = true};
    int error = cgroup_write_freeze(group_fd, true, err);
    release(context);
    if (!error)
        error = cgroup_wait_frozen(group_fd, true, FREEZE_TIMEOUT_MS, err);
    if (error)
        return err_wrap(err, "freeze the job");
    hit->frozen_ns = proc_monotonic_ns();
    fault_point("dump:frozen");
    error = lift_probes(checkpoint, err);
    if (!error)
        error = put_off(checkpoint, hit, err);
    if (!error && checkpoint->handover)
        error = handover_close_off(checkpoint->handover, err);
    if (!error)
        error = dump_held(checkpoint, &guard, hit, err);
    if (!error && job->then_stop)
        error = stop(checkpoint, hit, err);
    else if (!error)
        error = let_go(checkpoint, err);
    if (!error && !job->then_stop)
        hit->thawed_ns = proc_monotonic_ns();
    if (error)
        set_probes(job);
    fault_point("dump:dumped");
    return error;
}

/* The worker was told a root that may have ended since (a program that puts
 * itself into the background), and may have been killed itself. */
static int ready_worker(struct checkpoint *checkpoint, struct err *err)
{
    pid_t root = describe_root(checkpoint->job, err);
    if (root < 0)
        return root;
    if (root != checkpoint->root || !dump_is_alive(&checkpoint->dump)) {
        dump_end(&checkpoint->dump);
        int error = start_worker(checkpoint, err);
        if (error)
            return error;
    }
    return dump_await_ready(&checkpoint->dump, err);
}

static int take(struct checkpoint *checkpoint, struct hit *hit, void (*release)(void *),
                void *context, struct err *err)
{
    int error = ready_worker(checkpoint, err);
    if (error) {
        release(context);
        return error;
    }
    hit->dump_ready_ns = proc_monotonic_ns();
    error = checkpoint->job->probes ? 0 : dump_begin(&checkpoint->dump, err);
    /* Beside CRIU's last preparations, and before the program stops for it. */
    if (!error)
        error = describe_job(checkpoint->job, hit, checkpoint->root, &checkpoint->manifest, err);
    if (error)
        release(context);
    else
        error = freeze_and_dump(checkpoint, hit, release, context, err);
    dump_end(&checkpoint->dump);
    return error;
}

int checkpoint_take(struct checkpoint *checkpoint, struct observer *observer, struct hit *hit,
                    void (*release)(void *), void *context, bool *stopped, struct err *err)
{
    checkpoint->observer = observer;
    const struct supervision *job = checkpoint->job;
    checkpoint->armed = false;
    *stopped = false;
    fault_point("dump:notified");
    int error = take(checkpoint, hit, release, context, err);
    if (error == CHECKPOINT_PUT_OFF)
        return error;
    if (!error && job->then_stop) {
        *stopped = true;
        return 0;
    }
    if (!error) {
        observe_hit(observer, hit, true);
        describe_timings(checkpoint->manifest, hit);
        error = start_commit(checkpoint, err);
    }
    if (error)
        checkpoint_release(checkpoint);
    return error;
}

static void clear_guard(const struct checkpoint *checkpoint)
{
    struct err err;
    if (checkpoint->job && checkpoint->job->keeper &&
        keeper_guard_clear(checkpoint->job->keeper, &err))
        log_warning("keeper", "%s", err.text);
}

int checkpoint_finish(struct checkpoint *checkpoint, uint64_t *generation, struct err *err)
{
    if (checkpoint->committing)
        pthread_join(checkpoint->thread, NULL);
    checkpoint->committing = false;
    int error = checkpoint->commit_result;
    *generation = checkpoint->generation;
    if (error)
        *err = checkpoint->commit_err;
    checkpoint_release(checkpoint);
    return error;
}

void checkpoint_release(struct checkpoint *checkpoint)
{
    if (checkpoint->committing)
        pthread_join(checkpoint->thread, NULL);
    dump_end(&checkpoint->dump);
    if (checkpoint->draft_open)
        image_draft_abandon(&checkpoint->draft);
    if (checkpoint->draft_open)
        clear_guard(checkpoint);
    if (checkpoint->manifest)
        freezepoint__manifest__free_unpacked(checkpoint->manifest, NULL);
    fd_close(&checkpoint->done_fd);
    stack_free(&checkpoint->stack);
    const struct supervision *job = checkpoint->job;
    *checkpoint = CHECKPOINT_NONE;
    checkpoint->job = job;
}
