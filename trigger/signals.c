#include "trigger/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"

/* The root's process group; its session leader is the root itself, so that no
 * process outside the job can be in it. */
static void signal_group(const struct supervision *job, int number)
{
    /* Its number may be another's once it has been waited for. */
    if (proc_pidfd_signal(job->root_pidfd, 0) < 0)
        return;
    pid_t group = getpgid(job->root);
    if (group > 1 && group != getpgrp())
        kill(-group, number);
}

static bool is_caught_or_ignored(pid_t pid, int number)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    _cleanup_fclose_ FILE *status = fopen(path, "re");
    if (!status)
        return true;
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    unsigned long long mask, found = 0;
    while (getline(&line, &capacity, status) > 0)
        if (sscanf(line, "SigIgn: %llx", &mask) == 1 || sscanf(line, "SigCgt: %llx", &mask) == 1)
            found |= mask;
    return found >> (number - 1) & 1;
}

/* Stops us as the shell expects of a job, until SIGCONT. */
static int stop_ourselves(const struct supervision *job, struct err *err)
{
    int error = keeper_pause(job->keeper, err);
    if (error)
        log_warning("keeper", "%s", err->text);
    sigset_t stop, kept;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    struct sigaction by_default = {.sa_handler = SIG_DFL}, former;
    sigaction(SIGTSTP, &by_default, &former);
    kill(0, SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &stop, &kept); /* stopped here */
    sigprocmask(SIG_SETMASK, &kept, NULL);
    sigaction(SIGTSTP, &former, NULL);
    error = keeper_resume(job->keeper, err);
    if (error)
        log_warning("keeper", "%s", err->text);
    signal_group(job, SIGCONT);
    return 0;
}

/*
 * The kernel does not let SIGTSTP stop a process group that nobody outside could
 * continue (an orphaned one: kernel/exit.c, will_become_orphaned_pgrp()), and the
 * program's is one: its session is its own.  So where SIGTSTP would have its
 * default effect, SIGSTOP is sent in its place.
 */
static int suspend_program(const struct supervision *job, struct err *err)
{
    if (is_caught_or_ignored(job->root, SIGTSTP)) {
        signal_group(job, SIGTSTP);
        return 0;
    }
    signal_group(job, SIGSTOP);
    return stop_ourselves(job, err);
}

int signals_forward(const struct supervision *job, const struct signalfd_siginfo *info,
                    struct err *err)
{
    int number = (int)info->ssi_signo;
    switch (number) {
    case SIGTSTP:
        return suspend_program(job, err);
    case SIGWINCH: /* the keeper sets the pty's size, from which it follows */
    case SIGPIPE:
        return 0;
    default:
        break;
    }
    /* ^C and ^\ go to the whole foreground group, a kill(2) to one process. */
    if (info->ssi_code == SI_KERNEL)
        signal_group(job, number);
    else if (job->root_pidfd >= 0) {
        int error = proc_pidfd_signal(job->root_pidfd, number);
        if (error && error != -ESRCH)
            return err_set(err, -error, "pass signal %d on", number);
    }
    return 0;
}

bool signals_see_stopped(const struct supervision *job)
{
    siginfo_t info = {0};
    return job->child == job->root &&
           waitid(P_PID, (id_t)job->child, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

int signals_check_stopped(const struct supervision *job, struct err *err)
{
    siginfo_t info = {0};
    if (job->child != job->root || waitid(P_PID, (id_t)job->child, &info, WSTOPPED | WNOHANG) < 0 ||
        info.si_pid == 0)
        return 0;
    int number = info.si_status;
    if (number == SIGTSTP || number == SIGSTOP)
        return stop_ourselves(job, err);
    return 0;
}
