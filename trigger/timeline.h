/*
 * What each thread of a watched job did when: running, or waiting and for what.  And
 * when the job was held still by us.  Bounded, whatever the job does: what found no
 * room is counted.
 */
#ifndef FREEZEPOINT_TIMELINE_H
#define FREEZEPOINT_TIMELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/points.h"
#include "trigger/spans.h"

#define TIMELINE_THREADS_MAX 512
#define TIMELINE_HOLDS_MAX   256

struct timeline_thread {
    uint32_t pid, tid;
    char comm[16]; /* its last name; from the program */
    bool ended;
    uint64_t cpu_ns;
    struct spans spans;
};

struct timeline_hold {
    uint64_t from_ns, to_ns;
};

/* Zeroed: empty. */
struct timeline {
    struct timeline_thread *threads; /* as they came */
    size_t thread_count;
    uint64_t left_out; /* runs of further threads */
    struct timeline_hold holds[TIMELINE_HOLDS_MAX];
    size_t hold_count, holds_left_out;
};

void timeline_add(struct timeline *timeline, const struct points_run *run);
void timeline_add_hold(struct timeline *timeline, uint64_t from_ns, uint64_t to_ns);

/* What a thread is at when the watching ends. */
void timeline_finish(struct timeline *timeline, uint32_t tid, const struct points_thread *thread,
                     uint64_t end_ns);

void timeline_release(struct timeline *timeline);

#endif
