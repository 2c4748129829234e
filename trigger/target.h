/*
 * Where a probe's breakpoints go: the place of a symbol in an ELF file, or those of a
 * static tracepoint.
 */
#ifndef FREEZEPOINT_TARGET_H
#define FREEZEPOINT_TARGET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "trigger/point.h"

struct target {
    uint64_t offset;    /* in the file */
    uint64_t semaphore; /* likewise (trigger/usdt.h); 0: none */
    dev_t device;       /* the file's */
    ino_t inode;
    uint8_t byte; /* the instruction's first */
    bool unsure;  /* whether an instruction begins there cannot be told */
};

struct targets {
    struct target *list;
    size_t count; /* not 0 */
};

/*
 * The places in the file point->library of the probe's instructions.  ERR_USAGE where
 * there is no such symbol, or more than one, or no such tracepoint, with what there is
 * instead; and for what cannot be probed.
 */
int target_find(const struct point *point, struct targets *out, struct err *err);

/* Safe on {0}. */
void targets_release(struct targets *targets);

#endif
