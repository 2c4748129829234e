/* manifest.pb: once as it is, which its sum refuses, and once with the sum put right,
 * so that what is behind it is tried. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/image_manifest.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/image_sample.h"

#define HEADER_SIZE 32
#define SUM_OFFSET  24

static void decode(const uint8_t *bytes, size_t size)
{
    struct err err;
    Freezepoint__Manifest *manifest = NULL;
    if (manifest_decode(bytes, size, &manifest, &err))
        return;
    /* What was accepted can be written again. */
    uint8_t *again = NULL;
    size_t again_size;
    if (manifest_encode(manifest, &again, &again_size, &err))
        abort();
    free(again);
    freezepoint__manifest__free_unpacked(manifest, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decode(bytes, size);
    if (size < HEADER_SIZE)
        return 0;
    uint8_t *right = malloc(size);
    memcpy(right, bytes, size);
    uint64_t length = size - HEADER_SIZE;
    memcpy(right + 16, &length, sizeof(length));
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, right, SUM_OFFSET);
    XXH3_64bits_update(state, right + HEADER_SIZE, size - HEADER_SIZE);
    uint64_t sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    memcpy(right + SUM_OFFSET, &sum, sizeof(sum));
    decode(right, size);
    free(right);
    return 0;
}

static Freezepoint__File *new_file(const char *path)
{
    Freezepoint__File *file = SAMPLE_NEW(Freezepoint__File, freezepoint__file__init);
    file->path = sample_bytes(path);
    file->size = 5000;
    return file;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index)
        return NULL;
    Freezepoint__Manifest *manifest = sample_manifest("seed");
    manifest->format = IMAGE_FORMAT;
    manifest->generation = 1;
    manifest->n_files = 2;
    manifest->files = calloc(2, sizeof(*manifest->files));
    manifest->files[0] = new_file("criu/pages-1.img");
    manifest->files[1] = new_file(IMAGE_PRELOAD);
    uint8_t *bytes = NULL;
    struct err err;
    if (manifest_encode(manifest, &bytes, size, &err)) {
        fprintf(stderr, "seed: %s\n", err.text);
        abort();
    }
    freezepoint__manifest__free_unpacked(manifest, NULL);
    return bytes;
}
