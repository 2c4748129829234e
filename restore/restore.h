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

struct restore_request {
    const struct image *image;
    const char *criu;
    int criu_log_level;
    struct job *job;
    struct keeper *keeper; /* guards against our death meanwhile */
    const struct stdio_plan *plan;
    bool tcp_close; /* drop connections that the image holds */
};

struct restored {
    struct init init;
    pid_t root; /* in our pid namespace */
    int root_pidfd;
    uint64_t verify_ns, criu_ns; /* how long it took */
    void *preload_bytes;         /* the image's preload library, which the next image needs too */
    size_t preload_size;
};

/*
 * Returns once the tree runs.  The image's files are compared with their sums
 * before they are used, memory pages while CRIU reads them: the tree does not run
 * its first instruction before that is through.  On failure nothing is left but
 * CRIU's log, which *err names.
 */
int restore_image(const struct restore_request *request, struct restored *out, struct err *err);

/* Closes and frees; the tree lives on. */
void restored_release(struct restored *restored);

#endif
