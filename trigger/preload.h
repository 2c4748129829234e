/*
 * The preload library of one job, made from the built-in template: the names to
 * export, the points, the filter and the socket's path are written into its tables.
 * No compiler, no linker, no file is involved; the result is bytes in memory.
 *
 * Which names and versions go in is the caller's business (trigger/point.h).  What
 * an export of ours means to a program:
 *   - A name that no library of the program defines becomes one that is defined:
 *     weak references are no longer NULL, dlsym(RTLD_DEFAULT) finds it.  A call then
 *     does nothing and returns 0.  So do not export such names without need.
 *   - Where several libraries define the name, all callers get the definition that
 *     the linker's order puts first behind this library.
 *   - Where one library has several addresses for it under several versions, each
 *     version but the default one needs a slot of its own, beside the one without a
 *     version, which takes every other reference.
 * Besides the slots, dlsym, dlvsym and dlclose are exported always and
 * __libc_start_main where `main` is among the slots (preload/slots.c).
 */
#ifndef FREEZEPOINT_PRELOAD_H
#define FREEZEPOINT_PRELOAD_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "preload/abi.h"

/* One exported function.  Aliases (`read`, `__read_chk`) share a counter. */
struct preload_slot {
    const char *name;    /* `main`: the program's own, wherever it is */
    const char *version; /* as in realpath@GLIBC_2.2.5, or NULL */
    const char *library; /* counted only where a library that fz_library_matches()
                            this defines the function; or NULL */
    uint32_t counter;    /* below FZ_SLOT_MAX */
};

struct preload_request {
    const struct preload_slot *slots;
    size_t slot_count; /* at most FZ_SLOT_MAX; no (name, version) twice */
    const struct fz_rule *rules;
    size_t rule_count; /* at most FZ_RULE_MAX; `first` from 1 */
    const char *socket_path;
    const struct sock_filter *filter;
    size_t filter_length; /* at most FZ_FILTER_MAX */
};

struct preload {
    unsigned char *bytes; /* malloc'ed */
    size_t size;
    char hash[33];           /* XXH3-128 of the bytes but for the build ID, which it then
                                is, in hexadecimal */
    uint64_t control_offset; /* of struct fz_control from the library's load address */
};

#define PRELOAD_NONE ((struct preload){0})

/* On success *out is the caller's, to be given to preload_release(); on failure it
 * is untouched.  -EINVAL: the request makes no sense; -E2BIG: it has no room. */
int preload_build(const struct preload_request *request, struct preload *out, struct err *err);

void preload_release(struct preload *preload);

#endif
