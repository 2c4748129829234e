/*
 * A decoder of outside bytes, tried with bytes that are nearly right.
 *
 * Each fuzz_NAME.c is one program: a target as libFuzzer knows it, and seeds.
 * mutate.c drives it, the same way each time; `clang -fsanitize=fuzzer` does too.
 */
#ifndef FREEZEPOINT_TESTS_FUZZ_H
#define FREEZEPOINT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Must come back, whatever it is given. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* The index-th good input, from 0; the caller's, from malloc().  NULL: no more. */
uint8_t *fuzz_seed(size_t index, size_t *size);

#endif
