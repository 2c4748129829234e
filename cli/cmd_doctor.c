#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/command.h"
#include "lib/probe.h"

struct doctor_options {
    bool json;
};

/* Columns before what was found: name, status, two spaces after each. */
#define NAME_WIDTH   15
#define STATUS_WIDTH 7
#define INDENT       (NAME_WIDTH + STATUS_WIDTH + 4)

/* Lines are broken for a terminal alone: what reads a pipe wants them whole. */
static size_t text_width(void)
{
    struct winsize window;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) < 0 || window.ws_col < INDENT + 30)
        return SIZE_MAX;
    return (size_t)window.ws_col - INDENT;
}

/* Prints from the column INDENT on; ends the line. */
static void print_text(const char *text)
{
    size_t width = text_width();
    while (strlen(text) > width) {
        size_t length = width;
        while (length > 0 && text[length] != ' ')
            length--;
        if (length == 0)
            length = strcspn(text, " ");
        printf("%.*s\n", (int)length, text);
        text += length + strspn(text + length, " ");
        if (!*text)
            return;
        printf("%*s", INDENT, "");
    }
    puts(text);
}

static void print_beneath(const char *head, const char *text)
{
    char line[1200];
    snprintf(line, sizeof(line), "%s: %s", head, text);
    printf("%*s", INDENT, "");
    print_text(line);
}

static void print_line(const struct probe *probe, const struct probe_result *result)
{
    printf("%-*s  %-*s  ", NAME_WIDTH, probe->name, STATUS_WIDTH,
           probe_status_name(result->status));
    print_text(result->found);
    if (result->status == PROBE_OK)
        return;
    print_beneath("without it", probe->lost);
    print_beneath("remedy", result->remedy);
}

static json_object *describe(const struct probe *probe, const struct probe_result *result)
{
    json_object *entry = json_object_new_object();
    json_object_object_add(entry, "name", json_object_new_string(probe->name));
    json_object_object_add(entry, "status",
                           json_object_new_string(probe_status_name(result->status)));
    json_object_object_add(entry, "needed", json_object_new_boolean(probe->needed));
    json_object_object_add(entry, "found", json_object_new_string(result->found));
    json_object_object_add(entry, "lost", json_object_new_string(probe->lost));
    json_object_object_add(entry, "remedy",
                           result->remedy[0] ? json_object_new_string(result->remedy) : NULL);
    return entry;
}

static void print_verdict(const char *lacking)
{
    if (*lacking)
        printf("\n`run` and `restore` cannot work here; needed:%s\n", lacking);
    else
        printf("\nEverything that `run` and `restore` need is here.\n");
}

static int set(void *context, const char *name, const char *value, struct err *err)
{
    (void)name, (void)value, (void)err;
    ((struct doctor_options *)context)->json = true;
    return 0;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    (void)arguments, (void)err;
    const struct doctor_options *options = context;
    json_object *list = json_object_new_array();
    char lacking[512] = "";
    for (const struct probe *probe = probes; probe->name; probe++) {
        struct probe_result result;
        probe_run(probe, &result);
        size_t used = strlen(lacking);
        if (probe->needed && result.status == PROBE_MISSING)
            snprintf(lacking + used, sizeof(lacking) - used, " %s", probe->name);
        if (options->json) {
            json_object_array_add(list, describe(probe, &result));
            continue;
        }
        print_line(probe, &result);
        fflush(stdout);
    }
    if (options->json)
        puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY |
                                                      JSON_C_TO_STRING_NOSLASHESCAPE));
    else
        print_verdict(lacking);
    json_object_put(list);
    return lacking[0] ? ERR_LACK : 0;
}

static const struct option_spec options[] = {
    {"json", NULL, "print an array of objects: name, status, needed, found, lost, remedy", NULL},
    {0},
};

const struct command cmd_doctor = {
    .name = "doctor",
    .synopsis = "[--json]",
    .summary = "Tell what this machine has and lacks for freezepoint",
    .details =
        "Every need is probed by doing it. A line says 'ok', 'limited' or 'missing' and what "
        "was found; what does not work without it and the remedy stand beneath what is not "
        "ok. The exit status is 0 where everything that 'run' and 'restore' need is there, "
        "else 77.",
    .options = options,
    .set = set,
    .run = run,
    .context_size = sizeof(struct doctor_options),
};
