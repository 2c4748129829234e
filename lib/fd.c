#include "lib/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

ssize_t fd_read_all(int fd, void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, (char *)buffer + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t fd_write_all(int fd, const void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(fd, (const char *)buffer + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int fd_copy(int from, int to)
{
    char bytes[16 * 1024];
    for (;;) {
        ssize_t n = fd_read_all(from, bytes, sizeof(bytes));
        if (n > 0)
            n = fd_write_all(to, bytes, (size_t)n);
        if (n <= 0)
            return (int)n;
    }
}

int fd_cloexec(int fd, int on)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0)
        return -errno;
    flags = on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
    return fcntl(fd, F_SETFD, flags) < 0 ? -errno : 0;
}

union control_buffer {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

ssize_t fd_send(int socket, const void *message, size_t size, int pass)
{
    union control_buffer control = {0};
    struct iovec part = {.iov_base = (void *)message, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (pass >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *beside = CMSG_FIRSTHDR(&header);
        beside->cmsg_level = SOL_SOCKET;
        beside->cmsg_type = SCM_RIGHTS;
        beside->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(beside), &pass, sizeof(int));
    }
    for (;;) {
        ssize_t n = sendmsg(socket, &header, MSG_NOSIGNAL);
        if (n >= 0 || errno != EINTR)
            return n < 0 ? -errno : n;
    }
}

ssize_t fd_receive(int socket, void *message, size_t size, int *passed)
{
    union control_buffer control = {0};
    struct iovec part = {.iov_base = message, .iov_len = size};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            /* Without the padding, in which the kernel finds room for a
                             * second one (net/core/scm.c, scm_max_fds()). */
                            .msg_controllen = CMSG_LEN(sizeof(int))};
    *passed = -1;
    ssize_t n;
    do
        n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *beside = CMSG_FIRSTHDR(&header); beside;
         beside = CMSG_NXTHDR(&header, beside))
        if (beside->cmsg_level == SOL_SOCKET && beside->cmsg_type == SCM_RIGHTS &&
            beside->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(passed, CMSG_DATA(beside), sizeof(int));
    return n;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int fd_wait(int fd, short events, int timeout_ms)
{
    if (timeout_ms < 0)
        return -EINVAL;
    long long deadline = now_ms() + timeout_ms;
    for (;;) {
        struct pollfd wanted = {.fd = fd, .events = events};
        long long left = deadline - now_ms();
        int n = poll(&wanted, 1, left > 0 ? (int)left : 0);
        if (n > 0)
            return wanted.revents;
        if (n == 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}
