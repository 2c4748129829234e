/*
 * When a thread ran and why it rested between, in a bounded number of spans.  Where
 * there are too many, the shortest rests are taken for part of the runs around them:
 * the picture gets coarser, and says how coarse.  Pure.
 */
#ifndef FREEZEPOINT_SPANS_H
#define FREEZEPOINT_SPANS_H

#include <stddef.h>
#include <stdint.h>

#define SPANS_MAX 1024

/* It runs from from_ns to to_ns, and rests up to the next span. */
struct span {
    uint64_t from_ns, to_ns;
    uint64_t cpu_ns;     /* of the run on a processor */
    uint32_t rest, call; /* enum points_rest, bpf/points.h */
};

/* Zeroed: none.  Of one thread, by time. */
struct spans {
    struct span *list;
    size_t count, room;
    uint64_t finest_ns; /* rests below that may not be told; 0: all that came are there */
};

/* One that is not behind the last is dropped, as what an untrusted clock says.
 * 0 or -ENOMEM. */
int spans_add(struct spans *spans, const struct span *span);

void spans_release(struct spans *spans);

#endif
