/*
 * Threads that do nothing but go on, and whether they do.
 */
#ifndef BEATS_H
#define BEATS_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { BEATS_MAX = 16 };

static atomic_ulong beats[BEATS_MAX];
static unsigned long beats_seen[BEATS_MAX];
static int beats_still[BEATS_MAX];

static void *beat(void *context)
{
    for (;;) {
        atomic_fetch_add((atomic_ulong *)context, 1);
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    }
    return NULL;
}

/* 0, or that of pthread_create(). */
static int beats_start(int count)
{
    int error = 0;
    for (int i = 0; i < count && !error; i++) {
        pthread_t thread;
        error = pthread_create(&thread, NULL, beat, &beats[i]);
    }
    return error;
}

/* False where one has not gone on since so many calls. */
static int beats_go_on(int count, int calls)
{
    for (int i = 0; i < count; i++) {
        unsigned long now = atomic_load(&beats[i]);
        beats_still[i] = now == beats_seen[i] ? beats_still[i] + 1 : 0;
        beats_seen[i] = now;
        if (beats_still[i] >= calls)
            return 0;
    }
    return 1;
}

#endif
