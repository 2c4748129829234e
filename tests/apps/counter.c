/*
 * PORT [THREADS [PROCESSES]]: counts for whoever connects, for as long as there is no file
 * `stop` in its directory, and then ends with status 7.
 *
 * Each connection has a count of its own: for every 8 bytes that come it goes up by one
 * and is sent back, 8 bytes in the machine's order.  Beside that the program appends
 * "tick N" to the file `progress` every 10 ms, so that two copies of it, or one that
 * runs some of it again, show there.  It writes to no other stream.
 *
 * Further threads count as well, and further processes append "tick N" to `progress.1`
 * and so on; where one stands still for seconds the program ends with status 3.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/apps/beats.h"

enum { CLIENTS_MAX = 64, STILL_TICKS = 1000, TICK_MS = 10 };

struct client {
    uint64_t count;
    char got[8];
    size_t length;
};

static struct pollfd watched[CLIENTS_MAX + 1];
static struct client clients[CLIENTS_MAX + 1];
static int watched_count = 1;

static int listen_on(int port)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 64) < 0)
        return -1;
    return fd;
}

static void let_in(void)
{
    int one = 1, fd = accept4(watched[0].fd, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (watched_count == CLIENTS_MAX + 1) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    watched[watched_count] = (struct pollfd){.fd = fd, .events = POLLIN};
    clients[watched_count++] = (struct client){.count = 0};
}

/* The last one takes its place. */
static void let_go(int which)
{
    close(watched[which].fd);
    watched[which] = watched[--watched_count];
    clients[which] = clients[watched_count];
}

static void serve(int which)
{
    struct client *client = &clients[which];
    ssize_t n =
        read(watched[which].fd, client->got + client->length, sizeof(client->got) - client->length);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        let_go(which);
        return;
    }
    client->length += (size_t)n;
    if (client->length < sizeof(client->got))
        return;
    client->length = 0;
    client->count++;
    if (write(watched[which].fd, &client->count, sizeof(client->count)) != sizeof(client->count))
        let_go(which);
}

static void serve_all(int timeout_ms)
{
    if (poll(watched, (nfds_t)watched_count, timeout_ms) <= 0)
        return;
    for (int i = watched_count - 1; i > 0; i--)
        if (watched[i].revents)
            serve(i);
    if (watched[0].revents)
        let_in();
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int open_progress(int number)
{
    char name[32] = "progress";
    if (number)
        snprintf(name, sizeof(name), "progress.%d", number);
    return open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
}

static int tick(int progress)
{
    static unsigned long number;
    char line[32];
    int length = snprintf(line, sizeof(line), "tick %lu\n", ++number);
    return write(progress, line, (size_t)length) == length;
}

static int be_beside(int number)
{
    int progress = open_progress(number);
    while (getppid() != 1 && access("stop", F_OK) < 0) {
        if (!tick(progress))
            return 3;
        nanosleep(&(struct timespec){.tv_nsec = TICK_MS * 1000 * 1000}, NULL);
    }
    return 0;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 0, processes = argc > 3 ? atoi(argv[3]) : 0;
    for (int i = 1; i <= processes; i++)
        if (fork() == 0)
            return be_beside(i);
    int progress = open_progress(0);
    watched[0] = (struct pollfd){.fd = argc > 1 ? listen_on(atoi(argv[1])) : -1, .events = POLLIN};
    if (progress < 0 || watched[0].fd < 0 || threads > BEATS_MAX) {
        perror("counter: cannot begin");
        return 3;
    }
    if (beats_start(threads))
        return 3;
    for (int64_t next = now_ms();;) {
        int64_t now = now_ms();
        if (now >= next) {
            if (access("stop", F_OK) == 0)
                break;
            if (!tick(progress) || !beats_go_on(threads, STILL_TICKS))
                return 3;
            next = now + TICK_MS;
        }
        serve_all((int)(next - now));
    }
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 7;
}
