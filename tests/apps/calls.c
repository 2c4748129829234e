/*
 * calls THREADS COUNT RATE: each thread calls read() COUNT times, all together RATE times
 * a second; then it says how often, and waits.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long count, step_ns;
static int zero;

static void *call(void *made)
{
    struct timespec next, now;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (long i = 0; i < count; i++) {
        char byte;
        *(long *)made += read(zero, &byte, 1) == 1;
        next.tv_nsec += step_ns;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        do
            clock_gettime(CLOCK_MONOTONIC, &now);
        while (now.tv_sec < next.tv_sec ||
               (now.tv_sec == next.tv_sec && now.tv_nsec < next.tv_nsec));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int threads = atoi(argv[1]);
    pthread_t ids[64];
    static long made[64];
    if (threads < 1 || threads > 64 || atol(argv[3]) < 1)
        return 2;
    count = atol(argv[2]);
    step_ns = 1000000000L / atol(argv[3]) * threads;
    zero = open("/dev/zero", O_RDONLY);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    long all = 0;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, call, &made[i]))
            return 1;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        all += made[i];
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    printf("made %ld calls, %.0f a second\n", all, (double)all / seconds);
    fflush(stdout);
    pause();
}
