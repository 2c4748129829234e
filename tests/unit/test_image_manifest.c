/* The manifest's decoder against every kind of damage to a real one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <xxhash.h>

#include "lib/image_manifest.h"
#include "tests/unit/image_sample.h"

#define HEADER_SIZE 32

struct sample {
    Freezepoint__Manifest *manifest;
    uint8_t *bytes;
    size_t size;
};

static void add_file(Freezepoint__Manifest *manifest, const char *path)
{
    manifest->files =
        reallocarray(manifest->files, manifest->n_files + 1, sizeof(*manifest->files));
    Freezepoint__File *file = SAMPLE_NEW(Freezepoint__File, freezepoint__file__init);
    file->path = sample_bytes(path);
    manifest->files[manifest->n_files++] = file;
}

static int setup(void **state)
{
    struct sample *sample = calloc(1, sizeof(*sample));
    sample->manifest = sample_manifest("server");
    sample->manifest->format = IMAGE_FORMAT;
    sample->manifest->generation = 3;
    add_file(sample->manifest, "criu/core-77.img");
    add_file(sample->manifest, IMAGE_PRELOAD);
    struct err err;
    *state = sample;
    return manifest_encode(sample->manifest, &sample->bytes, &sample->size, &err);
}

static int teardown(void **state)
{
    struct sample *sample = *state;
    freezepoint__manifest__free_unpacked(sample->manifest, NULL);
    free(sample->bytes);
    free(sample);
    return 0;
}

/* In memory of its own, so that reading beyond the end is seen. */
static int decode(const uint8_t *bytes, size_t size, struct err *err)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    Freezepoint__Manifest *manifest = NULL;
    int error = manifest_decode(copy, size, &manifest, err);
    free(copy);
    assert_true((error == 0) == (manifest != NULL));
    if (manifest)
        freezepoint__manifest__free_unpacked(manifest, NULL);
    return error;
}

/* Makes header and checksum right again, as somebody who means harm would. */
static void seal(uint8_t *bytes, size_t size)
{
    uint64_t length = size - HEADER_SIZE;
    memcpy(bytes + 16, &length, sizeof(length));
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, bytes, 24);
    XXH3_64bits_update(state, bytes + HEADER_SIZE, length);
    uint64_t sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    memcpy(bytes + 24, &sum, sizeof(sum));
}

static void comes_back_equal(void **state)
{
    struct sample *sample = *state;
    struct err err;
    Freezepoint__Manifest *manifest;
    assert_int_equal(manifest_decode(sample->bytes, sample->size, &manifest, &err), 0);
    size_t size = freezepoint__manifest__get_packed_size(manifest);
    assert_int_equal(size, sample->size - HEADER_SIZE);
    uint8_t *packed = malloc(size);
    freezepoint__manifest__pack(manifest, packed);
    assert_memory_equal(packed, sample->bytes + HEADER_SIZE, size);
    free(packed);
    freezepoint__manifest__free_unpacked(manifest, NULL);
}

static void every_truncation_is_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    for (size_t size = 0; size < sample->size; size++)
        assert_int_equal(decode(sample->bytes, size, &err), -EBADMSG);
}

static void every_flipped_bit_is_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    for (size_t bit = 0; bit < sample->size * 8; bit++) {
        sample->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_int_equal(decode(sample->bytes, sample->size, &err), -EBADMSG);
        sample->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
}

static void sealed_truncations_do_no_harm(void **state)
{
    struct sample *sample = *state;
    struct err err;
    uint8_t *bytes = malloc(sample->size);
    for (size_t size = HEADER_SIZE; size < sample->size; size++) {
        memcpy(bytes, sample->bytes, sample->size);
        seal(bytes, size);
        int error = decode(bytes, size, &err);
        assert_true(error == 0 || error == -EBADMSG);
    }
    free(bytes);
}

static void sealed_changes_do_no_harm(void **state)
{
    static const uint8_t patterns[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x7f};
    struct sample *sample = *state;
    struct err err;
    uint8_t *bytes = malloc(sample->size);
    for (size_t offset = HEADER_SIZE; offset < sample->size; offset++)
        for (size_t i = 0; i < sizeof(patterns); i++) {
            memcpy(bytes, sample->bytes, sample->size);
            bytes[offset] ^= patterns[i];
            seal(bytes, sample->size);
            int error = decode(bytes, sample->size, &err);
            assert_true(error == 0 || error == -EBADMSG);
        }
    free(bytes);
}

static void newer_format_is_told_from_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    sample->bytes[8] = IMAGE_FORMAT + 1;
    seal(sample->bytes, sample->size);
    assert_int_equal(decode(sample->bytes, sample->size, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "made by a newer freezepoint (format 2, this one reads 1)"));
}

static void unpacking_is_bounded(void **state)
{
    (void)state;
    struct err err;
    size_t size = HEADER_SIZE + (8U << 20);
    uint8_t *bytes = calloc(1, size);
    struct sample *sample = *state;
    memcpy(bytes, sample->bytes, HEADER_SIZE);
    for (size_t i = HEADER_SIZE; i + 1 < size; i += 2)
        bytes[i] = 15 << 3 | 2; /* an empty Rule: 2 bytes that become a hundred */
    seal(bytes, size);
    assert_int_equal(decode(bytes, size, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "cannot be decoded"));
    free(bytes);
}

static void expect_refused(const Freezepoint__Manifest *manifest, const char *text)
{
    uint8_t *bytes = NULL;
    size_t size;
    struct err err;
    assert_int_equal(manifest_encode(manifest, &bytes, &size, &err), -EBADMSG);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    assert_null(bytes);
}

static void odd_paths_are_refused(void **state)
{
    static const char *const odd[] = {"/etc/passwd", "../x", "criu/../x", "criu//x", "criu/", "",
                                      "criu/./x",    ".",    "..",        "criu/.."};
    struct sample *sample = *state;
    ProtobufCBinaryData *path = &sample->manifest->files[0]->path;
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        free(path->data);
        *path = sample_bytes(odd[i]);
        expect_refused(sample->manifest, "odd path");
    }
    free(path->data);
    *path = sample_bytes("criu/x.img");
    path->data[4] = '\0';
    expect_refused(sample->manifest, "odd path");
    free(path->data);
    *path = sample_bytes("zzz");
    expect_refused(sample->manifest, "out of order");
    free(path->data);
    *path = sample_bytes(IMAGE_PRELOAD);
    expect_refused(sample->manifest, "out of order");
    free(path->data);
    *path = sample_bytes(IMAGE_MANIFEST);
    expect_refused(sample->manifest, "itself");
}

static void odd_fields_are_refused(void **state)
{
    Freezepoint__Manifest *manifest = ((struct sample *)*state)->manifest;
#define REFUSED_WITH(place, value, text)                                                           \
    do {                                                                                           \
        __typeof__(place) kept_ = (place);                                                         \
        (place) = (value);                                                                         \
        expect_refused(manifest, text);                                                            \
        (place) = kept_;                                                                           \
    } while (0)
    REFUSED_WITH(manifest->host, NULL, "lacks a part");
    REFUSED_WITH(manifest->point, NULL, "lacks a part");
    REFUSED_WITH(manifest->command, NULL, "lacks a part");
    REFUSED_WITH(manifest->preload, NULL, "lacks a part");
    REFUSED_WITH(manifest->timings, NULL, "lacks a part");
    REFUSED_WITH(manifest->command->n_argv, 0, "command");
    REFUSED_WITH(manifest->name, (char *)"a/b", "odd name");
    REFUSED_WITH(manifest->name, (char *)"", "odd name");
    REFUSED_WITH(manifest->generation, 0, "generation");
    REFUSED_WITH(manifest->root_pid, 0, "process number");
    REFUSED_WITH(manifest->root_pid, 76, "root process");
    REFUSED_WITH(manifest->max_pid, 76, "process number");
    REFUSED_WITH(manifest->max_pid, 0x80000000U, "process number");
    REFUSED_WITH(manifest->n_processes, 0, "root process");
    REFUSED_WITH(manifest->stdio[0]->fd, 3, "descriptor");
    REFUSED_WITH(manifest->stdio[0]->kind, 9, "stream");
    REFUSED_WITH(manifest->point->rule, 1, "odd point");
    REFUSED_WITH(manifest->tcp, 3, "TCP");
    REFUSED_WITH(manifest->preload->file.len, 3, "preload library's file");
    REFUSED_WITH(manifest->preload->path.len, 0, "preload library");
#undef REFUSED_WITH
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_equal, setup, teardown),
        cmocka_unit_test_setup_teardown(every_truncation_is_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(sealed_truncations_do_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(sealed_changes_do_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(newer_format_is_told_from_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(unpacking_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(odd_paths_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(odd_fields_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
