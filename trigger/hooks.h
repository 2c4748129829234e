/*
 * From points to hooks: which entry points the preload library must export for
 * them, judged against the program and the libraries that it links.
 *
 * A name may be missing from all of them and yet right: libraries that are
 * loaded later (dlopen) are not known before the program runs.
 */
#ifndef FREEZEPOINT_HOOKS_H
#define FREEZEPOINT_HOOKS_H

#include <stddef.h>

#include "lib/err.h"
#include "preload/abi.h"
#include "trigger/point.h"
#include "trigger/preload.h"
#include "trigger/program.h"

struct hooks {
    struct preload_slot slots[FZ_SLOT_MAX]; /* names point into points or are static */
    struct fz_rule rules[FZ_RULE_MAX];      /* one a point, in their order */
    size_t slot_count, rule_count, counter_count;
    char *versions[FZ_SLOT_MAX]; /* owned; what slots' versions point to */
};

/*
 * ERR_USAGE for a name that cannot be hooked: data, a function of the program
 * itself, the same function asked for in two libraries, too many.  `warn` gets a
 * line for each doubt.  `every`: 0, or also every so many hits after the first.
 * hooks_release() frees.
 */
int hooks_plan(const struct point *points, size_t count, uint64_t every,
               const struct program *program, void (*warn)(const char *line, void *context),
               void *context, struct hooks *out, struct err *err);
void hooks_release(struct hooks *hooks);

#endif
