/* THREADS CALLS: as many threads as that, each of which calls rand_r() that many
 * times; says at the end whether each call was executed once. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/apps/rand_r.h"

static long calls_each;
static atomic_long total, wrong;

static void *work(void *context)
{
    unsigned int seed = (unsigned int)(size_t)context;
    for (long i = 0; i < calls_each; i++) {
        bool right = draws_right(&seed);
        atomic_fetch_add(&total, 1);
        if (!right)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 8;
    calls_each = argc > 2 ? atol(argv[2]) : 1000000;
    pthread_t *threads = calloc((size_t)count, sizeof(*threads));
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, work, (void *)(size_t)(i + 1));
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    printf("calls %ld, %s\n", (long)total, wrong ? "some WRONG" : "each seen once");
    return wrong ? 1 : 0;
}
