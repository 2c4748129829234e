/*
 * THREADS CALLS [NAP]: as many threads as that, each of which calls its internal function
 * work_step() that many times, every time after NAP microseconds.  Linked statically: no
 * preload library reaches it.
 *
 * What the threads have made is checked at the end: each step's result depends on the
 * one before, in memory and in a register.  Prints "steps N, right", and ends with 0, or
 * "WRONG" and 1.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long calls_each, nap_us;
static atomic_long total, wrong;

struct state {
    uint64_t seed, memory;
};

static __attribute__((noipa)) uint64_t work_step(struct state *state, uint64_t in_register)
{
    state->memory = (state->memory ^ in_register) * 0x9e3779b97f4a7c15ULL + 1;
    return (in_register << 7 | in_register >> 57) + state->memory;
}

static uint64_t expected(uint64_t seed)
{
    uint64_t memory = seed, in_register = ~seed;
    for (long i = 0; i < calls_each; i++) {
        memory = (memory ^ in_register) * 0x9e3779b97f4a7c15ULL + 1;
        in_register = (in_register << 7 | in_register >> 57) + memory;
    }
    return memory ^ in_register;
}

static void *work(void *context)
{
    struct state state = {.seed = (uint64_t)(size_t)context, .memory = (uint64_t)(size_t)context};
    uint64_t in_register = ~state.seed;
    for (long i = 0; i < calls_each; i++) {
        in_register = work_step(&state, in_register);
        atomic_fetch_add(&total, 1);
        if (nap_us)
            nanosleep(&(struct timespec){.tv_nsec = nap_us * 1000}, NULL);
    }
    if ((state.memory ^ in_register) != expected(state.seed))
        atomic_fetch_add(&wrong, 1);
    return NULL;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 4;
    calls_each = argc > 2 ? atol(argv[2]) : 100000;
    nap_us = argc > 3 ? atol(argv[3]) : 0;
    pthread_t *threads = calloc((size_t)count, sizeof(*threads));
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, work, (void *)(size_t)(i + 1));
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    printf("steps %ld, %s\n", (long)total, wrong ? "WRONG" : "right");
    return wrong ? 1 : 0;
}
