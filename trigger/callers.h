/*
 * The calls that led to a point, for its mark in the manifest.
 */
#ifndef FREEZEPOINT_CALLERS_H
#define FREEZEPOINT_CALLERS_H

#include "lib/stack.h"
#include "manifest.pb-c.h"
#include "trigger/hit.h"

/* Of a thread that stands still and whose mark has been seen.  On failure *out stays
 * STACK_NONE. */
void callers_copy(const struct hit *hit, struct stack *out);

/* Enters them into manifest->mark, where there is one; else, or without libdw, nothing.
 * The shim's own frames at `preload_path` are left out. */
void callers_describe(const struct stack *stack, const char *preload_path,
                      Freezepoint__Manifest *manifest);

#endif
