/* What the rules keep away, and that they go with who made them.  The test is in one
 * namespace, with v0; a process that only waits keeps the other, with v1. */
#include "lib/fence.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "tests/unit/netns.h"

#define PORT     7070
#define OTHER    7071
#define QUIET_MS 400
#define SOON_MS  5000

static int here_ns = -1, there_ns = -1;
static pid_t holder;

static bool make_network(void)
{
    int ready[2];
    char byte, command[512], path[64];
    if (!netns_enter() || !netns_add_pair() || pipe2(ready, O_CLOEXEC) < 0)
        return false;
    here_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    holder = fork();
    if (holder == 0) {
        bool entered = netns_enter();
        close(ready[0]);
        while (entered && write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        return false;
    close(ready[0]);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", holder);
    there_ns = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(command, sizeof(command),
             "ip link set v1 netns %d && ip address add 10.66.0.1/24 dev v0 && "
             "ip address add fd66::1/64 dev v0 nodad && nsenter --net=%s sh -c '"
             "ip link set v1 up && ip address add 10.66.0.2/24 dev v1 && "
             "ip address add fd66::2/64 dev v1 nodad'",
             holder, path);
    return there_ns >= 0 && system(command) == 0;
}

static void end_network(void)
{
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static union address address_at(bool six, uint16_t port)
{
    union address address = {.any = {.sa_family = six ? AF_INET6 : AF_INET}};
    address.v4.sin_port = htons(port); /* sin6_port is at the same place */
    if (six)
        inet_pton(AF_INET6, "fd66::1", &address.v6.sin6_addr);
    else
        inet_pton(AF_INET, "10.66.0.1", &address.v4.sin_addr);
    return address;
}

static socklen_t size_of(bool six)
{
    return six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static struct socket_address place_at(bool six, uint16_t port)
{
    union address address = address_at(six, port);
    struct socket_address place = {.family = address.any.sa_family, .port = port};
    if (six)
        place.v6 = address.v6.sin6_addr;
    else
        place.v4 = address.v4.sin_addr;
    return place;
}

static int listen_here(bool six, uint16_t port)
{
    int on = 1;
    union address address = address_at(six, port);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(fd, &address.any, size_of(six)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

/* From the other side; not waited for. */
static int begin_connect(bool six, uint16_t port)
{
    union address address = address_at(six, port);
    assert_int_equal(setns(there_ns, CLONE_NEWNET), 0);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(setns(here_ns, CLONE_NEWNET), 0);
    assert_true(fd >= 0);
    if (connect(fd, &address.any, size_of(six)) < 0)
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

/* 0: connected; -ETIMEDOUT: no answer; else how it failed. */
static int connected_within(int fd, int timeout_ms)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (fd_wait(fd, POLLOUT, timeout_ms) == 0)
        return -ETIMEDOUT;
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    return -error;
}

static int try_connect(bool six, uint16_t port, int timeout_ms)
{
    int fd = begin_connect(six, port);
    int error = connected_within(fd, timeout_ms);
    close(fd);
    return error;
}

static bool tables_are_there(void)
{
    return system("nft list tables | grep -q freezepoint-") == 0;
}

static void expect_tables_gone(void)
{
    for (int i = 0; i < 100 && tables_are_there(); i++)
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    assert_false(tables_are_there());
}

static struct fence start(void)
{
    struct fence fence = FENCE_NONE;
    struct err err;
    if (fence_start("test", &fence, &err))
        fail_msg("%s", err.text);
    assert_true(tables_are_there());
    return fence;
}

/* In silence: whoever tries gets through once the rules are gone. */
static void refuses_new_connections(void **state)
{
    (void)state;
    struct err err;
    for (int six = 0; six < 2; six++) {
        int listening = listen_here(six, PORT), other = listen_here(six, OTHER);
        struct socket_address place = place_at(six, PORT);
        int before = begin_connect(six, PORT);
        assert_int_equal(connected_within(before, SOON_MS), 0);
        struct fence fence = start();
        assert_int_equal(fence_refuse_new(&fence, &place, 1, &err), 0);
        int late = begin_connect(six, PORT);
        assert_int_equal(connected_within(late, QUIET_MS), -ETIMEDOUT);
        assert_int_equal(try_connect(six, OTHER, SOON_MS), 0);
        /* Those that are there go on. */
        int accepted = accept(listening, NULL, NULL);
        char byte = 0;
        assert_int_equal(write(before, "x", 1), 1);
        assert_int_equal(read(accepted, &byte, 1), 1);
        assert_int_equal(fence_open(&fence, &err), 0);
        assert_false(tables_are_there());
        assert_int_equal(connected_within(late, SOON_MS), 0);
        fence_end(&fence);
        close(late);
        close(accepted);
        close(before);
        close(other);
        close(listening);
    }
}

static void refuses_at_any_address(void **state)
{
    (void)state;
    struct err err;
    struct socket_address place = {.family = AF_INET6, .port = PORT};
    struct fence fence = start();
    assert_int_equal(fence_refuse_new(&fence, &place, 1, &err), 0);
    for (int six = 0; six < 2; six++) {
        int listening = listen_here(six, PORT);
        assert_int_equal(try_connect(six, PORT, QUIET_MS), -ETIMEDOUT);
        close(listening);
        /* Not even that nobody listens is told. */
        assert_int_equal(try_connect(six, PORT, QUIET_MS), -ETIMEDOUT);
    }
    fence_end(&fence);
    assert_int_equal(try_connect(false, PORT, SOON_MS), -ECONNREFUSED);
}

/* The end of the socket behind it, too, would be told by an RST: it is not. */
static void drops_what_is_established(void **state)
{
    (void)state;
    struct err err;
    for (int k = 0; k < 4; k++) {
        bool six = k % 2, whole = k / 2;
        struct socket_address place = place_at(six, whole ? 0 : PORT);
        int listening = listen_here(six, PORT);
        int there = begin_connect(six, PORT);
        assert_int_equal(connected_within(there, SOON_MS), 0);
        int here = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct fence fence = start();
        assert_int_equal(fence_close_off(&fence, &place, 1, &err), 0);
        assert_int_equal(write(there, "x", 1), 1);
        assert_int_equal(write(here, "y", 1), 1);
        assert_int_equal(fd_wait(here, POLLIN, QUIET_MS), 0);
        assert_int_equal(fd_wait(there, POLLIN, 0), 0);
        /* With something unread it ends by RST; neither that gets out, nor what answers to
         * packets that are then nobody's. */
        struct linger at_once = {.l_onoff = 1};
        setsockopt(here, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        close(here);
        close(listening);
        assert_int_equal(fd_wait(there, POLLIN, QUIET_MS), 0);
        assert_int_equal(fence_open(&fence, &err), 0);
        /* Now it is: the other end says it again, and nobody has it. */
        assert_true(fd_wait(there, POLLIN, SOON_MS) & (POLLIN | POLLHUP | POLLERR));
        fence_end(&fence);
        close(there);
    }
}

static void hides_an_address_as_a_whole(void **state)
{
    (void)state;
    struct err err;
    struct fence fence = start();
    struct socket_address places[] = {place_at(false, 0), place_at(true, 0)};
    assert_int_equal(fence_close_off(&fence, places, 2, &err), 0);
    assert_int_equal(setns(there_ns, CLONE_NEWNET), 0);
    assert_int_equal(system("ip neighbour flush dev v1"), 0);
    assert_int_not_equal(system("ping -c1 -W1 10.66.0.1 >/dev/null 2>&1"), 0);
    assert_int_not_equal(system("ping -c1 -W1 fd66::1 >/dev/null 2>&1"), 0);
    assert_int_not_equal(system("ip neighbour show 10.66.0.1 | grep -q lladdr"), 0);
    assert_int_not_equal(system("ip neighbour show fd66::1 | grep -q lladdr"), 0);
    assert_int_equal(setns(here_ns, CLONE_NEWNET), 0);
    fence_end(&fence);
    /* That nobody answered is remembered for a while. */
    assert_int_equal(setns(there_ns, CLONE_NEWNET), 0);
    assert_int_equal(system("ip neighbour flush dev v1"), 0);
    assert_int_equal(setns(here_ns, CLONE_NEWNET), 0);
    for (int six = 0; six < 2; six++)
        assert_int_equal(try_connect(six, PORT, SOON_MS), -ECONNREFUSED);
}

static void ends_with_its_end(void **state)
{
    (void)state;
    struct fence fence = start();
    fence_end(&fence);
    expect_tables_gone();
    fence_end(&fence);
}

static void ends_with_the_death_of_who_holds_it(void **state)
{
    (void)state;
    int ready[2];
    char byte;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        struct fence fence = FENCE_NONE;
        struct err err;
        struct socket_address place = place_at(false, PORT);
        if (fence_start("child", &fence, &err) || fence_close_off(&fence, &place, 1, &err))
            _exit(1);
        while (write(ready[1], "", 1) == 1)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(tables_are_there());
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    expect_tables_gone();
    close(ready[0]);
}

static void outlives_its_child_as_long_as_it_is_held(void **state)
{
    (void)state;
    struct err err;
    struct socket_address place = place_at(false, PORT);
    struct fence fence = start();
    assert_int_equal(fence_close_off(&fence, &place, 1, &err), 0);
    int held = fcntl(fence.socket, F_DUPFD_CLOEXEC, 0);
    kill(fence.pid, SIGKILL);
    assert_int_equal(try_connect(false, PORT, QUIET_MS), -ETIMEDOUT);
    assert_true(fence_open(&fence, &err) < 0);
    fence_end(&fence);
    assert_int_equal(try_connect(false, PORT, QUIET_MS), -ETIMEDOUT);
    close(held);
    expect_tables_gone();
}

static void two_do_not_disturb_each_other(void **state)
{
    (void)state;
    struct err err;
    struct fence one = FENCE_NONE, two = FENCE_NONE, again = FENCE_NONE;
    struct socket_address place = place_at(false, PORT);
    assert_int_equal(fence_start("one", &one, &err), 0);
    assert_int_equal(fence_start("two", &two, &err), 0);
    assert_int_equal(fence_close_off(&two, &place, 1, &err), 0);
    fence_end(&one);
    assert_int_equal(try_connect(false, PORT, QUIET_MS), -ETIMEDOUT);
    /* One name is one migration's. */
    assert_true(fence_start("two", &again, &err) < 0);
    assert_int_equal(again.pid, 0);
    assert_int_equal(try_connect(false, PORT, QUIET_MS), -ETIMEDOUT);
    fence_end(&two);
    assert_int_equal(try_connect(false, PORT, SOON_MS), -ECONNREFUSED);
}

/* Of many complaints the first is told, and none is taken for success. */
static void tells_of_what_nft_refuses(void **state)
{
    (void)state;
    struct err err;
    struct socket_address places[300];
    for (size_t i = 0; i < 300; i++)
        places[i] = place_at(false, (uint16_t)(10000 + i));
    struct fence fence = start();
    snprintf(fence.name, sizeof(fence.name), "freezepoint-none");
    assert_int_equal(fence_close_off(&fence, places, 300, &err), -EOPNOTSUPP);
    assert_int_equal(err.kind, ERR_LACK);
    assert_non_null(strstr(err.text, "No such file"));
    fence_end(&fence);
}

static void takes_many_places(void **state)
{
    (void)state;
    struct err err;
    struct socket_address places[2000];
    for (size_t i = 0; i < 2000; i++)
        places[i] = place_at(i % 2, (uint16_t)(10000 + i));
    struct fence fence = start();
    if (fence_refuse_new(&fence, places, 2000, &err) || fence_close_off(&fence, places, 2000, &err))
        fail_msg("%s", err.text);
    assert_int_equal(try_connect(true, 11999, QUIET_MS), -ETIMEDOUT);
    assert_int_equal(fence_open(&fence, &err), 0);
    assert_int_equal(try_connect(true, 11999, SOON_MS), -ECONNREFUSED);
    fence_end(&fence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_new_connections),
        cmocka_unit_test(refuses_at_any_address),
        cmocka_unit_test(drops_what_is_established),
        cmocka_unit_test(hides_an_address_as_a_whole),
        cmocka_unit_test(ends_with_its_end),
        cmocka_unit_test(ends_with_the_death_of_who_holds_it),
        cmocka_unit_test(outlives_its_child_as_long_as_it_is_held),
        cmocka_unit_test(two_do_not_disturb_each_other),
        cmocka_unit_test(tells_of_what_nft_refuses),
        cmocka_unit_test(takes_many_places),
    };
    signal(SIGPIPE, SIG_IGN);
    if (!make_network())
        return 0;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    end_network();
    return failed;
}
