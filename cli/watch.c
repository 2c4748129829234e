#include "cli/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lib/console.h"
#include "lib/fd.h"
#include "lib/proc.h"

/* The alternate screen: what was there before comes back. */
#define SCREEN_TAKE      "\033[?1049h\033[?25l"
#define SCREEN_GIVE_BACK "\033[?25h\033[?1049l"
#define SCREEN_HOME      "\033[H"
#define LINE_CLEAR       "\033[K"
#define LINE_END         "\r\n" /* a foreground job may have the terminal in raw mode */
#define SCREEN_END       "\033[J"

/* How long a terminal that takes nothing is waited for, to take or give back its screen. */
#define SCREEN_TIMEOUT_MS 500

struct screen {
    const struct watch *watch;
    bool in_place;
    int output_fd; /* a terminal's is our own, non-blocking: standard output is shared */
    sigset_t signals, former;
    int signal_fd;
    int ended_by; /* a signal; 0: none */
    bool closed;  /* nobody reads any more */
};

static bool goes_on(const struct screen *self)
{
    return !self->ended_by && !self->closed;
}

static void write_plainly(const struct screen *self, const char *text)
{
    if (fd_wait(self->output_fd, POLLOUT, SCREEN_TIMEOUT_MS) <= 0)
        return;
    ssize_t ignored = write(self->output_fd, text, strlen(text));
    (void)ignored;
}

/* ^Z leaves the shell its screen. */
static void stop(const struct screen *self)
{
    if (self->in_place)
        write_plainly(self, SCREEN_GIVE_BACK);
    raise(SIGSTOP);
    if (self->in_place)
        write_plainly(self, SCREEN_TAKE);
}

static void serve_signal(struct screen *self)
{
    struct signalfd_siginfo info;
    if (read(self->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP)
        stop(self);
    else if (info.ssi_signo != SIGWINCH)
        self->ended_by = (int)info.ssi_signo;
}

/* Until standard output takes something, where `writing`, else for at most timeout_ms or
 * until a signal has come.  True where it does. */
static bool wait_for_output(struct screen *self, bool writing, int timeout_ms)
{
    struct pollfd watched[] = {
        {.fd = self->signal_fd, .events = POLLIN},
        {.fd = self->output_fd, .events = writing ? POLLOUT : 0},
    };
    if (poll(watched, 2, timeout_ms) < 0)
        return false;
    if (watched[0].revents)
        serve_signal(self);
    else if (watched[1].revents & (POLLERR | POLLHUP))
        self->closed = true;
    return watched[1].revents & POLLOUT;
}

/* What a pipe that polls writable takes for certain, so that ^C is always heard.  A
 * terminal takes what it has room for. */
static int write_text(struct screen *self, const char *text, size_t size, struct err *err)
{
    while (size && goes_on(self)) {
        if (!wait_for_output(self, true, -1))
            continue;
        ssize_t n = write(self->output_fd, text, size < PIPE_BUF ? size : PIPE_BUF);
        if (n < 0 && (errno == EPIPE || errno == EIO))
            self->closed = true;
        else if (n < 0 && errno != EINTR && errno != EAGAIN)
            return err_set(err, errno, "write to standard output");
        text += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Lines and columns that there is no room for are left out: others would scroll. */
static void fit_to_screen(FILE *to, const char *text)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    struct winsize told;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &told) == 0 && told.ws_row && told.ws_col)
        size = told;
    fputs(SCREEN_HOME, to);
    for (int row = 1; *text && row < size.ws_row; row++) {
        int length = (int)strcspn(text, "\n");
        fprintf(to, LINE_CLEAR "%.*s" LINE_END, length < size.ws_col ? length : size.ws_col, text);
        text += length + (text[length] == '\n');
    }
    fputs(SCREEN_END, to);
}

struct text {
    char *bytes;
    size_t size;
};

static void release_text(struct text *text)
{
    free(text->bytes);
}

static int compose(const struct screen *self, bool first, struct text *out, struct err *err)
{
    _cleanup_fclose_ FILE *to = open_memstream(&out->bytes, &out->size);
    if (!to)
        return err_set(err, errno, "text");
    if (!first && !self->in_place)
        fputs(self->watch->separator, to);
    return self->watch->compose(to, self->watch->context, err);
}

static int show(struct screen *self, bool first, struct err *err)
{
    _cleanup_(release_text) struct text text = {0}, fitted = {0};
    int error = compose(self, first, &text, err);
    if (error)
        return error;
    if (!self->in_place)
        return write_text(self, text.bytes, text.size, err);
    FILE *to = open_memstream(&fitted.bytes, &fitted.size);
    if (!to)
        return err_set(err, errno, "text");
    fit_to_screen(to, text.bytes);
    fclose(to);
    return write_text(self, fitted.bytes, fitted.size, err);
}

static uint64_t now_ms(void)
{
    return proc_monotonic_ns() / 1000000;
}

static int run(struct screen *self, struct err *err)
{
    int error = 0;
    for (bool first = true; goes_on(self) && !error; first = false) {
        uint64_t shown_ms = now_ms();
        error = show(self, first, err);
        uint64_t passed_ms = now_ms() - shown_ms;
        if (!error && goes_on(self) && passed_ms < (uint64_t)self->watch->interval_ms)
            wait_for_output(self, false, self->watch->interval_ms - (int)passed_ms);
    }
    return error;
}

/* Those that are ignored stay so. */
static int take_signals(struct screen *self, struct err *err)
{
    static const int wanted[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH};
    sigemptyset(&self->signals);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct sigaction action;
        if (sigaction(wanted[i], NULL, &action) < 0 || action.sa_handler != SIG_IGN)
            sigaddset(&self->signals, wanted[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &self->signals, &self->former) < 0)
        return err_set(err, errno, "block signals");
    self->signal_fd = signalfd(-1, &self->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return self->signal_fd < 0 ? err_set(err, errno, "signalfd") : 0;
}

static int open_output(struct screen *self, struct err *err)
{
    self->output_fd = isatty(STDOUT_FILENO) ? console_open_again(STDOUT_FILENO)
                                            : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    return self->output_fd < 0 ? err_set(err, errno, "duplicate standard output") : 0;
}

static bool can_redraw(void)
{
    const char *terminal = getenv("TERM");
    return isatty(STDOUT_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

int watch_run(const struct watch *watch, struct err *err)
{
    struct screen self = {.watch = watch,
                          .in_place = watch->in_place && can_redraw(),
                          .signal_fd = -1,
                          .output_fd = -1};
    int error = open_output(&self, err);
    if (!error)
        error = take_signals(&self, err);
    if (error)
        return error;
    if (self.in_place)
        write_plainly(&self, SCREEN_TAKE);
    error = run(&self, err);
    if (self.in_place)
        write_plainly(&self, SCREEN_GIVE_BACK);
    fd_close(&self.signal_fd);
    fd_close(&self.output_fd);
    sigprocmask(SIG_SETMASK, &self.former, NULL);
    if (self.ended_by && self.ended_by != SIGINT)
        raise(self.ended_by);
    return error;
}
