/*
 * What a supervisor tells of its job (lib/job_status.h), counted as it happens and
 * written between its events, mostly when nothing has happened for a while: never while
 * a due call is being served.  A failure to write it is logged, and nothing else.
 */
#ifndef FREEZEPOINT_PUBLISHED_H
#define FREEZEPOINT_PUBLISHED_H

#include "lib/job_status.h"
#include "trigger/supervision.h"

#define PUBLISHED_ARGUMENTS_MAX 64

struct published {
    const struct supervision *job;
    Freezepoint__JobStatus status; /* its strings are the supervision's */
    ProtobufCBinaryData argv[PUBLISHED_ARGUMENTS_MAX];
    uint64_t changed_ns; /* CLOCK_MONOTONIC of the oldest change not written; 0: none */
};

void published_begin(struct published *self, const struct supervision *job);

/* A due call was answered. */
void published_hit(struct published *self);

/* A checkpoint ended; generation 0: without an image. */
void published_checkpoint(struct published *self, uint64_t generation, uint64_t pause_ns);

/* For how long nothing has to happen for a change to be written, in ms; -1: there is
 * none. */
int published_wait_ms(const struct published *self);

/* Writes what has changed, where nothing happened for that long or the change is old:
 * calls that are due all the time are not slowed down by it. */
void published_settle(struct published *self, bool idle);

#endif
