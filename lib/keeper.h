/*
 * The keeper: a process beside the supervisor that relays the program's streams
 * (lib/stdio.h), keeps the caller's terminal in order, and cleans up where the
 * supervisor is killed.
 *
 * Forked by the supervisor before it has threads, in its session and process
 * group (so that it gets SIGWINCH and SIGCONT) and outside the job's group.  It
 * takes no notice of signals sent to that process group.
 *
 * Streams.  Bytes go both ways; end of file and a reader that has gone are passed
 * on.  The caller's open files keep their flags.  An error other than a gone
 * reader (a full disk) becomes a gone reader for the program.
 *
 * Terminal.  While freezepoint is in the foreground the caller's terminal is raw
 * and the pty's line discipline does the work, ^C and ^\ included.  ^Z cannot work
 * there where the program's own process group, an orphaned one, is in front: then
 * the keeper sends SIGTSTP to the supervisor instead.  The terminal is read whether
 * the program wants input or not: a pager after freezepoint in a pipeline has to
 * share the keys with it.
 *
 * The supervisor's death.  The terminal gets its modes back and is no longer
 * read, the guard (below) is settled, the group is thawed, and the program lives
 * on with its streams.  When its group is empty the keeper removes what the job
 * had (job_destroy()) and ends.
 *
 * All calls are the supervisor's, one thread at a time; each waits at most two
 * seconds for the keeper unless said otherwise.  -EPIPE: the keeper has died.
 */
#ifndef FREEZEPOINT_KEEPER_H
#define FREEZEPOINT_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>
#include <termios.h>

#include "lib/err.h"
#include "lib/job.h"
#include "lib/stdio.h"

struct keeper {
    pid_t pid;             /* a child of ours; 0: none */
    int pidfd;             /* -1: none */
    int socket;            /* SEQPACKET, CLOEXEC; -1: none */
    int terminal_fd;       /* the caller's, where the keeper makes it raw; -1: none */
    struct termios former; /* its modes, for where the keeper was killed */
};

#define KEEPER_NONE ((struct keeper){.pid = 0, .pidfd = -1, .socket = -1, .terminal_fd = -1})

/* Starts it.  Our copies of the keeper's side of the plan are closed; the
 * program's side is the caller's to close (stdio_plan_release_app()). */
int keeper_start(const struct job *job, struct stdio_plan *plan, struct keeper *out,
                 struct err *err);

/*
 * The program has ended: everything that is in its pipes and pty now is written
 * out, the terminal restored, the keeper ended and reaped.  Waits as long as the
 * output makes progress; where its reader takes nothing for five seconds the
 * keeper is left behind with the rest, which is no error.  Where the keeper had died
 * (-EPIPE) the terminal is restored here.  Safe on KEEPER_NONE.
 */
int keeper_finish(struct keeper *keeper, struct err *err);

/* Gives the terminal its former modes back and leaves what is typed to others;
 * output goes on. */
int keeper_pause(struct keeper *keeper, struct err *err);

/* Takes the terminal again, if freezepoint is in the foreground, with its size.
 * In the background that happens when SIGCONT brings freezepoint to the front. */
int keeper_resume(struct keeper *keeper, struct err *err);

/*
 * For a restore, at CRIU's pre-resume: CRIU has given the pty the image's modes and
 * size; it gets the caller's size and plain output where that goes to no terminal,
 * and input begins.  keeper_guard_clear() after a restore implies it.
 */
int keeper_settle(struct keeper *keeper, struct err *err);

/*
 * What is to be put right if we die from here on.
 *   a restore (kill_worker): the worker and the half restored tree are killed.
 *   a dump: the worker is left to end by itself, as it does when it finds its
 *     socket closed; killed in the middle of a dump it would leave its parasite in
 *     the program.  Only after two minutes it is.  Then the group is thawed and
 *     the draft removed.
 * A new guard takes the former's place.  Nothing is kept of *guard.
 */
struct keeper_guard {
    int worker;        /* CRIU's pidfd; -1: none */
    const char *draft; /* absolute path of a directory to remove, or NULL */
    bool kill_worker;
};

int keeper_guard_set(struct keeper *keeper, const struct keeper_guard *guard, struct err *err);

/* From here on processes of the job may stand stopped because of us: where we die all that
 * are stopped then are sent SIGCONT. */
int keeper_guard_stopped(struct keeper *keeper, struct err *err);

/* Holds a copy of the descriptor until the next call (-1: none) or, where we die, until
 * the program has been thawed or killed: a fence's socket (lib/fence.h). */
int keeper_hold(struct keeper *keeper, int fd, struct err *err);

/* Does not wait until it is done: what the keeper hears before our end, it does. */
int keeper_guard_clear(struct keeper *keeper, struct err *err);

#endif
