#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/say.h"
#include "lib/fd.h"
#include "lib/log.h"

const struct command *const commands[] = {
    &cmd_run,    &cmd_restore, &cmd_ps,      &cmd_images, &cmd_inspect, &cmd_verify, &cmd_rm,
    &cmd_points, &cmd_migrate, &cmd_receive, &cmd_doctor, &cmd_help,    NULL,
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

#define OPTIONS_MAX 32

static size_t build_long_options(const struct command *command, struct option *list)
{
    size_t count = 0;
    for (; count < OPTIONS_MAX - 2 && command->options[count].name; count++)
        list[count] = (struct option){
            .name = command->options[count].name,
            .has_arg = command->options[count].argument ? required_argument : no_argument,
        };
    list[count++] = (struct option){.name = "help", .val = 'h'};
    list[count] = (struct option){0};
    return count;
}

static bool is_among(const char *choices, const char *value)
{
    size_t length = strlen(value);
    for (const char *choice = choices; *choice;) {
        size_t size = strcspn(choice, " ");
        if (size == length && !strncmp(choice, value, size))
            return true;
        choice += size + (choice[size] == ' ');
    }
    return false;
}

static int set_option(const struct command *command, size_t index, const char *value, void *context,
                      struct err *err)
{
    const struct option_spec *option = &command->options[index];
    if (value && !*value)
        return err_usage(err, "--%s: a value is missing", option->name);
    if (value && option->choices && !is_among(option->choices, value))
        return err_usage(err, "--%s '%s': one of '%s' is expected", option->name, value,
                         option->choices);
    return command->set(context, option->name, value, err);
}

static int refuse_option(const struct command *command, char **argv, int code, struct err *err)
{
    /* getopt_long(3) has stepped over the bad one, but not over the next word. */
    const char *word = argv[optind - 1];
    if (code == ':')
        return err_usage(err, "%s: a value is missing; see 'freezepoint help %s'", word,
                         command->name);
    return err_usage(err, "unknown option '%s'; see 'freezepoint help %s'", word, command->name);
}

/* 0, -errno, or 1 where help was asked for. */
static int parse_options(const struct command *command, int argc, char **argv, void *context,
                         struct err *err)
{
    struct option list[OPTIONS_MAX];
    build_long_options(command, list);
    opterr = 0;
    const char *mode = command->needs & TAKES_COMMAND ? "+:h" : ":h";
    for (;;) {
        int index = -1;
        int code = getopt_long(argc, argv, mode, list, &index);
        if (code == -1)
            return 0;
        if (code == 'h')
            return 1;
        if (code == '?' || code == ':')
            return refuse_option(command, argv, code, err);
        int error = set_option(command, (size_t)index, optarg, context, err);
        if (error)
            return error;
    }
}

static int check_needs(const struct command *command, struct err *err)
{
    if ((command->needs & NEEDS_ROOT) && geteuid() != 0)
        return err_lack(err,
                        "'freezepoint %s' needs root: freezing a group, CRIU and the image "
                        "store do; run it with sudo",
                        command->name);
    return 0;
}

static int check_arguments(const struct command *command, const struct arguments *arguments,
                           struct err *err)
{
    if (arguments->count < command->arguments_min)
        return err_usage(err, "an argument is missing: freezepoint %s %s", command->name,
                         command->synopsis);
    if (command->arguments_max >= 0 && arguments->count > command->arguments_max)
        return err_usage(err, "'%s' is one argument too many: freezepoint %s %s",
                         arguments->list[command->arguments_max], command->name, command->synopsis);
    return 0;
}

static int run_command(const struct command *command, int argc, char **argv, struct err *err)
{
    _cleanup_free_ void *context = calloc(1, command->context_size + 1);
    if (!context)
        return err_set(err, ENOMEM, "options");
    int error = parse_options(command, argc, argv, context, err);
    if (error == 1) {
        help_command(stdout, command);
        return 0;
    }
    struct arguments arguments = {.list = argv + optind, .count = argc - optind};
    if (!error)
        error = check_arguments(command, &arguments, err);
    if (!error)
        error = check_needs(command, err);
    return error ? error : command->run(context, &arguments, err);
}

static int exit_status(const struct command *command, const struct err *err)
{
    if (err->kind == ERR_USAGE || err->kind == ERR_LACK)
        return (int)err->kind;
    return command->needs & RUNS_PROGRAM ? EXIT_STATUS_FAILED_EARLY : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    log_init(getenv("FREEZEPOINT_LOG"), say_log);
    if (argc < 2) {
        help_overview(stderr);
        return ERR_USAGE;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("freezepoint " FREEZEPOINT_VERSION);
        return 0;
    }
    bool wants_help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
    const struct command *command = wants_help ? &cmd_help : command_find(argv[1]);
    if (!command) {
        say("unknown command '%s'; 'freezepoint help' lists them", argv[1]);
        return ERR_USAGE;
    }
    struct err err = {0};
    int status = run_command(command, argc - 1, argv + 1, &err);
    if (status >= 0)
        return fflush(stdout) == 0 && !ferror(stdout) ? status : EXIT_FAILURE;
    say("%s", err.text);
    return exit_status(command, &err);
}
