/*
 * MEGABYTES THREADS [quiet]: does a little of everything, for as long as there is no
 * file `stop` in its directory, and then ends with status 7.
 *
 * Every 10 ms it calls rand_r(), checks a piece of its memory, and appends
 * "tick N WORST" to the file `progress` and, unless quiet, to its output: WORST is the
 * longest that a rand_r() took since the last line, in microseconds.  Where memory
 * is not what it was, or a thread stands still for seconds, it ends with status 3.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/apps/beats.h"

enum { PIECE = 64 * 1024, STILL_TICKS = 500 };

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void nap(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static uint64_t pattern(size_t index)
{
    return index * 0x9e3779b97f4a7c15ULL + 1;
}

static int piece_is_whole(const uint64_t *memory, size_t words, unsigned long tick)
{
    size_t piece = PIECE / sizeof(*memory), start = tick * piece % (words - piece + 1);
    for (size_t i = start; i < start + piece; i++)
        if (memory[i] != pattern(i))
            return 0;
    return 1;
}

static int fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 3;
}

int main(int argc, char **argv)
{
    size_t words = (size_t)(argc > 1 ? atoi(argv[1]) : 1) * 1024 * 1024 / sizeof(uint64_t);
    int count = argc > 2 ? atoi(argv[2]) : 0, quiet = argc > 3;
    int progress = open("progress", O_WRONLY | O_CREAT | O_APPEND, 0644);
    uint64_t *memory = malloc(words * sizeof(*memory));
    if (progress < 0 || !memory || count > BEATS_MAX)
        return fail("cannot begin");
    for (size_t i = 0; i < words; i++)
        memory[i] = pattern(i);
    if (beats_start(count))
        return fail("no thread");
    unsigned int seed = 1;
    for (unsigned long tick = 1; access("stop", F_OK) < 0; tick++) {
        char line[64];
        uint64_t start = now_us();
        rand_r(&seed);
        int length =
            snprintf(line, sizeof(line), "tick %lu %lu\n", tick, (unsigned long)(now_us() - start));
        if (write(progress, line, (size_t)length) != length)
            return fail("cannot write");
        if (!quiet && write(STDOUT_FILENO, line, (size_t)length) != length)
            return fail("cannot write to standard output");
        if (!piece_is_whole(memory, words, tick))
            return fail("memory is not what it was");
        if (!beats_go_on(count, STILL_TICKS))
            return fail("a thread stands still");
        nap(10);
    }
    return 7;
}
