/* The keeper of a supervisor that is killed, with a real group. */
#include "lib/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/cgroup.h"
#include "lib/dir.h"
#include "lib/proc.h"
#include "tests/unit/keeper_pipes.h"

struct death {
    struct pipes pipes;
    struct job job; /* for its paths; the descriptors are a child's */
    pid_t supervisor, app, worker, keeper;
    char store[64], draft[128];
};

static void report_pid(int fd, pid_t pid)
{
    if (write(fd, &pid, sizeof(pid)) != sizeof(pid))
        _exit(90);
}

enum before_death { GUARDED, UNGUARDED, CLEARED_UNHEARD };

/* The keeper finds more than one message, and then the end. */
static void clear_unheard(struct keeper *keeper)
{
    struct err ignored;
    kill(keeper->pid, SIGSTOP);
    keeper_settle(keeper, &ignored);
    keeper_guard_clear(keeper, &ignored);
}

/* Becomes the supervisor of a job with one process in its frozen group. */
static void supervise_death(struct death *death, const char *script, bool kill_worker,
                            enum before_death before, int report)
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
    if ((before != UNGUARDED && keeper_guard_set(&keeper, &guard, &err)) ||
        cgroup_set_frozen(job.group.fd, true, TIMEOUT_MS, &err)) {
        fprintf(stderr, "%s\n", err.text);
        _exit(95);
    }
    if (before == CLEARED_UNHEARD)
        clear_unheard(&keeper);
    report_pid(report, app);
    report_pid(report, worker);
    report_pid(report, keeper.pid);
    for (;;)
        pause();
}

static void start_death(struct death *death, const char *script, bool kill_worker,
                        enum before_death before)
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
        supervise_death(death, script, kill_worker, before, ends[1]);
    close(ends[1]);
    let_go_of_outer(&death->pipes);
    assert_int_equal(fd_read_all(ends[0], &death->app, sizeof(pid_t)), sizeof(pid_t));
    assert_int_equal(fd_read_all(ends[0], &death->worker, sizeof(pid_t)), sizeof(pid_t));
    assert_int_equal(fd_read_all(ends[0], &death->keeper, sizeof(pid_t)), sizeof(pid_t));
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

static void group_of(const struct death *death, char *path, size_t size)
{
    char mount[PATH_MAX - 100];
    struct err err;
    assert_int_equal(cgroup_find_mount(mount, sizeof(mount), &err), 0);
    snprintf(path, size, "%s/freezepoint/%s", mount, death->job.name);
}

static void end_death(struct death *death)
{
    char group[PATH_MAX];
    group_of(death, group, sizeof(group));
    await_gone(group);
    await_gone(death->job.runtime_path);
    struct err err;
    assert_int_equal(dir_remove_recursive(AT_FDCWD, death->store, &err), 0);
    close_pipes(&death->pipes);
    *death = (struct death){.supervisor = 0};
}

/* After a test that failed. */
static int clear_away(void **state)
{
    struct death *death = *state;
    if (!death->supervisor)
        return 0;
    char group[PATH_MAX];
    group_of(death, group, sizeof(group));
    kill_supervisor(death);
    kill(death->worker, SIGKILL);
    kill(death->keeper, SIGKILL);
    _cleanup_close_ int group_fd = open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct err ignored;
    cgroup_kill(group_fd, &ignored);
    cgroup_remove(group, &ignored);
    dir_remove_recursive(AT_FDCWD, death->job.runtime_path, &ignored);
    dir_remove_recursive(AT_FDCWD, death->store, &ignored);
    close_pipes(&death->pipes);
    return 0;
}

/* The program must go on, with its streams, and the dump's worker is not killed. */
static void cleans_up_after_a_dump(void **state)
{
    struct death *death = *state;
    start_death(death, "while read line; do echo \"got $line\"; done; sleep 0.2; echo end", false,
                GUARDED);
    uint64_t before = proc_monotonic_ns();
    _cleanup_close_ int worker = proc_pidfd_open(death->worker);
    kill_supervisor(death);
    assert_int_equal(write(death->pipes.in_write, "one\n", 4), 4);
    read_exactly(death->pipes.out_read, "got one\n");
    /* it was frozen until the worker had ended by itself */
    assert_true(fd_wait(worker, POLLIN, 0) > 0);
    assert_true(proc_monotonic_ns() - before > 500000000ULL);
    await_gone(death->draft);
    assert_int_equal(kill(death->app, 0), 0);
    fd_close(&death->pipes.in_write);
    read_exactly(death->pipes.out_read, "end\n");
    assert_end_of_file(death->pipes.out_read);
    end_death(death);
}

static void cleans_up_after_a_restore(void **state)
{
    struct death *death = *state;
    start_death(death, "sleep 60", true, GUARDED);
    _cleanup_close_ int worker = proc_pidfd_open(death->worker);
    _cleanup_close_ int app = proc_pidfd_open(death->app);
    kill_supervisor(death);
    assert_true(fd_wait(worker, POLLIN, TIMEOUT_MS) > 0);
    assert_true(fd_wait(app, POLLIN, TIMEOUT_MS) > 0);
    assert_end_of_file(death->pipes.out_read);
    end_death(death);
}

static void thaws_where_nothing_was_under_way(void **state)
{
    struct death *death = *state;
    start_death(death, "read line; echo \"got $line\"", false, UNGUARDED);
    kill_supervisor(death);
    assert_int_equal(write(death->pipes.in_write, "two\n", 4), 4);
    read_exactly(death->pipes.out_read, "got two\n");
    assert_end_of_file(death->pipes.out_read);
    assert_false(is_gone(death->draft));
    kill(death->worker, SIGKILL);
    end_death(death);
}

static void hears_all_that_was_said(void **state)
{
    struct death *death = *state;
    start_death(death, "read line; echo \"got $line\"", true, CLEARED_UNHEARD);
    kill_supervisor(death);
    kill(death->keeper, SIGCONT);
    assert_int_equal(write(death->pipes.in_write, "three\n", 6), 6);
    read_exactly(death->pipes.out_read, "got three\n");
    assert_end_of_file(death->pipes.out_read);
    kill(death->worker, SIGKILL);
    end_death(death);
}

static void takes_no_job_for_ended_that_it_cannot_see(void **state)
{
    struct death *death = *state;
    start_death(death, "read line; echo \"got $line\"; read line; echo end", false, UNGUARDED);
    /* Enough for poll(2), and all in use. */
    struct rlimit former, none = {.rlim_cur = 6};
    assert_int_equal(prlimit(death->keeper, RLIMIT_NOFILE, NULL, &former), 0);
    none.rlim_max = former.rlim_max;
    assert_int_equal(prlimit(death->keeper, RLIMIT_NOFILE, &none, NULL), 0);
    kill_supervisor(death);
    sleep_ms(500);
    assert_false(is_gone(death->job.runtime_path));
    assert_int_equal(prlimit(death->keeper, RLIMIT_NOFILE, &former, NULL), 0);
    assert_int_equal(write(death->pipes.in_write, "four\n", 5), 5);
    read_exactly(death->pipes.out_read, "got four\n");
    assert_int_equal(write(death->pipes.in_write, "\n", 1), 1);
    read_exactly(death->pipes.out_read, "end\n");
    assert_end_of_file(death->pipes.out_read);
    kill(death->worker, SIGKILL);
    end_death(death);
}

int main(void)
{
    static struct death death;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate_setup_teardown(cleans_up_after_a_dump, NULL, clear_away, &death),
        cmocka_unit_test_prestate_setup_teardown(cleans_up_after_a_restore, NULL, clear_away,
                                                 &death),
        cmocka_unit_test_prestate_setup_teardown(thaws_where_nothing_was_under_way, NULL,
                                                 clear_away, &death),
        cmocka_unit_test_prestate_setup_teardown(hears_all_that_was_said, NULL, clear_away, &death),
        cmocka_unit_test_prestate_setup_teardown(takes_no_job_for_ended_that_it_cannot_see, NULL,
                                                 clear_away, &death),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
