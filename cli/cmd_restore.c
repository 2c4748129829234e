#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/detach.h"
#include "cli/say.h"
#include "cli/session.h"
#include "lib/fd.h"

struct restore_options {
    const char *images, *name;
    bool detach;
    struct restored_options restored;
};

static int set(void *context, const char *name, const char *value, struct err *err)
{
    (void)err;
    struct restore_options *options = context;
    if (!strcmp(name, "images")) {
        options->images = value;
    } else if (!strcmp(name, "name")) {
        options->name = value;
    } else if (!strcmp(name, "detach")) {
        options->detach = true;
    } else if (!strcmp(name, "then")) {
        options->restored.then_stop = !strcmp(value, "stop");
    } else if (!strcmp(name, "tcp")) {
        options->restored.tcp_given = true;
        options->restored.tcp = !strcmp(value, "close") ? TCP_MODE_CLOSE : TCP_MODE_ESTABLISHED;
    }
    return 0;
}

struct detached {
    struct detach detach;
    const struct session *session;
    struct detached_log log;
};

static void report_started(void *context)
{
    struct detached *detached = context;
    struct err err;
    char line[PATH_MAX + 128];
    detached_log_line(&detached->log, detached->session, line, sizeof(line));
    if (detach_report(&detached->detach, detached->log.fd, line, &err))
        say("%s", err.text);
}

static int restore_in(struct session *session, const struct restore_options *options,
                      const char *spec, struct detached *detached, struct image *image, int *status,
                      struct err *err)
{
    int error = session_begin(session, options->images, err);
    if (!error)
        error = image_open(&session->store, spec, image, err);
    if (!error)
        error = session_claim(session, options->name ? options->name : image->manifest->name,
                              options->name == NULL, err);
    if (!error && options->detach)
        error = detached_log_open(&detached->log, session, err);
    if (error)
        return error;
    return session_run_restored(session, image, &options->restored,
                                options->detach ? report_started : NULL, detached, status, err);
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct restore_options *options = context;
    struct session session = SESSION_NONE;
    struct detached detached = {.detach.report_fd = -1, .session = &session, .log = {.fd = -1}};
    int error = options->detach ? detach_fork(&detached.detach, err) : 0;
    if (error)
        return error;
    struct image image = IMAGE_NONE;
    int status = 0;
    error = restore_in(&session, options, arguments->list[0], &detached, &image, &status, err);
    image_close(&image);
    session_end(&session);
    /* Nobody waits for its status: the log is where to look for it. */
    if (options->detach && !error)
        say("the program ended with status %d", status);
    fd_close(&detached.log.fd);
    return error ? error : status;
}

static const struct option_spec options[] = {
    {"images", "DIR", "image store (default: $FREEZEPOINT_IMAGES or /var/lib/freezepoint)", NULL},
    {"name", "NAME", "the job's name (default: the image's, numbered where it is in use)", NULL},
    {"detach", NULL, "return once the program runs; its output goes to a log file", NULL},
    {"then", "WHAT", "at its next checkpoint the program is to continue (default) or stop",
     "continue stop"},
    {"tcp", "WHAT", "keep the image's TCP connections (established) or drop them (close)",
     "established close"},
    {0},
};

const struct command cmd_restore = {
    .name = "restore",
    .synopsis = "[OPTION]... IMAGE",
    .summary = "Restore a program from an image and supervise it again",
    .details = "IMAGE is NAME (its newest generation), NAME@GENERATION or a directory. The program "
               "goes on from the call at which it was checkpointed, in a pid and mount namespace "
               "of its own, with its streams connected to freezepoint's. Its exit status becomes "
               "freezepoint's.",
    .options = options,
    .needs = NEEDS_ROOT | RUNS_PROGRAM,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = set,
    .run = run,
    .context_size = sizeof(struct restore_options),
};
