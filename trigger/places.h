/*
 * Which file an address of a process is code of, for addresses that were recorded
 * while it ran.  Paths are outside information.
 */
#ifndef FREEZEPOINT_PLACES_H
#define FREEZEPOINT_PLACES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct place {
    pid_t pid;
    uint64_t start, end, offset; /* offset: in the file, of start */
    char *path;
};

/* Zeroed: empty. */
struct places {
    struct place *list;
    size_t count;
};

/* What is mapped into pid now; nothing where that cannot be read. */
void places_add(struct places *places, pid_t pid);

/* NULL: not known. */
const struct place *places_find(const struct places *places, pid_t pid, uint64_t address);

void places_release(struct places *places);

#endif
