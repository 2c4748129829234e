/*
 * The command line as a table.  Each cmd_<name>.c defines one struct command;
 * help, completion and the man page's OPTIONS are generated from it.
 */
#ifndef FREEZEPOINT_COMMAND_H
#define FREEZEPOINT_COMMAND_H

#include <stdbool.h>
#include <stdio.h>

#include "lib/err.h"

/* Exit statuses that are not an err_kind's. */
enum {
    EXIT_STATUS_FAILED_EARLY = 125, /* before the program's own status was known */
    EXIT_STATUS_CANNOT_EXECUTE = 126,
    EXIT_STATUS_NOT_FOUND = 127,
};

enum command_needs {
    NEEDS_ROOT = 1,    /* checked before the command runs */
    RUNS_PROGRAM = 2,  /* a failure's status is EXIT_STATUS_FAILED_EARLY */
    TAKES_COMMAND = 4, /* options end at the first argument: COMMAND [ARG]... */
};

struct option_spec {
    const char *name;     /* "images", without dashes */
    const char *argument; /* "DIR", or NULL for a flag */
    const char *help;     /* one line */
    const char *choices;  /* "continue stop": for completion and checking; may be NULL */
};

struct arguments {
    char **list; /* NULL-terminated: what is not an option */
    int count;
};

struct command {
    const char *name;
    const char *synopsis;              /* what follows the name */
    const char *summary;               /* one line */
    const char *details;               /* paragraphs for help and manual */
    const struct option_spec *options; /* ended by a NULL name */
    unsigned int needs;
    int arguments_min, arguments_max; /* max -1: any number */
    /* Called for each option; `context` is fresh zeroed memory of context_size. */
    int (*set)(void *context, const char *name, const char *value, struct err *err);
    /* Returns the exit status, or -errno with *err set. */
    int (*run)(void *context, const struct arguments *arguments, struct err *err);
    size_t context_size;
};

extern const struct command *const commands[]; /* ended by NULL */

extern const struct command cmd_run, cmd_restore, cmd_ps, cmd_images, cmd_inspect, cmd_verify,
    cmd_rm, cmd_points, cmd_migrate, cmd_receive, cmd_doctor, cmd_help;

const struct command *command_find(const char *name);

/* Writes the generated texts; cmd_help.c. */
void help_overview(FILE *to);
void help_command(FILE *to, const struct command *command);

#endif
