/*
 * Reasons against taking a job over, one line each: gathered, so that all are told of at
 * once, and bounded.
 */
#ifndef FREEZEPOINT_REFUSAL_H
#define FREEZEPOINT_REFUSAL_H

#include <stddef.h>

#define REFUSALS_MAX 32

struct refusals {
    char *list[REFUSALS_MAX + 1];
    size_t count; /* of the list */
    size_t more;  /* that did not fit */
};

#define REFUSALS_NONE ((struct refusals){.count = 0})

void refuse(struct refusals *refusals, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts a line behind that tells how many more there are, if there are. */
void refusals_close(struct refusals *refusals);

void refusals_release(struct refusals *refusals);

#endif
