/*
 * The functions of the C library that are worth a checkpoint: where servers begin to
 * listen and where programs wait.  One table; everything else has their index in it.
 */
#ifndef FREEZEPOINT_FUNCTIONS_H
#define FREEZEPOINT_FUNCTIONS_H

#include <stddef.h>

#include "bpf/points.h"
#include "lib/err.h"

/* As --at would name it, or NULL from the table's end on. */
const char *function_name(unsigned int index);

/* Entries found in a C library: several for a function with other names. */
#define FUNCTION_ENTRIES_MAX 64

struct function_entries {
    struct points_entry list[FUNCTION_ENTRIES_MAX];
    size_t count;
};

/* In the library at this path. */
int functions_find(const char *library, struct function_entries *out, struct err *err);

/* Whether a file of this name is a C library: libc.so.6, ld-musl-x86_64.so.1. */
bool functions_is_libc(const char *path);

#endif
