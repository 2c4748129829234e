/*
 * Where a probe's breakpoint goes: the place of a symbol in an ELF file, from .symtab
 * and .dynsym.
 */
#ifndef FREEZEPOINT_TARGET_H
#define FREEZEPOINT_TARGET_H

#include <stdint.h>

#include "lib/err.h"
#include "trigger/point.h"

struct target {
    uint64_t offset; /* in the file */
    uint64_t inode;  /* the file's */
    uint8_t byte;    /* the instruction's first */
};

/*
 * The place in the file point->library of the probe's instruction.  ERR_USAGE where
 * there is no such symbol, or more than one, with what there is instead; and for what
 * cannot be probed.
 */
int target_find(const struct point *point, struct target *out, struct err *err);

#endif
