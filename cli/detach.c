#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/say.h"
#include "lib/fd.h"
#include "lib/job.h"

/* The report may begin with it. */
#define TICK '\1'

/* The length of the line, 0 where the other process has ended without one.  The time
 * that a restore takes has its own bounds: CRIU's progress is watched. */
static size_t read_report(const struct detach *detach, int report_fd, char *line, size_t size)
{
    size_t length = 0;
    for (bool ticking = false;;) {
        if (ticking && fd_wait(report_fd, POLLIN, detach->tick_ms) == 0) {
            detach->tick();
            continue;
        }
        ssize_t n = read(report_fd, line + length, size - 1 - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return length;
        if (length == 0 && line[0] == TICK) {
            ticking = true;
            continue;
        }
        length += (size_t)n;
    }
}

_Noreturn static void wait_for_report(const struct detach *detach, int report_fd, pid_t child)
{
    char line[PATH_MAX + 256];
    size_t length = read_report(detach, report_fd, line, sizeof(line));
    if (length > 0) {
        line[length] = '\0';
        say("%s", line);
        _exit(EXIT_SUCCESS);
    }
    int status = 0;
    waitpid(child, &status, 0); /* it has closed the pipe: it is ending */
    if (WIFSIGNALED(status) && detach->abandoned)
        detach->abandoned(detach->context);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_STATUS_FAILED_EARLY);
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
        wait_for_report(detach, fds[0], child);
    }
    close(fds[0]);
    detach->report_fd = fds[1];
    setsid();
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0)
        return err_set(err, errno, "open /dev/null");
    if (null_fd > STDERR_FILENO)
        close(null_fd);
    return 0;
}

void detach_tick(const struct detach *detach)
{
    static const char tick = TICK;
    fd_write_all(detach->report_fd, &tick, 1);
}

int detach_report(struct detach *detach, int log_fd, const char *line, struct err *err)
{
    if (dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
        return err_set(err, errno, "redirect to the log");
    dprintf(detach->report_fd, "%s", line);
    fd_close(&detach->report_fd);
    return 0;
}

int detached_log_open(struct detached_log *log, struct session *session, struct err *err)
{
    char directory[PATH_MAX - 32];
    int error = job_make_log_directory(session->job.name, directory, sizeof(directory), err);
    if (error)
        return error;
    snprintf(log->path, sizeof(log->path), "%s/output.log", directory);
    log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (log->fd < 0)
        return err_set(err, errno, "open '%s'", log->path);
    session->outer[1] = session->outer[2] = log->fd;
    return 0;
}

void detached_log_line(const struct detached_log *log, const struct session *session, char *line,
                       size_t size)
{
    snprintf(line, size, "job %s runs in the background; its output is in %s", session->job.name,
             log->path);
}
