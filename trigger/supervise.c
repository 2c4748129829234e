#include "trigger/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "preload/abi.h"
#include "trigger/checkpoint.h"
#include "trigger/filter.h"
#include "trigger/point.h"
#include "trigger/published.h"
#include "trigger/rearm.h"
#include "trigger/signals.h"
#include "trigger/uprobes.h"

#define ARM_DELAY_MS      20 /* after a restore */
#define HANDOVER_ATTEMPTS 40
#define HANDOVER_PAUSE_NS (25 * 1000 * 1000)
#define ASK_AGAIN_MAX     (OBSERVE_RECENT / 2)

struct supervisor {
    struct supervision *job;
    struct supervise_result *result;
    struct checkpoint checkpoint;
    struct handover handover;
    struct observer observer;
    unsigned asked_again; /* how many hits, for the observer's sake */
    struct published published;
    int epoll_fd;
    int signal_fd;
    int events_fd; /* cgroup.events */
    int commit_fd; /* the checkpoint's done_fd while it is in the loop, else -1 */
    bool child_ended;
    bool status_known;
    bool group_empty;
    bool gave_up;  /* no further checkpoints */
    bool observed; /* the observer was started */
};

/* What an epoll event is about: a kind and a descriptor. */
enum source {
    SOURCE_SIGNAL,
    SOURCE_LISTENER,
    SOURCE_REARM,
    SOURCE_GROUP,
    SOURCE_CHILD,
    SOURCE_INIT,
    SOURCE_COMMIT,
    SOURCE_KEEPER,
    SOURCE_PROBES,
    SOURCE_REQUEST,
    SOURCE_HANDOVER
};

static uint64_t event_tag(enum source source, int fd)
{
    return (uint64_t)source << 32 | (uint32_t)fd;
}

static int watch(struct supervisor *self, enum source source, int fd, uint32_t events,
                 struct err *err)
{
    struct epoll_event event = {.events = events, .data.u64 = event_tag(source, fd)};
    if (epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return err_set(err, errno, "watch a descriptor");
    return 0;
}

static void unwatch(struct supervisor *self, int fd)
{
    epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

__attribute__((format(printf, 2, 3))) static void say(const struct supervisor *self,
                                                      const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    self->job->say(line, self->job->say_context);
}

static bool more_to_do(const struct supervisor *self)
{
    const struct supervision *job = self->job;
    if (self->gave_up ||
        (job->max_checkpoints && self->result->checkpoints >= job->max_checkpoints))
        return false;
    for (size_t i = 0; i < job->point_count; i++)
        if (!job->points[i].done)
            return true;
    return false;
}

/* Without BPF everything else works; it is said once. */
static void start_observing(struct supervisor *self)
{
    struct err err;
    if (self->observed)
        return;
    self->observed = true;
    if (observe_start(&self->observer, self->job->job->group.fd, &err))
        say(self, "the kernel's marks are not recorded: %s", err.text);
}

/* As is wanted now: for an image of the store, or for one that is handed over. */
static int arm_now(struct supervisor *self, struct err *err)
{
    bool over = self->handover.connection >= 0;
    self->checkpoint.handover = over ? &self->handover : NULL;
    return checkpoint_arm(&self->checkpoint, over ? &self->handover.as : self->job, err);
}

static void arm(struct supervisor *self)
{
    struct err err;
    if (self->checkpoint.armed || self->checkpoint.committing || !more_to_do(self) ||
        self->child_ended)
        return;
    start_observing(self);
    if (arm_now(self, &err)) {
        /* The tree may just have ended; anything else shows at the hit. */
        log_info("checkpoint", "not prepared: %s", err.text);
    }
}

static void end_probes(struct supervisor *self)
{
    struct supervision *job = self->job;
    if (!job->probes)
        return;
    unwatch(self, uprobes_fd(job->probes));
    uprobes_release(job->probes);
    job->probes = NULL;
}

static void finish_commit(struct supervisor *self)
{
    struct checkpoint *checkpoint = &self->checkpoint;
    if (!checkpoint->manifest)
        return;
    if (self->commit_fd >= 0)
        unwatch(self, self->commit_fd);
    self->commit_fd = -1;
    uint64_t pause_ns = describe_pause(checkpoint->manifest);
    char where[300];
    const char *spec = checkpoint->manifest->point->spec;
    snprintf(where, sizeof(where), "%.*s#%" PRIu64, (int)point_length_unnumbered(spec), spec,
             checkpoint->manifest->point->hit);
    uint64_t generation;
    struct err err;
    if (checkpoint_finish(checkpoint, &generation, &err)) {
        self->result->failures++;
        published_checkpoint(&self->published, 0, pause_ns);
        say(self, "no image was made at %s: %s", where, err.text);
        return;
    }
    self->result->checkpoints++;
    if (!more_to_do(self)) {
        observe_end(&self->observer);
        end_probes(self);
    }
    published_checkpoint(&self->published, generation, pause_ns);
    say(self, "checkpoint %s@%" PRIu64 " at %s (frozen %.1f ms)%s", self->job->image_name,
        generation, where, (double)pause_ns / 1e6, self->result->stopped ? ", stopped" : "");
}

static void adopt_listener(struct supervisor *self, int connection)
{
    struct err err;
    int listener = rearm_serve(connection, &err);
    if (listener < 0 || watch(self, SOURCE_LISTENER, listener, EPOLLIN, &err)) {
        log_warning("rearm", "%s", err.text);
        fd_close(&listener);
        return;
    }
    log_debug("rearm", "a restored process has armed itself");
}

static void serve_rearm(struct supervisor *self)
{
    struct err err;
    _cleanup_close_ int connection = rearm_accept(self->job->job, &err);
    if (connection >= 0)
        adopt_listener(self, connection);
    else if (connection != -EAGAIN)
        log_warning("rearm", "%s", err.text);
}

struct release_context {
    int listener;
    unsigned long long id;
};

static void answer_go_on(void *context)
{
    struct release_context *release = context;
    filter_answer(release->listener, release->id, FZ_ANSWER_GO_ON);
}

static void end_handover(struct supervisor *self, int error, const struct err *err);

/* After checkpoint_take(). */
static void end_take(struct supervisor *self, const struct supervised_point *point, int error,
                     bool stopped, struct err *err)
{
    published_hit(&self->published);
    if (self->handover.connection >= 0) {
        self->result->stopped = !error;
        end_handover(self, error, err);
        return;
    }
    if (error) {
        self->result->failures++;
        published_checkpoint(&self->published, 0, 0);
        say(self, "checkpoint at %s failed, the program goes on: %s", point->spec, err->text);
        arm(self);
        return;
    }
    self->result->stopped = stopped;
    if (stopped) {
        finish_commit(self);
        return;
    }
    self->commit_fd = self->checkpoint.done_fd;
    if (watch(self, SOURCE_COMMIT, self->commit_fd, EPOLLIN, err)) {
        self->commit_fd = -1;
        finish_commit(self);
    }
}

/* Whatever it was that a checkpoint was put off for. */
static void serve_put_off(struct supervisor *self)
{
    if (self->checkpoint.rearming < 0)
        return;
    adopt_listener(self, self->checkpoint.rearming);
    fd_close(&self->checkpoint.rearming);
}

static void serve_due_point(struct supervisor *self, int listener,
                            const struct notification *notification, struct hit *hit)
{
    struct release_context release = {.listener = listener, .id = notification->id};
    struct supervised_point *point = &self->job->points[hit->rule];
    struct err err;
    bool stopped = false;
    int error = 0;
    if (!self->checkpoint.armed) {
        error = arm_now(self, &err);
        if (error)
            answer_go_on(&release);
    }
    /* Set before the image is described: the restored program must not stop at
     * this point again. */
    point->done = point->every == 0;
    if (!error)
        error = checkpoint_take(&self->checkpoint, &self->observer, hit, answer_go_on, &release,
                                &stopped, &err);
    if (error == CHECKPOINT_PUT_OFF) {
        point->done = false;
        serve_put_off(self);
        arm(self);
        return;
    }
    end_take(self, point, error, stopped, &err);
}

/* Whether the thread has to ask again, since it began to wait before anybody was there
 * to mark that.  Every thread that waits when a checkpoint is taken asks again anyway. */
static bool is_unseen(struct supervisor *self, const struct hit *hit)
{
    struct err err;
    start_observing(self);
    if (observe_await(&self->observer, &err))
        say(self, "the kernel's marks are not recorded: %s; see freezepoint doctor", err.text);
    if (self->observer.state != OBSERVE_ON || observe_sees(&self->observer, hit) ||
        self->asked_again == ASK_AGAIN_MAX)
        return false;
    self->asked_again++;
    return true;
}

static void serve_point(struct supervisor *self, int listener,
                        const struct notification *notification, uint64_t notified_ns)
{
    const struct supervision *job = self->job;
    struct hit hit = {.rule = (size_t)notification->arguments[0],
                      .number = notification->arguments[1],
                      .tid = notification->pid,
                      .notified_ns = notified_ns};
    if (hit.rule >= job->point_count) {
        filter_answer(listener, notification->id, FZ_ANSWER_DISARM);
        return;
    }
    /* Only a finished one counts for --max. */
    if (!job->points[hit.rule].done && self->checkpoint.committing)
        finish_commit(self);
    if (job->points[hit.rule].done || !more_to_do(self)) {
        filter_answer(listener, notification->id, FZ_ANSWER_GO_ON);
        published_hit(&self->published);
        return;
    }
    if (is_unseen(self, &hit)) {
        filter_answer(listener, notification->id, -EINTR);
        return;
    }
    self->asked_again = ASK_AGAIN_MAX;
    log_debug("point", "%s: hit %" PRIu64 " by thread %d", job->points[hit.rule].spec, hit.number,
              hit.tid);
    serve_due_point(self, listener, notification, &hit);
}

static void answer_nobody(void *context)
{
    (void)context;
}

static void serve_due_probe(struct supervisor *self, struct hit *hit)
{
    struct supervised_point *point = &self->job->points[hit->rule];
    struct err err;
    bool stopped = false;
    int error = 0;
    start_observing(self);
    if (observe_await(&self->observer, &err))
        say(self, "the kernel's marks are not recorded: %s; see freezepoint doctor", err.text);
    if (!self->checkpoint.armed)
        error = arm_now(self, &err);
    point->done = point->every == 0;
    if (!error)
        error = checkpoint_take(&self->checkpoint, &self->observer, hit, answer_nobody, NULL,
                                &stopped, &err);
    end_take(self, point, error, stopped, &err);
}

static void serve_probe(struct supervisor *self, struct hit *hit)
{
    const struct supervised_point *point = &self->job->points[hit->rule];
    fault_point("probe:stopped");
    if (point->done || !more_to_do(self)) {
        published_hit(&self->published);
        return;
    }
    log_debug("point", "%s: hit %" PRIu64 " by thread %d", point->spec, hit->number, hit->tid);
    serve_due_probe(self, hit);
}

/* The process of each hit is stopped until it is served.  Whether there was one. */
static bool serve_probes(struct supervisor *self)
{
    struct hit hit;
    bool any = false;
    while (self->job->probes && uprobes_next(self->job->probes, &hit)) {
        any = true;
        /* Only a finished one counts for --max; the last one takes the probes away. */
        if (self->checkpoint.committing)
            finish_commit(self);
        if (self->job->probes)
            serve_probe(self, &hit);
        if (self->job->probes)
            uprobes_go_on(self->job->probes);
    }
    return any;
}

/* ---- hand-over ---- */

/* How many there may be over there.  Where none is left no point is due any more, since 0
 * is no limit. */
static void count_checkpoints_left(struct supervisor *self)
{
    const struct supervision *job = self->job;
    if (job->max_checkpoints == 0)
        return;
    self->handover.checkpoints_left = job->max_checkpoints - self->result->checkpoints;
    for (size_t i = 0; i < job->point_count; i++)
        job->points[i].done |= self->handover.checkpoints_left == 0;
}

/* Whatever was prepared for a checkpoint of the usual kind is of no use for it. */
static int prepare_handover(struct supervisor *self, struct err *err)
{
    if (self->checkpoint.committing)
        finish_commit(self);
    checkpoint_release(&self->checkpoint);
    count_checkpoints_left(self);
    int error = handover_prepare(&self->handover, err);
    return error ? error : arm_now(self, err);
}

/* The job is supervised as before, or it is gone. */
static void end_handover(struct supervisor *self, int error, const struct err *err)
{
    if (self->handover.at_point)
        unwatch(self, self->handover.connection);
    checkpoint_release(&self->checkpoint);
    self->checkpoint = CHECKPOINT_NONE;
    if (error)
        say(self, "not migrated, the program goes on here: %s", err->text);
    else
        say(self, "migrated: the program runs on the other side");
    self->result->stopped = !error;
    self->gave_up |= !error;
    handover_end(&self->handover, error, err);
    arm(self);
}

static void hand_over_at_once(struct supervisor *self)
{
    struct err err;
    int error = CHECKPOINT_PUT_OFF;
    for (int i = 0; i < HANDOVER_ATTEMPTS && error == CHECKPOINT_PUT_OFF; i++) {
        struct hit hit = {.rule = HIT_AT_ONCE, .notified_ns = proc_monotonic_ns()};
        bool stopped;
        error = self->checkpoint.armed ? 0 : arm_now(self, &err);
        if (!error)
            error = checkpoint_take(&self->checkpoint, &self->observer, &hit, answer_nobody, NULL,
                                    &stopped, &err);
        if (error == CHECKPOINT_PUT_OFF) {
            serve_put_off(self);
            nanosleep(&(struct timespec){.tv_nsec = HANDOVER_PAUSE_NS}, NULL);
        }
    }
    if (error == CHECKPOINT_PUT_OFF)
        error = err_text(&err, EAGAIN,
                         "it has connections that it does not accept, which no image can hold");
    end_handover(self, error, &err);
}

static void serve_request(struct supervisor *self)
{
    struct err err;
    if (!handover_accept(self->job, more_to_do(self), &self->handover))
        return;
    log_info("migrate", "the job is to be handed over");
    int error = prepare_handover(self, &err);
    if (!error && self->handover.at_point)
        error = watch(self, SOURCE_HANDOVER, self->handover.connection, EPOLLIN, &err);
    if (error)
        end_handover(self, error, &err);
    else if (!self->handover.at_point)
        hand_over_at_once(self);
}

static void serve_handover(struct supervisor *self)
{
    struct err err;
    if (handover_is_wanted(&self->handover))
        return;
    end_handover(self, err_text(&err, ECANCELED, "it was called off"), &err);
}

static void serve_listener(struct supervisor *self, int listener, uint32_t events)
{
    struct notification notification;
    struct err err;
    if (!(events & EPOLLIN)) {
        /* Nobody has this filter any more. */
        unwatch(self, listener);
        close(listener);
        return;
    }
    int taken = filter_receive(listener, &notification, &err);
    if (taken < 0)
        log_warning("notify", "%s", err.text);
    if (taken <= 0)
        return;
    uint64_t notified_ns = proc_monotonic_ns();
    switch (notification.op) {
    case FZ_OP_POINT:
        serve_point(self, listener, &notification, notified_ns);
        break;
    case FZ_OP_HELLO:
        self->result->hellos++;
        filter_answer(listener, notification.id, FZ_ANSWER_GO_ON);
        break;
    default:
        filter_answer(listener, notification.id, FZ_ANSWER_DISARM);
        break;
    }
}

static void serve_init(struct supervisor *self)
{
    int status;
    ssize_t n = read(self->job->init_socket, &status, sizeof(status));
    if (n == (ssize_t)sizeof(status)) {
        self->result->wait_status = status;
        self->status_known = true;
        return;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    unwatch(self, self->job->init_socket);
    /* A worker that waits in the tree's pid namespace dies with the mini-init, which
     * cannot end before its parent, that is we, has reaped the worker
     * (kernel/pid_namespace.c, zap_pid_ns_processes()). */
    self->gave_up = true;
    if (self->checkpoint.armed)
        checkpoint_release(&self->checkpoint);
}

/* Reaps the job's child.  A mini-init's own status counts only where it was killed
 * before it could tell the program's. */
static void reap(struct supervisor *self)
{
    int status;
    if (waitpid(self->job->child, &status, WNOHANG) != self->job->child)
        return;
    self->child_ended = true;
    if (self->job->init_socket >= 0 && !self->status_known)
        serve_init(self);
    if (!self->status_known)
        self->result->wait_status = status;
    self->status_known = true;
}

/* A probe tells of its hit before it stops the process: what is stopped and is not told
 * of was stopped by somebody else. */
static int serve_stop(struct supervisor *self, struct err *err)
{
    while (signals_see_stopped(self->job))
        if (!serve_probes(self))
            return signals_check_stopped(self->job, err);
    return 0;
}

static int serve_signals(struct supervisor *self, struct err *err)
{
    struct signalfd_siginfo info;
    ssize_t n = read(self->signal_fd, &info, sizeof(info));
    if (n != (ssize_t)sizeof(info))
        return 0;
    if (info.ssi_signo == SIGCHLD)
        return serve_stop(self, err);
    return signals_forward(self->job, &info, err);
}

static int dispatch(struct supervisor *self, const struct epoll_event *event, struct err *err)
{
    int fd = (int)(uint32_t)event->data.u64;
    switch ((enum source)(event->data.u64 >> 32)) {
    case SOURCE_SIGNAL:
        return serve_signals(self, err);
    case SOURCE_LISTENER:
        serve_listener(self, fd, event->events);
        break;
    case SOURCE_REARM:
        serve_rearm(self);
        break;
    case SOURCE_GROUP:
        self->group_empty = cgroup_events_populated(fd) <= 0;
        break;
    case SOURCE_CHILD:
        unwatch(self, fd);
        reap(self);
        break;
    case SOURCE_INIT:
        serve_init(self);
        break;
    case SOURCE_COMMIT:
        finish_commit(self);
        arm(self);
        break;
    case SOURCE_PROBES:
        serve_probes(self);
        break;
    case SOURCE_REQUEST:
        serve_request(self);
        break;
    case SOURCE_HANDOVER:
        serve_handover(self);
        break;
    case SOURCE_KEEPER:
        unwatch(self, fd);
        log_warning("keeper", "the process that relays the program's streams has died");
        break;
    }
    return 0;
}

static int open_sources(struct supervisor *self, struct err *err)
{
    const struct supervision *job = self->job;
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll_fd < 0)
        return err_set(err, errno, "epoll_create1");
    self->events_fd = cgroup_open_events(job->job->group.fd);
    if (self->events_fd < 0)
        return err_set(err, -self->events_fd, "open cgroup.events");
    int error = watch(self, SOURCE_SIGNAL, self->signal_fd, EPOLLIN, err);
    if (!error && job->listener >= 0)
        error = watch(self, SOURCE_LISTENER, job->listener, EPOLLIN, err);
    if (!error)
        error = watch(self, SOURCE_REARM, job->job->socket_fd, EPOLLIN, err);
    if (!error)
        error = watch(self, SOURCE_REQUEST, job->job->request_fd, EPOLLIN, err);
    if (!error)
        error = watch(self, SOURCE_GROUP, self->events_fd, EPOLLPRI, err);
    if (!error)
        error = watch(self, SOURCE_CHILD, job->child_pidfd, EPOLLIN, err);
    if (!error && job->init_socket >= 0)
        error = watch(self, SOURCE_INIT, job->init_socket, EPOLLIN, err);
    if (!error && job->keeper->pidfd >= 0)
        error = watch(self, SOURCE_KEEPER, job->keeper->pidfd, EPOLLIN, err);
    if (!error && job->probes)
        error = watch(self, SOURCE_PROBES, uprobes_fd(job->probes), EPOLLIN, err);
    return error;
}

static int run_loop(struct supervisor *self, struct err *err)
{
    /* A restored program goes on first.  The CRIU that restored it still has to end,
     * too, before the next can be told which tree to dump. */
    bool wait_to_arm = self->job->init != 0;
    while (!self->group_empty || !self->child_ended) {
        struct epoll_event event;
        int n = epoll_wait(self->epoll_fd, &event, 1,
                           wait_to_arm ? ARM_DELAY_MS : published_wait_ms(&self->published));
        if (n < 0 && errno != EINTR)
            return err_set(err, errno, "epoll_wait");
        if (n == 0 && wait_to_arm) {
            wait_to_arm = false;
            arm(self);
        }
        int error = n > 0 ? dispatch(self, &event, err) : 0;
        if (error)
            return error;
        published_settle(&self->published, n == 0);
    }
    return 0;
}

int supervise(struct supervision *job, int signal_fd, struct supervise_result *out, struct err *err)
{
    *out = (struct supervise_result){0};
    struct supervisor self = {.job = job,
                              .result = out,
                              .checkpoint = CHECKPOINT_NONE,
                              .handover = HANDOVER_NONE,
                              .observer = OBSERVER_NONE,
                              .epoll_fd = -1,
                              .signal_fd = signal_fd,
                              .events_fd = -1,
                              .commit_fd = -1};
    published_begin(&self.published, job);
    int error = open_sources(&self, err);
    if (!error) {
        if (!job->init)
            arm(&self);
        error = run_loop(&self, err);
    }
    if (self.checkpoint.committing)
        finish_commit(&self);
    checkpoint_release(&self.checkpoint);
    observe_end(&self.observer);
    end_probes(&self);
    if (!error && job->init_socket >= 0 && !self.status_known)
        serve_init(&self);
    fd_close(&self.epoll_fd);
    fd_close(&self.events_fd);
    return error;
}

void supervise_signals(sigset_t *set)
{
    static const int wanted[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1,  SIGUSR2,
                                 SIGALRM, SIGCONT, SIGTSTP, SIGCHLD, SIGWINCH, SIGPIPE};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct sigaction action;
        if (sigaction(wanted[i], NULL, &action) == 0 && action.sa_handler == SIG_IGN &&
            wanted[i] != SIGCHLD)
            continue;
        sigaddset(set, wanted[i]);
    }
}
