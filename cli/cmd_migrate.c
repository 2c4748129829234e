#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/migrate_text.h"
#include "cli/say.h"
#include "lib/address.h"
#include "restore/migrate.h"

#define ADDRESSES_MAX 8

struct migrate_options {
    struct migrate_request request;
    const char *addresses[ADDRESSES_MAX + 1]; /* NULL-terminated */
    size_t address_count;
    bool json;
};

static int add_address(struct migrate_options *options, const char *text, struct err *err)
{
    struct moved_address ignored;
    if (options->address_count == ADDRESSES_MAX)
        return err_usage(err, "more than %d --move-address cannot be had", ADDRESSES_MAX);
    options->addresses[options->address_count++] = text;
    return address_parse(text, &ignored, err);
}

static int set_hook(struct migrate_request *request, const char *name, const char *value)
{
    if (!strcmp(name, "before-freeze"))
        request->before_freeze = value;
    else if (!strcmp(name, "after-freeze"))
        request->after_freeze = value;
    else if (!strcmp(name, "before-resume"))
        request->before_resume = value;
    else if (!strcmp(name, "after-resume"))
        request->after_resume = value;
    return 0;
}

static int set(void *context, const char *name, const char *value, struct err *err)
{
    struct migrate_options *options = context;
    struct migrate_request *request = &options->request;
    if (!strcmp(name, "via"))
        request->via = value;
    else if (!strcmp(name, "at"))
        request->next_point = !strcmp(value, "next");
    else if (!strcmp(name, "timeout"))
        return duration_parse(name, value, 100, &request->timeout_ms, err);
    else if (!strcmp(name, "move-address"))
        return add_address(options, value, err);
    else if (!strcmp(name, "json"))
        options->json = true;
    return set_hook(request, name, value);
}

static volatile bool interrupted;

static void note_interrupt(int number)
{
    (void)number;
    interrupted = true;
}

/* They call it off as long as that can be. */
static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = note_interrupt};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaction(numbers[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int check(const struct migrate_options *options, struct err *err)
{
    const struct migrate_request *request = &options->request;
    if (!request->via)
        return err_usage(err, "--via is missing: the command that runs 'freezepoint receive' on "
                              "the other side, as in --via 'ssh HOST freezepoint receive'");
    if (request->timeout_ms && !request->next_point)
        return err_usage(err, "--timeout is for --at next");
    return 0;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    struct migrate_options *options = context;
    struct migrate_request *request = &options->request;
    int error = check(options, err);
    if (error)
        return error;
    struct migrate_text text = {.json = options->json, .job = arguments->list[0]};
    request->job = arguments->list[0];
    request->addresses = options->addresses;
    request->tell = migrate_text_event;
    request->context = &text;
    request->interrupted = &interrupted;
    catch_signals();
    migrate_text_begin(&text);
    struct migrated done;
    error = migrate(request, &done, err);
    migrate_text_end(&text, &done, error, err);
    return error ? err_wrap(err, "job '%s' is not migrated", request->job) : 0;
}

static const struct option_spec options[] = {
    {"via", "COMMAND", "what reaches the other side, such as 'ssh HOST freezepoint receive'", NULL},
    {"move-address", "ADDRESS/PREFIX@INTERFACE", "an address that goes along; may be repeated",
     NULL},
    {"at", "WHEN", "migrate now (default), or at the next of the job's points that is due",
     "now next"},
    {"timeout", "DURATION", "with --at next: how long to wait for it (default: no limit)", NULL},
    {"before-freeze", "COMMAND", "run before the job is stopped; where it fails nothing is", NULL},
    {"after-freeze", "COMMAND", "run when it stands; where it fails, the job goes on here", NULL},
    {"before-resume", "COMMAND", "run when the copy is ready to run; likewise", NULL},
    {"after-resume", "COMMAND", "run when it is known that it runs there, or goes on here", NULL},
    {"json", NULL, "a line of JSON for each step, on standard output", NULL},
    {0},
};

const struct command cmd_migrate = {
    .name = "migrate",
    .synopsis = "[OPTION]... JOB --via COMMAND",
    .summary = "Move a running job to another host, with its open connections",
    .details =
        "COMMAND runs 'freezepoint receive' on the other side and is spoken to over its standard "
        "input and output. What the job needs there is asked first. Then it is stopped, "
        "its image sent, and restored there; only when it runs there is it gone from here. "
        "Whatever fails before that, it goes on here, connections and all, at the latest 30 s "
        "later: the other side is given up after 10 s of silence. Where the link is cut at the "
        "very moment when the copy is told to run, the job stands until COMMAND, run again, has "
        "told how that ended. "
        "Connections stay open where their address goes along: --move-address, or commands of "
        "your own, which find FREEZEPOINT_JOB, FREEZEPOINT_HOOK, FREEZEPOINT_ADDRESSES, "
        "FREEZEPOINT_MIGRATION (a number that both sides share), FREEZEPOINT_SIDE (source, target) "
        "and FREEZEPOINT_RUNS (here, there, nowhere) in their environment.",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = set,
    .run = run,
    .context_size = sizeof(struct migrate_options),
};
