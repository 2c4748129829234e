/*
 * What `run` and `restore` have in common: CRIU, the store, the job, the streams
 * and their keeper, supervision to the end.
 *
 * Order: session_begin(), session_claim(), then session_start_keeper() and a start
 * of the program, session_supervise(), session_end().  session_end() takes back
 * whatever was done, in whatever state.
 */
#ifndef FREEZEPOINT_SESSION_H
#define FREEZEPOINT_SESSION_H

#include <signal.h>

#include "lib/image.h"
#include "lib/job.h"
#include "lib/keeper.h"
#include "lib/stdio.h"
#include "lib/store.h"
#include "trigger/supervise.h"
#include "trigger/uprobes.h"

struct session {
    char criu[PATH_MAX];
    int criu_log_level;
    struct store store;
    struct job job;
    int outer[3]; /* freezepoint's own 0, 1, 2; -1: closed when it was started */
    struct stdio_plan plan;
    struct keeper keeper;
    char criu_config[PATH_MAX]; /* "": none is needed */
    sigset_t former_signals;
    int signal_fd;
    bool signals_taken;
};

/* Blocks the signals that are passed on, finds CRIU, opens the store (`images`
 * or the default one), which is made where it is missing. */
int session_begin(struct session *session, const char *images, struct err *err);

/* The job's name; with `numbered` NAME.2, NAME.3 ... where it is in use. */
int session_claim(struct session *session, const char *name, bool numbered, struct err *err);

/* Starts relaying; the plan must be made. */
int session_start_keeper(struct session *session, struct err *err);

/* Has CRIU take a program in which there were probes. */
int session_allow_probes(struct session *session, struct err *err);

/* Sets the points that are probes, if there are any (trigger/uprobes.h), after the keeper is
 * started and before the program runs. */
int session_start_probes(struct session *session, struct supervised_point *points, size_t count,
                         struct uprobes **out, struct err *err);

/* How a restored program is to be supervised. */
struct restored_options {
    bool then_stop;
    bool tcp_given;
    enum tcp_mode tcp; /* where tcp_given; else as the image was taken */
    uint64_t max_checkpoints;

    /* For a copy that has just come from another host.  Where `held` is not NULL the tree
     * stands frozen when it is called, and runs when it has returned 0. */
    int (*held)(void *context, uint64_t restore_ns, struct err *err);
    /* Called before anything of it is there: whatever is done in it the keeper can undo. */
    int (*guarded)(void *context, struct err *err);
    void *held_context;  /* of both */
    uint64_t generation; /* of its control blocks, where not 0 */
};

/*
 * Restores `image` into the claimed job, supervises it to its end and stores its
 * exit status.  -errno where nothing was started: the session can be used again.
 * `started` is called, where not NULL, once the program runs.
 */
int session_run_restored(struct session *session, const struct image *image,
                         const struct restored_options *options, void (*started)(void *context),
                         void *context, int *status, struct err *err);

/* Supervises until no process is left; *status gets what freezepoint exits with. */
int session_supervise(struct session *session, struct supervision *job, int *status,
                      struct err *err);

void session_end(struct session *session);

#define SESSION_NONE                                                                               \
    ((struct session){.store = STORE_NONE,                                                         \
                      .job = JOB_NONE,                                                             \
                      .plan = STDIO_PLAN_NONE,                                                     \
                      .keeper = KEEPER_NONE,                                                       \
                      .signal_fd = -1})

#endif
