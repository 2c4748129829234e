/*
 * Breakpoints that are not ours in a process that stands: a child has a file of code and
 * one of counters mapped, as a program has its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/fd.h"
#include "lib/proc.h"
#include "trigger/text.h"

#define PAGE       4096
#define NOP        0x90
#define BREAKPOINT 0xcc
#define SEMAPHORE  (PAGE + 16)

/* A folder that has a list of processes, as a cgroup has. */
struct group {
    char path[64];
    int fd;
    pid_t child;
    uint8_t *code; /* here and in the child */
    struct target targets[3];
};

static uint16_t *semaphore_of(const struct group *group)
{
    return (uint16_t *)(void *)(group->code + SEMAPHORE);
}

static void map_file(struct group *group)
{
    char path[80];
    uint8_t bytes[2 * PAGE];
    struct stat about;
    memset(bytes, NOP, PAGE);
    memset(bytes + PAGE, 0, PAGE);
    snprintf(path, sizeof(path), "%s/program", group->path);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(fstat(fd, &about), 0);
    group->code = mmap(NULL, sizeof(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(group->code, MAP_FAILED);
    for (size_t i = 0; i < 3; i++)
        group->targets[i] = (struct target){.offset = 100 + i,
                                            .semaphore = SEMAPHORE,
                                            .device = about.st_dev,
                                            .inode = about.st_ino,
                                            .byte = NOP};
}

/* The child stands with breakpoints at the first two places, and that in its semaphore. */
static void set_up(struct group *group, uint16_t counted)
{
    char text[32], path[80];
    strcpy(group->path, "/tmp/freezepoint-unit-XXXXXX");
    assert_non_null(mkdtemp(group->path));
    map_file(group);
    group->code[100] = group->code[101] = BREAKPOINT;
    *semaphore_of(group) = counted;
    assert_int_equal(mprotect(group->code, PAGE, PROT_READ | PROT_EXEC), 0);
    group->child = fork();
    if (group->child == 0)
        for (;;)
            pause();
    group->fd = open(group->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof(path), "%s/cgroup.procs", group->path);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int length = snprintf(text, sizeof(text), "%d\n", group->child);
    assert_int_equal(fd_write_all(fd, text, (size_t)length), length);
}

static void tear_down(struct group *group)
{
    char command[80];
    kill(group->child, SIGKILL);
    waitpid(group->child, NULL, 0);
    munmap(group->code, 2 * PAGE);
    close(group->fd);
    snprintf(command, sizeof(command), "rm -r %s", group->path);
    assert_int_equal(system(command), 0);
}

static void has(const struct group *group, uint8_t byte, uint16_t counted)
{
    uint8_t bytes[3];
    uint16_t value;
    assert_int_equal(proc_memory_read(group->child, (uintptr_t)group->code + 100, bytes, 3), 0);
    assert_int_equal(
        proc_memory_read(group->child, (uintptr_t)semaphore_of(group), &value, sizeof(value)), 0);
    assert_int_equal(bytes[0], byte);
    assert_int_equal(bytes[1], byte);
    assert_int_equal(bytes[2], NOP);
    assert_int_equal(value, counted);
}

static bool after_some_looks(void *context)
{
    int *looks = context;
    return --*looks <= 0;
}

static int await_clean(const struct group *group, int looks, bool *others, struct err *err)
{
    const struct text_wait wait = {.group_fd = group->fd,
                                   .targets = group->targets,
                                   .count = 3,
                                   .timeout_ms = 100,
                                   .ours_are_gone = after_some_looks,
                                   .context = &looks};
    return text_await_clean(&wait, others, err);
}

static void others_breakpoints_are_taken_out(void **state)
{
    (void)state;
    struct group group;
    struct err err;
    bool others;
    set_up(&group, 3);
    /* One of the three is of somebody who set it in this process alone. */
    assert_int_equal(await_clean(&group, 5, &others, &err), 0);
    assert_true(others);
    has(&group, NOP, 1);
    assert_int_equal(await_clean(&group, 5, &others, &err), 0);
    assert_false(others);
    has(&group, NOP, 1);
    tear_down(&group);
}

static void ours_are_left_to_the_kernel(void **state)
{
    (void)state;
    struct group group;
    struct err err;
    bool others;
    set_up(&group, 2);
    assert_int_equal(await_clean(&group, 1000000, &others, &err), -ETIMEDOUT);
    assert_false(others);
    has(&group, BREAKPOINT, 2);
    tear_down(&group);
}

static void another_files_code_is_left_alone(void **state)
{
    (void)state;
    struct group group;
    struct err err;
    bool others;
    set_up(&group, 2);
    for (size_t i = 0; i < 3; i++)
        group.targets[i].device++;
    assert_int_equal(await_clean(&group, 1, &others, &err), -EBUSY);
    has(&group, BREAKPOINT, 2);
    tear_down(&group);
}

static void semaphores_that_are_too_low_are_raised(void **state)
{
    (void)state;
    struct group group;
    set_up(&group, 0);
    /* Two points at one place count once. */
    group.targets[2] = group.targets[1];
    text_settle_semaphores(group.fd, group.targets, 3);
    has(&group, BREAKPOINT, 2);
    tear_down(&group);
    set_up(&group, 7);
    text_settle_semaphores(group.fd, group.targets, 3);
    has(&group, BREAKPOINT, 7);
    tear_down(&group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_breakpoints_are_taken_out),
        cmocka_unit_test(ours_are_left_to_the_kernel),
        cmocka_unit_test(another_files_code_is_left_alone),
        cmocka_unit_test(semaphores_that_are_too_low_are_raised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
