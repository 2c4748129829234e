/* PORT: answers every connection on loopback with one line of HTTP, while another
 * thread stamps the monotonic clock every 50 us.  Where two stamps are more than
 * 1 ms apart it prints "gap START_NS LENGTH_NS": what a stop of the whole program
 * looks like from inside. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_EVERY_NS 50000
#define GAP_NS         1000000

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void *beat(void *context)
{
    const struct timespec pause = {.tv_nsec = STAMP_EVERY_NS};
    uint64_t last = monotonic_ns();
    for (;;) {
        nanosleep(&pause, NULL);
        uint64_t now = monotonic_ns();
        if (now - last > GAP_NS) {
            printf("gap %" PRIu64 " %" PRIu64 "\n", last, now - last);
            fflush(stdout);
        }
        last = now;
    }
    return context;
}

static int listen_on(uint16_t port)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 64) < 0) {
        perror("listen");
        exit(1);
    }
    return listener;
}

static void answer(int connection)
{
    static const char text[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nalive\n";
    char request[1024];
    if (read(connection, request, sizeof(request)) > 0 && write(connection, text, strlen(text)) < 0)
        perror("write");
    close(connection);
}

int main(int argc, char **argv)
{
    int listener = listen_on(argc > 1 ? (uint16_t)atoi(argv[1]) : 8080);
    pthread_t thread;
    pthread_create(&thread, NULL, beat, NULL);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection >= 0)
            answer(connection);
    }
}
