#include "lib/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "lib/console.h"
#include "lib/fd.h"
#include "lib/proc.h"

#define BUFFER_SIZE (64 * 1024)
#define SPLICE_MAX  (1024 * 1024)
/* It may wait until a socket has taken all of a splice: no more than a slow reader
 * takes within the time after which it counts as stuck. */
#define SPLICE_SOCKET_MAX 4096

/* What a step came to. */
enum step {
    STEP_ON,    /* bytes moved */
    STEP_EMPTY, /* nothing to read now */
    STEP_FULL,  /* nothing to write to now */
    STEP_END,   /* end of file, or the other side is gone */
};

static bool is_hung_up(int fd)
{
    struct pollfd watched = {.fd = fd};
    return isatty(fd) && poll(&watched, 1, 0) > 0 && (watched.revents & POLLHUP);
}

static enum step step_of(ssize_t n)
{
    if (n > 0)
        return STEP_ON;
    if (n < 0 && errno == EINTR)
        return STEP_ON;
    return n < 0 && errno == EAGAIN ? STEP_EMPTY : STEP_END;
}

/*
 * ^Z, where the program's own group is in front of the pty: the kernel would drop
 * the SIGTSTP that the line discipline sends (kernel/signal.c, get_signal():
 * orphaned process groups).  With another group in front, as under a shell, it is
 * an ordinary key.
 */
static bool is_suspension(const struct relay *relay, char key, const struct termios *modes)
{
    pid_t front, session;
    return (modes->c_lflag & ISIG) && modes->c_cc[VSUSP] != _POSIX_VDISABLE &&
           (unsigned char)key == modes->c_cc[VSUSP] && ioctl(relay->to, TIOCGPGRP, &front) == 0 &&
           ioctl(relay->to, TIOCGSID, &session) == 0 && front == session;
}

static void take_suspensions(struct relay *relay)
{
    struct termios modes;
    if (!relay->terminal || tcgetattr(relay->to, &modes) < 0)
        return;
    size_t kept = relay->start;
    for (size_t i = relay->start; i < relay->end; i++) {
        if (is_suspension(relay, relay->buffer[i], &modes))
            proc_pidfd_signal(relay->supervisor_fd, SIGTSTP);
        else
            relay->buffer[kept++] = relay->buffer[i];
    }
    relay->end = kept;
}

/* The buffer is empty when this is called.  A terminal's EIO in the background is
 * no end (drivers/tty/tty_jobctrl.c). */
static enum step read_some(struct relay *relay)
{
    pthread_mutex_lock(&relay->reading);
    enum step step = STEP_EMPTY;
    ssize_t n = 0;
    if (!relay->held && (!relay->terminal || console_is_in_front(relay->from))) {
        n = read(relay->from, relay->buffer, BUFFER_SIZE);
        step = step_of(n);
        if (n < 0 && errno == EIO && relay->terminal && !console_is_in_front(relay->from))
            step = STEP_EMPTY;
    }
    if (step == STEP_EMPTY && relay->terminal)
        relay->held = relay->held || !console_is_in_front(relay->from);
    pthread_mutex_unlock(&relay->reading);
    relay->ended = step == STEP_END && n == 0;
    relay->start = 0;
    relay->end = n > 0 ? (size_t)n : 0;
    if (relay->kind == RELAY_KEYS && relay->end > 0)
        take_suspensions(relay);
    return step;
}

static enum step write_some(struct relay *relay)
{
    ssize_t n = write(relay->to, relay->buffer + relay->start, relay->end - relay->start);
    if (n <= 0)
        return n == 0 || errno == EAGAIN || errno == EINTR ? STEP_FULL : STEP_END;
    relay->middle = relay->buffer[relay->start + (size_t)n - 1] != '\n';
    relay->start += (size_t)n;
    atomic_fetch_add(&relay->moved, (uint64_t)n);
    return relay->start < relay->end ? STEP_FULL : STEP_ON;
}

static enum step copy_some(struct relay *relay)
{
    if (relay->start == relay->end) {
        enum step step = read_some(relay);
        if (step != STEP_ON || relay->start == relay->end)
            return step;
    }
    return write_some(relay);
}

/*
 * One side is a pipe of ours.  SPLICE_F_NONBLOCK is about the pipes of the pair
 * (fs/splice.c); files and devices on the caller's side may block the thread.
 * EAGAIN may mean that the one is empty or the other full.
 */
static enum step splice_some(struct relay *relay)
{
    ssize_t n = splice(relay->from, NULL, relay->to, NULL, relay->at_once,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n < 0 && errno == EINVAL) {
        /* A device that cannot. */
        relay->by_copy = true;
        return STEP_ON;
    }
    if (n > 0)
        atomic_fetch_add(&relay->moved, (uint64_t)n);
    enum step step = step_of(n);
    return step == STEP_EMPTY ? STEP_FULL : step;
}

static bool wants_to_read(struct relay *relay)
{
    if (relay->start < relay->end)
        return false;
    pthread_mutex_lock(&relay->reading);
    bool held = relay->held;
    pthread_mutex_unlock(&relay->reading);
    return !held;
}

/* Waits until there is something to do.  `full`: the last step found no room. */
static enum step await(struct relay *relay, bool full)
{
    bool read_next = !full && wants_to_read(relay);
    bool draining = atomic_load(&relay->draining);
    struct pollfd watched[3] = {
        {.fd = relay->wake_fd, .events = POLLIN},
        {.fd = relay->to, .events = full ? POLLOUT : 0},
        /* A held terminal that is hung up is still an end. */
        {.fd = read_next || relay->terminal ? relay->from : -1, .events = read_next ? POLLIN : 0},
    };
    int n = poll(watched, 3, draining && !full ? 0 : -1);
    if (n < 0 && errno != EINTR)
        return STEP_END;
    if (n > 0 && watched[0].revents) {
        eventfd_t ignored;
        eventfd_read(relay->wake_fd, &ignored);
    }
    if (n > 0 && (watched[1].revents & (POLLERR | POLLHUP | POLLNVAL)))
        return STEP_END;
    if (n > 0 && (watched[1].revents & POLLOUT))
        return STEP_ON;
    if (n > 0 && (watched[2].revents & POLLIN))
        return STEP_ON;
    if (n > 0 && watched[2].revents)
        return read_next && !relay->terminal ? STEP_ON : STEP_END; /* it takes a read to tell */
    return draining && n == 0 ? STEP_END : STEP_EMPTY;
}

/*
 * A pty has no end of file but the key for it, which counts as one only where a
 * line begins: in the middle of one the first merely hands that over.
 */
static void type_end_of_file(struct relay *relay)
{
    struct termios modes;
    if (tcgetattr(relay->to, &modes) < 0 || !(modes.c_lflag & ICANON) ||
        modes.c_cc[VEOF] == _POSIX_VDISABLE)
        return;
    char keys[2] = {(char)modes.c_cc[VEOF], (char)modes.c_cc[VEOF]};
    size_t count = relay->middle ? 2 : 1;
    for (size_t done = 0; done < count && !atomic_load(&relay->stopping);) {
        ssize_t n = write(relay->to, keys + done, count - done);
        if (n > 0)
            done += (size_t)n;
        else if (await(relay, true) == STEP_END)
            return;
    }
}

static void move_all(struct relay *relay)
{
    enum step step = STEP_EMPTY;
    while (!atomic_load(&relay->stopping)) {
        bool full = step == STEP_FULL;
        step = await(relay, full);
        if (step == STEP_END)
            break;
        if (step == STEP_EMPTY) {
            step = full ? STEP_FULL : STEP_EMPTY;
            continue;
        }
        step = relay->by_copy ? copy_some(relay) : splice_some(relay);
        if (step == STEP_END)
            break;
        /* There was room: so it was the other side that had nothing. */
        if (step == STEP_FULL && full && !relay->by_copy)
            step = STEP_EMPTY;
    }
    if (relay->kind == RELAY_KEYS && relay->ended && !is_hung_up(relay->from))
        type_end_of_file(relay);
}

static void *run(void *context)
{
    struct relay *relay = context;
    move_all(relay);
    fd_close(&relay->from);
    fd_close(&relay->to);
    free(steal_pointer(&relay->buffer));
    atomic_store(&relay->done, true);
    eventfd_write(relay->done_fd, 1);
    return NULL;
}

static bool is_regular(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
}

static bool is_socket(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode);
}

/* splice(2) does not lock a file's position, as write(2) does: what others who share
 * the open file write meanwhile would be overwritten (fs/splice.c, do_splice()). */
static bool must_copy(const struct relay *relay)
{
    return relay->kind == RELAY_KEYS || relay->terminal || isatty(relay->from) ||
           isatty(relay->to) || is_regular(relay->from) || is_regular(relay->to);
}

static void kick(struct relay *relay)
{
    eventfd_write(relay->wake_fd, 1);
}

int relay_start(struct relay *relay, struct err *err)
{
    int errnum = 0;
    relay->by_copy = must_copy(relay);
    relay->at_once = is_socket(relay->to) ? SPLICE_SOCKET_MAX : SPLICE_MAX;
    relay->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    relay->buffer = malloc(BUFFER_SIZE);
    if (relay->wake_fd < 0 || !relay->buffer)
        errnum = errno;
    if (!errnum)
        errnum = pthread_mutex_init(&relay->reading, NULL);
    if (!errnum)
        errnum = pthread_create(&relay->thread, NULL, run, relay);
    if (!errnum) {
        pthread_detach(relay->thread);
        return 0;
    }
    fd_close(&relay->wake_fd);
    fd_close(&relay->from);
    fd_close(&relay->to);
    free(steal_pointer(&relay->buffer));
    return err_set(err, errnum, "start a relay");
}

void relay_drain(struct relay *relay)
{
    atomic_store(&relay->draining, true);
    kick(relay);
}

void relay_stop(struct relay *relay)
{
    atomic_store(&relay->stopping, true);
    kick(relay);
}

int relay_hold(struct relay *relay, bool hold)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec++;
    if (pthread_mutex_timedlock(&relay->reading, &deadline))
        return -EBUSY;
    relay->held = hold;
    pthread_mutex_unlock(&relay->reading);
    kick(relay);
    return 0;
}
