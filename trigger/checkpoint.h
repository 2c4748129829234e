/*
 * A checkpoint from its preparation to the committed image.
 *
 * checkpoint_arm() does everything that can be done before the moment: the draft
 * directory in the store, the copy of the preload library, the parked CRIU
 * worker.  checkpoint_take() freezes the group until CRIU holds its threads, and
 * has it dumped; the image is then made durable by a thread, so that the program
 * does not wait for the disk, and checkpoint_finish() tells how that went.  With `then_stop` the
 * image is made durable before CRIU ends the program: a failure lets it live.
 *
 * With `handover` set, before checkpoint_arm(), the image is offered to another host
 * instead, and only what comes of that decides whether CRIU ends the program.
 *
 * However checkpoint_take() ends, the group is thawed (or ended by CRIU).
 */
#ifndef FREEZEPOINT_CHECKPOINT_H
#define FREEZEPOINT_CHECKPOINT_H

#include <pthread.h>

#include "lib/err.h"
#include "lib/stack.h"
#include "trigger/describe.h"
#include "trigger/dump.h"
#include "trigger/handover.h"
#include "trigger/observe.h"
#include "trigger/supervision.h"

struct checkpoint {
    const struct supervision *job;
    struct image_draft draft;
    struct dump dump;
    pid_t root; /* for which the worker was started */
    bool armed;
    bool draft_open;
    struct observer *observer; /* of the hit being served */
    struct stack stack;        /* of its thread */
    unsigned put_off;          /* how often, of this one */
    int rearming;              /* the process that it was put off for, or -1; the caller's */
    struct handover *handover; /* the image is not committed but handed over; borrowed */

    /* Being made durable by a thread of ours. */
    bool committing;
    pthread_t thread;
    int done_fd; /* eventfd, readable when the thread is through */
    Freezepoint__Manifest *manifest;
    uint64_t generation;
    int commit_result;
    struct err commit_err;
};

#define CHECKPOINT_NONE                                                                            \
    ((struct checkpoint){.draft = IMAGE_DRAFT_NONE,                                                \
                         .dump = DUMP_NONE,                                                        \
                         .stack = STACK_NONE,                                                      \
                         .rearming = -1,                                                           \
                         .done_fd = -1})

/* Needs the tree to exist.  May be called again after a failure. */
int checkpoint_arm(struct checkpoint *checkpoint, const struct supervision *job, struct err *err);

/*
 * `release` is called once the freeze is under way: it answers the notification
 * that is being served, without which its thread cannot freeze (it waits
 * killable).  On success *stopped tells whether the program was ended, and the
 * commit is under way or, where stopped, done.
 *
 * CHECKPOINT_PUT_OFF: nothing has happened, since a process was re-arming itself (it is
 * to be served: `rearming`, rearm.h), or a connection that is to be handed over was just
 * being made.  The thread of the hit will ask again.  The
 * checkpoint has to be armed again.
 */
#define CHECKPOINT_PUT_OFF 1
int checkpoint_take(struct checkpoint *checkpoint, struct observer *observer, struct hit *hit,
                    void (*release)(void *), void *context, bool *stopped, struct err *err);

/* Waits for the commit; *generation gets the image's number. */
int checkpoint_finish(struct checkpoint *checkpoint, uint64_t *generation, struct err *err);

/* Drops whatever is prepared or half done.  Waits for a commit under way. */
void checkpoint_release(struct checkpoint *checkpoint);

#endif
