/*
 * Static tracepoints (USDT, SystemTap's sys/sdt.h) of an ELF file: no-ops in its code, and
 * for each a note in the section .note.stapsdt that says where it is.
 *
 * Several may have one name, as where the compiler has copied a function.  The program may
 * skip one unless a counter of its own, the semaphore, says that somebody looks: two bytes
 * in its data, which the kernel counts up in each process while a uprobe is set
 * (kernel/events/uprobes.c, update_ref_ctr()).
 */
#ifndef FREEZEPOINT_USDT_H
#define FREEZEPOINT_USDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "trigger/point.h"

/* Addresses as symbols count. */
struct usdt_site {
    const char *provider, *name; /* valid while they are visited */
    uint64_t address;
    uint64_t semaphore; /* 0: none */
};

/* Until `visit` returns false.  Notes that are none are passed over.  0, or -errno:
 * -ENOEXEC where the file is no ELF file. */
int usdt_visit(const char *path, bool (*visit)(const struct usdt_site *, void *), void *context,
               struct err *err);

#define USDT_SITES_MAX 1024

struct usdt_sites {
    struct usdt_site *list; /* names NULL */
    size_t count;
};

/* All of point->provider and point->function in point->library.  ERR_USAGE where there is
 * none, with what there is. */
int usdt_find(const struct point *point, struct usdt_sites *out, struct err *err);

/* Safe on {0}. */
void usdt_sites_release(struct usdt_sites *sites);

#endif
