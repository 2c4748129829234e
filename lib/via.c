#include "lib/via.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define END_TIMEOUT_MS 2000

_Noreturn static void become_command(const char *command, int in, int out)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0)
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

int via_open(const char *command, struct via *out, struct err *err)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    struct via via = {.pidfd = -1, .in = -1, .out = to[1]};
    _cleanup_close_ int its_in = to[0];
    if (pipe2(from, O_CLOEXEC) < 0) {
        fd_close(&via.out);
        return err_set(err, errno, "pipe");
    }
    via.in = from[0];
    _cleanup_close_ int its_out = from[1];
    via.pid = fork();
    if (via.pid == 0)
        become_command(command, its_in, its_out);
    int errnum = errno;
    if (via.pid > 0)
        via.pidfd = proc_pidfd_open(via.pid);
    if (via.pid < 0 || via.pidfd < 0) {
        errnum = via.pid < 0 ? errnum : -via.pidfd;
        via_close(&via);
        return err_set(err, errnum, "start '%s'", command);
    }
    /* More than one of the image's pieces. */
    fcntl(via.out, F_SETPIPE_SZ, 512 << 10);
    *out = via;
    return 0;
}

void via_close(struct via *via)
{
    fd_close(&via->out);
    fd_close(&via->in);
    if (via->pid > 0) {
        if (via->pidfd < 0 || fd_wait(via->pidfd, POLLIN, END_TIMEOUT_MS) <= 0)
            kill(via->pid, SIGKILL);
        waitpid(via->pid, NULL, 0);
    }
    fd_close(&via->pidfd);
    *via = VIA_NONE;
}
