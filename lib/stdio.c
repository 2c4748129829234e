#include "lib/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "lib/console.h"
#include "lib/fd.h"

/* The device number of the terminal behind fd, which for /dev/tty is not its
 * st_rdev (drivers/tty/tty_io.c, TIOCGDEV). */
static bool terminal_of(int fd, unsigned int *device)
{
    return isatty(fd) && ioctl(fd, TIOCGDEV, device) == 0;
}

static bool is_open(int fd)
{
    return fd >= 0 && fcntl(fd, F_GETFD) >= 0;
}

static bool can(int fd, int access)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && ((flags & O_ACCMODE) == access || (flags & O_ACCMODE) == O_RDWR);
}

/* Whether what is written to either comes out in one order.  Two open files of
 * one regular file have two positions, unless both append. */
static bool share_order(int one, int other)
{
    pid_t self = getpid();
    if (syscall(SYS_kcmp, self, self, KCMP_FILE, one, other) == 0)
        return true;
    struct stat a, b;
    if (fstat(one, &a) < 0 || fstat(other, &b) < 0 || a.st_dev != b.st_dev || a.st_ino != b.st_ino)
        return false;
    int flags = fcntl(one, F_GETFL);
    return flags == fcntl(other, F_GETFL) && (!S_ISREG(a.st_mode) || (flags & O_APPEND));
}

static int set_key(struct stdio_stream *stream, enum stdio_kind kind, int fd, struct err *err)
{
    struct stat about;
    if (fstat(fd, &about) < 0)
        return err_set(err, errno, "stat of a stream");
    stream->kind = kind;
    if (kind == STDIO_PIPE)
        snprintf(stream->key, sizeof(stream->key), "pipe:[%" PRIu64 "]", (uint64_t)about.st_ino);
    else
        snprintf(stream->key, sizeof(stream->key), "tty[%" PRIx64 ":%" PRIx64 "]",
                 (uint64_t)about.st_rdev, (uint64_t)about.st_dev);
    return 0;
}

/* Where the caller has closed streams of its own, new descriptors would take their
 * numbers, which whoever execs next puts /dev/null on. */
static int move_up(int *fd)
{
    if (*fd < 0 || *fd > 2)
        return 0;
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
    if (moved < 0)
        return -errno;
    close(*fd);
    *fd = moved;
    return 0;
}

/* The keeper's end does not block; it is an open file of its own, so that the
 * program never notices. */
static int make_pipe(struct stdio_plan *plan, int i, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_set(err, errno, "make a pipe");
    plan->app_fd[i] = ends[i == 0 ? 0 : 1];
    plan->near_fd[i] = ends[i == 0 ? 1 : 0];
    if (move_up(&plan->app_fd[i]) || move_up(&plan->near_fd[i]))
        return err_set(err, EMFILE, "make a pipe");
    int flags = fcntl(plan->near_fd[i], F_GETFL);
    if (flags < 0 || fcntl(plan->near_fd[i], F_SETFL, flags | O_NONBLOCK) < 0)
        return err_set(err, errno, "make a pipe non-blocking");
    return set_key(&plan->streams[i], STDIO_PIPE, plan->app_fd[i], err);
}

static int make_pty(struct stdio_plan *plan, int *slave, struct err *err)
{
    plan->master_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (plan->master_fd < 0)
        return err_set(err, errno, "make a pty");
    if (grantpt(plan->master_fd) < 0 || unlockpt(plan->master_fd) < 0)
        return err_set(err, errno, "unlock the pty");
    int errnum = ptsname_r(plan->master_fd, plan->terminal_path, sizeof(plan->terminal_path));
    if (errnum)
        return err_set(err, errnum, "find the pty's name");
    *slave = open(plan->terminal_path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*slave < 0)
        return err_set(err, errno, "open the pty '%s'", plan->terminal_path);
    if (move_up(slave) || move_up(&plan->master_fd)) {
        fd_close(slave);
        return err_set(err, EMFILE, "make a pty");
    }
    return 0;
}

static int share(struct stdio_plan *plan, int from, int to)
{
    plan->app_fd[to] = plan->app_fd[from];
    plan->streams[to] = plan->streams[from];
    return 0;
}

static int use_null(struct stdio_plan *plan, int i, struct err *err)
{
    plan->app_fd[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (plan->app_fd[i] < 0 || move_up(&plan->app_fd[i]))
        return err_set(err, errno, "open /dev/null");
    return 0;
}

/* In the background the modes are those that a shell needs for its own prompt, and
 * the pty keeps its defaults.  Without raw mode on our side, the terminal's own line
 * discipline adds what ONLCR would. */
static int copy_terminal(const struct stdio_plan *plan, int outer, struct err *err)
{
    struct termios modes;
    struct winsize size;
    if (tcgetattr(console_is_in_front(outer) ? outer : plan->master_fd, &modes) < 0)
        return err_set(err, errno, "read the terminal's modes");
    if (!plan->keys_raw)
        modes.c_oflag &= ~(tcflag_t)ONLCR;
    if (tcsetattr(plan->master_fd, TCSANOW, &modes) < 0)
        return err_set(err, errno, "set the pty's modes");
    if (ioctl(outer, TIOCGWINSZ, &size) == 0)
        ioctl(plan->master_fd, TIOCSWINSZ, &size);
    return 0;
}

/* The caller's terminal, one of outer_fd, that the pty stands for. */
static int find_terminal(const int outer[3], unsigned int *device)
{
    for (int i = 0; i < 3; i++)
        if (outer[i] >= 0 && terminal_of(outer[i], device))
            return outer[i];
    return -1;
}

static bool is_terminal(int fd, unsigned int device)
{
    unsigned int found;
    return fd >= 0 && terminal_of(fd, &found) && found == device;
}

static void borrow(struct stdio_plan *plan, const int outer[3])
{
    for (int i = 0; i < 3; i++)
        plan->outer_fd[i] = is_open(outer[i]) ? outer[i] : -1;
}

/* All of 0, 1 and 2 that are `device`.  What is echoed has to come out even where
 * only the input is a terminal. */
static int make_terminal(struct stdio_plan *plan, int terminal, unsigned int device,
                         struct err *err)
{
    static const int screens[] = {1, 2, 0};
    const int *outer = plan->outer_fd;
    int slave = -1;
    int error = make_pty(plan, &slave, err);
    for (int i = 0; i < 3; i++) {
        int screen = screens[i];
        if (is_terminal(outer[screen], device) && can(outer[screen], O_WRONLY) &&
            plan->screen_fd < 0)
            plan->screen_fd = outer[screen];
        if (!error && is_terminal(outer[i], device)) {
            plan->app_fd[i] = slave;
            error = set_key(&plan->streams[i], STDIO_TTY, slave, err);
        }
    }
    plan->keys_raw = is_terminal(outer[0], device);
    plan->keys_fd = plan->keys_raw ? outer[0] : -1;
    return error ? error : copy_terminal(plan, terminal, err);
}

static int plan_launch(struct stdio_plan *plan, struct err *err)
{
    unsigned int device = 0;
    int terminal = find_terminal(plan->outer_fd, &device);
    int error = terminal < 0 ? 0 : make_terminal(plan, terminal, device, err);
    for (int i = 0; i < 3 && !error; i++) {
        if (plan->app_fd[i] >= 0)
            continue;
        if (plan->outer_fd[i] < 0)
            error = use_null(plan, i, err);
        else if (i == 2 && plan->streams[1].kind == STDIO_PIPE &&
                 share_order(plan->outer_fd[1], plan->outer_fd[2]))
            error = share(plan, 1, 2);
        else
            error = make_pipe(plan, i, err);
    }
    return error;
}

int stdio_plan_make(const int outer[3], struct stdio_plan *out, struct err *err)
{
    struct stdio_plan plan = STDIO_PLAN_NONE;
    borrow(&plan, outer);
    int error = plan_launch(&plan, err);
    if (error) {
        stdio_plan_release(&plan);
        return error;
    }
    *out = plan;
    return 0;
}

static bool key_is_sane(const struct stdio_stream *stream)
{
    const char *prefix = stream->kind == STDIO_PIPE ? "pipe:[" : "tty[";
    size_t length = strnlen(stream->key, sizeof(stream->key));
    return stream->kind == STDIO_UNUSED ||
           (length < sizeof(stream->key) && !strncmp(stream->key, prefix, strlen(prefix)));
}

static int check_image(const struct stdio_stream image[3], struct err *err)
{
    for (int i = 0; i < 3; i++)
        if ((image[i].kind != STDIO_UNUSED && image[i].kind != STDIO_PIPE &&
             image[i].kind != STDIO_TTY) ||
            !key_is_sane(&image[i]))
            return err_text(err, EINVAL, "the image describes stream %d in an unknown way", i);
    for (int i = 1; i < 3; i++)
        if (image[0].kind == STDIO_PIPE && image[i].kind == STDIO_PIPE &&
            !strcmp(image[0].key, image[i].key))
            return err_text(err, EINVAL, "the image uses one pipe for input and output");
    return 0;
}

static int restore_terminal(struct stdio_plan *plan, const struct stdio_stream image[3],
                            struct err *err)
{
    static const int screens[] = {1, 2, 0};
    const int *outer = plan->outer_fd;
    int slave = -1;
    int error = make_pty(plan, &slave, err);
    for (int i = 0; i < 3; i++) {
        int screen = screens[i];
        if (image[screen].kind == STDIO_TTY && outer[screen] >= 0 && plan->screen_fd < 0 &&
            (screen != 0 || isatty(outer[0])) && can(outer[screen], O_WRONLY))
            plan->screen_fd = outer[screen];
        if (!error && image[i].kind == STDIO_TTY) {
            plan->app_fd[i] = slave;
            error = set_key(&plan->streams[i], STDIO_TTY, slave, err);
        }
    }
    if (image[0].kind == STDIO_TTY)
        plan->keys_fd = outer[0];
    /* Raw keys with output to elsewhere would leave a terminal without echo. */
    plan->keys_raw = plan->keys_fd >= 0 && isatty(plan->keys_fd) && plan->screen_fd >= 0 &&
                     isatty(plan->screen_fd);
    return error;
}

static int plan_restore(struct stdio_plan *plan, const struct stdio_stream image[3],
                        struct err *err)
{
    int error = 0;
    for (int i = 0; i < 3 && plan->master_fd < 0; i++)
        if (image[i].kind == STDIO_TTY)
            error = restore_terminal(plan, image, err);
    for (int i = 0; i < 3 && !error; i++) {
        if (image[i].kind != STDIO_PIPE)
            continue;
        if (i == 2 && image[1].kind == STDIO_PIPE && !strcmp(image[1].key, image[2].key))
            error = share(plan, 1, 2);
        else
            error = make_pipe(plan, i, err);
    }
    return error;
}

int stdio_plan_for_restore(const struct stdio_stream image[3], const int outer[3],
                           struct stdio_plan *out, struct err *err)
{
    int error = check_image(image, err);
    if (error)
        return error;
    struct stdio_plan plan = STDIO_PLAN_NONE;
    plan.restored = true;
    borrow(&plan, outer);
    error = plan_restore(&plan, image, err);
    if (error) {
        stdio_plan_release(&plan);
        return error;
    }
    *out = plan;
    return 0;
}

const char *stdio_plan_terminal(const struct stdio_plan *plan)
{
    return plan->terminal_path[0] ? plan->terminal_path : NULL;
}

void stdio_plan_release_app(struct stdio_plan *plan)
{
    for (int i = 0; i < 3; i++) {
        int fd = plan->app_fd[i];
        for (int k = i; k < 3; k++)
            if (plan->app_fd[k] == fd)
                plan->app_fd[k] = -1;
        fd_close(&fd);
    }
}

void stdio_plan_release_near(struct stdio_plan *plan)
{
    for (int i = 0; i < 3; i++)
        fd_close(&plan->near_fd[i]);
    fd_close(&plan->master_fd);
}

void stdio_plan_release(struct stdio_plan *plan)
{
    stdio_plan_release_app(plan);
    stdio_plan_release_near(plan);
}

int stdio_plan_let_go(const struct stdio_plan *plan, int stream, struct err *err)
{
    int fd = plan->outer_fd[stream];
    if (fd < 0)
        return 0;
    _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return err_set(err, errno, "open /dev/null");
    if (dup2(null_fd, fd) < 0)
        return err_set(err, errno, "let go of descriptor %d", fd);
    return 0;
}
