/*
 * All that the keeper relays: a relay for each direction of bytes, and the
 * caller's terminal with the pty that stands for it.
 *
 * For the keeper's main thread.  Lives as long as its process, which ends with
 * relays still running: there is no release.
 */
#ifndef FREEZEPOINT_STREAMS_H
#define FREEZEPOINT_STREAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/console.h"
#include "lib/err.h"
#include "lib/relay.h"
#include "lib/stdio.h"

struct streams {
    struct relay relays[5]; /* three pipes at most, and both ways of the pty */
    size_t count;
    struct relay *screen; /* of relays: the pty's output, or NULL */
    struct console console;
    int done_fd;           /* to be polled: streams_serve() */
    int input_terminal_fd; /* the caller's 0, where it is a terminal, or -1 */
    bool ours;             /* the terminal is ours while we are in the foreground */
    bool in_background;    /* it is, but we are not: call streams_take() now and then */
    bool settled;          /* the pty has the modes that it is to have */
    bool draining;
};

#define STREAMS_NONE                                                                               \
    ((struct streams){.console = CONSOLE_NONE, .done_fd = -1, .input_terminal_fd = -1})

/* Takes the keeper's side of the plan and what it needs of the program's; closes
 * the rest, the plan's copies of the caller's streams included.  `supervisor_fd`
 * (a pidfd) gets SIGTSTP for ^Z and is borrowed for good. */
int streams_start(struct streams *streams, struct stdio_plan *plan, int supervisor_fd,
                  struct err *err);

/* In the foreground: the terminal is raw, with its size passed on, and read.
 * In the background: so as soon as this is called in the foreground. */
void streams_take(struct streams *streams);

/* The terminal gets its modes back and is not read; output goes on. */
void streams_give_back(struct streams *streams);

void streams_resize(const struct streams *streams);

/* Once CRIU has given the pty the image's modes; the second time does nothing. */
void streams_settle(struct streams *streams);

/* Types the pty's key for SIGINT or SIGQUIT. */
void streams_type_signal(const struct streams *streams, int number);

/* When done_fd is readable: a direction has ended. */
void streams_serve(struct streams *streams);

/* Reads nothing more from the caller and writes out what is there now. */
void streams_drain(struct streams *streams);
bool streams_are_drained(const struct streams *streams);

/* Bytes put out so far. */
uint64_t streams_moved(const struct streams *streams);

#endif
