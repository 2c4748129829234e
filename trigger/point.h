/*
 * The language of points, as --at takes it: [LIBRARY:]FUNCTION[#N], or
 * probe:PATH:SYMBOL[+OFFSET][#N], or usdt:PATH:PROVIDER:NAME[#N].
 *
 * LIBRARY is the base name of the library that defines the function ("libc.so.6",
 * or its beginning up to a '.' or '-': "libc"), N the number of the call, from 1.
 *
 * PATH is an ELF file, and may have any characters.
 *
 * SYMBOL is a function in it, as the file has it or demangled, with its parameters or
 * without, or, as 0x..., an address as its symbols count.  It begins behind the last ':'
 * that has no ':' beside it, so that "ns::f" is one.  OFFSET counts bytes, in decimal or
 * as 0x....: it begins behind the last '+' that a digit follows and that is no part of
 * "operator+", "operator++" or "operator+=".  Neither '+' nor '#' counts within braces:
 * C++ and Rust number what has no name, "f()::{lambda()#1}".
 *
 * PROVIDER and NAME are what a static tracepoint (trigger/usdt.h) is called.
 */
#ifndef FREEZEPOINT_POINT_H
#define FREEZEPOINT_POINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

struct point {
    char *spec;     /* as it was given */
    char *library;  /* NULL: any; PATH where is_probe */
    char *function; /* or SYMBOL, or NAME */
    uint64_t number;
    bool is_probe;   /* of either kind */
    char *provider;  /* of usdt:, else NULL */
    uint64_t offset; /* of probe:; from the function on */
};

/* Whether a spec begins like a probe's, of either kind. */
bool point_is_probe(const char *spec);

/* How much of a spec stands before its "#N". */
size_t point_length_unnumbered(const char *spec);

#define POINT_SYMBOL_MAX 1024

/* ERR_USAGE names the column and what was expected there. */
int point_parse(const char *spec, struct point *out, struct err *err);
void point_release(struct point *point);

/* The names under which programs really call `function`, itself first:
 * fortified, large-file and newer spellings.  NULL-terminated, at most
 * POINT_ALIAS_MAX + 1 of them, static. */
#define POINT_ALIAS_MAX 8
void point_names(const char *function, const char *names[POINT_ALIAS_MAX + 2]);

#endif
