#include "lib/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

static void run_child(char *const argv[], int output_fd)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 2) < 0 || dup2(output_fd, 1) < 0)
        _exit(127);
    execv(argv[0], argv);
    _exit(127);
}

/* Reads to the end of file.  What does not fit is read and dropped, so that the
 * program is not blocked by a full pipe. */
static ssize_t gather(int fd, int timeout_ms, char *output, size_t size)
{
    uint64_t deadline = proc_monotonic_ns() + (uint64_t)timeout_ms * 1000000ULL;
    size_t used = 0;
    for (;;) {
        uint64_t now = proc_monotonic_ns();
        if (now >= deadline)
            return -ETIMEDOUT;
        int events = fd_wait(fd, POLLIN, (int)((deadline - now) / 1000000ULL) + 1);
        if (events < 0)
            return events;
        char chunk[4096];
        ssize_t n = events ? read(fd, chunk, sizeof(chunk)) : -1;
        if (n == 0)
            break;
        for (ssize_t i = 0; i < n && used + 1 < size; i++)
            output[used++] = chunk[i];
    }
    output[used] = '\0';
    return (ssize_t)used;
}

/* Its output has ended, so it is about to exit; one that is not is killed. */
static int end_child(pid_t child, bool at_once)
{
    _cleanup_close_ int pidfd = proc_pidfd_open(child);
    if (at_once || pidfd < 0 || fd_wait(pidfd, POLLIN, 1000) <= 0)
        kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

ssize_t spawn_capture(char *const argv[], int timeout_ms, char *output, size_t size,
                      struct err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    _cleanup_close_ int from = fds[0];
    _cleanup_close_ int to = fds[1];
    pid_t child = fork();
    if (child < 0)
        return err_set(err, errno, "fork");
    if (child == 0)
        run_child(argv, to);
    fd_close(&to);
    ssize_t n = gather(from, timeout_ms, output, size);
    int status = end_child(child, n < 0);
    if (n < 0)
        return err_set(err, (int)-n, "'%s'", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_text(err, ECHILD, "'%s' failed", argv[0]);
    return n;
}
