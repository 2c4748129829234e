/*
 * The language of points, as --at takes it: [LIBRARY:]FUNCTION[#N], or
 * probe:PATH:SYMBOL[+OFFSET][#N].
 *
 * LIBRARY is the base name of the library that defines the function ("libc.so.6",
 * or its beginning up to a '.' or '-': "libc"), N the number of the call, from 1.
 *
 * PATH is an ELF file, SYMBOL a function in it or, as 0x..., an address as its symbols
 * count; OFFSET counts bytes, in decimal or as 0x....
 */
#ifndef FREEZEPOINT_POINT_H
#define FREEZEPOINT_POINT_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct point {
    char *spec;    /* as it was given */
    char *library; /* NULL: any; PATH where is_probe */
    char *function;
    uint64_t number;
    bool is_probe;
    uint64_t offset; /* where is_probe; from the function on */
};

/* Whether a spec begins like a probe's. */
bool point_is_probe(const char *spec);

/* ERR_USAGE names the column and what was expected there. */
int point_parse(const char *spec, struct point *out, struct err *err);
void point_release(struct point *point);

/* The names under which programs really call `function`, itself first:
 * fortified, large-file and newer spellings.  NULL-terminated, at most
 * POINT_ALIAS_MAX + 1 of them, static. */
#define POINT_ALIAS_MAX 8
void point_names(const char *function, const char *names[POINT_ALIAS_MAX + 2]);

#endif
