/*
 * What stays the same while a job is supervised, whether it was started or
 * restored: filled by cli/, read by trigger/.  All pointers are borrowed and
 * outlive the supervision.
 */
#ifndef FREEZEPOINT_SUPERVISION_H
#define FREEZEPOINT_SUPERVISION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/image.h"
#include "lib/job.h"
#include "lib/keeper.h"
#include "lib/store.h"
#include "trigger/dump.h"

struct uprobes;

/* One --at, as the shim's rule table numbers them; probes come behind the shim's.  Of a
 * probe `library` is the absolute path of the file that it is in. */
struct supervised_point {
    const char *spec, *library, *function;
    uint64_t first, every;
    bool done;     /* written by the supervisor */
    uint64_t hits; /* of a probe, when the program was last stopped; likewise */
};

struct supervision {
    struct job *job;
    struct keeper *keeper;
    const struct store *store;
    const char *image_name;
    const char *restored_from;    /* the image's label, or NULL */
    uint64_t restored_generation; /* its number, or 0 */
    const char *criu;
    int criu_log_level;

    struct supervised_point *points;
    size_t point_count;
    struct uprobes *probes;   /* or NULL: none is set */
    const char *criu_config;  /* or NULL; of dumps (lib/criu.h) */
    uint64_t max_checkpoints; /* 0: no limit */
    bool then_stop;
    enum tcp_mode tcp;

    const char *const *argv; /* the command; NULL-terminated */
    const char *executable;  /* absolute */
    const char *cwd;

    const char *preload_path;
    const void *preload_bytes;
    size_t preload_size;
    uint64_t control_offset; /* of struct fz_control from the library's load address */

    const struct stdio_stream *streams; /* three: how CRIU knows the program's 0, 1, 2 */

    pid_t child; /* our child: the program, or the mini-init of a restored tree */
    int child_pidfd;
    pid_t root;      /* the program, in our pid namespace */
    int root_pidfd;  /* -1: it had ended at once */
    pid_t init;      /* the mini-init, or 0 */
    int init_socket; /* the mini-init's reports, or -1 */
    int restorer;    /* pidfd of the CRIU that restored the tree, or -1 */
    int listener;    /* or -1: restored processes bring theirs */

    /* One line for the user.  May be called between any two steps. */
    void (*say)(const char *line, void *context);
    void *say_context;
};

#endif
