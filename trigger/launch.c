#include "trigger/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"
#include "trigger/filter.h"

/* What the child reports: first the listener (or why there is none), then, only
 * if execve fails, why. */
enum { STAGE_STREAMS, STAGE_FILTER, STAGE_READY, STAGE_EXEC };

struct report {
    int stage;
    int errnum;
};

static const char *const stage_names[] = {
    [STAGE_STREAMS] = "connect the program's streams",
    [STAGE_FILTER] = "install the seccomp filter",
};

static void report(int socket, int stage, int errnum, int pass)
{
    struct report message = {.stage = stage, .errnum = errnum};
    fd_send(socket, &message, sizeof(message), pass);
}

static int take_streams(const int *streams)
{
    int moved[3];
    for (int i = 0; i < 3; i++) {
        moved[i] = fcntl(streams[i], F_DUPFD_CLOEXEC, 10);
        if (moved[i] < 0)
            return -errno;
    }
    for (int i = 0; i < 3; i++)
        if (dup2(moved[i], i) < 0)
            return -errno;
    return 0;
}

static int take_terminal(const char *terminal)
{
    if (!terminal)
        return 0;
    _cleanup_close_ int fd = open(terminal, O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) < 0)
        return -errno;
    return 0;
}

static char **make_environment(const char *preload)
{
    size_t count = 0;
    while (environ[count])
        count++;
    char **list = calloc(count + 2, sizeof(*list));
    if (!list)
        return NULL;
    const char *others = getenv("LD_PRELOAD");
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0)
            list[kept++] = environ[i];
    if (asprintf(&list[kept], "LD_PRELOAD=%s%s%s", preload, others && *others ? ":" : "",
                 others ? others : "") < 0) {
        free(list);
        return NULL;
    }
    return list;
}

static void run_child(const struct launch *launch, char **environment, int socket)
{
    setsid();
    int error = take_streams(launch->streams);
    if (!error)
        error = take_terminal(launch->terminal);
    if (error) {
        report(socket, STAGE_STREAMS, -error, -1);
        return;
    }
    int listener = filter_install(launch->filter, launch->filter_length);
    if (listener < 0) {
        report(socket, STAGE_FILTER, -listener, -1);
        return;
    }
    report(socket, STAGE_READY, 0, listener);
    close(listener);
    sigprocmask(SIG_SETMASK, launch->signals, NULL);
    execve(launch->path, launch->argv, environment);
    report(socket, STAGE_EXEC, errno, -1);
}

static pid_t spawn_in_group(int group_fd, int *pidfd)
{
    struct clone_args args = {.flags = CLONE_INTO_CGROUP | CLONE_PIDFD,
                              .pidfd = (uint64_t)(uintptr_t)pidfd,
                              .exit_signal = SIGCHLD,
                              .cgroup = (uint64_t)group_fd};
    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* 0 and a message, or 0 with *ended; -errno. */
static int receive_report(int socket, struct report *message, int *passed, bool *ended,
                          struct err *err)
{
    /* execve of a program on a slow disk is in this time. */
    int events = fd_wait(socket, POLLIN, 60 * 1000);
    if (events <= 0)
        return err_set(err, events ? -events : ETIMEDOUT, "wait for the program to start");
    ssize_t n = fd_receive(socket, message, sizeof(*message), passed);
    if (n < 0)
        return err_set(err, (int)-n, "hear from the program's start");
    *ended = n != sizeof(*message);
    return 0;
}

static int await_exec(const struct launch *launch, int socket, int *listener, bool *exec_failed,
                      struct err *err)
{
    struct report message = {0};
    bool ended = false;
    int error = receive_report(socket, &message, listener, &ended, err);
    if (error)
        return error;
    if (ended)
        return err_text(err, ECHILD, "the child died before it could start '%s'", launch->path);
    if (message.stage != STAGE_READY || *listener < 0)
        return err_set(err, message.errnum, "%s", stage_names[message.stage & 1]);
    int none = -1;
    error = receive_report(socket, &message, &none, &ended, err);
    if (error || ended)
        return error;
    *exec_failed = true;
    return err_set(err, message.errnum, "cannot run '%s'", launch->path);
}

int launch_start(const struct launch *launch, struct launched *out, bool *exec_failed,
                 struct err *err)
{
    *exec_failed = false;
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    char **environment = make_environment(launch->preload);
    if (!environment)
        return err_set(err, ENOMEM, "environment");
    _cleanup_close_ int pidfd = -1;
    pid_t child = spawn_in_group(launch->group_fd, &pidfd);
    if (child == 0) {
        run_child(launch, environment, theirs);
        _exit(127);
    }
    int errnum = errno;
    free(environment);
    if (child < 0)
        return err_set(err, errnum, "start a process in the job's group");
    fd_close(&theirs);
    _cleanup_close_ int listener = -1;
    int error = await_exec(launch, ours, &listener, exec_failed, err);
    if (error) {
        proc_pidfd_signal(pidfd, SIGKILL);
        waitpid(child, NULL, 0);
        return error;
    }
    *out =
        (struct launched){.pid = child, .pidfd = fd_steal(&pidfd), .listener = fd_steal(&listener)};
    return 0;
}
