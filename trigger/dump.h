/*
 * One dump of a tree by CRIU, step by step.
 *
 * The worker is started and given its request long before the moment: CRIU
 * prepares itself (feature cache, options), sends its `pre-dump` notification as
 * the first thing of cr_dump_tasks() (criu/cr-dump.c) and waits there for the
 * answer.  Once it goes on it prepares some more, then holds every thread of the
 * tree by ptrace and asks for external files (`query-ext-files`), which tells that
 * it has come so far.  From there on the caller's own freeze is not needed, and
 * must be over, since CRIU has the threads run its code.
 *
 * Order, for the caller: dump_prepare(), later dump_await_ready(), dump_begin(),
 * freeze, dump_await_held(), thaw, dump_go_on(), dump_await_written(),
 * dump_settle(), dump_end().  dump_end() is safe at any point and ends a worker
 * that is still there.
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
    pid_t inside;                /* a restored tree's init in our pid namespace, or 0 */
    pid_t root;                  /* the tree's root as its own namespace numbers it */
    const char *const *external; /* CRIU --external keys, NULL-terminated; may be NULL */
    const char *config;          /* criu_write_config()'s, or NULL */
    enum tcp_mode tcp;
    bool fenced; /* packets of its connections are kept away already */
    bool leave_running;
    int log_level; /* CRIU's, 0 .. 4 */
};

struct dump {
    struct criu_worker worker;
    bool ready;    /* parked at pre-dump */
    bool given_up; /* it would not end by itself */
    const char *job_name;
    char log_path[4096];
};

#define DUMP_NONE ((struct dump){.worker = CRIU_WORKER_NONE})

int dump_prepare(const struct dump_request *request, struct dump *out, struct err *err);

/* Waits until the worker is parked. */
int dump_await_ready(struct dump *dump, struct err *err);

/* Lets the parked worker go on. */
int dump_begin(struct dump *dump, struct err *err);

/* Waits until every thread of the tree is held by ptrace, frozen or not. */
int dump_await_held(struct dump *dump, struct err *err);

/* Lets it dump.  The tree must not be frozen any more. */
int dump_go_on(struct dump *dump, struct err *err);

/* Waits until all images are written.  The tree is still held. */
int dump_await_written(struct dump *dump, struct err *err);

/* Has CRIU let go of the tree, or end it where that was asked for and `keep` is true;
 * where it is false CRIU lets the tree live and what is written is no image.  Waits
 * until that is done.  After a failure it may be done or not. */
int dump_settle(struct dump *dump, bool keep, struct err *err);

/* Puts a copy in the place of CRIU's log: what CRIU still writes to that goes nowhere
 * then, and the images are complete before it has ended. */
int dump_settle_log(const struct dump *dump, struct err *err);

/* Whether the worker still runs. */
bool dump_is_alive(const struct dump *dump);

void dump_end(struct dump *dump);

/* Ends a dump that has begun but has not been told to go on: CRIU lets go of the tree,
 * frozen or not, and of the connections that it has locked (criu/net.c,
 * network_lock()). */
void dump_call_off(struct dump *dump);

#endif
