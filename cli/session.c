#include "cli/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/say.h"
#include "lib/criu.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/job_status.h"
#include "lib/log.h"
#include "restore/restore.h"
#include "trigger/point.h"

/* CRIU's own scale: warnings, or everything. */
enum { CRIU_LOG_WARNINGS = 2, CRIU_LOG_DEBUG = 4 };

static int take_signals(struct session *session, struct err *err)
{
    sigset_t wanted;
    supervise_signals(&wanted);
    if (sigprocmask(SIG_BLOCK, &wanted, &session->former_signals) < 0)
        return err_set(err, errno, "block signals");
    session->signals_taken = true;
    session->signal_fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    return session->signal_fd < 0 ? err_set(err, errno, "signalfd") : 0;
}

/* Where 0, 1 or 2 is closed, the next file opened would take its place: they are
 * filled, and remembered as closed for the program's sake. */
static int note_streams(struct session *session, struct err *err)
{
    for (int fd = 0; fd < 3; fd++)
        session->outer[fd] = fcntl(fd, F_GETFD) < 0 ? -1 : fd;
    for (;;) {
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd < 0)
            return err_set(err, errno, "open /dev/null");
        if (fd > 2) {
            close(fd);
            return 0;
        }
    }
}

int session_begin(struct session *session, const char *images, struct err *err)
{
    struct err ignored;
    session->criu_log_level = log_is_wanted(LOG_DEBUG, "criu") ? CRIU_LOG_DEBUG : CRIU_LOG_WARNINGS;
    int error = note_streams(session, err);
    if (!error)
        error = take_signals(session, err);
    if (!error)
        error = criu_locate(session->criu, sizeof(session->criu), err);
    if (!error)
        error = store_open(images, &session->store, err);
    if (!error && criu_cache_features(session->criu, &ignored))
        log_info("criu", "%s", ignored.text);
    return error;
}

/* For `freezepoint ps`; supervise() tells more. */
static void announce(const struct job *job)
{
    Freezepoint__JobStatus status;
    struct err err;
    freezepoint__job_status__init(&status);
    int error = job_status_sign(&status, &err);
    if (!error)
        error = job_status_write(job->runtime_path, &status, &err);
    if (error)
        log_info("status", "%s", err.text);
}

int session_claim(struct session *session, const char *name, bool numbered, struct err *err)
{
    int error =
        numbered ? job_create_any(name, &session->job, err) : job_create(name, &session->job, err);
    fault_point("start:claimed");
    return error;
}

int session_start_keeper(struct session *session, struct err *err)
{
    int error = keeper_start(&session->job, &session->plan, &session->keeper, err);
    if (!error)
        announce(&session->job);
    fault_point("start:keeper");
    return error;
}

int session_allow_probes(struct session *session, struct err *err)
{
    return criu_write_config(session->job.runtime_path, session->criu_config,
                             sizeof(session->criu_config), err);
}

int session_start_probes(struct session *session, struct supervised_point *points, size_t count,
                         struct uprobes **out, struct err *err)
{
    bool any = false;
    for (size_t i = 0; i < count; i++)
        any |= point_is_probe(points[i].spec);
    if (!any)
        return 0;
    int error = session_allow_probes(session, err);
    if (!error)
        error = keeper_guard_stopped(&session->keeper, err);
    return error ? error : uprobes_start(session->job.group.fd, points, count, out, err);
}

static int exit_status(int wait_status)
{
    if (WIFEXITED(wait_status))
        return WEXITSTATUS(wait_status);
    return 128 + (WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0);
}

/* Why no image was made, where one was asked for and nothing failed.  A restored
 * program has come from one. */
static void explain_no_image(const struct supervision *job, const struct supervise_result *result)
{
    if (job->init || job->point_count == 0 || result->checkpoints || result->failures)
        return;
    for (size_t i = 0; i < job->point_count; i++)
        if (job->points[i].done)
            return;
    /* Those of the preload library come first. */
    if (result->hellos == 0 && !point_is_probe(job->points[0].spec))
        say("no image: the program ended without having loaded the preload library");
    else
        say("no image: the program ended before '%s' was hit%s%s", job->points[0].spec,
            job->point_count > 1 ? " (nor any other point)" : "",
            point_is_probe(job->points[0].spec)
                ? ""
                : "; its calls may go another way: 'ltrace -c' or 'strace -c' shows which "
                  "functions it calls");
}

int session_supervise(struct session *session, struct supervision *job, int *status,
                      struct err *err)
{
    /* From here on there is no way back to a start with the caller's streams. */
    stdio_plan_release_app(&session->plan);
    int error = stdio_plan_let_go(&session->plan, 0, err);
    if (!error)
        error = stdio_plan_let_go(&session->plan, 1, err);
    if (error)
        return error;
    job->criu_config = session->criu_config[0] ? session->criu_config : NULL;
    struct supervise_result result;
    error = supervise(job, session->signal_fd, &result, err);
    if (error)
        return error;
    explain_no_image(job, &result);
    *status = result.stopped ? 0 : exit_status(result.wait_status);
    return 0;
}

void session_end(struct session *session)
{
    struct err err;
    fault_point("end:program");
    if (keeper_finish(&session->keeper, &err))
        log_warning("keeper", "%s", err.text);
    stdio_plan_release(&session->plan);
    fault_point("end:keeper");
    if (job_destroy(&session->job, &err))
        say("%s", err.text);
    store_close(&session->store);
    fd_close(&session->signal_fd);
    if (session->signals_taken)
        sigprocmask(SIG_SETMASK, &session->former_signals, NULL);
    *session = SESSION_NONE;
}
