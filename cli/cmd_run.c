#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/say.h"
#include "cli/session.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "preload/abi.h"
#include "trigger/filter.h"
#include "trigger/hooks.h"
#include "trigger/launch.h"
#include "trigger/point.h"
#include "trigger/preload.h"
#include "trigger/program.h"
#include "trigger/target.h"
#include "trigger/uprobes.h"

enum restore_mode { RESTORE_AUTO, RESTORE_NEVER, RESTORE_REQUIRE };

struct run_options {
    const char *points[FZ_RULE_MAX];
    size_t point_count;
    const char *name, *images;
    bool then_stop;
    uint64_t every, max;
    enum restore_mode restore;
    enum tcp_mode tcp;
};

static int parse_count(const char *option, const char *text, uint64_t *count, struct err *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value == 0 || value > UINT64_MAX / 2)
        return err_usage(err, "--%s '%s': a number from 1 on is expected", option, text);
    *count = value;
    return 0;
}

static int set(void *context, const char *name, const char *value, struct err *err)
{
    struct run_options *options = context;
    if (!strcmp(name, "at")) {
        if (options->point_count == FZ_RULE_MAX)
            return err_usage(err, "more than %d --at options cannot be had", FZ_RULE_MAX);
        options->points[options->point_count++] = value;
    } else if (!strcmp(name, "name")) {
        options->name = value;
    } else if (!strcmp(name, "images")) {
        options->images = value;
    } else if (!strcmp(name, "then")) {
        options->then_stop = !strcmp(value, "stop");
    } else if (!strcmp(name, "every")) {
        return parse_count(name, value, &options->every, err);
    } else if (!strcmp(name, "max")) {
        return parse_count(name, value, &options->max, err);
    } else if (!strcmp(name, "restore")) {
        options->restore = !strcmp(value, "never")     ? RESTORE_NEVER
                           : !strcmp(value, "require") ? RESTORE_REQUIRE
                                                       : RESTORE_AUTO;
    } else if (!strcmp(name, "tcp")) {
        options->tcp = !strcmp(value, "close") ? TCP_MODE_CLOSE : TCP_MODE_ESTABLISHED;
    }
    return 0;
}

/* Those of the preload library first, since it numbers them so; then probes. */
struct parsed_points {
    struct point list[FZ_RULE_MAX];
    size_t count, hooked;
};

static void release_points(struct parsed_points *points)
{
    for (size_t i = 0; i < points->count; i++)
        point_release(&points->list[i]);
}

/* Wherever it was given from, it is this file. */
static int settle_probe(struct point *point, struct err *err)
{
    char *path = realpath(point->library, NULL);
    if (!path)
        return err_usage(err, "--at '%s': '%s': %s", point->spec, point->library, strerror(errno));
    free(point->library);
    point->library = path;
    _cleanup_(targets_release) struct targets targets = {NULL};
    int error = target_find(point, &targets, err);
    if (!error && targets.list[0].unsure)
        say("--at '%s': neither a symbol nor an unwinding table says what is there: the program "
            "breaks if no instruction begins there",
            point->spec);
    return error;
}

static int parse_some(const struct run_options *options, bool probes, struct parsed_points *out,
                      struct err *err)
{
    for (size_t i = 0; i < options->point_count; i++) {
        if (point_is_probe(options->points[i]) != probes)
            continue;
        struct point *point = &out->list[out->count];
        int error = point_parse(options->points[i], point, err);
        if (error)
            return error;
        out->count++;
        error = probes ? settle_probe(point, err) : 0;
        if (error)
            return error;
    }
    return 0;
}

static int parse_points(const struct run_options *options, struct parsed_points *out,
                        struct err *err)
{
    int error = parse_some(options, false, out, err);
    out->hooked = out->count;
    return error ? error : parse_some(options, true, out, err);
}

/* Everything about a cold start that must outlive the supervision. */
struct cold_start {
    char path[PATH_MAX]; /* what is executed */
    struct program program;
    struct hooks hooks;
    struct preload preload;
    char preload_path[PATH_MAX];
    char cwd[PATH_MAX];
    struct sock_filter filter[FZ_FILTER_MAX];
    size_t filter_length;
    struct supervised_point points[FZ_RULE_MAX];
    struct uprobes *probes; /* until they are supervised */
};

static void release_cold_start(struct cold_start *start)
{
    uprobes_release(start->probes);
    hooks_release(&start->hooks);
    preload_release(&start->preload);
    program_release(&start->program);
}

static int build_preload(struct session *session, struct cold_start *start, struct err *err)
{
    int length = filter_build(start->filter, FZ_FILTER_MAX, err);
    if (length < 0)
        return length;
    start->filter_length = (size_t)length;
    struct preload_request request = {
        .slots = start->hooks.slots,
        .slot_count = start->hooks.slot_count,
        .rules = start->hooks.rules,
        .rule_count = start->hooks.rule_count,
        .socket_path = session->job.socket_path,
        .filter = start->filter,
        .filter_length = start->filter_length,
    };
    int error = preload_build(&request, &start->preload, err);
    if (error)
        return error;
    return job_place_preload(start->preload.hash, start->preload.bytes, start->preload.size,
                             start->preload_path, sizeof(start->preload_path), err);
}

/* Whatever can refuse the command does so here, before anything runs. */
static int examine(const struct run_options *options, const struct parsed_points *points,
                   char *const argv[], struct cold_start *start, bool *cannot_run, struct err *err)
{
    int error = 0;
    if (points->hooked)
        error = program_examine(start->path, argv, &start->program, err);
    *cannot_run = error == -ENOENT || error == -EACCES || error == -ENOEXEC || error == -ELOOP;
    if (!error)
        error = hooks_plan(points->list, points->hooked, options->every, &start->program, say_line,
                           NULL, &start->hooks, err);
    return error;
}

static void fill_points(const struct parsed_points *points, uint64_t every,
                        struct supervised_point *out)
{
    for (size_t i = 0; i < points->count; i++)
        out[i] = (struct supervised_point){
            .spec = points->list[i].spec,
            .library = points->list[i].library ? points->list[i].library : "",
            .function = points->list[i].function,
            .first = points->list[i].number,
            .every = every,
        };
}

static int launch(struct session *session, const struct cold_start *start, char *const argv[],
                  struct launched *out, bool *exec_failed, struct err *err)
{
    struct launch request = {
        .path = start->path,
        .argv = argv,
        .preload = start->preload_path,
        .group_fd = session->job.group.fd,
        .streams = session->plan.app_fd,
        .terminal = stdio_plan_terminal(&session->plan),
        .signals = &session->former_signals,
        .filter = start->filter,
        .filter_length = start->filter_length,
    };
    return launch_start(&request, out, exec_failed, err);
}

static int supervise_started(struct session *session, const struct run_options *options,
                             struct cold_start *start, const char *name, char *const argv[],
                             struct launched *launched, int *status, struct err *err)
{
    struct uprobes *probes = steal_pointer(&start->probes);
    struct supervision job = {
        .job = &session->job,
        .keeper = &session->keeper,
        .store = &session->store,
        .image_name = name,
        .criu = session->criu,
        .criu_log_level = session->criu_log_level,
        .points = start->points,
        .point_count = options->point_count,
        .probes = probes,
        .max_checkpoints = options->max,
        .then_stop = options->then_stop,
        .tcp = options->tcp,
        .argv = (const char *const *)argv,
        .executable = start->path,
        .cwd = start->cwd,
        .preload_path = start->preload_path,
        .preload_bytes = start->preload.bytes,
        .preload_size = start->preload.size,
        .control_offset = start->preload.control_offset,
        .streams = session->plan.streams,
        .child = launched->pid,
        .child_pidfd = launched->pidfd,
        .root = launched->pid,
        .root_pidfd = launched->pidfd,
        .init_socket = -1,
        .restorer = -1,
        .listener = launched->listener,
        .say = say_line,
    };
    return session_supervise(session, &job, status, err);
}

/* As env(1) does where it cannot run a command. */
static int report_not_run(int error, const struct err *err)
{
    say("%s", err->text);
    return error == -ENOENT ? EXIT_STATUS_NOT_FOUND : EXIT_STATUS_CANNOT_EXECUTE;
}

static int run_cold(struct session *session, const struct run_options *options,
                    const struct parsed_points *points, struct cold_start *start, const char *name,
                    char *const argv[], int *status, struct err *err)
{
    bool cannot_run;
    int error = examine(options, points, argv, start, &cannot_run, err);
    if (error && cannot_run) {
        *status = report_not_run(error, err);
        return 0;
    }
    if (error)
        return error;
    fill_points(points, options->every, start->points);
    error = build_preload(session, start, err);
    if (!error)
        error = stdio_plan_make(session->outer, &session->plan, err);
    if (!error)
        error = session_start_keeper(session, err);
    /* The first call is counted. */
    if (!error)
        error = session_start_probes(session, start->points, points->count, &start->probes, err);
    if (error)
        return error;
    struct launched launched = {.pidfd = -1, .listener = -1};
    error = launch(session, start, argv, &launched, &cannot_run, err);
    fault_point("start:launched");
    if (error && cannot_run) {
        *status = report_not_run(error, err);
        return 0;
    }
    if (error)
        return error;
    error = supervise_started(session, options, start, name, argv, &launched, status, err);
    fd_close(&launched.pidfd);
    return error;
}

/* 0: ran warm; 1: there is nothing to restore, or it does not fit, or it failed,
 * and why has been said where it matters; -errno: with --restore require. */
static int run_warm(struct session *session, const struct run_options *options,
                    const struct cold_start *start, const char *name, char *const argv[],
                    int *status, struct err *err)
{
    if (options->restore == RESTORE_NEVER)
        return 1;
    _cleanup_(image_close) struct image image = IMAGE_NONE;
    int error = image_open(&session->store, name, &image, err);
    if (error == -ENOENT && options->restore == RESTORE_AUTO)
        return 1;
    char why[IMAGE_WHY_MAX];
    struct image_wanted wanted = {.argv = (const char *const *)argv,
                                  .executable = start->path,
                                  .cwd = start->cwd,
                                  .specs = options->points,
                                  .spec_count = options->point_count,
                                  .every = options->every};
    if (!error && !image_check_fresh(&image, &wanted, why))
        error = err_text(err, ESTALE, "image %s is stale: %s", image.label, why);
    struct restored_options restored = {.then_stop = options->then_stop,
                                        .tcp_given = options->tcp != TCP_MODE_NONE,
                                        .tcp = options->tcp,
                                        .max_checkpoints = options->max};
    if (!error)
        error = session_run_restored(session, &image, &restored, NULL, NULL, status, err);
    if (!error || options->restore == RESTORE_REQUIRE)
        return error;
    say("%s; starting cold", err->text);
    return 1;
}

static const char *default_name(const char *command)
{
    const char *slash = strrchr(command, '/');
    return slash && slash[1] ? slash + 1 : command;
}

static int run_in(struct session *session, const struct run_options *options,
                  const struct parsed_points *points, struct cold_start *start, char *const argv[],
                  int *status, struct err *err)
{
    const char *name = options->name ? options->name : default_name(argv[0]);
    int error = session_begin(session, options->images, err);
    if (!error)
        error = session_claim(session, name, false, err);
    if (!error)
        error = run_warm(session, options, start, name, argv, status, err);
    if (error == 1)
        error = run_cold(session, options, points, start, name, argv, status, err);
    return error;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct run_options *options = context;
    _cleanup_(release_points) struct parsed_points points = {.count = 0};
    _cleanup_(release_cold_start) struct cold_start start = {.path = ""};
    int status = 0;
    int error = parse_points(options, &points, err);
    if (error)
        return error;
    if (!getcwd(start.cwd, sizeof(start.cwd)))
        return err_set(err, errno, "getcwd");
    error = program_find(arguments->list[0], start.path, sizeof(start.path), err);
    if (error)
        return report_not_run(error, err);
    struct session session = SESSION_NONE;
    error = run_in(&session, options, &points, &start, arguments->list, &status, err);
    session_end(&session);
    return error ? error : status;
}

static const struct option_spec options[] = {
    {"at", "POINT",
     "checkpoint at this call: [LIBRARY:]FUNCTION[#N], main, probe:PATH:SYMBOL[+OFFSET][#N], or "
     "usdt:PATH:PROVIDER:NAME[#N]; may be repeated",
     NULL},
    {"name", "NAME", "name of the job and its images (default: the command's base name)", NULL},
    {"images", "DIR", "image store (default: $FREEZEPOINT_IMAGES or /var/lib/freezepoint)", NULL},
    {"then", "WHAT", "after a checkpoint, continue (default) or stop", "continue stop"},
    {"every", "N", "checkpoint again every N calls after the first", NULL},
    {"max", "N", "take at most N checkpoints", NULL},
    {"restore", "WHEN", "start from a valid image of that name: auto (default), never, require",
     "auto never require"},
    {"tcp", "WHAT", "keep open TCP connections (established) or drop them (close) in an image",
     "established close"},
    {0},
};

const struct command cmd_run = {
    .name = "run",
    .synopsis = "[OPTION]... -- COMMAND [ARG]...",
    .summary = "Run a program and checkpoint it at named function calls",
    .details =
        "Each --at point is checkpointed once, at its first or N-th call, and the program "
        "goes on. A probe is of any instruction of any program, static ones too, or of a static "
        "tracepoint (usdt:), all places of its name together; its N counts "
        "the calls of all processes and threads of the job together, from the first "
        "start on and through restores. Where there is an image of that name, and the program, its "
        "libraries and "
        "its command line are unchanged, the program is restored from it instead of "
        "started. The program's exit status becomes freezepoint's; 128+N where signal N "
        "killed it; 126 or 127 where it cannot be executed or found; 125 where freezepoint "
        "failed.",
    .options = options,
    .needs = NEEDS_ROOT | RUNS_PROGRAM | TAKES_COMMAND,
    .arguments_min = 1,
    .arguments_max = -1,
    .set = set,
    .run = run,
    .context_size = sizeof(struct run_options),
};
