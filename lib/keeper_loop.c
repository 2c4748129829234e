/*
 * The keeper's process: one thread here that serves the supervisor, the signals
 * and the job's end, and a relay (a thread) for each direction of bytes.
 */
#include "lib/keeper_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cgroup.h"
#include "lib/dir.h"
#include "lib/fd.h"
#include "lib/keeper.h"
#include "lib/log.h"
#include "lib/moving.h"
#include "lib/proc.h"
#include "lib/streams.h"

#define WORKER_PATIENCE_MS (120 * 1000)
#define THAW_TIMEOUT_MS    (10 * 1000)
#define FRONT_POLL_MS      300
#define KILL_TIMEOUT_MS    (5 * 1000)
/* A beat apart: some kernels take probes away after their owner's end has been told
 * (kernel/bpf/syscall.c, bpf_link_put()). */
#define CONTINUE_ROUNDS 2

struct guard {
    int worker;
    bool kill_worker;
    char draft[PATH_MAX];
};

enum phase {
    PHASE_SERVING,
    PHASE_ORPHANED, /* the supervisor is gone, the program is not */
    PHASE_ENDING,   /* the program has ended: writing out the rest */
    PHASE_LINGERING /* nobody waits for us any more */
};

struct loop {
    enum phase phase;
    struct job job;
    int socket;
    int supervisor_fd;
    int signal_fd;
    int events_fd; /* cgroup.events; -1 until orphaned */
    struct streams streams;
    bool paused;
    int to_continue; /* how often yet, where processes may stand stopped because of us */
    struct guard guard;
    int held_fd; /* keeper_hold(); -1: none */
    uint64_t worker_deadline_ms;
    unsigned int finish_serial;
    uint64_t moved, moved_ms; /* the last progress while ending */
};

static uint64_t now_ms(void)
{
    return proc_monotonic_ns() / 1000000;
}

static void reply(const struct loop *self, unsigned int serial, enum keeper_state state, int errnum,
                  const char *text)
{
    struct keeper_reply message = {.serial = serial, .errnum = errnum, .state = state};
    snprintf(message.text, sizeof(message.text), "%s", text);
    fd_send(self->socket, &message, sizeof(message), -1);
}

/* ---- the end of the program ---- */

static void begin_ending(struct loop *self)
{
    self->phase = PHASE_ENDING;
    streams_drain(&self->streams);
    self->moved = streams_moved(&self->streams);
    self->moved_ms = now_ms();
}

/* The name may have been taken by another job meanwhile. */
static bool owns_runtime(const struct job *job)
{
    char path[PATH_MAX + 8];
    struct stat by_fd, by_path;
    snprintf(path, sizeof(path), "%s/lock", job->runtime_path);
    return job->lock_fd >= 0 && fstat(job->lock_fd, &by_fd) == 0 && stat(path, &by_path) == 0 &&
           by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev;
}

static void remove_job(struct loop *self)
{
    struct err err;
    if (owns_runtime(&self->job) && job_destroy(&self->job, &err))
        log_warning("keeper", "%s", err.text);
    job_release(&self->job);
}

static bool supervisor_waits(const struct loop *self)
{
    return self->socket >= 0;
}

/* Returns true when all is over. */
static bool continue_ending(struct loop *self)
{
    bool done = streams_are_drained(&self->streams);
    uint64_t moved = streams_moved(&self->streams);
    if (moved != self->moved) {
        self->moved = moved;
        self->moved_ms = now_ms();
    }
    bool stalled = now_ms() - self->moved_ms >= KEEPER_STALL_MS;
    if (self->phase == PHASE_LINGERING)
        return done;
    if (!done && !stalled) {
        if (supervisor_waits(self))
            reply(self, self->finish_serial, KEEPER_BUSY, 0, "");
        return false;
    }
    streams_give_back(&self->streams);
    if (supervisor_waits(self)) {
        reply(self, self->finish_serial, done ? KEEPER_DONE : KEEPER_LEFT_BEHIND, 0, "");
        job_release(&self->job);
    } else {
        remove_job(self);
    }
    self->phase = PHASE_LINGERING;
    return done;
}

/* ---- the end of the supervisor ---- */

static void become_orphan(struct loop *self)
{
    fd_close(&self->socket);
    if (self->phase >= PHASE_ENDING)
        return;
    self->phase = PHASE_ORPHANED;
    streams_give_back(&self->streams);
    streams_settle(&self->streams);
    self->worker_deadline_ms = now_ms() + WORKER_PATIENCE_MS;
    if (self->guard.worker >= 0 && self->guard.kill_worker) {
        struct err err;
        proc_pidfd_signal(self->guard.worker, SIGKILL);
        if (cgroup_kill(self->job.group.fd, &err))
            log_warning("keeper", "%s", err.text);
    }
}

/* True when that was the last time. */
static bool continue_stopped(struct loop *self)
{
    struct err err;
    if (self->to_continue == 0)
        return true;
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(self->job.group.fd, &pids, &err);
    for (ssize_t i = 0; i < count; i++) {
        struct proc_info info;
        if (proc_read(pids[i], &info, &err) == 0 && info.state == 'T')
            kill(pids[i], SIGCONT);
    }
    return --self->to_continue == 0;
}

/* Where a copy of the program may run elsewhere, or this is a copy that was not yet to
 * run, the program is not to go on before that is known.  False: it is not. */
static bool settle_migration(struct loop *self)
{
    struct err err;
    int outcome = moving_settle_orphan(self->job.runtime_path, &err);
    if (outcome < 0)
        return false;
    if (outcome != OUTCOME_NEVER)
        return true;
    /* What their sockets have to say in the end is not to leave the fence. */
    int error = cgroup_kill(self->job.group.fd, &err);
    if (!error)
        error = cgroup_wait_empty(self->job.group.fd, KILL_TIMEOUT_MS, &err);
    if (error && error != -ENODEV && error != -ENOENT)
        log_warning("keeper", "%s", err.text);
    return true;
}

/* What a dump that nobody can use any more leaves behind.  False where the program
 * cannot be thawed: to be tried again. */
static bool settle_guard(struct loop *self)
{
    struct err err;
    fd_close(&self->guard.worker);
    if (!settle_migration(self))
        return false;
    if (cgroup_set_frozen(self->job.group.fd, false, THAW_TIMEOUT_MS, &err) &&
        cgroup_populated(self->job.group.fd) != -ENODEV)
        return false;
    fd_close(&self->held_fd);
    if (self->guard.draft[0] && dir_remove_recursive(AT_FDCWD, self->guard.draft, &err))
        log_warning("keeper", "%s", err.text);
    self->guard.draft[0] = '\0';
    /* Whoever reads our standard error shall see its end with the program's. */
    if (dup2(0, 2) < 0)
        log_warning("keeper", "standard error stays open");
    return true;
}

/* The group's directory can be removed by others, as soon as it is empty. */
static bool group_is_empty(struct loop *self)
{
    if (self->events_fd < 0)
        self->events_fd = cgroup_open_events(self->job.group.fd);
    if (self->events_fd < 0)
        return self->events_fd == -ENOENT || self->events_fd == -ENODEV;
    int populated = cgroup_events_populated(self->events_fd);
    return populated == 0 || populated == -ENODEV;
}

static void continue_orphaned(struct loop *self, bool *guard_settled)
{
    if (!*guard_settled && self->guard.worker >= 0) {
        if (fd_wait(self->guard.worker, POLLIN, 0) == 0) {
            if (now_ms() >= self->worker_deadline_ms)
                proc_pidfd_signal(self->guard.worker, SIGKILL);
            return;
        }
    }
    if (!*guard_settled)
        *guard_settled = settle_guard(self) && continue_stopped(self);
    if (group_is_empty(self))
        begin_ending(self);
}

static void serve_signal(struct loop *self)
{
    struct signalfd_siginfo info;
    if (read(self->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    switch (info.ssi_signo) {
    case SIGWINCH:
        streams_resize(&self->streams);
        break;
    case SIGCONT:
        if (self->phase == PHASE_SERVING && !self->paused)
            streams_take(&self->streams);
        break;
    default:
        /* Without raw mode a ^C of the terminal comes as a signal: the supervisor
         * would have passed it on. */
        if (info.ssi_code == SI_KERNEL && self->phase == PHASE_ORPHANED)
            streams_type_signal(&self->streams, (int)info.ssi_signo);
        break;
    }
}

/* ---- the supervisor's requests ---- */

static void set_guard(struct loop *self, const struct keeper_request *request, int *worker)
{
    fd_close(&self->guard.worker);
    self->guard.worker = fd_steal(worker);
    self->guard.kill_worker = request->kill_worker;
    memcpy(self->guard.draft, request->draft, sizeof(self->guard.draft));
    self->guard.draft[sizeof(self->guard.draft) - 1] = '\0';
}

static void clear_guard(struct loop *self)
{
    fd_close(&self->guard.worker);
    self->guard.draft[0] = '\0';
    if (self->guard.kill_worker)
        streams_settle(&self->streams);
    self->guard.kill_worker = false;
}

static void serve_request(struct loop *self)
{
    struct keeper_request request;
    _cleanup_close_ int passed = -1;
    ssize_t n = fd_receive(self->socket, &request, sizeof(request), &passed);
    if (n != (ssize_t)sizeof(request)) {
        become_orphan(self);
        return;
    }
    switch (request.op) {
    case KEEPER_PAUSE:
        self->paused = true;
        streams_give_back(&self->streams);
        break;
    case KEEPER_RESUME:
        self->paused = false;
        streams_take(&self->streams);
        break;
    case KEEPER_SETTLE:
        streams_settle(&self->streams);
        break;
    case KEEPER_GUARD:
        set_guard(self, &request, &passed);
        break;
    case KEEPER_GUARD_CLEAR:
        clear_guard(self);
        break;
    case KEEPER_CONTINUE:
        self->to_continue = CONTINUE_ROUNDS;
        break;
    case KEEPER_HOLD:
        fd_close(&self->held_fd);
        self->held_fd = fd_steal(&passed);
        break;
    case KEEPER_FINISH:
        self->finish_serial = request.serial;
        begin_ending(self);
        return;
    case KEEPER_READY:
        break;
    }
    reply(self, request.serial, KEEPER_DONE, 0, "");
}

/* ---- the process ---- */

static int compare(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Descriptors move above the standard three, of which 0 and 1 become /dev/null and 2
 * the program's error stream, for diagnostics as long as the supervisor lives.  It
 * need not be our own: a detached job's is a log.  All others go. */
static int keep_only(int **kept, size_t count, const int *diagnostics)
{
    int numbers[16] = {0};
    for (size_t i = 0; i < count; i++) {
        if (*kept[i] >= 0 && *kept[i] < 3)
            *kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, 3);
        numbers[i] = *kept[i];
    }
    qsort(numbers, count, sizeof(numbers[0]), compare);
    int next = 3;
    for (size_t i = 0; i < count; i++) {
        if (numbers[i] > next)
            close_range((unsigned)next, (unsigned)numbers[i] - 1, 0);
        if (numbers[i] >= next)
            next = numbers[i] + 1;
    }
    close_range((unsigned)next, ~0U, 0);
    _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0)
        return -errno;
    return dup2(*diagnostics >= 0 ? *diagnostics : null_fd, 2) < 0 ? -errno : 0;
}

/* The caller's streams get numbers of their own, then everything but the plan,
 * the job's lock and group, and the way to the supervisor is closed. */
static int keep_needed(struct loop *self, struct stdio_plan *plan)
{
    int *kept[16];
    size_t count = 0;
    for (int i = 0; i < 3; i++) {
        int moved = plan->outer_fd[i] < 0 ? -1 : fcntl(plan->outer_fd[i], F_DUPFD_CLOEXEC, 3);
        if (plan->outer_fd[i] >= 0 && moved < 0)
            return -errno;
        if (plan->screen_fd == plan->outer_fd[i])
            plan->screen_fd = moved;
        if (plan->keys_fd == plan->outer_fd[i])
            plan->keys_fd = moved;
        plan->outer_fd[i] = moved;
    }
    for (int i = 0; i < 3; i++) {
        kept[count++] = &plan->outer_fd[i];
        kept[count++] = &plan->near_fd[i];
    }
    /* Of the program's side the pty alone; keep_only() closes the others. */
    for (int i = 0; i < 3; i++) {
        if (plan->streams[i].kind == STDIO_TTY)
            kept[count++] = &plan->app_fd[i];
        else
            plan->app_fd[i] = -1;
    }
    kept[count++] = &plan->master_fd;
    kept[count++] = &self->socket;
    kept[count++] = &self->supervisor_fd;
    kept[count++] = &self->job.group.fd;
    kept[count++] = &self->job.lock_fd;
    /* Nobody will accept there once the supervisor is gone: who connects shall see
     * that at once. */
    self->job.socket_fd = self->job.request_fd = -1;
    return keep_only(kept, count, &plan->outer_fd[2]);
}

static int open_signals(struct err *err)
{
    static const int wanted[] = {SIGWINCH, SIGCONT, SIGINT, SIGQUIT};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        sigaddset(&set, wanted[i]);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? err_set(err, errno, "signalfd") : fd;
}

static int set_up(struct loop *self, struct stdio_plan *plan, struct err *err)
{
    int error = keep_needed(self, plan);
    if (error)
        return err_set(err, -error, "put its descriptors in order");
    self->signal_fd = open_signals(err);
    if (self->signal_fd < 0)
        return self->signal_fd;
    if (chdir("/") < 0)
        return err_set(err, errno, "chdir");
    error = streams_start(&self->streams, plan, self->supervisor_fd, err);
    if (!error)
        streams_take(&self->streams);
    return error;
}

static int timeout_of(const struct loop *self, bool guard_settled)
{
    if (self->streams.in_background)
        return FRONT_POLL_MS;
    if (self->phase == PHASE_ENDING)
        return KEEPER_BEAT_MS;
    bool unwatched = !guard_settled || self->events_fd < 0;
    return self->phase == PHASE_ORPHANED && unwatched ? KEEPER_BEAT_MS : -1;
}

static void serve(struct loop *self)
{
    bool guard_settled = false;
    for (;;) {
        bool orphaned = self->phase == PHASE_ORPHANED;
        struct pollfd watched[] = {
            {.fd = self->socket, .events = POLLIN},
            {.fd = self->socket >= 0 ? self->supervisor_fd : -1, .events = POLLIN},
            {.fd = self->signal_fd, .events = POLLIN},
            {.fd = self->streams.done_fd, .events = POLLIN},
            {.fd = orphaned ? self->guard.worker : -1, .events = POLLIN},
            {.fd = orphaned && guard_settled ? self->events_fd : -1, .events = POLLPRI},
        };
        if (poll(watched, 6, timeout_of(self, guard_settled)) < 0 && errno != EINTR)
            return;
        if (self->streams.in_background)
            streams_take(&self->streams);
        if (watched[2].revents)
            serve_signal(self);
        if (watched[3].revents)
            streams_serve(&self->streams);
        if (watched[0].revents)
            serve_request(self);
        /* What it said before its end comes first; the end of that is seen too. */
        else if (watched[1].revents)
            become_orphan(self);
        if (self->phase == PHASE_ORPHANED)
            continue_orphaned(self, &guard_settled);
        if (self->phase >= PHASE_ENDING && continue_ending(self))
            return;
    }
}

_Noreturn void keeper_run(const struct job *job, struct stdio_plan *plan, int socket,
                          int supervisor_fd)
{
    static struct loop self;
    self.job = *job;
    self.socket = socket;
    self.supervisor_fd = supervisor_fd;
    self.signal_fd = self.events_fd = -1;
    self.streams = STREAMS_NONE;
    self.guard.worker = self.held_fd = -1;
    prctl(PR_SET_NAME, "freezepoint-keep");
    struct err err;
    int error = set_up(&self, plan, &err);
    reply(&self, 0, KEEPER_DONE, error ? err.errnum : 0, error ? err.text : "");
    if (!error)
        serve(&self);
    streams_give_back(&self.streams);
    _exit(error ? 1 : 0);
}
