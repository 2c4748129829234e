/* The wait for CRIU's messages. */
#include "lib/criu.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define STALL_MS 1000

static void respond(int socket)
{
    CriuResp response = CRIU_RESP__INIT;
    response.type = CRIU_REQ_TYPE__RESTORE;
    response.success = true;
    uint8_t bytes[64];
    fd_send(socket, bytes, criu_resp__pack(&response, bytes), -1);
}

static void work_for(uint64_t ms)
{
    for (uint64_t end = proc_monotonic_ns() + ms * 1000000; proc_monotonic_ns() < end;)
        ;
}

/* The first sleeps, a child of its works and then answers. */
static void wait_for_a_child(int socket)
{
    if (fork() == 0) {
        work_for(3500);
        respond(socket);
        _exit(0);
    }
    wait(NULL);
    _exit(0);
}

static void sleep_instead(int socket)
{
    (void)socket;
    sleep(30);
    _exit(0);
}

static void *pause_forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static pid_t start_with_two_threads(pid_t *other)
{
    int ends[2];
    pipe(ends);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, pause_forever, NULL);
        write(ends[1], "", 1);
        pause_forever(NULL);
    }
    char byte;
    read(ends[0], &byte, 1);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; (task = readdir(tasks));)
        if (atoi(task->d_name) > 0 && atoi(task->d_name) != pid)
            *other = atoi(task->d_name);
    closedir(tasks);
    return pid;
}

/* As CRIU waits for the first thread of what it dumps. */
static void wait_for_the_dead(int socket)
{
    (void)socket;
    pid_t other = 0, first = start_with_two_threads(&other);
    ptrace(PTRACE_SEIZE, first, NULL, NULL);
    ptrace(PTRACE_SEIZE, other, NULL, NULL);
    kill(first, SIGKILL);
    waitpid(first, NULL, __WALL);
    _exit(0);
}

static void respond_and_die(int socket)
{
    respond(socket);
    _exit(0);
}

static void die(int socket)
{
    (void)socket;
    _exit(1);
}

static int receive_from(void (*role)(int socket), int stall_ms, struct err *err)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        role(sockets[1]);
    CriuResp *response = NULL;
    struct criu_worker worker = {
        .pid = child, .pidfd = proc_pidfd_open(child), .socket = sockets[0]};
    int error = criu_receive(&worker, child, stall_ms, &response, err);
    if (!error)
        criu_resp__free_unpacked(response, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(worker.pidfd);
    close(sockets[0]);
    close(sockets[1]);
    return error;
}

static void test_a_child_that_works_is_progress(void **state)
{
    (void)state;
    struct err err;
    if (receive_from(wait_for_a_child, STALL_MS, &err))
        fail_msg("%s", err.text);
}

static void test_a_stall_is_given_up(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(receive_from(sleep_instead, STALL_MS, &err), -ETIMEDOUT);
}

static void test_a_wait_that_cannot_end_is_given_up(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(receive_from(wait_for_the_dead, 20 * STALL_MS, &err), -ESRCH);
}

/* Processes that it has made have its socket, too: here it is we. */
static void test_a_death_is_noticed_where_others_have_the_socket(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(receive_from(die, 60 * STALL_MS, &err), -EPIPE);
}

static void test_what_was_said_before_a_death_is_heard(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(receive_from(respond_and_die, 60 * STALL_MS, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_child_that_works_is_progress),
        cmocka_unit_test(test_a_stall_is_given_up),
        cmocka_unit_test(test_a_wait_that_cannot_end_is_given_up),
        cmocka_unit_test(test_a_death_is_noticed_where_others_have_the_socket),
        cmocka_unit_test(test_what_was_said_before_a_death_is_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
