/*
 * Restoring an image: fresh namespaces with a mini-init, CRIU, and adoption of
 * what it restored.  Supervising the tree afterwards is the caller's.
 */
#ifndef FREEZEPOINT_RESTORE_H
#define FREEZEPOINT_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/image.h"
#include "lib/job.h"
#include "lib/keeper.h"
#include "restore/init.h"

/* Borrowed, until restored_release(). */
struct restore_request {
    const struct image *image;
    const char *criu;
    int criu_log_level;
    struct job *job;
    struct keeper *keeper; /* guards against our death meanwhile */
    const struct stdio_plan *plan;
    bool tcp_close;          /* drop connections that the image holds */
    const char *criu_config; /* criu_write_config()'s, or NULL */
    uint64_t generation;     /* for the control blocks; 0: the image's */
    bool frozen;             /* the tree does not run yet when all is done */
    bool fenced;             /* packets of its connections are kept away until then */
    /* Called when all is in its place and nothing runs yet; may be NULL. */
    void (*placed)(void *context);
    void *context;
};

struct restored {
    struct init init;
    pid_t root; /* in our pid namespace */
    int root_pidfd;
    uint64_t verify_ns, criu_ns; /* how long it took */
    char log_path[4096];         /* CRIU's log */
    void *preload_bytes;         /* the image's preload library, which the next image needs too */
    size_t preload_size;
};

#define RESTORED_NONE ((struct restored){.init = INIT_NONE, .root_pidfd = -1})

/* Starts the mini-init and CRIU, which takes a while and needs nobody: other things
 * can be done meanwhile.  After a failure *out needs no release. */
int restore_begin(const struct restore_request *request, struct restored *out, struct err *err);

/*
 * Returns once the tree runs, or stands frozen where that was asked for.  The image's files are
 * compared with their sums before they are used, memory pages while CRIU reads them: the tree does
 * not run its first instruction before that is through.  After a failure restore_abandon() is still
 * to be called.
 */
int restore_image(const struct restore_request *request, struct restored *restored,
                  struct err *err);

/* Nothing is left but CRIU's log, which the failure's text names. */
void restore_abandon(struct restored *restored);

/* Closes and frees; the tree lives on. */
void restored_release(struct restored *restored);

#endif
