#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/say.h"
#include "lib/fd.h"

/* The time that a restore takes has its own bounds: CRIU's progress is watched. */
static void wait_for_report(int report_fd, pid_t child)
{
    char line[1024];
    ssize_t n = fd_read_all(report_fd, line, sizeof(line) - 1);
    if (n > 0) {
        line[n] = '\0';
        say("%s", line);
        _exit(EXIT_SUCCESS);
    }
    int status = 0;
    waitpid(child, &status, 0); /* it has closed the pipe: it is ending */
    _exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status)
                                                   : EXIT_STATUS_FAILED_EARLY);
}

int detach_fork(struct detach *detach, struct err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    pid_t child = fork();
    if (child < 0) {
        int errnum = errno;
        close(fds[0]);
        close(fds[1]);
        return err_set(err, errnum, "fork");
    }
    if (child > 0) {
        close(fds[1]);
        wait_for_report(fds[0], child);
    }
    close(fds[0]);
    detach->report_fd = fds[1];
    setsid();
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0)
        return err_set(err, errno, "open /dev/null");
    if (null_fd > STDERR_FILENO)
        close(null_fd);
    return 0;
}

int detach_report(struct detach *detach, int log_fd, const char *line, struct err *err)
{
    if (dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
        return err_set(err, errno, "redirect to the log");
    dprintf(detach->report_fd, "%s", line);
    fd_close(&detach->report_fd);
    return 0;
}
