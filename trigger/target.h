/*
 * Where a probe's breakpoint goes: the place of a symbol in an ELF file, from .symtab
 * and .dynsym.
 */
#ifndef FREEZEPOINT_TARGET_H
#define FREEZEPOINT_TARGET_H

#include <stdint.h>

#include "lib/err.h"
#include "trigger/point.h"

/*
 * The offset in the file point->library of the probe's instruction.  ERR_USAGE where
 * there is no such symbol, or more than one, with what there is instead; and for what
 * cannot be probed.
 */
int target_find(const struct point *point, uint64_t *offset, struct err *err);

#endif
