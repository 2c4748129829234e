/*
 * A supervisor of the tests' own: builds a preload library, starts a program under
 * the filter, records what it announces and answers.  The program is mostly the
 * test itself, started again with the name of a role as its argument.
 *
 * One program at a time; what was recorded is in `seen` until the next start.
 */
#ifndef FREEZEPOINT_TESTS_SUPERVISED_H
#define FREEZEPOINT_TESTS_SUPERVISED_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/fd.h"
#include "preload/abi.h"
#include "trigger/filter.h"
#include "trigger/preload.h"

#define HITS_MAX    4096
#define DEADLINE_MS 60000

struct seen {
    int status; /* of the program */
    unsigned hellos, count;
    struct {
        uint64_t rule, number, control;
        int pid;
    } hits[HITS_MAX];
};

struct target {
    pid_t pid;
    int listener;
    struct seen *seen;
    long answer; /* to points */
};

/* Called at a point before it is answered; true: it has been answered. */
typedef bool (*on_point)(struct target *target, const struct notification *notification);

/* Called when the program has stopped itself; is to let it go on. */
typedef void (*on_stop)(struct target *target);

static char directory[] = "/tmp/fz-preload-XXXXXX";
static char library_path[64], socket_path[64];
static struct preload built; /* the library, without its bytes */
static struct seen seen;

static inline void build(const struct preload_slot *slots, size_t slot_count,
                         const struct fz_rule *rules, size_t rule_count)
{
    struct err err;
    struct sock_filter filter[FZ_FILTER_MAX];
    int length = filter_build(filter, FZ_FILTER_MAX, &err);
    assert_true(length > 0);
    struct preload_request request = {.slots = slots,
                                      .slot_count = slot_count,
                                      .rules = rules,
                                      .rule_count = rule_count,
                                      .socket_path = socket_path,
                                      .filter = filter,
                                      .filter_length = (size_t)length};
    if (preload_build(&request, &built, &err))
        fail_msg("%s", err.text);
    FILE *file = fopen(library_path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(built.bytes, built.size, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    free(steal_pointer(&built.bytes));
}

static inline void build_one(const char *name, const char *library, uint64_t first, uint64_t every)
{
    struct preload_slot slot = {.name = name, .library = library};
    struct fz_rule rule = {.first = first, .every = every};
    build(&slot, 1, &rule, 1);
}

static inline void run_child(int socket, char *const *argv)
{
    struct err err;
    struct sock_filter filter[FZ_FILTER_MAX];
    int length = filter_build(filter, FZ_FILTER_MAX, &err);
    int listener = length < 0 ? -1 : filter_install(filter, (size_t)length);
    if (listener < 0 || fd_send(socket, "", 1, listener) < 0)
        _exit(120);
    close(listener);
    setenv("LD_PRELOAD", library_path, 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
    if (!getenv("TEST_VERBOSE"))
        dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
    execvp(argv[0], argv);
    _exit(121);
}

static inline struct target start(char *const *argv)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    struct target target = {.listener = -1, .seen = &seen, .answer = FZ_ANSWER_GO_ON};
    memset(&seen, 0, sizeof(seen));
    target.pid = fork();
    assert_true(target.pid >= 0);
    if (target.pid == 0)
        run_child(sockets[1], argv);
    char byte;
    assert_true(fd_receive(sockets[0], &byte, 1, &target.listener) == 1);
    assert_true(target.listener >= 0);
    close(sockets[0]);
    close(sockets[1]);
    return target;
}

static inline void serve_one(struct target *target, on_point callback)
{
    struct err err;
    struct notification notification;
    if (filter_receive(target->listener, &notification, &err) != 1)
        return;
    if (notification.op == FZ_OP_HELLO) {
        target->seen->hellos++;
        filter_answer(target->listener, notification.id, FZ_ANSWER_GO_ON);
        return;
    }
    unsigned i = target->seen->count;
    assert_int_equal(notification.op, FZ_OP_POINT);
    assert_true(i < HITS_MAX);
    target->seen->hits[i].rule = notification.arguments[0];
    target->seen->hits[i].number = notification.arguments[1];
    target->seen->hits[i].control = notification.arguments[2];
    target->seen->hits[i].pid = notification.pid;
    target->seen->count++;
    if (!callback || !callback(target, &notification))
        filter_answer(target->listener, notification.id, target->answer);
}

/* As who restores it does, once there was a hit. */
static inline void write_generation(const struct target *target, uint64_t generation)
{
    struct iovec from = {&generation, sizeof(generation)};
    struct iovec to = {(void *)(uintptr_t)(target->seen->hits[0].control +
                                           offsetof(struct fz_control, generation)),
                       sizeof(generation)};
    assert_int_equal(process_vm_writev(target->pid, &from, 1, &to, 1, 0), sizeof(generation));
}

/* Until the program has ended. */
static inline void serve(struct target *target, on_point callback, on_stop stopped)
{
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (;;) {
        struct pollfd wanted = {.fd = target->listener, .events = POLLIN};
        if (poll(&wanted, 1, 10) > 0 && wanted.revents & POLLIN)
            serve_one(target, callback);
        int *status = &target->seen->status;
        if (waitpid(target->pid, status, WNOHANG | WUNTRACED) == target->pid) {
            if (!WIFSTOPPED(*status))
                break;
            if (stopped)
                stopped(target);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begin.tv_sec > DEADLINE_MS / 1000) {
            kill(target->pid, SIGKILL);
            waitpid(target->pid, NULL, 0);
            fail_msg("the program did not end");
        }
    }
    fd_close(&target->listener);
}

static inline void run(char *const *argv)
{
    struct target target = start(argv);
    serve(&target, NULL, NULL);
}

static inline void run_role(const char *role)
{
    char *argv[] = {"/proc/self/exe", (char *)role, NULL};
    run(argv);
}

static inline void assert_exited(int status)
{
    if (!WIFEXITED(seen.status) || WEXITSTATUS(seen.status) != status)
        fail_msg("wait status %#x", (unsigned)seen.status);
}

static inline void assert_one_hit(uint64_t number)
{
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.hits[0].number, number);
}

static inline void needs(const char *program)
{
    if (access(program, X_OK) < 0)
        skip();
}

/* The cheapest function of libc that no sanitizer replaces; by its assembler name,
 * or the header's inline version would be taken. */
unsigned call(unsigned long device) __asm__("gnu_dev_major");

static inline void *call_often(void *argument)
{
    unsigned long calls = (unsigned long)(uintptr_t)argument;
    for (unsigned long i = 0; i < calls; i++)
        if (call(0x100u) != 1)
            exit(3);
    return NULL;
}

static inline int call_in_threads(unsigned threads, unsigned long calls)
{
    pthread_t ids[16];
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, call_often, (void *)(uintptr_t)calls))
            return 4;
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    return 0;
}

static inline int role_call_ten(void)
{
    call_often((void *)10);
    return 0;
}

struct role {
    const char *name;
    int (*run)(void);
};

/* The main() of such a test: plays the role that it was started with, or runs the
 * tests. */
#define RUN_ROLE_OR_TESTS(argc, argv, roles, tests)                                                \
    (find_role(argc, argv, roles, sizeof(roles) / sizeof((roles)[0]))                              \
         ? find_role(argc, argv, roles, sizeof(roles) / sizeof((roles)[0]))()                      \
         : make_directory() || cmocka_run_group_tests(tests, NULL, NULL) + remove_directory())

static inline int (*find_role(int argc, char **argv, const struct role *roles, size_t count))(void)
{
    for (size_t i = 0; argc > 1 && i < count; i++)
        if (!strcmp(argv[1], roles[i].name))
            return roles[i].run;
    return NULL;
}

static inline int make_directory(void)
{
    if (!mkdtemp(directory))
        return 1;
    snprintf(library_path, sizeof(library_path), "%s/preload.so", directory);
    snprintf(socket_path, sizeof(socket_path), "%s/socket", directory);
    return 0;
}

static inline int remove_directory(void)
{
    unlink(library_path);
    return rmdir(directory) ? 1 : 0;
}

#endif
