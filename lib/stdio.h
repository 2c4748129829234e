/*
 * How the program's 0, 1 and 2 are connected.
 *
 * The program never gets the caller's own streams: CRIU could not restore them
 * elsewhere.  It gets pipes, or a pty where the caller has a terminal, whose
 * other ends the keeper (lib/keeper.h) holds and relays:
 *   a terminal             a pty, one for all streams that are this terminal
 *   anything else          a pipe each; 1 and 2 share one where they are the
 *                          same open file, so that their order is kept
 *   a closed descriptor    /dev/null, with nothing to relay
 *
 * Bytes in flight at a checkpoint: the program that goes on loses none, the
 * keeper relays while it is frozen.  A restored copy starts with empty pipes and
 * an empty pty, since CRIU fills only pipes that it makes itself (criu/pipes.c,
 * open_pipe()): input that had been sent but not read belongs to the original.
 * Input is read ahead of the program, by no more than a pipe holds.
 *
 * A plan owns the descriptors it makes, all CLOEXEC, and borrows the caller's.
 * Not for use by two threads at once.
 */
#ifndef FREEZEPOINT_STDIO_H
#define FREEZEPOINT_STDIO_H

#include <stdbool.h>

#include "lib/err.h"

enum stdio_kind { STDIO_UNUSED, STDIO_PIPE, STDIO_TTY };

#define STDIO_KEY_SIZE 64

/* What stream 0 (input), 1 or 2 (output) is to the program. */
struct stdio_stream {
    enum stdio_kind kind;
    char key[STDIO_KEY_SIZE]; /* CRIU's: "pipe:[INODE]", "tty[RDEV:DEV]", "" if unused; the key of
                                 both --external (ttys) and inherit_fd (criu/tty.c, files.c) */
};

struct stdio_plan {
    /* The program's side. */
    int app_fd[3]; /* the same number for streams that share; -1: nothing to hand over */
    struct stdio_stream streams[3];

    /* The keeper's side: its ends of pipes and pty, -1 where there is none (2 has
     * none where it shares 1's pipe), and the caller's descriptors, borrowed. */
    int near_fd[3];
    int master_fd;
    int outer_fd[3]; /* -1: closed */
    int keys_fd;     /* of outer_fd: what is typed into the pty; -1: nothing */
    int screen_fd;   /* where the pty's output goes; -1: nowhere */
    bool keys_raw;   /* keys_fd is a terminal that the pty stands for */
    bool restored;   /* CRIU is going to give the pty the image's modes */
    char terminal_path[64];
};

#define STDIO_PLAN_NONE                                                                            \
    ((struct stdio_plan){.app_fd = {-1, -1, -1},                                                   \
                         .near_fd = {-1, -1, -1},                                                  \
                         .master_fd = -1,                                                          \
                         .outer_fd = {-1, -1, -1},                                                 \
                         .keys_fd = -1,                                                            \
                         .screen_fd = -1})

/* For a program that is to be started: kinds follow the caller's streams outer[]
 * (0, 1, 2 as a rule; a number that is not open counts as closed).  The pty gets
 * the terminal's size and, in the foreground, its modes. */
int stdio_plan_make(const int outer[3], struct stdio_plan *out, struct err *err);

/*
 * For a program that is to be restored: kinds and sharing follow the image
 * (untrusted; -EINVAL where they make no sense), whatever the caller has.  A pty
 * whose output goes elsewhere than to a terminal adds no carriage returns.
 * app_fd[] is -1 for unused streams; streams[] gets the new objects' keys.
 */
int stdio_plan_for_restore(const struct stdio_stream image[3], const int outer[3],
                           struct stdio_plan *out, struct err *err);

/* The pty's path for struct launch's `terminal`, or NULL. */
const char *stdio_plan_terminal(const struct stdio_plan *plan);

/* Closes the program's side: once the program or CRIU has it, or end of file
 * would never be seen. */
void stdio_plan_release_app(struct stdio_plan *plan);

/* Closes the keeper's side. */
void stdio_plan_release_near(struct stdio_plan *plan);

/* Closes both.  Safe on STDIO_PLAN_NONE and twice. */
void stdio_plan_release(struct stdio_plan *plan);

/* Puts /dev/null in the place of the caller's stream 0 or 1 in this process, once
 * the keeper has it: else its other end would not see that the program has closed
 * it.  Nothing happens where it was closed. */
int stdio_plan_let_go(const struct stdio_plan *plan, int stream, struct err *err);

#endif
