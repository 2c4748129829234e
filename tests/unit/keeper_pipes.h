/* What the keeper's tests share: a caller's three streams as pipes. */
#ifndef FREEZEPOINT_KEEPER_PIPES_H
#define FREEZEPOINT_KEEPER_PIPES_H

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/fd.h"
#include "lib/keeper.h"

#define TIMEOUT_MS 5000

static inline void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* The caller's ends (outer) and ours beyond them. */
struct pipes {
    int in_write, in_read, out_read, out_write, err_read, err_write;
};

static inline struct pipes make_pipes(void)
{
    int a[2], b[2], c[2];
    assert_int_equal(pipe2(a, O_CLOEXEC) | pipe2(b, O_CLOEXEC) | pipe2(c, O_CLOEXEC), 0);
    return (struct pipes){.in_write = a[1],
                          .in_read = a[0],
                          .out_read = b[0],
                          .out_write = b[1],
                          .err_read = c[0],
                          .err_write = c[1]};
}

static inline void let_go_of_outer(struct pipes *pipes)
{
    fd_close(&pipes->in_read);
    fd_close(&pipes->out_write);
    fd_close(&pipes->err_write);
}

static inline void close_pipes(struct pipes *pipes)
{
    let_go_of_outer(pipes);
    fd_close(&pipes->in_write);
    fd_close(&pipes->out_read);
    fd_close(&pipes->err_read);
}

static inline void start_on(const int outer[3], struct stdio_plan *plan, struct keeper *keeper)
{
    struct err err;
    struct job job = JOB_NONE;
    assert_int_equal(stdio_plan_make(outer, plan, &err), 0);
    assert_int_equal(keeper_start(&job, plan, keeper, &err), 0);
}

static inline void read_exactly(int fd, const char *wanted)
{
    char got[256] = "";
    size_t have = 0, size = strlen(wanted);
    while (have < size) {
        if (fd_wait(fd, POLLIN, TIMEOUT_MS) <= 0)
            fail_msg("waited for '%s', got '%s'", wanted, got);
        ssize_t n = read(fd, got + have, size - have);
        if (n <= 0)
            fail_msg("waited for '%s', got '%s' and the end", wanted, got);
        have += (size_t)n;
    }
    assert_string_equal(got, wanted);
}

static inline void assert_end_of_file(int fd)
{
    char byte;
    assert_true(fd_wait(fd, POLLIN, TIMEOUT_MS) > 0);
    assert_int_equal(read(fd, &byte, 1), 0);
}

#endif
