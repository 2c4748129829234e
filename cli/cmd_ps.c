#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/job_text.h"
#include "cli/watch.h"
#include "lib/fd.h"

#define INTERVAL_MS_DEFAULT 1000
#define INTERVAL_MS_MIN     100

struct ps_options {
    bool json, watch;
    int interval_ms; /* 0: not given */
};

static int set(void *context, const char *name, const char *value, struct err *err)
{
    struct ps_options *options = context;
    if (!strcmp(name, "interval"))
        return duration_parse(name, value, INTERVAL_MS_MIN, &options->interval_ms, err);
    if (!strcmp(name, "json"))
        options->json = true;
    else
        options->watch = true;
    return 0;
}

static int add_json(const struct job_view *view, void *context)
{
    json_object_array_add(context, job_json(view));
    return 0;
}

static int print_json(FILE *to, int flags, struct err *err)
{
    struct json_object *array = json_object_new_array();
    int error = job_view_all(add_json, array, err);
    if (!error)
        fprintf(to, "%s\n", json_object_to_json_string_ext(array, flags));
    json_object_put(array);
    return error;
}

struct rows {
    struct job_table table;
    struct err *err;
};

static int add_row(const struct job_view *view, void *context)
{
    struct rows *rows = context;
    return job_table_add(&rows->table, view, rows->err);
}

static int print_table(FILE *to, struct err *err)
{
    struct rows rows = {.err = err};
    int error = job_view_all(add_row, &rows, err);
    if (!error)
        job_table_print(to, &rows.table);
    job_table_release(&rows.table);
    return error;
}

static int compose(FILE *to, void *context, struct err *err)
{
    const struct ps_options *options = context;
    /* One line, where there will be another. */
    int flags = options->watch ? JSON_C_TO_STRING_PLAIN : JSON_C_TO_STRING_PRETTY;
    return options->json ? print_json(to, flags, err) : print_table(to, err);
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    (void)arguments;
    struct ps_options *options = context;
    if (options->interval_ms && !options->watch)
        return err_usage(err, "--interval is of use only with --watch");
    if (!options->watch)
        return compose(stdout, options, err);
    struct watch watch = {
        .compose = compose,
        .context = options,
        .interval_ms = options->interval_ms ? options->interval_ms : INTERVAL_MS_DEFAULT,
        .in_place = !options->json,
        .separator = options->json ? "" : "\n",
    };
    return watch_run(&watch, err);
}

static const struct option_spec options[] = {
    {"watch", NULL, "show them again every second, until ^C; in place on a terminal", NULL},
    {"interval", "DURATION", "with --watch, how often: 500ms, 2s (default: 1s)", NULL},
    {"json", NULL, "a JSON array; with --watch one on each line", NULL},
    {0},
};

const struct command cmd_ps = {
    .name = "ps",
    .synopsis = "[OPTION]...",
    .summary = "List the running jobs",
    .details =
        "STATE is running, restored (running, from an image), stopped, frozen, starting, ending, "
        "or orphaned: its supervisor was killed, the program lives on. PID is the program's, as "
        "this machine numbers it; GEN the newest image made or restored from; POINTS the due "
        "calls that were answered, CKPT the checkpoints made, both since the start or restore; "
        "MEM the memory of the job's cgroup, or where that is not counted the sum over its "
        "processes, each with its part of what is shared; PSI the pressure of cpu, memory and "
        "io: the percentage of the last 10 seconds in which some/all processes waited for it; "
        "PAUSE how long the last checkpoint held the program. '-' is none, '?' unknown. "
        "^C ends --watch with status 0, as does a reader that goes away.",
    .options = options,
    .set = set,
    .run = run,
    .context_size = sizeof(struct ps_options),
};
