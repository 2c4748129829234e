#include "restore/init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define START_TIMEOUT_MS (20 * 1000)

/* What the mini-init reports while it starts; a descriptor comes beside the two
 * positive ones. */
enum report_kind { REPORT_SOCKET = 1, REPORT_WORKER = 2, REPORT_FAILED = -1 };

struct report {
    int kind;
    int errnum;
    char step[48];
};

static int fail(int socket, const char *step)
{
    struct report report = {.kind = REPORT_FAILED, .errnum = errno};
    snprintf(report.step, sizeof(report.step), "%s", step);
    fd_send(socket, &report, sizeof(report), -1);
    return -1;
}

static int write_number(const char *path, long number)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    char text[32];
    int length = snprintf(text, sizeof(text), "%ld", number);
    return fd < 0 || write(fd, text, (size_t)length) != length ? -1 : 0;
}

static long read_number(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[32] = "";
    return fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 ? -1 : atol(text);
}

/* CRIU itself must not sit on a number that the image needs. */
static int reserve_pids(pid_t max_pid)
{
    long limit = read_number("/proc/sys/kernel/pid_max");
    if (max_pid + 16 >= limit)
        return 0;
    return write_number("/proc/sys/kernel/ns_last_pid", max_pid + 1);
}

static int enter_namespaces(void)
{
    setsid();
    prctl(PR_SET_NAME, "freezepoint-init");
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -1;
    return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static pid_t start_worker(const struct init_request *request, int socket, int *pidfd)
{
    struct clone_args args = {.flags = CLONE_INTO_CGROUP | CLONE_PIDFD,
                              .pidfd = (uint64_t)(uintptr_t)pidfd,
                              .exit_signal = SIGCHLD,
                              .cgroup = (uint64_t)request->group_fd};
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid != 0)
        return pid;
    for (size_t i = 0; i < request->stream_count; i++)
        fd_cloexec(request->streams[i], 0);
    criu_worker_exec(request->criu, socket);
    _exit(127);
}

static int start_and_report(const struct init_request *request, int socket, pid_t *worker)
{
    if (enter_namespaces() < 0)
        return fail(socket, "make namespaces");
    if (reserve_pids(request->max_pid) < 0)
        return fail(socket, "set ns_last_pid");
    int sockets[2];
    /* Made here, so that CRIU finds the mini-init as its peer, and through
     * /proc/1/fd the work directory (criu/cr-service.c, setup_opts_from_req). */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return fail(socket, "socketpair");
    int pidfd = -1;
    *worker = start_worker(request, sockets[1], &pidfd);
    if (*worker < 0)
        return fail(socket, "start CRIU");
    struct report report = {.kind = REPORT_SOCKET};
    if (fd_send(socket, &report, sizeof(report), sockets[0]) < 0)
        return -1;
    report.kind = REPORT_WORKER;
    if (fd_send(socket, &report, sizeof(report), pidfd) < 0)
        return -1;
    close(sockets[0]);
    close(sockets[1]);
    close(pidfd);
    return 0;
}

static void keep_only(int socket, int work_fd)
{
    int low = socket < work_fd ? socket : work_fd;
    int high = socket < work_fd ? work_fd : socket;
    int null_fd = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    if (low > 3)
        close_range(3, (unsigned)low - 1, 0);
    if (high > low + 1)
        close_range((unsigned)low + 1, (unsigned)high - 1, 0);
    close_range((unsigned)high + 1, ~0U, 0);
}

static const int forwarded[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1,
                                SIGUSR2, SIGALRM, SIGCONT, SIGWINCH};

static void wanted_signals(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
        sigaddset(set, forwarded[i]);
    sigaddset(set, SIGCHLD);
}

/* Returns false once there is no child left. */
static bool reap(pid_t root, int socket)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid < 0)
            return errno != ECHILD;
        if (pid == 0)
            return true;
        if (pid == root)
            send(socket, &status, sizeof(status), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static void run_init(const struct init_request *request, int socket)
{
    sigset_t set;
    wanted_signals(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    pid_t worker;
    if (start_and_report(request, socket, &worker) < 0)
        return;
    keep_only(socket, request->work_fd);
    while (reap(request->root, socket)) {
        siginfo_t info;
        int number = sigwaitinfo(&set, &info);
        if (number > 0 && number != SIGCHLD)
            kill(request->root, number);
    }
}

static int receive_report(int socket, int kind, int *passed, struct err *err)
{
    struct report report;
    if (fd_wait(socket, POLLIN, START_TIMEOUT_MS) <= 0)
        return err_text(err, ETIMEDOUT, "the mini-init does not answer");
    ssize_t n = fd_receive(socket, &report, sizeof(report), passed);
    if (n != (ssize_t)sizeof(report))
        return err_text(err, EPIPE, "the mini-init died");
    if (report.kind == REPORT_FAILED)
        return err_set(err, report.errnum, "mini-init: %.*s", (int)sizeof(report.step) - 1,
                       report.step);
    if (report.kind != kind || *passed < 0)
        return err_text(err, EPROTO, "the mini-init answers out of order");
    return 0;
}

/* "Pid:" of a pidfd's fdinfo: the process in the reader's pid namespace. */
static pid_t pid_of(int pidfd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    int pid = 0;
    while (file && getline(&line, &capacity, file) > 0)
        if (sscanf(line, "Pid: %d", &pid) == 1)
            break;
    return pid;
}

int init_start(const struct init_request *request, struct init *out, struct err *err)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    struct init init = INIT_NONE;
    init.socket = sockets[0];
    init.work_fd = request->work_fd;
    struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD,
                              .pidfd = (uint64_t)(uintptr_t)&init.pidfd,
                              .exit_signal = SIGCHLD};
    init.pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (init.pid == 0) {
        run_init(request, sockets[1]);
        _exit(0);
    }
    int errnum = errno;
    close(sockets[1]);
    if (init.pid < 0) {
        fd_close(&init.socket);
        return err_set(err, errnum, "start the mini-init in namespaces of its own");
    }
    *out = init;
    return 0;
}

int init_await_worker(struct init *init, struct err *err)
{
    int error = receive_report(init->socket, REPORT_SOCKET, &init->worker.socket, err);
    if (!error)
        error = receive_report(init->socket, REPORT_WORKER, &init->worker.pidfd, err);
    if (!error)
        init->worker.pid = pid_of(init->worker.pidfd);
    return error;
}

void init_kill(struct init *init)
{
    if (init->pid > 0) {
        proc_pidfd_signal(init->pidfd, SIGKILL);
        waitpid(init->pid, NULL, 0);
    }
    init_release(init);
}

void init_release(struct init *init)
{
    fd_close(&init->pidfd);
    fd_close(&init->socket);
    fd_close(&init->worker.socket);
    fd_close(&init->worker.pidfd);
    *init = INIT_NONE;
}
