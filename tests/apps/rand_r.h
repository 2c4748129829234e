/* What one call of rand_r() does, to tell it from none and from two. */
#ifndef FREEZEPOINT_TESTS_RAND_R_H
#define FREEZEPOINT_TESTS_RAND_R_H

#include <stdbool.h>
#include <stdlib.h>

/* glibc, stdlib/rand_r.c. */
static inline int model_rand_r(unsigned int *seed)
{
    static const unsigned int modulus[] = {2048, 1024, 1024};
    unsigned int next = *seed, result = 0;
    for (size_t i = 0; i < 3; i++) {
        next = next * 1103515245U + 12345U;
        result = result << 10 ^ next / 65536 % modulus[i];
    }
    *seed = next;
    return (int)result;
}

/* Calls rand_r(); whether it was executed, once. */
static inline bool draws_right(unsigned int *seed)
{
    unsigned int model = *seed;
    int expected = model_rand_r(&model);
    return rand_r(seed) == expected && *seed == model;
}

#endif
