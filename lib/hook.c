#include "lib/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define BEAT_MS 500

static void set_environment(const char *name, const struct hook_facts *facts)
{
    setenv("FREEZEPOINT_HOOK", name, true);
    setenv("FREEZEPOINT_JOB", facts->job, true);
    setenv("FREEZEPOINT_SIDE", facts->side, true);
    setenv("FREEZEPOINT_RUNS", facts->runs, true);
    setenv("FREEZEPOINT_MIGRATION", facts->migration, true);
    setenv("FREEZEPOINT_ADDRESSES", facts->addresses, true);
}

_Noreturn static void become_command(const char *name, const char *command,
                                     const struct hook_facts *facts)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < SIGRTMIN; number++)
        signal(number, SIG_DFL);
    setpgid(0, 0);
    set_environment(name, facts);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd >= 0 && dup2(null_fd, STDIN_FILENO) >= 0 && dup2(STDERR_FILENO, STDOUT_FILENO) >= 0)
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* 0: it has ended. */
static int await(const char *name, int pidfd, int (*beat)(void *context, struct err *err),
                 void *context, struct err *err)
{
    for (int waited_ms = 0; waited_ms < HOOK_TIMEOUT_S * 1000; waited_ms += BEAT_MS) {
        int ready = fd_wait(pidfd, POLLIN, BEAT_MS);
        if (ready < 0)
            return err_set(err, -ready, "wait for the command of --%s", name);
        if (ready > 0)
            return 0;
        int error = beat ? beat(context, err) : 0;
        if (error)
            return error;
    }
    return err_text(err, ETIMEDOUT, "the command of --%s did not end within %d s and was killed",
                    name, HOOK_TIMEOUT_S);
}

int hook_run(const char *name, const char *command, const struct hook_facts *facts,
             int (*beat)(void *context, struct err *err), void *context, struct err *err)
{
    if (!command)
        return 0;
    pid_t pid = fork();
    if (pid < 0)
        return err_set(err, errno, "fork");
    if (pid == 0)
        become_command(name, command, facts);
    setpgid(pid, pid);
    _cleanup_close_ int pidfd = proc_pidfd_open(pid);
    int error =
        pidfd < 0 ? err_set(err, -pidfd, "pidfd_open") : await(name, pidfd, beat, context, err);
    if (error)
        kill(-pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    if (error || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return error;
    if (WIFEXITED(status))
        return err_text(err, ECANCELED, "the command of --%s failed with status %d", name,
                        WEXITSTATUS(status));
    return err_text(err, ECANCELED, "the command of --%s was killed by signal %d", name,
                    WTERMSIG(status));
}
