/*
 * The caller's terminal and the pty that stands for it: raw mode while we are in
 * the foreground, window size, modes after a restore.
 *
 * Owns its descriptors.  For one thread, whose SIGTTOU is blocked.
 */
#ifndef FREEZEPOINT_CONSOLE_H
#define FREEZEPOINT_CONSOLE_H

#include <stdbool.h>
#include <termios.h>

struct console {
    int terminal_fd; /* the caller's; -1: none */
    int master_fd;   /* -1: no pty */
    int slave_fd;    /* kept open, so that the pty outlives programs that close it */
    bool wants_raw;  /* the terminal is what the pty stands for */
    bool is_raw;     /* we have made it so */
    struct termios former, raw;
};

#define CONSOLE_NONE ((struct console){.terminal_fd = -1, .master_fd = -1, .slave_fd = -1})

/* An open file of our own on the terminal fd, which can be made non-blocking where
 * fd, which others share, cannot; a duplicate where that is not possible. */
int console_open_again(int fd);

/* Whether our process group may read it: it is in front, or there is no job control. */
bool console_is_in_front(int terminal_fd);

/* In the foreground: saves the terminal's modes, makes it raw, copies its size. */
void console_take(struct console *console);

/* Gives it the saved modes back, unless somebody else has set others since. */
void console_give_back(struct console *console);

/* The terminal's size becomes the pty's, whose foreground group gets SIGWINCH. */
void console_copy_size(const struct console *console);

/* After CRIU has given the pty the image's modes. */
void console_settle(const struct console *console);

/* The terminal is gone: so is the pty, for the program (SIGHUP, end of file). */
void console_hang_up(struct console *console);

#endif
