/*
 * One direction of bytes between the program and the caller, moved by a thread of
 * its own: a caller who does not read, or a slow disk, holds up nothing else, and
 * the caller's open files need not be made non-blocking (others share them).
 *
 * A relay owns its two descriptors and closes them when its direction has ended:
 * that is how end of file and a gone reader travel on.  relay_start() begins it;
 * afterwards only the functions here touch it, from the keeper's main thread.
 */
#ifndef FREEZEPOINT_RELAY_H
#define FREEZEPOINT_RELAY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

enum relay_kind {
    RELAY_OUTPUT, /* a pipe or the pty of the program -> the caller */
    RELAY_INPUT,  /* the caller -> a pipe of the program */
    RELAY_KEYS,   /* the caller -> the pty */
};

struct relay {
    enum relay_kind kind;
    int from, to;      /* the program's side does not block */
    bool terminal;     /* from is a terminal: read only in the foreground */
    int supervisor_fd; /* RELAY_KEYS: the pidfd that gets SIGTSTP for ^Z; borrowed */
    int done_fd;       /* eventfd written when the direction has ended; borrowed */

    pthread_t thread;
    int wake_fd;
    pthread_mutex_t reading; /* held while from is read: see relay_hold() */
    bool held;               /* under `reading` */
    atomic_bool draining, stopping, done;
    atomic_uint_fast64_t moved; /* bytes; tells a stuck relay from a busy one */

    /* The thread's own. */
    bool by_copy;   /* not by splice(2) */
    size_t at_once; /* bytes that a splice moves at most */
    bool ended;     /* read to its end of file */
    bool middle;    /* RELAY_KEYS: the last byte typed did not end a line */
    char *buffer;
    size_t start, end; /* bytes in the buffer that are still to be written */
};

#define RELAY_NONE ((struct relay){.from = -1, .to = -1, .wake_fd = -1})

/* kind, from, to, terminal, supervisor_fd, done_fd and held are set by the
 * caller; the rest is as RELAY_NONE.  On failure from and to are closed. */
int relay_start(struct relay *relay, struct err *err);

/* RELAY_OUTPUT: write out what is there now, then end. */
void relay_drain(struct relay *relay);

/* End at the next opportunity, whatever is pending. */
void relay_stop(struct relay *relay);

/* Leaves `from` to others (hold) or goes on reading it.  When it returns 0 no
 * read is under way, unless it took more than a second to end: -EBUSY. */
int relay_hold(struct relay *relay, bool hold);

#endif
