#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/image_text.h"
#include "cli/points_text.h"
#include "cli/report.h"
#include "cli/say.h"
#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"
#include "trigger/program.h"
#include "trigger/trial.h"
#include "trigger/trial_guard.h"

struct points_options {
    const char *group, *report;
    pid_t pid;
    int duration_ms;
    bool json, scope_given;
    enum scope_kind scope;
};

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    stop = number;
}

static int set(void *context, const char *name, const char *value, struct err *err)
{
    struct points_options *options = context;
    if (!strcmp(name, "for"))
        return duration_parse(name, value, 1, &options->duration_ms, err);
    if (!strcmp(name, "json")) {
        options->json = true;
    } else if (!strcmp(name, "report")) {
        options->report = value;
    } else if (!strcmp(name, "cgroup")) {
        options->group = value;
    } else if (!strcmp(name, "scope")) {
        options->scope_given = true;
        options->scope = !strcmp(value, "cgroup")      ? SCOPE_GROUP
                         : !strcmp(value, "namespace") ? SCOPE_NAMESPACE
                                                       : SCOPE_PID;
    } else {
        char *end;
        long pid = strtol(value, &end, 10);
        if (pid <= 0 || pid > INT_MAX || *end)
            return err_usage(err, "--pid '%s': a process number is expected", value);
        options->pid = (pid_t)pid;
    }
    return 0;
}

static int show(const struct points_options *options, const struct learnt *learnt,
                char *const argv[], struct err *err)
{
    if (!options->json)
        points_print(stderr, learnt, argv);
    if (!options->json && !options->report)
        return 0;
    struct json_object *object = points_json(learnt, argv);
    if (options->pid)
        json_object_object_add(object, "watched_pid", json_object_new_int(options->pid));
    if (options->group)
        json_object_object_add(object, "watched_group",
                               json_text(options->group, strlen(options->group)));
    if (options->json)
        puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY));
    int error = options->report ? report_write(options->report, object, err) : 0;
    json_object_put(object);
    if (options->report && !error)
        say("the report is in %s", options->report);
    return error;
}

/* Where there are signals to stop it, what was learnt up to then is shown. */
static int watch(const struct points_options *options, struct learn *learn, struct learnt *learnt,
                 struct err *err)
{
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    learn->stop = &stop;
    learn->names_callers = options->json || options->report;
    learn->duration_ns = (uint64_t)options->duration_ms * 1000000;
    return learn_watch(learn, learnt, err);
}

/* ---- a program that is started ---- */

static const char *find_libc(const struct program *program)
{
    for (size_t i = 0; i < program->library_count; i++)
        if (functions_is_libc(program->libraries[i]))
            return program->libraries[i];
    return NULL;
}

static int scope_of_trial(const struct points_options *options, const struct trial *trial,
                          struct scope *scope, struct err *err)
{
    if (options->scope == SCOPE_GROUP)
        return scope_of_group(trial->group.fd, scope, err);
    return scope_of_process(options->scope, trial->program, scope, err);
}

/* *points is the caller's to release, whatever is returned. */
static int watch_trial(const struct points_options *options, struct trial *trial,
                       const char *library, struct learnt *learnt, struct points **points,
                       bool *exec_failed, struct err *err)
{
    struct scope scope;
    int error = scope_of_trial(options, trial, &scope, err);
    struct learn learn = {.group_fd = trial->group.fd,
                          .pidfd = trial->pidfd,
                          .library = library,
                          .until_idle = !options->duration_ms};
    if (!error)
        error = points_open(&scope, points, err);
    learn.points = *points;
    if (!error)
        error = learn_probe(&learn, learnt, trial->program, err);
    if (!error) {
        points_begin(learn.points);
        learnt->begun_ns = proc_monotonic_ns();
        error = trial_go(trial, exec_failed, err);
    }
    return error ? error : watch(options, &learn, learnt, err);
}

static int report_not_run(int error, const struct err *err)
{
    say("%s", err->text);
    return error == -ENOENT ? EXIT_STATUS_NOT_FOUND : EXIT_STATUS_CANNOT_EXECUTE;
}

static int try_program(const struct points_options *options, const char *path, char *const argv[],
                       struct learnt *learnt, struct err *err)
{
    struct program program = {0};
    int error = program_examine(path, argv, &program, err);
    if (error)
        return error;
    struct trial_plan plan = {.path = path,
                              .argv = argv,
                              .own_namespaces = options->scope != SCOPE_GROUP,
                              .output_to_errors = options->json};
    struct trial trial = TRIAL_NONE;
    struct points *points = NULL;
    bool exec_failed = false;
    struct trial_guard guard = TRIAL_GUARD_NONE;
    error = trial_hold(&plan, &trial, err);
    if (!error)
        error = trial_guard_start(&trial, &guard, err);
    if (!error)
        error =
            watch_trial(options, &trial, find_libc(&program), learnt, &points, &exec_failed, err);
    program_release(&program);
    struct err end;
    if (trial_end(&trial, &end))
        say("%s", end.text);
    trial_guard_end(&guard);
    if (!error)
        error = show(options, learnt, argv, err);
    /* Which may take a while where the kernel takes probes away one by one. */
    fflush(stdout);
    points_release(points);
    return error && exec_failed ? report_not_run(error, err) : error;
}

static int run_program(const struct points_options *options, char *const argv[],
                       struct learnt *learnt, struct err *err)
{
    char path[PATH_MAX];
    int error = program_find(argv[0], path, sizeof(path), err);
    return error ? report_not_run(error, err) : try_program(options, path, argv, learnt, err);
}

/* ---- what runs already ---- */

/* Its line of /proc/PID/cgroup that is of v2: "0::/PATH". */
static int open_group_of(pid_t pid, int *fd, struct err *err)
{
    char mount[PATH_MAX - 300], file[64], path[PATH_MAX * 2];
    int error = cgroup_find_mount(mount, sizeof(mount), err);
    if (error)
        return error;
    snprintf(file, sizeof(file), "/proc/%d/cgroup", pid);
    _cleanup_fclose_ FILE *from = fopen(file, "re");
    if (!from)
        return err_set(err, errno, "open '%s'", file);
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, from) > 0) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        if (!strcmp(line, "0::/"))
            return err_usage(err,
                             "process %d is in the root group, with the whole machine; leave out "
                             "--scope cgroup",
                             pid);
        snprintf(path, sizeof(path), "%s%s", mount, line + 3);
        *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return *fd < 0 ? err_set(err, errno, "open group '%s'", path) : 0;
    }
    return err_lack(err, "process %d is in no cgroup v2 group", pid);
}

static int open_group(const char *name, int *fd, struct err *err)
{
    char mount[PATH_MAX - 300], path[PATH_MAX * 2];
    *fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0 && cgroup_find_mount(mount, sizeof(mount), err) == 0) {
        snprintf(path, sizeof(path), "%s/%s", mount, name);
        *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (*fd < 0)
        return err_set(err, errno, "open group '%s'", name);
    if (faccessat(*fd, "cgroup.procs", F_OK, 0) < 0)
        return err_usage(err, "--cgroup '%s' is not a cgroup v2 group", name);
    return 0;
}

/* What to look at, and the processes that are there. */
static int find_running(const struct points_options *options, struct scope *scope, pid_t **pids,
                        ssize_t *count, struct err *err)
{
    _cleanup_close_ int group_fd = -1;
    bool by_group = options->group || (options->scope_given && options->scope == SCOPE_GROUP);
    int error = options->group ? open_group(options->group, &group_fd, err)
                : by_group     ? open_group_of(options->pid, &group_fd, err)
                               : 0;
    if (error)
        return error;
    if (by_group) {
        *count = cgroup_processes(group_fd, pids, err);
        if (*count <= 0)
            return *count ? (int)*count : err_text(err, ESRCH, "the group has no processes");
    } else {
        *pids = malloc(sizeof(**pids));
        if (!*pids)
            return err_set(err, ENOMEM, "processes");
        (*pids)[0] = options->pid;
        *count = 1;
    }
    if (options->scope_given && options->scope != SCOPE_GROUP)
        return scope_of_process(options->scope, (*pids)[0], scope, err);
    if (by_group)
        return scope_of_group(group_fd, scope, err);
    *scope = (struct scope){.kind = SCOPE_PROCESS, .init = (__u32)options->pid};
    return 0;
}

static int probe_all(const struct learn *learn, struct learnt *learnt, const pid_t *pids,
                     ssize_t count, struct err *err)
{
    ssize_t probed = 0;
    for (ssize_t i = 0; i < count && i < LEARN_PROBED_MAX; i++)
        probed += learn_probe(learn, learnt, pids[i], err) == 0;
    return probed ? 0 : err_wrap(err, "see the functions of what runs");
}

static int watch_running(const struct points_options *options, struct learnt *learnt,
                         struct err *err)
{
    struct scope scope;
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = 0;
    int error = find_running(options, &scope, &pids, &count, err);
    if (error)
        return error;
    _cleanup_close_ int pidfd = options->pid ? proc_pidfd_open(options->pid) : -1;
    if (options->pid && pidfd < 0)
        return err_set(err, -pidfd, "process %d", options->pid);
    struct learn learn = {.group_fd = -1, .pidfd = pidfd, .until_idle = !options->duration_ms};
    error = points_open(&scope, &learn.points, err);
    if (!error)
        error = probe_all(&learn, learnt, pids, count, err);
    if (!error) {
        points_begin(learn.points);
        error = watch(options, &learn, learnt, err);
    }
    points_release(learn.points);
    if (!error)
        error = show(options, learnt, NULL, err);
    return error;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct points_options *options = context;
    if ((arguments->count > 0) + (options->pid > 0) + (options->group != NULL) != 1)
        return err_usage(err, "one of COMMAND, --pid and --cgroup is expected");
    int error = options->report ? report_check(options->report, err) : 0;
    if (error)
        return error;
    struct learnt *learnt = learnt_new(err);
    if (!learnt)
        return -ENOMEM;
    int status = arguments->count ? run_program(options, arguments->list, learnt, err)
                                  : watch_running(options, learnt, err);
    learnt_free(learnt);
    return status;
}

static const struct option_spec options[] = {
    {"for", "DURATION", "watch that long (default: until it ends, or 2 s after its start-up)",
     NULL},
    {"scope", "WHAT", "how its events are told from others': cgroup (default), namespace, pid",
     "cgroup namespace pid"},
    {"pid", "PID", "watch a process that runs, and what it starts; it is not ended", NULL},
    {"cgroup", "PATH", "watch all processes of a cgroup v2 group; they are not ended", NULL},
    {"json", NULL, "a JSON object, on standard output; the program's goes to standard error", NULL},
    {"report", "FILE.html", "write a page with a timeline, which needs nothing else", NULL},
    {0},
};

const struct command cmd_points = {
    .name = "points",
    .synopsis = "[OPTION]... (-- COMMAND [ARG]... | --pid PID | --cgroup PATH)",
    .summary = "Run a program once, without a checkpoint, and learn where to checkpoint it",
    .details =
        "Shows when and how often it calls the functions in which programs wait or begin to "
        "listen, how much of its start-up's processor time it had used by then, and which call "
        "is best for a checkpoint: late in the start-up, where it waits, with no connection open "
        "and no child half-started; and where a restore takes less than what it saves: memory that "
        "is filled later need not be restored, nor workers that are forked in a moment. The "
        "start-up "
        "is over when all threads wait for 200 ms. Programs that do much for their first client "
        "only are best checkpointed after that: watch longer (--for), wait for the start-up's "
        "end, use the program once, and where it pays the advice is a call after that. "
        "COMMAND is run only for that, and ended with SIGTERM; with --scope namespace or pid it "
        "gets pid and mount namespaces of its own. It is seen from the kernel, by BPF; status 77 "
        "where that is missing. --report writes a page for a browser, one file without a network: "
        "what each thread did when, memory, CPU use, the advice and the stacks of the calls. "
        "Do not checkpoint a program while it is watched.",
    .options = options,
    .needs = NEEDS_ROOT | TAKES_COMMAND,
    .arguments_min = 0,
    .arguments_max = -1,
    .set = set,
    .run = run,
    .context_size = sizeof(struct points_options),
};
