/*
 * The address of a function, by the name that a file has for it or by what its compiler
 * made that of (trigger/demangle.h).
 */
#ifndef FREEZEPOINT_SYMBOL_SEARCH_H
#define FREEZEPOINT_SYMBOL_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "trigger/point.h"

/* Of point->function in point->library.  ERR_USAGE where there is none, with near names,
 * where there are several, with the address of each, and where it is no code of a
 * function's. */
int symbol_search(const struct point *point, uint64_t *address, struct err *err);

/* *start gets the beginning of the function that an address is in; *found whether a symbol
 * says so. */
int symbol_search_covering(const char *path, uint64_t address, uint64_t *start, bool *found,
                           struct err *err);

#endif
