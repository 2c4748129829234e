/* A job's status: once as it is, which its sum refuses, and once with length and sum put
 * right, so that what is behind them is tried. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/job_status.h"
#include "tests/fuzz/fuzz.h"

#define HEADER_SIZE 24

static void decode(const uint8_t *bytes, size_t size)
{
    struct err err;
    Freezepoint__JobStatus *status = NULL;
    if (job_status_decode(bytes, size, &status, &err))
        return;
    /* What was accepted can be written again: packed it is no longer than it came. */
    uint8_t *again = NULL;
    size_t again_size;
    if (job_status_encode(status, &again, &again_size, &err))
        abort();
    free(again);
    freezepoint__job_status__free_unpacked(status, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decode(bytes, size);
    if (size < HEADER_SIZE)
        return 0;
    uint8_t *right = malloc(size);
    memcpy(right, bytes, size);
    uint32_t format, length = (uint32_t)(size - HEADER_SIZE);
    memcpy(&format, right + 8, sizeof(format));
    memcpy(right + 12, &length, sizeof(length));
    uint64_t sum = XXH3_64bits_withSeed(right + HEADER_SIZE, length, format);
    memcpy(right + 16, &sum, sizeof(sum));
    decode(right, size);
    free(right);
    return 0;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index)
        return NULL;
    ProtobufCBinaryData argv[] = {{.len = 6, .data = (uint8_t *)"server"},
                                  {.len = 2, .data = (uint8_t *)"-x"}};
    Freezepoint__JobStatus status = FREEZEPOINT__JOB_STATUS__INIT;
    status.supervisor_pid = 77;
    status.supervisor_start = 123456;
    status.supervised = true;
    status.root_pid = 78;
    status.argv = argv;
    status.n_argv = 2;
    status.image_name = (char *)"server";
    status.restored_from = (char *)"server@4";
    status.generation = 5;
    status.hits = 9;
    status.last_pause_ns = 10800000;
    uint8_t *bytes = NULL;
    struct err err;
    if (job_status_encode(&status, &bytes, size, &err)) {
        fprintf(stderr, "seed: %s\n", err.text);
        abort();
    }
    return bytes;
}
