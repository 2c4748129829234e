/*
 * The supervisor's side of a migration: on the request of `freezepoint migrate` the job
 * is dumped and held while its image travels (lib/request.h, lib/moving.h).
 *
 * Until the other side is about to be told to run the copy, whatever goes wrong (the
 * requester's death, its silence, a failed dump) lets the job go on.  After that the job
 * stands until it is known how that ended; where the requester cannot tell any more the
 * other side is asked again and again.
 */
#ifndef FREEZEPOINT_HANDOVER_H
#define FREEZEPOINT_HANDOVER_H

#include <stdbool.h>

#include "lib/err.h"
#include "lib/fence.h"
#include "lib/image.h"
#include "lib/moving.h"
#include "manifest.pb-c.h"
#include "trigger/hit.h"
#include "trigger/supervision.h"

struct handover {
    int connection; /* to the requester; -1: none is under way */
    bool at_point;  /* it waits for the job's next point */
    struct moving moving;
    const struct supervision *job;
    struct supervision as; /* the job, as it is to be dumped for this */
    char criu_version[32];
    uint64_t checkpoints_left; /* 0: no limit; the caller's to set */
    struct fence fence;        /* started where packets have to be kept away */
    struct socket_address *places;
    size_t place_count;
    int dumper;            /* pidfd of the CRIU that holds the tree; borrowed */
    ssize_t process_count; /* of the tree, when it was frozen */
};

#define HANDOVER_NONE ((struct handover){.connection = -1, .fence = FENCE_NONE})

/*
 * Takes a request.  1: a hand-over has begun: out->as is how to dump the job.  0: there
 * was none, or it was refused, which the requester has been told.
 */
int handover_accept(const struct supervision *job, bool has_points, struct handover *out);

/* Everything that takes time and does not stop the job. */
int handover_prepare(struct handover *handover, struct err *err);

/* Of the frozen job: 1 where it is not the time to dump it, since a connection has been
 * made that it has not accepted: those are in no image. */
int handover_is_early(const struct handover *handover, struct err *err);

/* Of the frozen job: keeps its packets away, before CRIU looks at its connections.  CRIU's
 * own way takes longer, and leaves its rules behind (criu/netfilter.c). */
int handover_close_off(struct handover *handover, struct err *err);

/* Of the dumped job, which CRIU holds: it stands by itself from here on, also where CRIU is
 * killed.  handover_end() thaws it. */
int handover_freeze(struct handover *handover, struct err *err);

/* While it waits for the point.  False: the requester is gone, or has thought better of
 * it. */
bool handover_is_wanted(struct handover *handover);

/*
 * The image is written but for its manifest, the tree is held by CRIU (pidfd `dumper`).
 * Where that dies, a process of the tree does, or a signal comes for the program, nothing
 * comes of it, as long as the other side was not told to go on.  Returns once it
 * is decided: 0, the copy runs and the tree is to be ended; else the tree is to go on.
 * handover_end() is to be told when it was let go.
 */
int handover_decide(struct handover *handover, const struct image_draft *draft,
                    Freezepoint__Manifest *manifest, const struct hit *hit, int dumper,
                    struct err *err);

/* Tells the requester how it went: `error` 0 where the tree is gone, else *err says why
 * it goes on.  Thaws it in that case. */
void handover_end(struct handover *handover, int error, const struct err *err);

#endif
