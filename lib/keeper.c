#include "lib/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/console.h"
#include "lib/fd.h"
#include "lib/keeper_wire.h"
#include "lib/log.h"
#include "lib/proc.h"

#define ANSWER_TIMEOUT_MS 2000

/* One reply.  -ETIMEDOUT, -EPIPE (the keeper is gone) or -errno. */
static int receive_reply(const struct keeper *keeper, int timeout_ms, struct keeper_reply *out,
                         struct err *err)
{
    int events = fd_wait(keeper->socket, POLLIN, timeout_ms);
    if (events < 0)
        return err_set(err, -events, "wait for the keeper");
    if (events == 0)
        return err_text(err, ETIMEDOUT, "the keeper (process %d) did not answer within %d ms",
                        keeper->pid, timeout_ms);
    int passed;
    ssize_t n = fd_receive(keeper->socket, out, sizeof(*out), &passed);
    fd_close(&passed);
    if (n != (ssize_t)sizeof(*out))
        return err_text(err, EPIPE,
                        "the keeper (process %d), which relays the program's streams, "
                        "has died",
                        keeper->pid);
    out->text[sizeof(out->text) - 1] = '\0';
    return 0;
}

static int send_request(const struct keeper *keeper, struct keeper_request *request, int pass,
                        struct err *err)
{
    static unsigned int serial;
    if (keeper->socket < 0)
        return err_text(err, EPIPE, "there is no keeper");
    request->serial = ++serial;
    int events = fd_wait(keeper->socket, POLLOUT, ANSWER_TIMEOUT_MS);
    if (events == 0)
        return err_text(err, ETIMEDOUT, "the keeper (process %d) does not listen", keeper->pid);
    ssize_t n = fd_send(keeper->socket, request, sizeof(*request), pass);
    if (n < 0)
        return err_set(err, n == -ECONNRESET ? EPIPE : (int)-n,
                       "speak to the keeper (process %d), which relays the program's streams",
                       keeper->pid);
    return 0;
}

static int call(const struct keeper *keeper, struct keeper_request *request, int pass,
                struct err *err)
{
    int error = send_request(keeper, request, pass, err);
    if (error)
        return error;
    uint64_t deadline = proc_monotonic_ns() / 1000000 + ANSWER_TIMEOUT_MS;
    struct keeper_reply reply = {0};
    do {
        uint64_t now = proc_monotonic_ns() / 1000000;
        error = receive_reply(keeper, now < deadline ? (int)(deadline - now) : 0, &reply, err);
        if (error)
            return error;
    } while (reply.serial != request->serial);
    return reply.errnum ? err_set(err, reply.errnum, "keeper: %s", reply.text) : 0;
}

static int fork_keeper(const struct job *job, struct stdio_plan *plan, int theirs,
                       struct keeper *keeper, struct err *err)
{
    _cleanup_close_ int self = proc_pidfd_open(getpid());
    if (self < 0)
        return err_set(err, -self, "pidfd_open");
    sigset_t all, kept;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &kept);
    keeper->pid = fork();
    if (keeper->pid == 0) {
        fd_close(&keeper->socket);
        keeper_run(job, plan, theirs, self);
    }
    int errnum = errno;
    sigprocmask(SIG_SETMASK, &kept, NULL);
    if (keeper->pid < 0) {
        keeper->pid = 0;
        return err_set(err, errnum, "start the keeper");
    }
    _cleanup_close_ int pidfd = proc_pidfd_open(keeper->pid);
    if (pidfd < 0)
        return err_set(err, -pidfd, "pidfd_open");
    keeper->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
    return keeper->pidfd < 0 ? err_set(err, errno, "duplicate a pidfd") : 0;
}

static void release(struct keeper *keeper)
{
    fd_close(&keeper->pidfd);
    fd_close(&keeper->socket);
    fd_close(&keeper->terminal_fd);
    *keeper = KEEPER_NONE;
}

static void end_keeper(struct keeper *keeper)
{
    if (keeper->pid > 0) {
        if (keeper->pidfd >= 0)
            proc_pidfd_signal(keeper->pidfd, SIGKILL);
        else
            kill(keeper->pid, SIGKILL);
        while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    release(keeper);
}

/* Nobody else can, where the keeper was killed. */
static void restore_terminal(const struct keeper *keeper)
{
    if (keeper->terminal_fd >= 0 && console_is_in_front(keeper->terminal_fd))
        tcsetattr(keeper->terminal_fd, TCSANOW, &keeper->former);
}

static void remember_terminal(struct keeper *keeper, const struct stdio_plan *plan)
{
    if (!plan->keys_raw || tcgetattr(plan->keys_fd, &keeper->former) < 0)
        return;
    keeper->terminal_fd = fcntl(plan->keys_fd, F_DUPFD_CLOEXEC, 3);
}

int keeper_start(const struct job *job, struct stdio_plan *plan, struct keeper *out,
                 struct err *err)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    struct keeper keeper = KEEPER_NONE;
    /* Not in the place of a stream that the caller has closed. */
    keeper.socket = fcntl(sockets[0], F_DUPFD_CLOEXEC, 3);
    close(sockets[0]);
    _cleanup_close_ int theirs = sockets[1];
    remember_terminal(&keeper, plan);
    int error = fork_keeper(job, plan, theirs, &keeper, err);
    fd_close(&theirs);
    struct keeper_reply ready = {0};
    if (!error)
        error = receive_reply(&keeper, 2 * ANSWER_TIMEOUT_MS, &ready, err);
    if (!error && ready.errnum)
        error = err_set(err, ready.errnum, "keeper: %s", ready.text);
    if (error) {
        end_keeper(&keeper);
        return error;
    }
    stdio_plan_release_near(plan);
    *out = keeper;
    return 0;
}

/* The keeper beats; its silence means that it is stuck itself. */
static int await_finished(const struct keeper *keeper, unsigned int serial,
                          enum keeper_state *state, struct err *err)
{
    struct keeper_reply reply = {.state = KEEPER_BUSY};
    while (reply.state == KEEPER_BUSY || reply.serial != serial) {
        int error = receive_reply(keeper, KEEPER_STALL_MS + KEEPER_BEAT_MS, &reply, err);
        if (error)
            return error;
    }
    *state = reply.state;
    return 0;
}

static void reap_ended(struct keeper *keeper)
{
    if (fd_wait(keeper->pidfd, POLLIN, ANSWER_TIMEOUT_MS) <= 0)
        log_warning("keeper", "process %d did not end by itself", keeper->pid);
    end_keeper(keeper);
}

int keeper_finish(struct keeper *keeper, struct err *err)
{
    if (keeper->pid <= 0)
        return 0;
    struct keeper_request request = {.op = KEEPER_FINISH};
    enum keeper_state state = KEEPER_DONE;
    int error = send_request(keeper, &request, -1, err);
    if (!error)
        error = await_finished(keeper, request.serial, &state, err);
    if (!error && state == KEEPER_LEFT_BEHIND) {
        log_info("keeper", "process %d is left behind with output that nobody takes", keeper->pid);
        release(keeper);
        return 0;
    }
    if (error) {
        restore_terminal(keeper);
        end_keeper(keeper);
    } else {
        reap_ended(keeper);
    }
    return error;
}

static int call_simple(struct keeper *keeper, enum keeper_op op, struct err *err)
{
    struct keeper_request request = {.op = op};
    return call(keeper, &request, -1, err);
}

int keeper_pause(struct keeper *keeper, struct err *err)
{
    return call_simple(keeper, KEEPER_PAUSE, err);
}

int keeper_resume(struct keeper *keeper, struct err *err)
{
    return call_simple(keeper, KEEPER_RESUME, err);
}

int keeper_settle(struct keeper *keeper, struct err *err)
{
    return call_simple(keeper, KEEPER_SETTLE, err);
}

int keeper_guard_stopped(struct keeper *keeper, struct err *err)
{
    return call_simple(keeper, KEEPER_CONTINUE, err);
}

int keeper_hold(struct keeper *keeper, int fd, struct err *err)
{
    struct keeper_request request = {.op = KEEPER_HOLD};
    return call(keeper, &request, fd, err);
}

int keeper_guard_set(struct keeper *keeper, const struct keeper_guard *guard, struct err *err)
{
    struct keeper_request request = {.op = KEEPER_GUARD, .kill_worker = guard->kill_worker};
    if (guard->draft) {
        if (guard->draft[0] != '/' || strlen(guard->draft) >= sizeof(request.draft))
            return err_text(err, EINVAL, "'%s' is not an absolute path", guard->draft);
        snprintf(request.draft, sizeof(request.draft), "%s", guard->draft);
    }
    return call(keeper, &request, guard->worker, err);
}

int keeper_guard_clear(struct keeper *keeper, struct err *err)
{
    struct keeper_request request = {.op = KEEPER_GUARD_CLEAR};
    return send_request(keeper, &request, -1, err);
}
