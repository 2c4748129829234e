#include "trigger/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define HOLD_TIMEOUT_MS 10000
#define EXEC_TIMEOUT_MS (60 * 1000)
#define END_TIMEOUT_MS  5000

struct ends {
    int go, ready, failed;
};

/* Not through libc: nothing of this is the program's. */
static _Noreturn void be_program(const struct trial_plan *plan, const struct ends *ends)
{
    char byte = 0;
    int errnum = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((plan->output_to_errors && dup2(STDERR_FILENO, STDOUT_FILENO) < 0) ||
        syscall(SYS_write, ends->ready, &byte, 1) != 1)
        _exit(127);
    if (syscall(SYS_read, ends->go, &byte, 1) != 1)
        _exit(127);
    execv(plan->path, plan->argv);
    errnum = errno;
    syscall(SYS_write, ends->failed, &errnum, sizeof(errnum));
    _exit(127);
}

static _Noreturn void be_init(const struct trial_plan *plan, const struct ends *ends)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        _exit(127);
    pid_t program = fork();
    if (program == 0)
        be_program(plan, ends);
    close(ends->failed);
    close(ends->ready);
    for (;;) {
        int status = 0;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended == program || (ended < 0 && errno == ECHILD))
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
}

static pid_t start(const struct trial_plan *plan, int group_fd, const struct ends *ends, int *pidfd)
{
    uint64_t namespaces = plan->own_namespaces ? CLONE_NEWPID | CLONE_NEWNS : 0;
    struct clone_args args = {.flags = CLONE_INTO_CGROUP | CLONE_PIDFD | namespaces,
                              .pidfd = (uint64_t)(uintptr_t)pidfd,
                              .exit_signal = SIGCHLD,
                              .cgroup = (uint64_t)group_fd};
    pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (child == 0) {
        if (plan->own_namespaces)
            be_init(plan, ends);
        be_program(plan, ends);
    }
    return child;
}

/* The only child of the init. */
static pid_t only_child(pid_t pid)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fd_read_all(fd, text, sizeof(text) - 1) <= 0)
        return -1;
    return (pid_t)strtol(text, NULL, 10);
}

static int hold(const struct trial_plan *plan, struct trial *trial, struct err *err)
{
    int go[2], ready[2], failed[2];
    if (pipe2(go, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    trial->go = go[1];
    _cleanup_close_ int go_end = go[0];
    if (pipe2(failed, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    trial->failed = failed[0];
    _cleanup_close_ int failed_end = failed[1];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    _cleanup_close_ int is_ready = ready[0];
    _cleanup_close_ int ready_end = ready[1];
    struct ends ends = {.go = go_end, .ready = ready_end, .failed = failed_end};
    trial->child = start(plan, trial->group.fd, &ends, &trial->pidfd);
    if (trial->child < 0)
        return err_set(err, errno, "start a process in a group%s",
                       plan->own_namespaces ? " and namespaces of its own" : "");
    fd_close(&ready_end);
    char byte;
    if (fd_wait(is_ready, POLLIN, HOLD_TIMEOUT_MS) <= 0 || read(is_ready, &byte, 1) != 1)
        return err_text(err, ECHILD, "the child could not get ready to run '%s'", plan->path);
    trial->program = plan->own_namespaces ? only_child(trial->child) : trial->child;
    return trial->program > 0 ? 0 : err_text(err, ESRCH, "the child of the init is not found");
}

int trial_hold(const struct trial_plan *plan, struct trial *out, struct err *err)
{
    struct trial trial = TRIAL_NONE;
    char name[64];
    snprintf(name, sizeof(name), "points.%d", getpid());
    int error = cgroup_make(name, &trial.group, err);
    if (error)
        return error;
    error = hold(plan, &trial, err);
    if (error) {
        struct err ignored;
        trial_end(&trial, &ignored);
        return error;
    }
    *out = trial;
    return 0;
}

int trial_go(struct trial *trial, bool *exec_failed, struct err *err)
{
    int errnum = 0;
    *exec_failed = false;
    if (write(trial->go, "", 1) != 1)
        return err_set(err, errno, "let the program go");
    if (fd_wait(trial->failed, POLLIN, EXEC_TIMEOUT_MS) <= 0)
        return err_text(err, ETIMEDOUT, "the program is not executed within %d s",
                        EXEC_TIMEOUT_MS / 1000);
    ssize_t n = fd_read_all(trial->failed, &errnum, sizeof(errnum));
    if (n == 0)
        return 0;
    *exec_failed = true;
    return err_set(err, errnum, "cannot run the program");
}

static void signal_all(const struct trial *trial, int number)
{
    pid_t *pids = NULL;
    struct err ignored;
    ssize_t count = cgroup_processes(trial->group.fd, &pids, &ignored);
    for (ssize_t i = 0; i < count; i++)
        kill(pids[i], number);
    free(pids);
}

static void await_empty(const struct trial *trial)
{
    uint64_t deadline = proc_monotonic_ns() + END_TIMEOUT_MS * 1000000ULL;
    while (cgroup_populated(trial->group.fd) == 1 && proc_monotonic_ns() < deadline)
        if (fd_wait(trial->pidfd, POLLIN, 20) > 0)
            poll(NULL, 0, 5); /* others are left */
}

int trial_end(struct trial *trial, struct err *err)
{
    if (trial->group.fd < 0)
        return 0;
    fd_close(&trial->go);
    fd_close(&trial->failed);
    if (cgroup_populated(trial->group.fd) == 1) {
        signal_all(trial, SIGTERM);
        await_empty(trial);
    }
    struct err ignored;
    cgroup_kill(trial->group.fd, &ignored);
    if (trial->child > 0)
        waitpid(trial->child, NULL, 0);
    fd_close(&trial->pidfd);
    int error = cgroup_remove(trial->group.path, err);
    cgroup_release(&trial->group);
    *trial = TRIAL_NONE;
    return error;
}
