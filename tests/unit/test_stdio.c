/* What the program gets for each kind of stream that the caller has. */
#include "lib/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/fd.h"

static int count_open(void)
{
    int count = 0;
    _cleanup_closedir_ DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count++;
    return count;
}

/* An outer terminal: *slave is what a caller would have. */
static int open_outer_terminal(int *slave)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(master >= 0);
    assert_int_equal(grantpt(master), 0);
    assert_int_equal(unlockpt(master), 0);
    *slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(*slave >= 0);
    return master;
}

static void assert_pipe(int app, int near_end)
{
    char byte = 'x';
    struct stat about;
    assert_int_equal(fstat(app, &about), 0);
    assert_true(S_ISFIFO(about.st_mode));
    assert_true(fcntl(app, F_GETFD) & FD_CLOEXEC);
    assert_false(fcntl(app, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(near_end, F_GETFL) & O_NONBLOCK);
    bool input = (fcntl(app, F_GETFL) & O_ACCMODE) == O_RDONLY;
    assert_int_equal(write(input ? near_end : app, &byte, 1), 1);
    assert_int_equal(read(input ? app : near_end, &byte, 1), 1);
}

static void gives_a_pipe_for_each_stream(void **state)
{
    (void)state;
    struct err err;
    int a[2], b[2], c[2];
    assert_int_equal(pipe2(a, O_CLOEXEC) | pipe2(b, O_CLOEXEC) | pipe2(c, O_CLOEXEC), 0);
    int before = count_open();
    struct stdio_plan plan = STDIO_PLAN_NONE;
    assert_int_equal(stdio_plan_make((int[]){a[0], b[1], c[1]}, &plan, &err), 0);
    for (int i = 0; i < 3; i++) {
        char key[64];
        struct stat about;
        assert_int_equal(plan.streams[i].kind, STDIO_PIPE);
        assert_pipe(plan.app_fd[i], plan.near_fd[i]);
        fstat(plan.app_fd[i], &about);
        snprintf(key, sizeof(key), "pipe:[%lu]", (unsigned long)about.st_ino);
        assert_string_equal(plan.streams[i].key, key);
    }
    assert_string_not_equal(plan.streams[1].key, plan.streams[2].key);
    assert_null(stdio_plan_terminal(&plan));
    stdio_plan_release_app(&plan);
    stdio_plan_release(&plan);
    stdio_plan_release(&plan);
    assert_int_equal(count_open(), before);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
        close(c[i]);
    }
}

static void shares_where_the_caller_shares(void **state)
{
    (void)state;
    struct err err;
    char path[] = "/tmp/fz-stdio-XXXXXX";
    int plain = mkstemp(path);
    _cleanup_close_ int again = open(path, O_RDWR);
    _cleanup_close_ int append = open(path, O_WRONLY | O_APPEND);
    _cleanup_close_ int append_again = open(path, O_WRONLY | O_APPEND);
    _cleanup_close_ int twin = dup(plain);
    const struct {
        int one, other;
        bool shared;
    } cases[] = {
        {plain, plain, true},         {plain, twin, true},    {plain, again, false},
        {append, append_again, true}, {plain, append, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct stdio_plan plan;
        int outer[3] = {plain, cases[i].one, cases[i].other};
        assert_int_equal(stdio_plan_make(outer, &plan, &err), 0);
        assert_int_equal(plan.app_fd[1] == plan.app_fd[2], cases[i].shared);
        assert_int_equal(plan.near_fd[2] < 0, cases[i].shared);
        assert_int_equal(!strcmp(plan.streams[1].key, plan.streams[2].key), cases[i].shared);
        assert_int_not_equal(plan.app_fd[0], plan.app_fd[1]);
        stdio_plan_release(&plan);
    }
    close(plain);
    unlink(path);
}

static void gives_nothing_for_a_closed_stream(void **state)
{
    (void)state;
    struct err err;
    struct stdio_plan plan;
    int closed = dup(1);
    close(closed);
    assert_int_equal(stdio_plan_make((int[]){-1, closed, 2}, &plan, &err), 0);
    for (int i = 0; i < 2; i++) {
        struct stat about;
        assert_int_equal(plan.streams[i].kind, STDIO_UNUSED);
        assert_string_equal(plan.streams[i].key, "");
        assert_int_equal(fstat(plan.app_fd[i], &about), 0);
        assert_int_equal(about.st_rdev, makedev(1, 3));
        assert_true(plan.near_fd[i] < 0);
    }
    stdio_plan_release(&plan);
}

static void gives_one_pty_for_a_terminal(void **state)
{
    (void)state;
    struct err err;
    int slave;
    _cleanup_close_ int master = open_outer_terminal(&slave);
    struct winsize size = {.ws_row = 33, .ws_col = 77}, got;
    struct termios modes, inner;
    ioctl(slave, TIOCSWINSZ, &size);
    tcgetattr(slave, &modes);
    modes.c_cc[VINTR] = 7;
    tcsetattr(slave, TCSANOW, &modes);
    struct stdio_plan plan;
    assert_int_equal(stdio_plan_make((int[]){slave, slave, slave}, &plan, &err), 0);
    assert_int_equal(plan.app_fd[0], plan.app_fd[1]);
    assert_int_equal(plan.app_fd[0], plan.app_fd[2]);
    assert_true(isatty(plan.app_fd[0]));
    assert_true(plan.keys_raw);
    assert_int_equal(plan.keys_fd, slave);
    assert_int_equal(plan.screen_fd, slave);
    assert_string_equal(ttyname(plan.app_fd[0]), stdio_plan_terminal(&plan));
    ioctl(plan.app_fd[0], TIOCGWINSZ, &got);
    assert_int_equal(got.ws_row, 33);
    assert_int_equal(got.ws_col, 77);
    tcgetattr(plan.app_fd[0], &inner);
    assert_int_equal(inner.c_cc[VINTR], 7);
    assert_int_equal(inner.c_oflag, modes.c_oflag);
    struct stat about;
    char key[64];
    fstat(plan.app_fd[0], &about);
    snprintf(key, sizeof(key), "tty[%lx:%lx]", (unsigned long)about.st_rdev,
             (unsigned long)about.st_dev);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(plan.streams[i].kind, STDIO_TTY);
        assert_string_equal(plan.streams[i].key, key);
    }
    stdio_plan_release(&plan);
    close(slave);
}

static void mixes_a_terminal_with_pipes(void **state)
{
    (void)state;
    struct err err;
    int slave, other, ends[2];
    _cleanup_close_ int master = open_outer_terminal(&slave);
    _cleanup_close_ int second = open_outer_terminal(&other);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    struct stdio_plan plan;
    struct termios modes;

    /* input from a pipe: the caller's line discipline adds the carriage return */
    assert_int_equal(stdio_plan_make((int[]){ends[0], slave, slave}, &plan, &err), 0);
    assert_int_equal(plan.streams[0].kind, STDIO_PIPE);
    assert_int_equal(plan.streams[1].kind, STDIO_TTY);
    assert_false(plan.keys_raw);
    assert_true(plan.keys_fd < 0);
    tcgetattr(plan.app_fd[1], &modes);
    assert_false(modes.c_oflag & ONLCR);
    stdio_plan_release(&plan);

    /* input alone is a terminal: the echo goes there */
    assert_int_equal(stdio_plan_make((int[]){slave, ends[1], ends[1]}, &plan, &err), 0);
    assert_true(plan.keys_raw);
    assert_int_equal(plan.screen_fd, slave);
    assert_int_equal(plan.app_fd[1], plan.app_fd[2]);
    stdio_plan_release(&plan);

    /* only one pty; another terminal is written to through a pipe */
    assert_int_equal(stdio_plan_make((int[]){slave, slave, other}, &plan, &err), 0);
    assert_int_equal(plan.streams[1].kind, STDIO_TTY);
    assert_int_equal(plan.streams[2].kind, STDIO_PIPE);
    stdio_plan_release(&plan);
    close(slave);
    close(other);
    close(ends[0]);
    close(ends[1]);
}

static void follows_the_image_in_a_restore(void **state)
{
    (void)state;
    struct err err;
    int ends[2], before = count_open();
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    struct stdio_plan plan;
    struct stdio_stream pipes[3] = {
        {STDIO_PIPE, "pipe:[7]"}, {STDIO_PIPE, "pipe:[8]"}, {STDIO_PIPE, "pipe:[8]"}};
    assert_int_equal(stdio_plan_for_restore(pipes, (int[]){ends[0], ends[1], 2}, &plan, &err), 0);
    assert_int_equal(plan.app_fd[1], plan.app_fd[2]);
    assert_true(plan.restored);
    assert_string_not_equal(plan.streams[1].key, "pipe:[8]");
    assert_pipe(plan.app_fd[0], plan.near_fd[0]);
    assert_pipe(plan.app_fd[1], plan.near_fd[1]);
    stdio_plan_release(&plan);

    struct stdio_stream mixed[3] = {
        {STDIO_UNUSED, ""}, {STDIO_TTY, "tty[8803:18]"}, {STDIO_TTY, "tty[8803:18]"}};
    assert_int_equal(stdio_plan_for_restore(mixed, (int[]){ends[0], ends[1], 2}, &plan, &err), 0);
    assert_int_equal(plan.app_fd[0], -1);
    assert_true(isatty(plan.app_fd[1]));
    assert_int_equal(plan.app_fd[1], plan.app_fd[2]);
    assert_int_equal(plan.screen_fd, ends[1]);
    assert_true(plan.keys_fd < 0);
    stdio_plan_release(&plan);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(count_open(), before);
}

static void refuses_what_no_image_can_say(void **state)
{
    (void)state;
    struct stdio_stream bad[][3] = {
        {{STDIO_PIPE, "pipe:[7]"}, {STDIO_PIPE, "pipe:[7]"}, {STDIO_UNUSED, ""}},
        {{STDIO_PIPE, ""}, {STDIO_UNUSED, ""}, {STDIO_UNUSED, ""}},
        {{STDIO_TTY, "pipe:[7]"}, {STDIO_UNUSED, ""}, {STDIO_UNUSED, ""}},
        {{STDIO_UNUSED, ""}, {STDIO_UNUSED, ""}, {(enum stdio_kind)9, "pipe:[7]"}},
        {{STDIO_UNUSED, ""}, {STDIO_PIPE, "pipe:[7]"}, {STDIO_PIPE, "pipe:[7]"}},
    };
    memset(bad[4][1].key, 'p', STDIO_KEY_SIZE);
    int before = count_open();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err err = {0};
        struct stdio_plan plan;
        assert_int_equal(stdio_plan_for_restore(bad[i], (int[]){0, 1, 2}, &plan, &err), -EINVAL);
        assert_int_equal(err.errnum, EINVAL);
    }
    assert_int_equal(count_open(), before);
}

static void lets_go_of_a_stream(void **state)
{
    (void)state;
    struct err err;
    int ends[2];
    char byte;
    struct stdio_plan plan = STDIO_PLAN_NONE;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    plan.outer_fd[1] = ends[1];
    assert_int_equal(stdio_plan_let_go(&plan, 0, &err), 0);
    assert_int_equal(stdio_plan_let_go(&plan, 1, &err), 0);
    assert_int_equal(read(ends[0], &byte, 1), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_a_pipe_for_each_stream),
        cmocka_unit_test(shares_where_the_caller_shares),
        cmocka_unit_test(gives_nothing_for_a_closed_stream),
        cmocka_unit_test(gives_one_pty_for_a_terminal),
        cmocka_unit_test(mixes_a_terminal_with_pipes),
        cmocka_unit_test(follows_the_image_in_a_restore),
        cmocka_unit_test(refuses_what_no_image_can_say),
        cmocka_unit_test(lets_go_of_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
