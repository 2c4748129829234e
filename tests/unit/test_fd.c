/* What is passed over a socket. */
#include "lib/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

static size_t count_descriptors(void)
{
    size_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void send_descriptors(int socket, size_t count)
{
    union {
        char bytes[CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {.iov_base = "x", .iov_len = 1};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *beside = CMSG_FIRSTHDR(&header);
    beside->cmsg_level = SOL_SOCKET;
    beside->cmsg_type = SCM_RIGHTS;
    beside->cmsg_len = CMSG_LEN(count * sizeof(int));
    int numbers[3] = {socket, socket, socket};
    memcpy(CMSG_DATA(beside), numbers, count * sizeof(int));
    assert_int_equal(sendmsg(socket, &header, 0), 1);
}

static void test_more_descriptors_than_asked_for(void **state)
{
    (void)state;
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    size_t before = count_descriptors();
    for (size_t count = 1; count <= 3; count++) {
        char byte;
        int passed;
        send_descriptors(sockets[0], count);
        assert_int_equal(fd_receive(sockets[1], &byte, 1, &passed), 1);
        assert_true(passed >= 0);
        assert_true(fcntl(passed, F_GETFD) & FD_CLOEXEC);
        fd_close(&passed);
        assert_int_equal(count_descriptors(), before);
    }
    close(sockets[0]);
    close(sockets[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_more_descriptors_than_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
