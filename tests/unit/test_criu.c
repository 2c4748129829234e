/* The wait for CRIU's messages. */
#include "lib/criu.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
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

static int receive_from(void (*role)(int socket), struct err *err)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        role(sockets[1]);
    CriuResp *response = NULL;
    int error = criu_receive(sockets[0], child, STALL_MS, &response, err);
    if (!error)
        criu_resp__free_unpacked(response, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(sockets[0]);
    close(sockets[1]);
    return error;
}

static void test_a_child_that_works_is_progress(void **state)
{
    (void)state;
    struct err err;
    if (receive_from(wait_for_a_child, &err))
        fail_msg("%s", err.text);
}

static void test_a_stall_is_given_up(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(receive_from(sleep_instead, &err), -ETIMEDOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_child_that_works_is_progress),
        cmocka_unit_test(test_a_stall_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
