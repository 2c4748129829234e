#include "trigger/trial_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cgroup.h"
#include "lib/fd.h"

static void end_group(const char *path)
{
    struct err ignored;
    _cleanup_close_ int group = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (group < 0)
        return;
    cgroup_kill(group, &ignored);
    cgroup_remove(path, &ignored);
}

/* It has nothing of ours open: what is held until we close it would be held on. */
static _Noreturn void guard(const struct trial *trial, int socket)
{
    char done = 0;
    ssize_t n;
    /* Who kills our process group shall not kill it, too. */
    setsid();
    prctl(PR_SET_NAME, "freezepoint-end");
    if (chdir("/") < 0 || dup2(socket, 0) < 0 || syscall(SYS_close_range, 1, ~0U, 0) < 0)
        _exit(1);
    do
        n = read(0, &done, 1);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        end_group(trial->group.path);
    _exit(0);
}

int trial_guard_start(const struct trial *trial, struct trial_guard *out, struct err *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(err, errno, "socketpair");
    pid_t pid = fork();
    if (pid == 0)
        guard(trial, ends[1]);
    int error = pid < 0 ? err_set(err, errno, "start a process") : 0;
    fd_close(&ends[1]);
    if (error)
        fd_close(&ends[0]);
    else
        *out = (struct trial_guard){pid, ends[0]};
    return error;
}

void trial_guard_end(struct trial_guard *guard)
{
    if (!guard->pid)
        return;
    /* Where it was killed there is nothing to tell. */
    send(guard->fd, "", 1, MSG_NOSIGNAL);
    fd_close(&guard->fd);
    waitpid(guard->pid, NULL, 0);
    *guard = TRIAL_GUARD_NONE;
}
