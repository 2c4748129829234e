/* The keeper with real pipes, ptys and a real group. */
#include "lib/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"

#define TIMEOUT_MS 5000

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* The caller's ends (outer) and ours beyond them. */
struct pipes {
    int in_write, in_read, out_read, out_write, err_read, err_write;
};

static struct pipes make_pipes(void)
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

static void let_go_of_outer(struct pipes *pipes)
{
    fd_close(&pipes->in_read);
    fd_close(&pipes->out_write);
    fd_close(&pipes->err_write);
}

static void close_pipes(struct pipes *pipes)
{
    let_go_of_outer(pipes);
    fd_close(&pipes->in_write);
    fd_close(&pipes->out_read);
    fd_close(&pipes->err_read);
}

static void start_on(const int outer[3], struct stdio_plan *plan, struct keeper *keeper)
{
    struct err err;
    struct job job = JOB_NONE;
    assert_int_equal(stdio_plan_make(outer, plan, &err), 0);
    assert_int_equal(keeper_start(&job, plan, keeper, &err), 0);
}

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

static void read_exactly(int fd, const char *wanted)
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

static void assert_end_of_file(int fd)
{
    char byte;
    assert_true(fd_wait(fd, POLLIN, TIMEOUT_MS) > 0);
    assert_int_equal(read(fd, &byte, 1), 0);
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

/* ---- a terminal: we drive its outer side, a child is the supervisor ---- */

struct terminal {
    int master, slave; /* the outer one */
    pid_t supervisor;
    int report; /* bytes from the supervisor */
};

/* The app: leads its own session on the pty and says what it reads. */
static void run_app(const struct stdio_plan *plan)
{
    setsid();
    ioctl(plan->app_fd[0], TIOCSCTTY, 0);
    char line[64];
    ssize_t n;
    for (int i = 0; i < 3; i++)
        dup2(plan->app_fd[i], i);
    if (write(1, ">", 1) != 1)
        _exit(94);
    while ((n = read(0, line, sizeof(line))) > 0)
        if (write(1, "<", 1) != 1 || write(1, line, (size_t)n) != n)
            break;
    _exit(7);
}

static void supervise_terminal(const struct terminal *terminal, int report)
{
    struct err err;
    struct stdio_plan plan;
    struct keeper keeper;
    struct job job = JOB_NONE;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGTTOU, SIG_IGN);
    close(terminal->master);
    setsid();
    ioctl(terminal->slave, TIOCSCTTY, 0);
    int outer[3] = {terminal->slave, terminal->slave, terminal->slave};
    if (stdio_plan_make(outer, &plan, &err) || keeper_start(&job, &plan, &keeper, &err))
        _exit(99);
    pid_t app = fork();
    if (app == 0)
        run_app(&plan);
    stdio_plan_release_app(&plan);
    char byte = 'R';
    int status = 0;
    for (;;) {
        if (write(report, &byte, 1) != 1)
            _exit(98);
        int number = sigwaitinfo(&set, NULL);
        byte = number == SIGTSTP ? 'Z' : number == SIGUSR1 ? 'P' : 'C';
        if (number == SIGUSR1 && keeper_pause(&keeper, &err))
            _exit(97);
        if (number == SIGUSR2 && keeper_resume(&keeper, &err))
            _exit(96);
        if (number == SIGCHLD && waitpid(app, &status, WNOHANG) == app)
            break;
    }
    if (keeper_finish(&keeper, &err))
        _exit(95);
    _exit(WIFSIGNALED(status) ? 50 + WTERMSIG(status) : WEXITSTATUS(status));
}

static struct terminal start_terminal(void)
{
    struct terminal terminal;
    int ends[2];
    terminal.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(terminal.master >= 0 && !grantpt(terminal.master) && !unlockpt(terminal.master));
    terminal.slave = open(ptsname(terminal.master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct winsize size = {.ws_row = 20, .ws_col = 40};
    ioctl(terminal.slave, TIOCSWINSZ, &size);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    terminal.supervisor = fork();
    if (terminal.supervisor == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        supervise_terminal(&terminal, ends[1]);
    }
    close(ends[1]);
    terminal.report = ends[0];
    read_exactly(terminal.report, "R");
    read_exactly(terminal.master, ">");
    return terminal;
}

static bool is_raw(const struct terminal *terminal)
{
    struct termios modes;
    tcgetattr(terminal->slave, &modes);
    return !(modes.c_lflag & (ICANON | ECHO | ISIG));
}

static void await_raw(const struct terminal *terminal, bool raw)
{
    for (int i = 0; i < 500 && is_raw(terminal) != raw; i++)
        sleep_ms(10);
    assert_int_equal(is_raw(terminal), raw);
}

static void type(const struct terminal *terminal, const char *keys)
{
    assert_int_equal(write(terminal->master, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static int end_terminal(struct terminal *terminal)
{
    int status;
    assert_int_equal(waitpid(terminal->supervisor, &status, 0), terminal->supervisor);
    await_raw(terminal, false);
    close(terminal->slave);
    close(terminal->master);
    close(terminal->report);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void passes_a_terminal_through(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    type(&terminal, "hello\r");
    read_exactly(terminal.master, "hello\r\n<hello\r\n");
    type(&terminal, "\x04");
    assert_int_equal(end_terminal(&terminal), 7);
}

/* The child that is called freezepoint-keep. */
static pid_t find_keeper(pid_t supervisor)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", supervisor, supervisor);
    _cleanup_fclose_ FILE *children = fopen(path, "re");
    struct proc_info info;
    struct err err;
    for (int pid; children && fscanf(children, "%d", &pid) == 1;)
        if (proc_read(pid, &info, &err) == 0 && !strncmp(info.comm, "freezepoint-kee", 15))
            return pid;
    fail_msg("no keeper found");
    return -1;
}

static void restores_the_terminal_of_a_killed_keeper(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    /* With the keeper's end the pty hangs up. */
    kill(find_keeper(terminal.supervisor), SIGKILL);
    assert_int_equal(end_terminal(&terminal), 95);
}

static void passes_interrupts_through(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    type(&terminal, "\x03");
    assert_int_equal(end_terminal(&terminal), 50 + SIGINT);
}

static void turns_a_suspension_into_a_signal(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    type(&terminal, "a\x1a");
    read_exactly(terminal.report, "Z");
    kill(terminal.supervisor, SIGUSR1);
    read_exactly(terminal.report, "P");
    assert_false(is_raw(&terminal));
    type(&terminal, "shell's\r");
    char line[32];
    assert_true(fd_wait(terminal.slave, POLLIN, TIMEOUT_MS) > 0);
    sleep_ms(50);
    assert_int_equal(read(terminal.slave, line, sizeof(line)), 8);
    kill(terminal.supervisor, SIGUSR2);
    read_exactly(terminal.report, "C");
    assert_true(is_raw(&terminal));
    type(&terminal, "b\r");
    read_exactly(terminal.master, "a");
    read_exactly(terminal.master, "shell's\r\n");
    read_exactly(terminal.master, "b\r\n<ab\r\n");
    type(&terminal, "\x04");
    assert_int_equal(end_terminal(&terminal), 7);
}

static void follows_the_windows_size(void **state)
{
    (void)state;
    struct err err;
    struct stdio_plan plan;
    struct keeper keeper;
    struct winsize size = {.ws_row = 50, .ws_col = 132}, got;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(master >= 0 && !grantpt(master) && !unlockpt(master));
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    start_on((int[]){slave, slave, slave}, &plan, &keeper);
    ioctl(master, TIOCSWINSZ, &size);
    kill(keeper.pid, SIGWINCH);
    for (int i = 0; i < 500; i++) {
        ioctl(plan.app_fd[0], TIOCGWINSZ, &got);
        if (got.ws_col == 132)
            break;
        sleep_ms(10);
    }
    assert_int_equal(got.ws_row, 50);
    assert_int_equal(got.ws_col, 132);
    stdio_plan_release_app(&plan);
    assert_int_equal(keeper_finish(&keeper, &err), 0);
    close(slave);
    close(master);
}

static void gives_the_terminal_back_when_killed(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    kill(terminal.supervisor, SIGKILL);
    assert_int_equal(end_terminal(&terminal), -1);
}

static void hangs_up_with_the_terminal(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    close(terminal.slave);
    close(terminal.master);
    int status;
    /* The supervisor leads that session: SIGHUP ends it, as the app by its own. */
    assert_int_equal(waitpid(terminal.supervisor, &status, 0), terminal.supervisor);
    close(terminal.report);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 50 + SIGHUP);
}

/* ---- the supervisor's death ---- */

struct death {
    struct pipes pipes;
    struct job job; /* for its paths; the descriptors are a child's */
    pid_t supervisor, app, worker;
    char store[64], draft[128];
};

static void report_pid(int fd, pid_t pid)
{
    if (write(fd, &pid, sizeof(pid)) != sizeof(pid))
        _exit(90);
}

/* Becomes the supervisor of a job with one process in its frozen group. */
static void supervise_death(struct death *death, const char *script, bool kill_worker, bool guarded,
                            int report)
{
    struct err err;
    struct job job;
    struct stdio_plan plan;
    struct keeper keeper;
    int outer[3] = {death->pipes.in_read, death->pipes.out_write, death->pipes.err_write};
    if (job_create(death->job.name, &job, &err) || stdio_plan_make(outer, &plan, &err) ||
        keeper_start(&job, &plan, &keeper, &err)) {
        fprintf(stderr, "%s\n", err.text);
        _exit(91);
    }
    let_go_of_outer(&death->pipes);
    pid_t app = fork();
    if (app == 0) {
        char path[PATH_MAX + 32];
        snprintf(path, sizeof(path), "%s/cgroup.procs", job.group.path);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) != 1)
            _exit(92);
        for (int i = 0; i < 3; i++)
            dup2(plan.app_fd[i], i);
        execl("/bin/sh", "sh", "-c", script, (char *)NULL);
        _exit(93);
    }
    stdio_plan_release_app(&plan);
    pid_t worker = fork();
    if (worker == 0) {
        execl("/bin/sleep", "sleep", kill_worker ? "60" : "1", (char *)NULL);
        _exit(94);
    }
    sleep_ms(100);
    struct keeper_guard guard = {.worker = proc_pidfd_open(worker),
                                 .draft = kill_worker ? NULL : death->draft,
                                 .kill_worker = kill_worker};
    if ((guarded && keeper_guard_set(&keeper, &guard, &err)) ||
        cgroup_set_frozen(job.group.fd, true, TIMEOUT_MS, &err)) {
        fprintf(stderr, "%s\n", err.text);
        _exit(95);
    }
    report_pid(report, app);
    report_pid(report, worker);
    for (;;)
        pause();
}

static void start_death(struct death *death, const char *script, bool kill_worker, bool guarded)
{
    int ends[2];
    *death = (struct death){.job = JOB_NONE, .pipes = make_pipes()};
    snprintf(death->job.name, sizeof(death->job.name), "keeper-test-%d", getpid());
    snprintf(death->job.runtime_path, sizeof(death->job.runtime_path), JOB_RUNTIME_ROOT "/%s",
             death->job.name);
    snprintf(death->store, sizeof(death->store), "/tmp/fz-keeper-XXXXXX");
    assert_non_null(mkdtemp(death->store));
    snprintf(death->draft, sizeof(death->draft), "%s/draft", death->store);
    char inside[160];
    snprintf(inside, sizeof(inside), "%s/criu", death->draft);
    assert_int_equal(mkdir(death->draft, 0700) | mkdir(inside, 0700), 0);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    death->supervisor = fork();
    if (death->supervisor == 0)
        supervise_death(death, script, kill_worker, guarded, ends[1]);
    close(ends[1]);
    let_go_of_outer(&death->pipes);
    assert_int_equal(fd_read_all(ends[0], &death->app, sizeof(pid_t)), sizeof(pid_t));
    assert_int_equal(fd_read_all(ends[0], &death->worker, sizeof(pid_t)), sizeof(pid_t));
    close(ends[0]);
}

static bool is_gone(const char *path)
{
    return access(path, F_OK) < 0 && errno == ENOENT;
}

static void await_gone(const char *path)
{
    for (int i = 0; i < 500 && !is_gone(path); i++)
        sleep_ms(10);
    if (!is_gone(path))
        fail_msg("'%s' is still there", path);
}

static void kill_supervisor(struct death *death)
{
    kill(death->supervisor, SIGKILL);
    waitpid(death->supervisor, NULL, 0);
}

static void end_death(struct death *death)
{
    char mount[PATH_MAX - 100], group[PATH_MAX];
    struct err err;
    assert_int_equal(cgroup_find_mount(mount, sizeof(mount), &err), 0);
    snprintf(group, sizeof(group), "%s/freezepoint/%s", mount, death->job.name);
    await_gone(group);
    await_gone(death->job.runtime_path);
    char command[160];
    snprintf(command, sizeof(command), "rm -rf '%s'", death->store);
    assert_int_equal(system(command), 0);
    close_pipes(&death->pipes);
}

/* The program must go on, with its streams, and the dump's worker is not killed. */
static void cleans_up_after_a_dump(void **state)
{
    (void)state;
    struct death death;
    start_death(&death, "while read line; do echo \"got $line\"; done; sleep 0.2; echo end", false,
                true);
    uint64_t before = proc_monotonic_ns();
    _cleanup_close_ int worker = proc_pidfd_open(death.worker);
    kill_supervisor(&death);
    assert_int_equal(write(death.pipes.in_write, "one\n", 4), 4);
    read_exactly(death.pipes.out_read, "got one\n");
    /* it was frozen until the worker had ended by itself */
    assert_true(fd_wait(worker, POLLIN, 0) > 0);
    assert_true(proc_monotonic_ns() - before > 500000000ULL);
    await_gone(death.draft);
    assert_int_equal(kill(death.app, 0), 0);
    fd_close(&death.pipes.in_write);
    read_exactly(death.pipes.out_read, "end\n");
    assert_end_of_file(death.pipes.out_read);
    end_death(&death);
}

static void cleans_up_after_a_restore(void **state)
{
    (void)state;
    struct death death;
    start_death(&death, "sleep 60", true, true);
    _cleanup_close_ int worker = proc_pidfd_open(death.worker);
    _cleanup_close_ int app = proc_pidfd_open(death.app);
    kill_supervisor(&death);
    assert_true(fd_wait(worker, POLLIN, TIMEOUT_MS) > 0);
    assert_true(fd_wait(app, POLLIN, TIMEOUT_MS) > 0);
    assert_end_of_file(death.pipes.out_read);
    end_death(&death);
}

static void thaws_where_nothing_was_under_way(void **state)
{
    (void)state;
    struct death death;
    start_death(&death, "read line; echo \"got $line\"", false, false);
    kill_supervisor(&death);
    assert_int_equal(write(death.pipes.in_write, "two\n", 4), 4);
    read_exactly(death.pipes.out_read, "got two\n");
    assert_end_of_file(death.pipes.out_read);
    assert_false(is_gone(death.draft));
    kill(death.worker, SIGKILL);
    end_death(&death);
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
        cmocka_unit_test(tells_that_the_keeper_died),
        cmocka_unit_test(relays_a_terminal_image_to_pipes),
        cmocka_unit_test(passes_a_terminal_through),
        cmocka_unit_test(restores_the_terminal_of_a_killed_keeper),
        cmocka_unit_test(passes_interrupts_through),
        cmocka_unit_test(turns_a_suspension_into_a_signal),
        cmocka_unit_test(follows_the_windows_size),
        cmocka_unit_test(gives_the_terminal_back_when_killed),
        cmocka_unit_test(hangs_up_with_the_terminal),
        cmocka_unit_test(cleans_up_after_a_dump),
        cmocka_unit_test(cleans_up_after_a_restore),
        cmocka_unit_test(thaws_where_nothing_was_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
