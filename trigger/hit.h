/*
 * One hit of a point, from the notification to the end of its checkpoint.
 */
#ifndef FREEZEPOINT_HIT_H
#define FREEZEPOINT_HIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bpf/marks.h"

/* The rule of a checkpoint that no call asked for: no thread waits for it. */
#define HIT_AT_ONCE SIZE_MAX

/* All times are of CLOCK_MONOTONIC; 0: not known. */
struct hit {
    /* As the no-op syscall told of it (untrusted, except the tid). */
    size_t rule;
    uint64_t number;
    pid_t tid; /* in our pid namespace */
    uint64_t notified_ns, frozen_ns, dump_ready_ns, dumped_ns, thawed_ns;
    /* As the kernel saw it (observe.h). */
    struct mark mark; /* kind 0: not seen; of a probe's hit there from the beginning */
    uint64_t kernel_frozen_ns, kernel_thawed_ns, kernel_resumed_ns;
    uint64_t marks_lost;
};

#endif
