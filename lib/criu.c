#include "lib/criu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/spawn.h"

static bool is_executable(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode) && access(path, X_OK) == 0;
}

static bool find_beside_program(char *path, size_t size)
{
    static const char *const places[] = {"criu-prefix/usr/sbin/criu",
                                         "../criu-prefix/usr/sbin/criu",
                                         "../lib/freezepoint/criu/usr/sbin/criu"};
    char program[PATH_MAX];
    if (proc_link(getpid(), "exe", program, sizeof(program)))
        return false;
    char *slash = strrchr(program, '/');
    if (!slash)
        return false;
    *slash = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, size, "%s/%s", program, places[i]);
        if (is_executable(path))
            return true;
    }
    return false;
}

static bool find_on_path(char *path, size_t size)
{
    const char *search = getenv("PATH");
    char places[PATH_MAX];
    snprintf(places, sizeof(places), "%s:/usr/local/sbin:/usr/sbin:/sbin", search ? search : "");
    char *save = NULL;
    for (char *place = strtok_r(places, ":", &save); place; place = strtok_r(NULL, ":", &save)) {
        snprintf(path, size, "%s/criu", place);
        if (place[0] == '/' && is_executable(path))
            return true;
    }
    return false;
}

int criu_locate(char *path, size_t size, struct err *err)
{
    const char *chosen = getenv("FREEZEPOINT_CRIU");
    if (chosen && *chosen) {
        if (is_executable(chosen)) {
            snprintf(path, size, "%s", chosen);
            return 0;
        }
        return err_lack(err, "FREEZEPOINT_CRIU is '%s', which is not an executable file", chosen);
    }
    if (find_beside_program(path, size) || find_on_path(path, size))
        return 0;
    return err_lack(err, "no CRIU found; run scripts/setup, install CRIU 4.2 or newer, or set "
                         "FREEZEPOINT_CRIU to its path");
}

int criu_version(const char *criu, char *version, size_t size, struct err *err)
{
    char text[256];
    char *const argv[] = {(char *)criu, "--version", NULL};
    if (spawn_capture(argv, 5000, text, sizeof(text), err) < 0)
        return err_lack(err, "'%s --version' does not answer", criu);
    const char *found = strstr(text, "Version: ");
    if (!found)
        return err_lack(err, "'%s --version' does not answer as CRIU does", criu);
    snprintf(version, size, "%.*s", (int)strcspn(found + 9, " \n"), found + 9);
    return 0;
}

/* The signal state in which CRIU expects to be started: the caller's blocked
 * signals and ignored SIGCHLD would be inherited otherwise. */
static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
}

int criu_worker_exec(const char *criu, int socket)
{
    reset_signals();
    setsid();
    int null_fd = open("/dev/null", O_RDWR);
    if (null_fd < 0)
        return -errno;
    /* A socket on 0..2 would be overwritten below. */
    if (socket < 3) {
        socket = fcntl(socket, F_DUPFD, 3);
        if (socket < 0)
            return -errno;
    }
    for (int fd = 0; fd < 3; fd++)
        if (dup2(null_fd, fd) < 0)
            return -errno;
    if (null_fd > 2)
        close(null_fd);
    int error = fd_cloexec(socket, 0);
    if (error)
        return error;
    char number[16];
    snprintf(number, sizeof(number), "%d", socket);
    char *const argv[] = {"criu", "swrk", number, NULL};
    /*
     * No other environment: a CRIU_CONFIG_FILE of the user's must not reach it.
     * CRIU_FAULT=130 has it trace system calls where it would set hardware
     * breakpoints, as it does by itself on machines without these
     * (compel/src/lib/infect.c, compel_stop_pie()).  Such a breakpoint is a perf event,
     * and the first one of a task on a machine makes the kernel wait until every
     * processor has noticed (kernel/events/core.c, account_event()): 5 to 20 ms with the
     * program stopped.
     */
    char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CRIU_FAULT=130",
        NULL};
    execve(criu, argv, environment);
    return -errno;
}

static int open_namespace(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

struct namespaces {
    int pid, mount, net, home; /* home: our own pid namespace */
};

static void close_namespaces(struct namespaces *spaces)
{
    fd_close(&spaces->pid);
    fd_close(&spaces->mount);
    fd_close(&spaces->net);
    fd_close(&spaces->home);
}

static int open_namespaces(pid_t inside, struct namespaces *out, struct err *err)
{
    out->pid = open_namespace(inside, "pid");
    out->mount = open_namespace(inside, "mnt");
    out->net = open_namespace(inside, "net");
    out->home = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (out->pid < 0 || out->mount < 0 || out->net < 0 || out->home < 0)
        return err_text(err, ESRCH, "open the namespaces of process %d", inside);
    return 0;
}

static pid_t fork_into_pid_namespace(const struct namespaces *spaces)
{
    /* setns(2) on a pid namespace moves only children that are born later. */
    if (spaces->pid >= 0 && setns(spaces->pid, CLONE_NEWPID) < 0)
        return -errno;
    pid_t child = fork();
    int errnum = errno;
    if (child != 0 && spaces->home >= 0)
        setns(spaces->home, CLONE_NEWPID);
    return child < 0 ? -errnum : child;
}

int criu_worker_start(const char *criu, pid_t inside, struct criu_worker *out, struct err *err)
{
    _cleanup_(close_namespaces) struct namespaces spaces = {-1, -1, -1, -1};
    if (inside) {
        int error = open_namespaces(inside, &spaces, err);
        if (error)
            return error;
    }
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    pid_t child = fork_into_pid_namespace(&spaces);
    if (child < 0)
        return err_set(err, -child, "fork the CRIU worker");
    if (child == 0) {
        if (inside && (setns(spaces.mount, CLONE_NEWNS) < 0 || setns(spaces.net, CLONE_NEWNET) < 0))
            _exit(126);
        criu_worker_exec(criu, theirs);
        _exit(127);
    }
    int pidfd = proc_pidfd_open(child);
    if (pidfd < 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        return err_set(err, -pidfd, "pidfd_open");
    }
    *out = (struct criu_worker){.pid = child, .pidfd = pidfd, .socket = fd_steal(&ours)};
    return 0;
}

void criu_worker_end(struct criu_worker *worker)
{
    if (worker->pid > 0) {
        /* With the children that it forks to try out the kernel: it leads a session
         * of its own (criu_worker_exec()), or has not come so far. */
        proc_pidfd_signal(worker->pidfd, SIGKILL);
        kill(-worker->pid, SIGKILL);
        waitpid(worker->pid, NULL, 0);
    }
    fd_close(&worker->pidfd);
    fd_close(&worker->socket);
    *worker = CRIU_WORKER_NONE;
}

void criu_worker_finish(struct criu_worker *worker, int timeout_ms)
{
    fd_close(&worker->socket);
    if (worker->pidfd >= 0)
        fd_wait(worker->pidfd, POLLIN, timeout_ms);
    criu_worker_end(worker);
}

static int report_death(struct err *err)
{
    return err_text(err, EPIPE, "CRIU ended without an answer (killed or crashed)");
}

int criu_send(int socket, const CriuReq *request, struct err *err)
{
    size_t size = criu_req__get_packed_size(request);
    _cleanup_free_ uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes)
        return err_set(err, ENOMEM, "request to CRIU");
    criu_req__pack(request, bytes);
    ssize_t n = fd_send(socket, bytes, size, -1);
    if (n == -EPIPE || n == -ECONNRESET)
        return report_death(err);
    return n < 0 ? err_set(err, (int)-n, "send a request to CRIU") : 0;
}

/* Bounds the recursion: how deep a tree is, a program decides. */
#define DEPTH_MAX 32

static uint64_t sum_text(uint64_t sum, const char *text, ssize_t size)
{
    for (ssize_t at = 0; at < size; at++)
        sum = sum * 31 + (unsigned char)text[at];
    return sum;
}

static uint64_t measure_tree(pid_t pid, uint64_t sum, int depth);

static uint64_t measure_children(pid_t pid, uint64_t sum, int depth)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    _cleanup_fclose_ FILE *children = fopen(path, "re");
    for (int child; children && fscanf(children, "%d", &child) == 1;)
        sum = measure_tree(child, sum, depth + 1);
    return sum;
}

/* Something that changes as long as a process or its descendants work: their
 * processor ticks and the bytes that they read and wrote. */
static uint64_t measure_tree(pid_t pid, uint64_t sum, int depth)
{
    char path[64], text[1024];
    static const char *const files[] = {"stat", "io"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        sum = sum_text(sum, text, fd < 0 ? 0 : fd_read_all(fd, text, sizeof(text)));
    }
    return depth < DEPTH_MAX ? measure_children(pid, sum, depth) : sum;
}

static bool is_dead_with_all_threads(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    _cleanup_closedir_ DIR *tasks = opendir(path);
    bool dead = tasks;
    for (struct dirent *task; dead && (task = readdir(tasks));) {
        struct proc_info info;
        struct err ignored;
        if (task->d_name[0] != '.' && !proc_read(atoi(task->d_name), &info, &ignored))
            dead = info.state == 'Z';
    }
    return dead;
}

/* See criu_receive(). */
static bool traces_the_dead(pid_t tracer)
{
    _cleanup_closedir_ DIR *processes = opendir("/proc");
    for (struct dirent *process; processes && (process = readdir(processes));) {
        struct proc_info info;
        struct err ignored;
        pid_t pid = atoi(process->d_name);
        if (pid > 0 && !proc_read(pid, &info, &ignored) && info.tracer == tracer &&
            info.state == 'Z' && info.threads > 1 && is_dead_with_all_threads(pid))
            return true;
    }
    return false;
}

/* 1: there is something to read, or nobody who could write; 0: not yet. */
static int wait_slice(const struct criu_worker *worker, int slice_ms, struct err *err)
{
    struct pollfd watched[] = {{.fd = worker->socket, .events = POLLIN},
                               {.fd = worker->pidfd, .events = POLLIN}};
    int ready = poll(watched, 2, slice_ms);
    if (ready < 0 && errno != EINTR)
        return err_set(err, errno, "wait for CRIU");
    if (ready <= 0 || watched[0].revents)
        return ready > 0;
    /* What it said last may have come between. */
    return fd_wait(worker->socket, POLLIN, 0) > 0 ? 1 : report_death(err);
}

static int wait_readable(const struct criu_worker *worker, pid_t pid, int stall_ms, struct err *err)
{
    enum { SLICE_MS = 1000 };
    uint64_t progress = 0;
    int idle_ms = 0;
    for (;;) {
        int ready = wait_slice(worker, stall_ms < SLICE_MS ? stall_ms : SLICE_MS, err);
        if (ready)
            return ready < 0 ? ready : 0;
        uint64_t now = measure_tree(pid, 0, 0);
        idle_ms = now == progress ? idle_ms + SLICE_MS : 0;
        progress = now;
        if (idle_ms >= SLICE_MS && traces_the_dead(pid))
            return err_text(err, ESRCH, "a process of the program was killed while CRIU held it");
        if (idle_ms >= stall_ms)
            return err_text(err, ETIMEDOUT, "CRIU made no progress for %d s", stall_ms / 1000);
    }
}

int criu_receive(const struct criu_worker *worker, pid_t pid, int stall_ms, CriuResp **out,
                 struct err *err)
{
    int error = wait_readable(worker, pid, stall_ms, err);
    if (error)
        return error;
    uint8_t bytes[64 * 1024];
    int passed = -1;
    ssize_t n = fd_receive(worker->socket, bytes, sizeof(bytes), &passed);
    fd_close(&passed);
    /* A worker that died with our request unread resets the connection. */
    if (n < 0 && n != -ECONNRESET)
        return err_set(err, (int)-n, "receive from CRIU");
    if (n <= 0)
        return report_death(err);
    *out = criu_resp__unpack(NULL, (size_t)n, bytes);
    if (!*out)
        return err_text(err, EPROTO, "CRIU's answer cannot be read");
    return 0;
}

int criu_acknowledge(int socket, bool success, struct err *err)
{
    CriuReq request = CRIU_REQ__INIT;
    request.type = CRIU_REQ_TYPE__NOTIFY;
    request.has_notify_success = true;
    request.notify_success = success;
    return criu_send(socket, &request, err);
}

int criu_write_config(const char *directory, char *path, size_t size, struct err *err)
{
    static const char settings[] = "allow-uprobes\n";
    if ((size_t)snprintf(path, size, "%s/criu.conf", directory) >= size)
        return err_set(err, ENAMETOOLONG, "make '%s/criu.conf'", directory);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n = fd < 0 ? -errno : fd_write_all(fd, settings, sizeof(settings) - 1);
    return n < 0 ? err_set(err, (int)-n, "write '%s'", path) : 0;
}
