/* The keeper with a real terminal: we drive its outer side, a child is the supervisor. */
#include "lib/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "lib/proc.h"
#include "tests/unit/keeper_pipes.h"

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

/* Of a supervisor that is gone: without a group it would wait for the job's end for ever. */
static void end_orphan(pid_t keeper)
{
    struct proc_info info;
    struct err err;
    assert_int_equal(kill(keeper, SIGKILL), 0);
    for (int i = 0; i < 500 && proc_read(keeper, &info, &err) == 0 && info.state != 'Z'; i++)
        sleep_ms(10);
    assert_true(proc_read(keeper, &info, &err) != 0 || info.state == 'Z');
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
    pid_t keeper = find_keeper(terminal.supervisor);
    kill(terminal.supervisor, SIGKILL);
    assert_int_equal(end_terminal(&terminal), -1);
    end_orphan(keeper);
}

static void hangs_up_with_the_terminal(void **state)
{
    (void)state;
    struct terminal terminal = start_terminal();
    await_raw(&terminal, true);
    pid_t keeper = find_keeper(terminal.supervisor);
    close(terminal.slave);
    close(terminal.master);
    int status;
    /* The supervisor leads that session: SIGHUP ends it, as the app by its own. */
    assert_int_equal(waitpid(terminal.supervisor, &status, 0), terminal.supervisor);
    close(terminal.report);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 50 + SIGHUP);
    if (WIFSIGNALED(status))
        end_orphan(keeper);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_a_terminal_through),
        cmocka_unit_test(restores_the_terminal_of_a_killed_keeper),
        cmocka_unit_test(passes_interrupts_through),
        cmocka_unit_test(turns_a_suspension_into_a_signal),
        cmocka_unit_test(follows_the_windows_size),
        cmocka_unit_test(gives_the_terminal_back_when_killed),
        cmocka_unit_test(hangs_up_with_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
