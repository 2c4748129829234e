/*
 * What a machine is and has, for the hello of a migration (proto/migrate.proto), and
 * whether this one can go on with what another began.
 */
#ifndef FREEZEPOINT_MACHINE_H
#define FREEZEPOINT_MACHINE_H

#include <stdbool.h>
#include <sys/utsname.h>

#include "migrate.pb-c.h"
#include "restore/refusal.h"

#define MACHINE_FEATURES_MAX 512

/* Owns what its message points to; not to be moved. */
struct machine {
    Freezepoint__Stream__Machine message;
    struct utsname names;
    char criu[32];
    char *flags; /* the line of /proc/cpuinfo, cut into words */
    char *features[MACHINE_FEATURES_MAX];
};

/* `store_path` may be NULL. */
void machine_describe(const char *criu, const char *store_path, struct machine *out);
void machine_release(struct machine *machine);

/* `there` is outside information. */
void machine_check(const Freezepoint__Stream__Machine *there,
                   const Freezepoint__Stream__Machine *here, struct refusals *refusals);

/* Room for a program with so many bytes in memory, and its image. */
void machine_check_space(uint64_t memory, const Freezepoint__Stream__Machine *here,
                         const char *store_path, struct refusals *refusals);

/* What the kernel must be able to do, by trying; with `connections` for those, too. */
void machine_check_kernel(bool connections, struct refusals *refusals);

#endif
