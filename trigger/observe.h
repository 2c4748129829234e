/*
 * The kernel's own view of a job's checkpoints (bpf/marks.h).  Attaching takes a
 * while: a thread of its own does it, beside the program's start.
 */
#ifndef FREEZEPOINT_OBSERVE_H
#define FREEZEPOINT_OBSERVE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bpf/marks.h"
#include "lib/err.h"
#include "trigger/hit.h"

enum observe_state {
    OBSERVE_OFF,      /* not asked for, or not to be had */
    OBSERVE_STARTING, /* the thread is at it */
    OBSERVE_ON
};

/* Marks that are kept until their hits are served. */
#define OBSERVE_RECENT 256

struct recent_point {
    struct mark mark;
    bool served;
};

struct observer {
    enum observe_state state;
    int group_fd; /* borrowed */
    int done_fd;  /* eventfd, readable when the thread is through; -1: none */
    bool late;    /* its time is over, and that was told */
    pthread_t thread;
    struct marks *marks;
    int result;
    struct err err;
    struct recent_point *recent; /* OBSERVE_RECENT, the next one at points % OBSERVE_RECENT */
    uint64_t points;             /* how many were seen */
    uint64_t frozen_ns, thawed_ns, resumed_ns; /* the last ones */
};

#define OBSERVER_NONE ((struct observer){.state = OBSERVE_OFF, .group_fd = -1, .done_fd = -1})

/* Returns at once.  The descriptor must stay open until observe_end(). */
int observe_start(struct observer *self, int group_fd, struct err *err);

/* Waits a bounded time until it is on, or off: -errno then, once, with the reason. */
int observe_await(struct observer *self, struct err *err);

/* Whether the mark of a hit that is about to be served is there; waits a moment for it.
 * It is not where the thread began to wait before the observer was on. */
bool observe_sees(struct observer *self, const struct hit *hit);

/*
 * What has been seen of this hit, which has been served: its mark, and the times of the
 * pause as far as they are there.  `resumed`: waits a little for the program's first
 * step too.  Without a mark hit->mark.kind stays 0.
 */
void observe_hit(struct observer *self, struct hit *hit, bool resumed);

/* Detaches.  Safe on OBSERVER_NONE and while the thread is at it. */
void observe_end(struct observer *self);

#endif
