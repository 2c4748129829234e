#include "lib/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

/* What is to be read while CRIU has yet to restore the program stays the caller's:
 * where that fails, the program is started instead.  The terminal is others' where it
 * is not ours. */
static void hold_inputs(struct streams *streams)
{
    for (size_t i = 0; i < streams->count; i++) {
        struct relay *relay = &streams->relays[i];
        if (relay->kind == RELAY_OUTPUT)
            continue;
        if (relay_hold(relay, (relay->terminal && !streams->ours) || !streams->settled))
            log_warning("keeper", "a read of the terminal does not end");
    }
}

static int add_relay(struct streams *streams, enum relay_kind kind, int from, int to,
                     int supervisor_fd, struct err *err)
{
    struct relay *relay = &streams->relays[streams->count];
    int errnum = errno;
    *relay = RELAY_NONE;
    relay->kind = kind;
    relay->from = from;
    relay->to = to;
    relay->terminal = kind != RELAY_OUTPUT && isatty(from);
    relay->held = kind != RELAY_OUTPUT && !streams->settled;
    relay->supervisor_fd = supervisor_fd;
    relay->done_fd = streams->done_fd;
    if (from < 0 || to < 0) {
        fd_close(&relay->from);
        fd_close(&relay->to);
        return err_set(err, errnum, "duplicate a stream");
    }
    int error = relay_start(relay, err);
    if (!error)
        streams->count++;
    return error;
}

/* A descriptor for a relay to own: the caller's stream, or nothing. */
static int own_stream(int fd)
{
    return fd < 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int own_input(int fd)
{
    return fd >= 0 && isatty(fd) ? console_open_again(fd) : own_stream(fd);
}

static int start_pty(struct streams *streams, const struct stdio_plan *plan, int supervisor_fd,
                     struct err *err)
{
    /* A terminal that the caller can only read from still shows the echo. */
    int screen = plan->screen_fd < 0 && plan->keys_raw ? console_open_again(plan->keys_fd)
                                                       : own_stream(plan->screen_fd);
    streams->screen = &streams->relays[streams->count];
    int error = add_relay(streams, RELAY_OUTPUT, fcntl(plan->master_fd, F_DUPFD_CLOEXEC, 3), screen,
                          supervisor_fd, err);
    if (!error && plan->keys_fd >= 0)
        error = add_relay(streams, RELAY_KEYS, own_input(plan->keys_fd),
                          fcntl(plan->master_fd, F_DUPFD_CLOEXEC, 3), supervisor_fd, err);
    return error;
}

static int start_relays(struct streams *streams, struct stdio_plan *plan, int supervisor_fd,
                        struct err *err)
{
    int error = plan->master_fd >= 0 ? start_pty(streams, plan, supervisor_fd, err) : 0;
    for (int i = 0; i < 3 && !error; i++) {
        int near_fd = fd_steal(&plan->near_fd[i]);
        if (near_fd < 0)
            continue;
        if (i == 0)
            error = add_relay(streams, RELAY_INPUT, own_input(plan->outer_fd[0]), near_fd,
                              supervisor_fd, err);
        else
            error = add_relay(streams, RELAY_OUTPUT, near_fd, own_stream(plan->outer_fd[i]),
                              supervisor_fd, err);
    }
    return error;
}

static void open_console(struct streams *streams, struct stdio_plan *plan)
{
    struct console *console = &streams->console;
    console->wants_raw = plan->keys_raw;
    int terminal = plan->keys_raw ? plan->keys_fd : plan->screen_fd;
    if (terminal >= 0 && isatty(terminal))
        console->terminal_fd = console_open_again(terminal);
    console->master_fd = fd_steal(&plan->master_fd);
    for (int i = 0; i < 3; i++)
        if (plan->streams[i].kind == STDIO_TTY && console->slave_fd < 0)
            console->slave_fd = fcntl(plan->app_fd[i], F_DUPFD_CLOEXEC, 3);
}

int streams_start(struct streams *streams, struct stdio_plan *plan, int supervisor_fd,
                  struct err *err)
{
    *streams = STREAMS_NONE;
    streams->settled = !plan->restored;
    streams->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (streams->done_fd < 0)
        return err_set(err, errno, "eventfd");
    int error = start_relays(streams, plan, supervisor_fd, err);
    if (error)
        return error;
    open_console(streams, plan);
    if (plan->outer_fd[0] >= 0 && isatty(plan->outer_fd[0]))
        streams->input_terminal_fd = fd_steal(&plan->outer_fd[0]);
    for (int i = 0; i < 3; i++)
        fd_close(&plan->outer_fd[i]);
    stdio_plan_release(plan);
    return 0;
}

void streams_take(struct streams *streams)
{
    streams->ours = true;
    console_take(&streams->console);
    /* A shell that brings a running job to the front tells nobody. */
    streams->in_background =
        streams->input_terminal_fd >= 0 && !console_is_in_front(streams->input_terminal_fd);
    hold_inputs(streams);
}

void streams_give_back(struct streams *streams)
{
    streams->ours = streams->in_background = false;
    hold_inputs(streams);
    console_give_back(&streams->console);
}

void streams_resize(const struct streams *streams)
{
    if (streams->settled)
        console_copy_size(&streams->console);
}

void streams_settle(struct streams *streams)
{
    if (streams->settled)
        return;
    streams->settled = true;
    console_settle(&streams->console);
    hold_inputs(streams);
}

void streams_type_signal(const struct streams *streams, int number)
{
    struct termios modes;
    if (streams->console.master_fd < 0 || tcgetattr(streams->console.master_fd, &modes) < 0)
        return;
    char key = (char)modes.c_cc[number == SIGINT ? VINTR : VQUIT];
    if (write(streams->console.master_fd, &key, 1) != 1)
        log_debug("keeper", "signal %d was not passed on", number);
}

void streams_serve(struct streams *streams)
{
    eventfd_t ignored;
    eventfd_read(streams->done_fd, &ignored);
    if (streams->draining || !streams->screen || !atomic_load(&streams->screen->done) ||
        streams->console.master_fd < 0)
        return;
    /* Without the caller's terminal, or whatever reads the pty's output, the pty
     * goes as well. */
    for (size_t i = 0; i < streams->count; i++)
        if (streams->relays[i].kind == RELAY_KEYS)
            relay_stop(&streams->relays[i]);
    console_hang_up(&streams->console);
}

void streams_drain(struct streams *streams)
{
    streams->draining = true;
    streams->ours = streams->in_background = false;
    hold_inputs(streams);
    for (size_t i = 0; i < streams->count; i++)
        if (streams->relays[i].kind == RELAY_OUTPUT)
            relay_drain(&streams->relays[i]);
}

bool streams_are_drained(const struct streams *streams)
{
    for (size_t i = 0; i < streams->count; i++)
        if (streams->relays[i].kind == RELAY_OUTPUT && !atomic_load(&streams->relays[i].done))
            return false;
    return true;
}

uint64_t streams_moved(const struct streams *streams)
{
    uint64_t total = 0;
    for (size_t i = 0; i < streams->count; i++)
        if (streams->relays[i].kind == RELAY_OUTPUT)
            total += atomic_load(&streams->relays[i].moved);
    return total;
}
