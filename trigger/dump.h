/*
 * One dump of a frozen group by CRIU.
 *
 * The worker is started and given its request long before the moment: CRIU
 * prepares itself (feature cache, network lock, options), sends its `pre-dump`
 * notification as the first thing of cr_dump_tasks() (criu/cr-dump.c) and waits
 * there for the answer.  So the pause holds nothing but the dump itself.
 *
 * Order, for the caller: dump_prepare(), later dump_await_ready(), freeze the
 * group, dump_perform(), thaw, dump_end().  dump_end() is safe at any point and
 * ends a worker that is still there.
 */
#ifndef FREEZEPOINT_DUMP_H
#define FREEZEPOINT_DUMP_H

#include <stdbool.h>
#include <sys/types.h>

#include "lib/criu.h"
#include "lib/err.h"

enum tcp_mode { TCP_MODE_NONE, TCP_MODE_ESTABLISHED, TCP_MODE_CLOSE };

struct dump_request {
    const char *criu;
    const char *images_path;     /* absolute: an images_dir_fd cannot cross pid namespaces */
    const char *job_name;        /* a failure's log is kept under it: job_make_log_directory() */
    const char *group_path;      /* frozen by the caller before dump_perform() */
    pid_t inside;                /* a restored tree's init in our pid namespace, or 0 */
    pid_t root;                  /* the tree's root as its own namespace numbers it */
    const char *const *external; /* CRIU --external keys, NULL-terminated; may be NULL */
    enum tcp_mode tcp;
    bool leave_running;
    int log_level; /* CRIU's, 0 .. 4 */
};

struct dump {
    struct criu_worker worker;
    bool ready; /* parked at pre-dump */
    const char *job_name;
    char log_path[4096];
};

#define DUMP_NONE ((struct dump){.worker = CRIU_WORKER_NONE})

int dump_prepare(const struct dump_request *request, struct dump *out, struct err *err);

/* Waits until the worker is parked. */
int dump_await_ready(struct dump *dump, struct err *err);

/*
 * Lets the parked worker dump.  `dumped` is called, where not NULL, once all
 * images are written and while the tree is still frozen; if it fails CRIU lets
 * the tree live (post-dump, criu/cr-dump.c).
 */
int dump_perform(struct dump *dump, int (*dumped)(void *context, struct err *err), void *context,
                 struct err *err);

/* Puts a copy in the place of CRIU's log: what CRIU still writes to that goes nowhere
 * then, and the images are complete before it has ended. */
int dump_settle_log(const struct dump *dump, struct err *err);

/* Whether the worker still runs. */
bool dump_is_alive(const struct dump *dump);

void dump_end(struct dump *dump);

#endif
