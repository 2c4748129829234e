/* Marks of a real group: the programs pass the verifier, and see what happens. */
#include "bpf/marks.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"
#include "preload/abi.h"
#include "trigger/filter.h"

#define RULE 5
#define HIT  77

struct seen {
    struct mark marks[16];
    size_t count;
};

struct fixture {
    struct cgroup group;
    struct marks *marks;
    struct seen seen;
    pid_t child;
    int listener;
};

static void keep(const struct mark *mark, void *context)
{
    struct seen *seen = context;
    assert_true(seen->count < 16);
    seen->marks[seen->count++] = *mark;
}

static void wait_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void collect(struct fixture *self, size_t wanted)
{
    for (int i = 0; i < 300 && self->seen.count < wanted; i++) {
        marks_collect(self->marks, keep, &self->seen);
        wait_ms(10);
    }
    assert_int_equal(self->seen.count, wanted);
}

static void join(const struct cgroup *group)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/cgroup.procs", group->path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (write(fd, "0", 1) != 1)
        _exit(90);
    close(fd);
}

/* Asks twice, like a shim with another point; then works on. */
static _Noreturn void ask(const struct cgroup *group, int socket)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    join(group);
    struct sock_filter program[FZ_FILTER_MAX];
    struct err err;
    int length = filter_build(program, FZ_FILTER_MAX, &err);
    int listener = length < 0 ? length : filter_install(program, (size_t)length);
    if (listener < 0 || fd_send(socket, "", 1, listener) != 1)
        _exit(91);
    close(listener);
    for (uint64_t i = 0; i < 2; i++)
        syscall(SYS_getpid, FZ_CALL_MAGIC, FZ_OP_POINT, RULE + i, HIT + i, 0, 0);
    for (;;)
        wait_ms(1);
}

static int set_up(void **state)
{
    static struct fixture self;
    self = (struct fixture){.listener = -1};
    *state = &self;
    struct err err;
    char name[64];
    snprintf(name, sizeof(name), "marks-test-%d", getpid());
    if (cgroup_make(name, &self.group, &err) || marks_attach(self.group.fd, &self.marks, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    int sockets[2];
    char byte;
    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
    self.child = fork();
    if (self.child == 0)
        ask(&self.group, sockets[1]);
    fd_receive(sockets[0], &byte, 1, &self.listener);
    close(sockets[0]);
    close(sockets[1]);
    return self.listener < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    struct fixture *self = *state;
    struct err err;
    marks_release(self->marks);
    if (self->child > 0) {
        kill(self->child, SIGKILL);
        waitpid(self->child, NULL, 0);
    }
    fd_close(&self->listener);
    int error = cgroup_remove(self->group.path, &err);
    cgroup_release(&self->group);
    return error;
}

static void answer(const struct fixture *self)
{
    struct notification taken;
    struct err err;
    assert_int_equal(filter_receive(self->listener, &taken, &err), 1);
    assert_int_equal(filter_answer(self->listener, taken.id, FZ_ANSWER_GO_ON), 0);
}

static void assert_point(const struct fixture *self, const struct mark *mark, unsigned index)
{
    assert_int_equal(mark->kind, MARK_POINT);
    assert_int_equal(mark->rule, RULE + index);
    assert_int_equal(mark->hit, HIT + index);
    assert_int_equal(mark->pid, self->child);
    assert_int_equal(mark->tid, self->child);
    assert_string_equal(mark->comm, "test_marks");
    assert_int_equal(mark->registers.orig_rax, SYS_getpid);
    assert_true(mark->stack_depth > 0);
    assert_int_equal(mark->stack[0], mark->registers.rip);
}

static void points_are_seen_with_their_numbers(void **state)
{
    struct fixture *self = *state;
    uint64_t before = proc_monotonic_ns();
    collect(self, 1);
    answer(self);
    collect(self, 2);
    answer(self);
    assert_point(self, &self->seen.marks[0], 0);
    assert_point(self, &self->seen.marks[1], 1);
    assert_true(self->seen.marks[0].time_ns < self->seen.marks[1].time_ns);
    assert_true(self->seen.marks[1].time_ns > before);
    assert_true(self->seen.marks[1].time_ns < proc_monotonic_ns());
    assert_int_equal(marks_lost(self->marks), 0);
}

static void a_pause_is_seen_from_freezing_to_the_first_step(void **state)
{
    struct fixture *self = *state;
    struct err err;
    answer(self);
    answer(self);
    wait_ms(20);
    marks_collect(self->marks, keep, &self->seen);
    self->seen.count = 0;
    assert_int_equal(cgroup_set_frozen(self->group.fd, true, 5000, &err), 0);
    wait_ms(50);
    assert_int_equal(cgroup_set_frozen(self->group.fd, false, 5000, &err), 0);
    collect(self, 3);
    static const enum mark_kind kinds[] = {MARK_FROZEN, MARK_THAWED, MARK_RESUMED};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(self->seen.marks[i].kind, kinds[i]);
    uint64_t frozen = self->seen.marks[0].time_ns, thawed = self->seen.marks[1].time_ns;
    assert_true(thawed - frozen >= 50000000 && self->seen.marks[2].time_ns >= thawed);
    assert_int_equal(self->seen.marks[2].pid, self->child);
    /* Once for each pause. */
    wait_ms(50);
    marks_collect(self->marks, keep, &self->seen);
    assert_int_equal(self->seen.count, 3);
}

static void others_are_not_seen(void **state)
{
    struct fixture *self = *state;
    collect(self, 1);
    /* This process makes the same call, without a filter; it does not wait either. */
    syscall(SYS_getpid, FZ_CALL_MAGIC, FZ_OP_POINT, 1, 1, 0, 0);
    wait_ms(50);
    marks_collect(self->marks, keep, &self->seen);
    assert_int_equal(self->seen.count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(points_are_seen_with_their_numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pause_is_seen_from_freezing_to_the_first_step, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(others_are_not_seen, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
