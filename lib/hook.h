/*
 * A user's own command at a named moment: run by sh, told the facts in its environment,
 * /dev/null as its input and our error stream for its output.
 */
#ifndef FREEZEPOINT_HOOK_H
#define FREEZEPOINT_HOOK_H

#include "lib/err.h"

#define HOOK_TIMEOUT_S 60

/* What the command finds in its environment, each as FREEZEPOINT_ and its name in
 * capitals; FREEZEPOINT_HOOK is which it is. */
struct hook_facts {
    const char *job, *side, *runs, *migration, *addresses;
};

/*
 * Runs `command` to its end, HOOK_TIMEOUT_S at most: then it and what it started (its
 * process group) are killed.  Every half second `beat` is called, where it is not NULL; not 0 ends
 * the command likewise and is returned.  -ECANCELED where the command did not exit with 0.  A NULL
 * command is none.
 */
int hook_run(const char *name, const char *command, const struct hook_facts *facts,
             int (*beat)(void *context, struct err *err), void *context, struct err *err);

#endif
