/* What /proc tells of sockets of every kind. */
#include "lib/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/netns.h"

static struct open_sockets find(void)
{
    struct open_sockets found = OPEN_SOCKETS_NONE;
    struct err err;
    pid_t own = getpid();
    if (sockets_find(&own, 1, &found, &err))
        fail_msg("%s", err.text);
    return found;
}

static struct sockaddr_in6 address_of(int fd)
{
    struct sockaddr_in6 address = {0};
    socklen_t size = sizeof(address);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    return address;
}

/* sin_port and sin6_port have the same place. */
static uint16_t port_of(int fd)
{
    return ntohs(address_of(fd).sin6_port);
}

static int open_at(const char *host, int type)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    bool six = strchr(host, ':') != NULL;
    inet_pton(six ? AF_INET6 : AF_INET, host, six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    int fd = socket(six ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
                          six ? sizeof(v6) : sizeof(v4)),
                     0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static int connect_v4(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static const struct open_socket *at(const struct open_sockets *found, const char *text,
                                    uint16_t port, enum socket_kind kind)
{
    for (size_t i = 0; i < found->count; i++) {
        char shown[SOCKET_ADDRESS_TEXT];
        struct socket_address host = found->list[i].local;
        host.port = 0;
        socket_address_text(&host, shown);
        if (found->list[i].kind == kind && found->list[i].local.port == port &&
            !strcmp(shown, text))
            return &found->list[i];
    }
    fail_msg("there is none at %s port %u", text, port);
    return NULL;
}

static void finds_each_kind(void **state)
{
    (void)state;
    static const char *const hosts[] = {"0.0.0.0", "127.0.0.1", "::", "::1"};
    int fds[8];
    for (size_t i = 0; i < 4; i++) {
        fds[i] = open_at(hosts[i], SOCK_STREAM);
        fds[i + 4] = open_at(hosts[i], SOCK_DGRAM);
    }
    struct open_sockets found = find();
    assert_int_equal(found.count, 8);
    for (size_t i = 0; i < 4; i++) {
        const struct open_socket *listening =
            at(&found, hosts[i], port_of(fds[i]), SOCKET_LISTENING);
        assert_int_equal(listening->waiting, 0);
        assert_int_equal(socket_address_is_any(&listening->local), i % 2 == 0);
        at(&found, hosts[i], port_of(fds[i + 4]), SOCKET_DATAGRAM);
    }
    sockets_free(&found);
    for (size_t i = 0; i < 8; i++)
        close(fds[i]);
    found = find();
    assert_int_equal(found.count, 0);
}

static void counts_connections_that_wait(void **state)
{
    (void)state;
    int listening = open_at("::", SOCK_STREAM);
    uint16_t port = port_of(listening);
    int first = connect_v4(port), second = connect_v4(port);
    struct open_sockets found = find();
    assert_int_equal(at(&found, "::", port, SOCKET_LISTENING)->waiting, 2);
    const struct open_socket *ours = at(&found, "127.0.0.1", port_of(first), SOCKET_CONNECTED);
    assert_int_equal(ours->remote.port, port);
    sockets_free(&found);
    /* Accepted, its end is one of IPv6 that holds an address of IPv4. */
    int accepted = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    struct sockaddr_in6 own = address_of(accepted);
    assert_true(IN6_IS_ADDR_V4MAPPED(&own.sin6_addr));
    found = find();
    assert_int_equal(at(&found, "::", port, SOCKET_LISTENING)->waiting, 1);
    const struct open_socket *its = at(&found, "127.0.0.1", port, SOCKET_CONNECTED);
    assert_int_equal(its->local.family, AF_INET);
    assert_int_equal(its->remote.port, port_of(first));
    assert_int_equal(found.count, 4);
    sockets_free(&found);
    close(accepted);
    close(first);
    close(second);
    close(listening);
}

/* Those that are being opened: the kernel's answer to the first packet is lost. */
static void counts_connections_that_are_half_open(void **state)
{
    (void)state;
    if (system("nft 'table inet lossy { chain out { type filter hook output priority 0; "
               "tcp flags & (syn | ack) == (syn | ack) drop; }; }'") != 0)
        skip();
    int listening = open_at("127.0.0.1", SOCK_STREAM);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port_of(listening))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), -1);
    assert_int_equal(errno, EINPROGRESS);
    struct open_sockets found = find();
    assert_int_equal(at(&found, "127.0.0.1", port_of(listening), SOCKET_LISTENING)->waiting, 1);
    sockets_free(&found);
    close(fd);
    close(listening);
    assert_int_equal(system("nft delete table inet lossy"), 0);
}

static void finds_no_others(void **state)
{
    (void)state;
    struct err err;
    int listening = open_at("127.0.0.1", SOCK_STREAM);
    struct open_sockets found = OPEN_SOCKETS_NONE;
    pid_t other = getppid();
    assert_int_equal(sockets_find(&other, 1, &found, &err), 0);
    for (size_t i = 0; i < found.count; i++)
        assert_int_not_equal(found.list[i].local.port, port_of(listening));
    sockets_free(&found);
    assert_int_equal(sockets_find(NULL, 0, &found, &err), 0);
    assert_int_equal(found.count, 0);
    close(listening);
}

static void addresses_survive_a_message(void **state)
{
    (void)state;
    static const char *const hosts[] = {"10.0.0.1", "fd00::1"};
    for (size_t i = 0; i < 2; i++) {
        struct socket_address address = {.family = i ? AF_INET6 : AF_INET, .port = 54321}, back;
        uint8_t bytes[SOCKET_ADDRESS_PACKED];
        char text[SOCKET_ADDRESS_TEXT];
        inet_pton(address.family, hosts[i], &address.v6);
        size_t size = socket_address_pack(&address, bytes);
        assert_int_equal(size, i ? 18 : 6);
        assert_true(socket_address_unpack(bytes, size, &back));
        assert_true(socket_address_equals(&address, &back));
        socket_address_text(&back, text);
        assert_string_equal(text, i ? "[fd00::1]:54321" : "10.0.0.1:54321");
        assert_false(socket_address_unpack(bytes, size - 1, &back));
        assert_false(socket_address_unpack(bytes, 0, &back));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_each_kind),
        cmocka_unit_test(counts_connections_that_wait),
        cmocka_unit_test(counts_connections_that_are_half_open),
        cmocka_unit_test(finds_no_others),
        cmocka_unit_test(addresses_survive_a_message),
    };
    if (!netns_enter())
        return 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
