/* Taking an answer back from threads that are not as expected. */
#include "trigger/filter.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/fd.h"
#include "lib/proc.h"

/* Until its child ends, a vfork(2)ing process takes notice of nothing but SIGKILL. */
static _Noreturn void wait_deaf(int report)
{
    pid_t pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)!write(report, "", 1); /* NOLINT(clang-analyzer-unix.Vfork) */
        for (;;)
            pause(); /* NOLINT(clang-analyzer-unix.Vfork) */
    }
    _exit(0);
}

static void a_thread_that_does_not_stop_is_let_go(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t deaf = fork();
    if (deaf == 0)
        wait_deaf(ends[1]);
    assert_int_equal(fd_wait(ends[0], POLLIN, 5000), POLLIN);
    struct err err;
    assert_int_equal(filter_take_back(deaf, &err), -ETIMEDOUT);
    struct proc_info info;
    assert_int_equal(proc_read(deaf, &info, &err), 0);
    assert_int_equal(info.tracer, 0);
    kill(deaf, SIGKILL);
    assert_int_equal(waitpid(deaf, NULL, 0), deaf);
    close(ends[0]);
    close(ends[1]);
}

static void a_child_that_has_ended_is_not_reaped(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(3);
    siginfo_t about;
    assert_int_equal(waitid(P_PID, (id_t)child, &about, WEXITED | WNOWAIT), 0);
    struct err err;
    assert_true(filter_take_back(child, &err) < 0);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 3);
}

static void a_thread_that_was_not_answered_is_left_alone(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    struct err err;
    assert_int_equal(filter_take_back(child, &err), -EPROTO);
    struct proc_info info;
    assert_int_equal(proc_read(child, &info, &err), 0);
    assert_int_equal(info.tracer, 0);
    kill(child, SIGKILL);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_that_does_not_stop_is_let_go),
        cmocka_unit_test(a_child_that_has_ended_is_not_reaped),
        cmocka_unit_test(a_thread_that_was_not_answered_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
