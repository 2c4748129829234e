/*
 * FUNCTION COUNT [interval|posix] [restart] [nested]: a timer of 10 ms interrupts all
 * that this program does.
 *
 * It calls FUNCTION until it has returned COUNT times, and checks each return:
 *   rand_r           seed and result are those of one execution
 *   poll, nanosleep  35 ms long, so that a tick comes first: EINTR where one came, else
 *                    not early
 *   read             of bytes that a child sends one by one, every 35 ms: EINTR where a
 *                    tick came and there is no SA_RESTART, else the next byte
 * COUNT is of bytes for read.  `interval` is setitimer(), `posix` timer_create() with
 * SIGRTMIN; `restart` is SA_RESTART; with `nested` the handler calls rand_r(), too.
 *
 * It says "at N" after every thousandth return, or every one of the slow functions, and
 * in the end "COUNT calls, I interrupted, W wrong, N nested" if there were any ticks.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/apps/rand_r.h"

enum { TICK_MS = 10, CALL_MS = 35, CALLS_A_MS = 100, REPORT_EVERY = 1000 };

static volatile sig_atomic_t ticks, nested_calls, nested_wrong;
static bool restart, posix, nested;
static long interrupted, wrong;

static void tick(int number)
{
    static unsigned int seed = 1000;
    int saved = errno;
    (void)number;
    ticks++;
    if (nested) {
        nested_calls++;
        nested_wrong += !draws_right(&seed);
    }
    errno = saved;
}

static void start_timer(void)
{
    struct sigaction action = {.sa_handler = tick, .sa_flags = restart ? SA_RESTART : 0};
    sigaction(posix ? SIGRTMIN : SIGALRM, &action, NULL);
    struct itimerval every = {.it_interval.tv_usec = TICK_MS * 1000,
                              .it_value.tv_usec = TICK_MS * 1000};
    struct itimerspec posix_every = {.it_interval.tv_nsec = TICK_MS * 1000000L,
                                     .it_value.tv_nsec = TICK_MS * 1000000L};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    if (posix ? timer_create(CLOCK_MONOTONIC, &event, &timer) ||
                    timer_settime(timer, 0, &posix_every, NULL)
              : setitimer(ITIMER_REAL, &every, NULL)) {
        perror("timer");
        exit(1);
    }
}

static long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void say(const char *line)
{
    for (size_t length = strlen(line); length;) {
        ssize_t n = write(STDOUT_FILENO, line, length);
        if (n < 0 && errno != EINTR)
            exit(1);
        if (n > 0) {
            line += n;
            length -= (size_t)n;
        }
    }
}

static void report(long count)
{
    char line[32];
    snprintf(line, sizeof(line), "at %ld\n", count);
    say(line);
}

static void draw(long count)
{
    unsigned int seed = 7;
    for (long i = 1; i <= count; i++) {
        wrong += !draws_right(&seed);
        if (i % CALLS_A_MS == 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        if (i % REPORT_EVERY == 0)
            report(i);
    }
}

/* What a call of CALL_MS may return that began at that time and that tick. */
static void judge_wait(int result, long began_us, int before)
{
    if (result < 0) {
        interrupted++;
        wrong += errno != EINTR || ticks == before;
    } else {
        wrong += result != 0 || now_us() - began_us < CALL_MS * 1000L;
    }
}

static void wait_by(const char *function, long count)
{
    bool polls = !strcmp(function, "poll");
    for (long i = 1; i <= count; i++) {
        struct timespec whole = {.tv_nsec = CALL_MS * 1000000L}, rest = {0};
        int before = ticks;
        long began_us = now_us();
        judge_wait(polls ? poll(NULL, 0, CALL_MS) : nanosleep(&whole, &rest), began_us, before);
        wrong += rest.tv_sec || rest.tv_nsec > whole.tv_nsec;
        report(i);
    }
}

/* Bytes 1, 2, 3 ..., by a clock that no interruption moves. */
static _Noreturn void send_bytes(int to)
{
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (char byte = 1;; byte++) {
        next.tv_nsec += CALL_MS * 1000000L;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
            ;
        if (write(to, &byte, 1) != 1)
            _exit(0);
    }
}

static void read_bytes(int from, long count)
{
    for (char expected = 1; count > 0;) {
        char byte = 0;
        int before = ticks;
        ssize_t n = read(from, &byte, 1);
        if (n < 0) {
            interrupted++;
            wrong += errno != EINTR || ticks == before || restart;
            continue;
        }
        wrong += n != 1 || byte != expected;
        report(expected++);
        count--;
    }
}

int main(int argc, char **argv)
{
    const char *function = argc > 2 ? argv[1] : "rand_r";
    long count = argc > 2 ? atol(argv[2]) : 20000;
    for (int i = 3; i < argc; i++) {
        restart |= !strcmp(argv[i], "restart");
        posix |= !strcmp(argv[i], "posix");
        nested |= !strcmp(argv[i], "nested");
    }
    int bytes[2] = {-1, -1};
    if (!strcmp(function, "read")) {
        if (pipe(bytes) < 0)
            return 1;
        if (fork() == 0) {
            close(bytes[0]);
            send_bytes(bytes[1]);
        }
        close(bytes[1]);
    }
    start_timer();
    if (!strcmp(function, "rand_r"))
        draw(count);
    else if (!strcmp(function, "read"))
        read_bytes(bytes[0], count);
    else
        wait_by(function, count);
    char line[128];
    snprintf(line, sizeof(line), "%ld calls, %ld interrupted, %ld wrong, %d nested\n", count,
             interrupted, wrong + nested_wrong, nested_calls);
    say(ticks ? line : "no ticks\n");
    return ticks && !wrong && !nested_wrong ? 0 : 1;
}
