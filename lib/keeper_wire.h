/*
 * What supervisor and keeper say to each other over their SEQPACKET socket; for
 * lib/keeper.c and lib/keeper_loop.c alone, which are one program.
 */
#ifndef FREEZEPOINT_KEEPER_WIRE_H
#define FREEZEPOINT_KEEPER_WIRE_H

#include <limits.h>
#include <stdbool.h>

#include "lib/err.h"
#include "lib/job.h"
#include "lib/stdio.h"

enum keeper_op {
    KEEPER_READY, /* the keeper's first message */
    KEEPER_PAUSE,
    KEEPER_RESUME,
    KEEPER_SETTLE,
    KEEPER_GUARD, /* with the worker's pidfd beside it, if there is one */
    KEEPER_GUARD_CLEAR,
    KEEPER_CONTINUE,
    KEEPER_HOLD,   /* with the descriptor to hold beside it, or none */
    KEEPER_FINISH, /* answered by any number of BUSY, then DONE or LEFT_BEHIND */
};

enum keeper_state { KEEPER_DONE, KEEPER_BUSY, KEEPER_LEFT_BEHIND };

struct keeper_request {
    unsigned int serial;
    enum keeper_op op;
    bool kill_worker;
    char draft[PATH_MAX]; /* "": none */
};

struct keeper_reply {
    unsigned int serial; /* the request's: an answer that came too late is skipped */
    int errnum;
    enum keeper_state state;
    char text[sizeof(((struct err *)0)->text)]; /* what failed */
};

/* Output that nobody takes for so long is left behind. */
#define KEEPER_STALL_MS 5000
/* How often the keeper says that it is still at it. */
#define KEEPER_BEAT_MS 1000

/* The child's whole life.  All signals are blocked; `socket` and `supervisor_fd`
 * (the parent's pidfd) are its own copies. */
_Noreturn void keeper_run(const struct job *job, struct stdio_plan *plan, int socket,
                          int supervisor_fd);

#endif
