/*
 * Where functions begin and end, as a file's unwinding table has it, which stays when its
 * symbols are stripped: .eh_frame_hdr and .eh_frame (Linux Standard Base, "Exception
 * Frames").  Programs without one, as Go's, are not helped.
 */
#ifndef FREEZEPOINT_FRAME_TABLE_H
#define FREEZEPOINT_FRAME_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "trigger/elf_file.h"

/* *start gets the beginning of the function that the code at `address` is of.  False: no
 * entry says so. */
bool frame_table_find(const struct elf_file *file, uint64_t address, uint64_t *start);

#endif
