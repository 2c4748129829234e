#include "lib/probe.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/probe_list.h"
#include "lib/proc.h"

#define SHORT_MS (10 * 1000)
#define CRIU_MS  (20 * 1000)

const struct probe probes[] = {
    {"seccomp-notify", true, SHORT_MS, "no call can be intercepted: `run` cannot work",
     probe_seccomp_notify},
    {"cgroup-freezer", true, SHORT_MS, "no program can be held still for a checkpoint",
     probe_cgroup_freezer},
    {"process-memory", true, SHORT_MS, "points cannot be armed or disarmed in the program",
     probe_process_memory},
    {"pidfd", true, SHORT_MS, "processes cannot be watched and signalled safely", probe_pidfd},
    {"namespaces", true, SHORT_MS, "`restore` cannot give a program its old process ids back",
     probe_namespaces},
    {"criu", true, CRIU_MS, "no checkpoint can be made or restored", probe_criu},
    {"criu-cache", false, SHORT_MS, "about 30 ms more for each checkpoint and restore",
     probe_criu_cache},
    {"tcp-established", false, CRIU_MS, "open TCP connections cannot be kept (--tcp established)",
     probe_tcp_established},
    {"other-user-dump", false, SHORT_MS,
     "programs with a process of another user than root cannot be checkpointed", probe_other_user},
    {"userfaultfd", false, SHORT_MS, "restoring on demand (restore --lazy)", probe_userfaultfd},
    {"uprobes", false, SHORT_MS,
     "points inside executables and static programs (--at probe:PATH:SYMBOL)", probe_uprobes},
    {"bpf", false, SHORT_MS, "marks made by the kernel, and `points`", probe_bpf},
    {"pressure", false, SHORT_MS, "checkpoints under memory pressure (--on-pressure)",
     probe_pressure},
    {"image-store", true, SHORT_MS, "images have no default place: --images DIR must be given",
     probe_image_store},
    {"runtime-dir", true, SHORT_MS, "jobs cannot be set up", probe_runtime},
    {0},
};

const char *probe_status_name(enum probe_status status)
{
    static const char *const names[] = {
        [PROBE_OK] = "ok", [PROBE_LIMITED] = "limited", [PROBE_MISSING] = "missing"};
    return names[status];
}

void probe_set_ok(struct probe_result *result, const char *format, ...)
{
    result->status = PROBE_OK;
    result->remedy[0] = '\0';
    va_list args;
    va_start(args, format);
    vsnprintf(result->found, sizeof(result->found), format, args);
    va_end(args);
}

void probe_set(struct probe_result *result, enum probe_status status, const char *remedy,
               const char *format, ...)
{
    result->status = status;
    snprintf(result->remedy, sizeof(result->remedy), "%s", remedy);
    va_list args;
    va_start(args, format);
    vsnprintf(result->found, sizeof(result->found), format, args);
    va_end(args);
}

static bool is_for_root(int errnum)
{
    return (errnum == EPERM || errnum == EACCES) && geteuid() != 0;
}

void probe_set_missing(struct probe_result *result, int errnum, const char *remedy,
                       const char *what)
{
    probe_set(result, PROBE_MISSING, is_for_root(errnum) ? PROBE_BE_ROOT : remedy, "%s: %s", what,
              strerror(errnum));
}

void probe_set_failed(struct probe_result *result, const struct err *err, const char *remedy)
{
    const char *end = remedy ? NULL : strstr(err->text, "; ");
    int length = end ? (int)(end - err->text) : (int)strlen(err->text);
    if (!remedy)
        remedy = end ? end + 2 : "";
    if (is_for_root(err->errnum))
        remedy = PROBE_BE_ROOT;
    probe_set(result, PROBE_MISSING, remedy, "%.*s", length, err->text);
}

pid_t probe_child_start(void)
{
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0)
        for (;;)
            pause();
    return child;
}

void probe_child_end(pid_t *child)
{
    if (*child > 0) {
        kill(*child, SIGKILL);
        waitpid(*child, NULL, 0);
    }
    *child = 0;
}

int probe_child_wait(pid_t *child, int timeout_ms)
{
    _cleanup_close_ int pidfd = proc_pidfd_open(*child);
    if (pidfd < 0)
        return pidfd;
    int events = fd_wait(pidfd, POLLIN, timeout_ms);
    if (events <= 0)
        return events < 0 ? events : -ETIMEDOUT;
    int status;
    if (waitpid(*child, &status, 0) < 0)
        return -errno;
    *child = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* It keeps no tie to the parent's life: where that is killed (^C reaches it
 * alone, the group is another), the probe goes on to its end and cleans up. */
static void run_child(const struct probe *probe, int socket)
{
    setpgid(0, 0);
    /* A supervisor has some blocked, and it would see none of what it tries. */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct probe_result result = {.status = PROBE_MISSING};
    probe->perform(&result);
    fd_send(socket, &result, sizeof(result), -1);
    _exit(0);
}

static void await_result(const struct probe *probe, int socket, struct probe_result *out)
{
    static const char remedy[] = "report this with the kernel's log ('dmesg')";
    int passed;
    int events = fd_wait(socket, POLLIN, probe->timeout_ms);
    if (events <= 0) {
        probe_set(out, PROBE_MISSING, remedy, "no answer within %d ms", probe->timeout_ms);
        return;
    }
    ssize_t n = fd_receive(socket, out, sizeof(*out), &passed);
    fd_close(&passed);
    if (n != (ssize_t)sizeof(*out))
        probe_set(out, PROBE_MISSING, remedy, "the probe was killed");
}

void probe_run(const struct probe *probe, struct probe_result *out)
{
    memset(out, 0, sizeof(*out));
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
        probe_set_missing(out, errno, "free some file descriptors", "socketpair");
        return;
    }
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    pid_t child = fork();
    if (child < 0) {
        probe_set_missing(out, errno, "end some processes", "fork");
        return;
    }
    if (child == 0) {
        fd_close(&ours);
        run_child(probe, theirs);
    }
    setpgid(child, child);
    fd_close(&theirs);
    await_result(probe, ours, out);
    kill(-child, SIGKILL);
    probe_child_end(&child);
}
