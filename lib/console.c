#include "lib/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/fd.h"

int console_open_again(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return again >= 0 ? again : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

bool console_is_in_front(int terminal_fd)
{
    pid_t group = tcgetpgrp(terminal_fd);
    /* Not our controlling terminal: no job control. */
    return group < 0 ? errno == ENOTTY : group == getpgrp();
}

static bool same_modes(const struct termios *one, const struct termios *other)
{
    return one->c_iflag == other->c_iflag && one->c_oflag == other->c_oflag &&
           one->c_cflag == other->c_cflag && one->c_lflag == other->c_lflag;
}

void console_take(struct console *console)
{
    struct termios now;
    if (!console->wants_raw || !console_is_in_front(console->terminal_fd) ||
        tcgetattr(console->terminal_fd, &now) < 0)
        return;
    /* After a SIGSTOP the shell may have set its own modes over ours. */
    if (!console->is_raw || !same_modes(&now, &console->raw)) {
        console->former = now;
        cfmakeraw(&now);
        if (tcsetattr(console->terminal_fd, TCSANOW, &now) < 0)
            return;
        /* As the driver took them, which may differ from what was asked for. */
        if (tcgetattr(console->terminal_fd, &console->raw) < 0)
            console->raw = now;
        console->is_raw = true;
    }
    console_copy_size(console);
}

void console_give_back(struct console *console)
{
    struct termios now;
    if (console->is_raw && tcgetattr(console->terminal_fd, &now) == 0 &&
        same_modes(&now, &console->raw))
        tcsetattr(console->terminal_fd, TCSANOW, &console->former);
    console->is_raw = false;
}

void console_copy_size(const struct console *console)
{
    struct winsize size;
    if (console->terminal_fd >= 0 && console->master_fd >= 0 &&
        ioctl(console->terminal_fd, TIOCGWINSZ, &size) == 0)
        ioctl(console->master_fd, TIOCSWINSZ, &size);
}

void console_settle(const struct console *console)
{
    struct termios modes;
    if (console->master_fd < 0)
        return;
    if (!console->wants_raw && tcgetattr(console->master_fd, &modes) == 0) {
        modes.c_oflag &= ~(tcflag_t)ONLCR;
        tcsetattr(console->master_fd, TCSANOW, &modes);
    }
    console_copy_size(console);
}

void console_hang_up(struct console *console)
{
    console->wants_raw = false;
    fd_close(&console->slave_fd);
    fd_close(&console->master_fd);
}
