/* Three containers at once, told apart in each of the three ways. */
#include "bpf/scope.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "scope_count.skel.h"

#define MAGIC      0x73636f7065746573ULL
#define CONTAINERS 3

struct container {
    struct cgroup group;
    pid_t init;
    int order, report; /* pipes: its turn, and its end */
};

struct fixture {
    struct container containers[CONTAINERS];
    struct scope_count_bpf *program;
};

static void call(unsigned long times)
{
    for (unsigned long i = 0; i < times; i++)
        syscall(SYS_getpid, MAGIC);
}

/* Container i's init, and a child of it in a group below, each call so often. */
static unsigned long calls_of_init(int i)
{
    return 100UL * (unsigned long)(i + 1);
}

static unsigned long calls_of_child(int i)
{
    return 7UL * (unsigned long)(i + 1);
}

static void enter(const char *path)
{
    char file[PATH_MAX + 16];
    snprintf(file, sizeof(file), "%s/cgroup.procs", path);
    _cleanup_close_ int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(90);
}

static _Noreturn void be_init(const struct container *self, int i, int order, int report)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char byte = 0, below[PATH_MAX + 8];
    if (read(order, &byte, 1) != 1)
        _exit(91);
    call(calls_of_init(i));
    pid_t child = fork();
    if (child == 0) {
        snprintf(below, sizeof(below), "%s/below", self->group.path);
        enter(below);
        call(calls_of_child(i));
        _exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    if (status == 0 && write(report, "", 1) == 1)
        pause();
    _exit(92);
}

/* The one that unshares stays in the host's pid namespace itself, with children in
 * another: it is none of the container's by its own number. */
static _Noreturn void be_starter(const struct container *self, int i, int order, int report,
                                 int tell)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    enter(self->group.path);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
        _exit(93);
    pid_t init = fork();
    if (init == 0)
        be_init(self, i, order, report);
    if (write(tell, &init, sizeof(init)) != sizeof(init))
        _exit(94);
    waitpid(init, NULL, 0);
    _exit(0);
}

static int start(struct container *self, int i)
{
    char name[64], below[PATH_MAX + 8];
    struct err err;
    snprintf(name, sizeof(name), "scope-test-%d-%d", getpid(), i);
    if (cgroup_make(name, &self->group, &err))
        return -1;
    snprintf(below, sizeof(below), "%s/below", self->group.path);
    if (mkdir(below, 0755) < 0)
        return -1;
    int order[2], report[2], tell[2];
    if (pipe2(order, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0 || pipe2(tell, O_CLOEXEC) < 0)
        return -1;
    pid_t starter = fork();
    if (starter == 0)
        be_starter(self, i, order[0], report[1], tell[1]);
    close(order[0]);
    close(report[1]);
    close(tell[1]);
    self->order = order[1];
    self->report = report[0];
    ssize_t n = read(tell[0], &self->init, sizeof(self->init));
    close(tell[0]);
    return n == sizeof(self->init) ? 0 : -1;
}

static int set_up(void **state)
{
    static struct fixture self;
    *state = &self;
    for (int i = 0; i < CONTAINERS; i++)
        if (start(&self.containers[i], i))
            return -1;
    self.program = scope_count_bpf__open();
    if (!self.program)
        return -1;
    self.program->rodata->magic = MAGIC;
    for (int i = 0; i < CONTAINERS; i++) {
        const struct container *one = &self.containers[i];
        struct scope scopes[SCOPE_KINDS];
        struct err err;
        if (scope_of_group(one->group.fd, &scopes[SCOPE_GROUP], &err) ||
            scope_of_process(SCOPE_NAMESPACE, one->init, &scopes[SCOPE_NAMESPACE], &err) ||
            scope_of_process(SCOPE_PID, one->init, &scopes[SCOPE_PID], &err)) {
            print_error("%s\n", err.text);
            return -1;
        }
        assert_int_equal(scopes[SCOPE_PID].init, one->init);
        memcpy(&self.program->rodata->scopes[i], scopes, sizeof(scopes));
    }
    return scope_count_bpf__load(self.program) || scope_count_bpf__attach(self.program);
}

static int tear_down(void **state)
{
    struct fixture *self = *state;
    int error = 0;
    scope_count_bpf__destroy(self->program);
    for (int i = 0; i < CONTAINERS; i++) {
        struct container *one = &self->containers[i];
        struct err err;
        cgroup_kill(one->group.fd, &err);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        close(one->order);
        close(one->report);
        error |= cgroup_remove(one->group.path, &err);
        cgroup_release(&one->group);
    }
    return error;
}

static void containers_are_told_apart_in_three_ways(void **state)
{
    struct fixture *self = *state;
    char byte;
    call(50); /* of none of them */
    for (int i = 0; i < CONTAINERS; i++)
        assert_int_equal(write(self->containers[i].order, "", 1), 1);
    unsigned long all = 50;
    for (int i = 0; i < CONTAINERS; i++) {
        assert_int_equal(read(self->containers[i].report, &byte, 1), 1);
        all += calls_of_init(i) + calls_of_child(i);
    }
    for (int i = 0; i < CONTAINERS; i++)
        for (int kind = 0; kind < SCOPE_KINDS; kind++)
            assert_int_equal(self->program->bss->counts[i][kind],
                             calls_of_init(i) + calls_of_child(i));
    assert_int_equal(self->program->bss->total, all);
}

static void the_host_is_no_container(void **state)
{
    (void)state;
    struct scope scope;
    struct err err;
    assert_int_equal(scope_of_process(SCOPE_NAMESPACE, getpid(), &scope, &err), -EINVAL);
    assert_int_equal(err.kind, ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(containers_are_told_apart_in_three_ways, set_up, tear_down),
        cmocka_unit_test(the_host_is_no_container),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
