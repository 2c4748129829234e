/* The keeper with real pipes. */
#include "lib/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "lib/proc.h"
#include "tests/unit/keeper_pipes.h"

static void start(struct pipes *pipes, struct stdio_plan *plan, struct keeper *keeper)
{
    *pipes = make_pipes();
    start_on((int[]){pipes->in_read, pipes->out_write, pipes->err_write}, plan, keeper);
    let_go_of_outer(pipes);
}

static void finish(struct pipes *pipes, struct stdio_plan *plan, struct keeper *keeper)
{
    struct err err = {0};
    stdio_plan_release_app(plan);
    if (keeper_finish(keeper, &err))
        fail_msg("%s", err.text);
    assert_int_equal(keeper->pid, 0);
    close_pipes(pipes);
}

static void relays_both_ways(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    start(&pipes, &plan, &keeper);
    assert_int_equal(write(pipes.in_write, "to\n", 3), 3);
    read_exactly(plan.app_fd[0], "to\n");
    assert_int_equal(write(plan.app_fd[1], "out\n", 4), 4);
    read_exactly(pipes.out_read, "out\n");
    assert_int_equal(write(plan.app_fd[2], "err\n", 4), 4);
    read_exactly(pipes.err_read, "err\n");
    finish(&pipes, &plan, &keeper);
}

static void passes_the_end_of_file_on(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    start(&pipes, &plan, &keeper);
    assert_int_equal(write(pipes.in_write, "last", 4), 4);
    fd_close(&pipes.in_write);
    read_exactly(plan.app_fd[0], "last");
    assert_end_of_file(plan.app_fd[0]);
    assert_int_equal(write(plan.app_fd[1], "last", 4), 4);
    fd_close(&plan.app_fd[1]);
    read_exactly(pipes.out_read, "last");
    assert_end_of_file(pipes.out_read);
    assert_int_equal(write(plan.app_fd[2], "on", 2), 2);
    read_exactly(pipes.err_read, "on");
    finish(&pipes, &plan, &keeper);
}

static void passes_a_gone_reader_on(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    start(&pipes, &plan, &keeper);
    signal(SIGPIPE, SIG_IGN);
    fd_close(&pipes.out_read);
    assert_true(fd_wait(plan.app_fd[1], 0, TIMEOUT_MS) & POLLERR);
    assert_int_equal(write(plan.app_fd[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    fd_close(&plan.app_fd[0]);
    assert_true(fd_wait(pipes.in_write, 0, TIMEOUT_MS) & POLLERR);
    signal(SIGPIPE, SIG_DFL);
    finish(&pipes, &plan, &keeper);
}

/* A child that writes `size` bytes of a pattern to fd. */
static pid_t start_writer(int fd, size_t size)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    unsigned char block[10007];
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (unsigned char)(i * 7 % 251);
    for (size_t done = 0; done < size; done += sizeof(block))
        if (fd_write_all(fd, block, sizeof(block)) < 0)
            _exit(1);
    _exit(0);
}

static size_t check_pattern(int fd)
{
    unsigned char block[65536];
    size_t place = 0;
    ssize_t n;
    while ((n = read(fd, block, sizeof(block))) > 0)
        for (ssize_t i = 0; i < n; i++, place++)
            if (block[i] != (unsigned char)(place % 10007 * 7 % 251))
                fail_msg("wrong byte at %zu", place);
    return place;
}

static void loses_nothing_of_much(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    start(&pipes, &plan, &keeper);
    pid_t writer = start_writer(plan.app_fd[1], 20000000);
    stdio_plan_release_app(&plan);
    assert_int_equal(check_pattern(pipes.out_read), 10007 * 1999);
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
    finish(&pipes, &plan, &keeper);
}

static void keeps_the_order_of_shared_streams(void **state)
{
    (void)state;
    struct stdio_plan plan;
    struct keeper keeper;
    struct pipes pipes = make_pipes();
    int outer[3] = {pipes.in_read, pipes.out_write, pipes.out_write};
    start_on(outer, &plan, &keeper);
    let_go_of_outer(&pipes);
    for (int i = 0; i < 50; i++)
        assert_int_equal(write(plan.app_fd[1 + i % 2], i % 2 ? "2" : "1", 1), 1);
    for (int i = 0; i < 50; i++)
        read_exactly(pipes.out_read, i % 2 ? "2" : "1");
    finish(&pipes, &plan, &keeper);
}

static void writes_to_a_file_that_appends(void **state)
{
    (void)state;
    struct err err;
    struct stdio_plan plan;
    struct keeper keeper;
    char path[] = "/tmp/fz-keeper-XXXXXX", got[16] = "";
    _cleanup_close_ int file = mkstemp(path);
    assert_int_equal(write(file, "old ", 4), 4);
    _cleanup_close_ int append = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    start_on((int[]){-1, append, append}, &plan, &keeper);
    assert_int_equal(write(plan.app_fd[1], "new", 3), 3);
    stdio_plan_release_app(&plan);
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    assert_int_equal(pread(file, got, sizeof(got) - 1, 0), 7);
    assert_string_equal(got, "old new");
    unlink(path);
}

static void holds_up_no_other_stream(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    struct err err;
    start(&pipes, &plan, &keeper);
    pid_t writer = start_writer(plan.app_fd[1], 1000000);
    sleep_ms(100);
    assert_int_equal(write(plan.app_fd[2], "err", 3), 3);
    read_exactly(pipes.err_read, "err");
    assert_int_equal(keeper_pause(&keeper, &err), 0);
    stdio_plan_release_app(&plan);
    assert_int_equal(check_pattern(pipes.out_read), 10007 * 100);
    waitpid(writer, NULL, 0);
    finish(&pipes, &plan, &keeper);
}

static void leaves_the_callers_flags_alone(void **state)
{
    (void)state;
    struct stdio_plan plan;
    struct keeper keeper;
    struct pipes pipes = make_pipes();
    int outer[3] = {pipes.in_read, pipes.out_write, pipes.err_write};
    start_on(outer, &plan, &keeper);
    for (int i = 0; i < 3; i++)
        assert_false(fcntl(outer[i], F_GETFL) & O_NONBLOCK);
    /* and copes with ones who have made them non-blocking */
    fcntl(pipes.out_write, F_SETFL, O_NONBLOCK);
    pid_t writer = start_writer(plan.app_fd[1], 1000000);
    stdio_plan_release_app(&plan);
    let_go_of_outer(&pipes);
    sleep_ms(100);
    assert_int_equal(check_pattern(pipes.out_read), 10007 * 100);
    waitpid(writer, NULL, 0);
    finish(&pipes, &plan, &keeper);
}

static void finishes_with_a_writer_left(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    struct err err;
    start(&pipes, &plan, &keeper);
    assert_int_equal(write(plan.app_fd[1], "rest", 4), 4);
    /* app_fd[1] stays open */
    uint64_t before = proc_monotonic_ns();
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    assert_true(proc_monotonic_ns() - before < 1000000000ULL);
    read_exactly(pipes.out_read, "rest");
    assert_end_of_file(pipes.out_read);
    stdio_plan_release(&plan);
    close_pipes(&pipes);
}

static void leaves_behind_what_nobody_takes(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    start(&pipes, &plan, &keeper);
    /* more than the caller's pipe holds, less than the program's */
    fcntl(pipes.out_read, F_SETPIPE_SZ, 4096);
    pid_t writer = start_writer(plan.app_fd[1], 40000);
    waitpid(writer, NULL, 0);
    stdio_plan_release_app(&plan);
    struct err err;
    uint64_t before = proc_monotonic_ns();
    pid_t pid = keeper.pid;
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    uint64_t took_ms = (proc_monotonic_ns() - before) / 1000000;
    assert_in_range(took_ms, 4000, 8000);
    assert_int_equal(check_pattern(pipes.out_read), 10007 * 4);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close_pipes(&pipes);
}

/* A child that reads 2 kB each 200 ms. */
static pid_t start_slow_reader(int fd)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    char block[2000];
    while (fd_read_all(fd, block, sizeof(block)) > 0)
        sleep_ms(200);
    _exit(0);
}

/* What a socket takes while a call waits in it is progress, too. */
static void waits_for_a_slow_reader_of_a_socket(void **state)
{
    (void)state;
    struct stdio_plan plan;
    struct keeper keeper;
    struct err err;
    int sockets[2], least = 4096;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
    start_on((int[]){-1, sockets[1], -1}, &plan, &keeper);
    close(sockets[1]);
    assert_true(fcntl(plan.app_fd[1], F_SETPIPE_SZ, 1 << 18) > 0);
    pid_t reader = start_slow_reader(sockets[0]), pid = keeper.pid;
    waitpid(start_writer(plan.app_fd[1], 120000), NULL, 0);
    stdio_plan_release_app(&plan);
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    /* It has ended, and was not left behind with the rest. */
    assert_int_equal(waitpid(pid, NULL, WNOHANG), -1);
    kill(reader, SIGKILL);
    assert_int_equal(waitpid(reader, NULL, 0), reader);
    close(sockets[0]);
}

static void tells_that_the_keeper_died(void **state)
{
    (void)state;
    struct pipes pipes;
    struct stdio_plan plan;
    struct keeper keeper;
    struct err err;
    start(&pipes, &plan, &keeper);
    assert_int_equal(proc_pidfd_signal(keeper.pidfd, SIGKILL), 0);
    assert_true(fd_wait(keeper.pidfd, POLLIN, TIMEOUT_MS) > 0);
    assert_int_equal(keeper_pause(&keeper, &err), -EPIPE);
    assert_int_equal(keeper_guard_clear(&keeper, &err), -EPIPE);
    assert_int_equal(keeper_finish(&keeper, &err), -EPIPE);
    assert_int_equal(keeper.pid, 0);
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    stdio_plan_release(&plan);
    close_pipes(&pipes);
}

static void relays_a_terminal_image_to_pipes(void **state)
{
    (void)state;
    struct err err;
    struct stdio_plan plan;
    struct keeper keeper;
    struct job job = JOB_NONE;
    struct pipes pipes = make_pipes();
    struct stdio_stream image[3] = {
        {STDIO_TTY, "tty[1:2]"}, {STDIO_TTY, "tty[1:2]"}, {STDIO_TTY, "tty[1:2]"}};
    int outer[3] = {pipes.in_read, pipes.out_write, pipes.err_write};
    assert_int_equal(stdio_plan_for_restore(image, outer, &plan, &err), 0);
    assert_int_equal(keeper_start(&job, &plan, &keeper, &err), 0);
    let_go_of_outer(&pipes);
    assert_int_equal(write(pipes.in_write, "a line\nhalf", 11), 11);
    fd_close(&pipes.in_write);
    /* as CRIU does, with nothing typed before */
    assert_int_equal(fd_wait(plan.app_fd[0], POLLIN, 200), 0);
    struct termios modes;
    tcgetattr(plan.app_fd[0], &modes);
    modes.c_lflag &= ~(tcflag_t)ECHO;
    modes.c_oflag |= OPOST | ONLCR;
    tcsetattr(plan.app_fd[0], TCSANOW, &modes);
    assert_int_equal(keeper_settle(&keeper, &err), 0);
    read_exactly(plan.app_fd[0], "a line\n");
    read_exactly(plan.app_fd[0], "half");
    assert_end_of_file(plan.app_fd[0]);
    assert_int_equal(write(plan.app_fd[1], "one\ntwo\n", 8), 8);
    assert_int_equal(write(plan.app_fd[2], "three\n", 6), 6);
    stdio_plan_release_app(&plan);
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    read_exactly(pipes.out_read, "one\ntwo\nthree\n");
    assert_end_of_file(pipes.out_read);
    close_pipes(&pipes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relays_both_ways),
        cmocka_unit_test(passes_the_end_of_file_on),
        cmocka_unit_test(passes_a_gone_reader_on),
        cmocka_unit_test(loses_nothing_of_much),
        cmocka_unit_test(keeps_the_order_of_shared_streams),
        cmocka_unit_test(writes_to_a_file_that_appends),
        cmocka_unit_test(holds_up_no_other_stream),
        cmocka_unit_test(leaves_the_callers_flags_alone),
        cmocka_unit_test(finishes_with_a_writer_left),
        cmocka_unit_test(leaves_behind_what_nobody_takes),
        cmocka_unit_test(waits_for_a_slow_reader_of_a_socket),
        cmocka_unit_test(tells_that_the_keeper_died),
        cmocka_unit_test(relays_a_terminal_image_to_pipes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
