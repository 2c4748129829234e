/* An image that comes over a stream: taken whole, or refused with nothing left. */
#include "restore/receive.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "tests/unit/wire.h"
#include "tests/unit/place.h"

static size_t count_entries(const struct place *place)
{
    size_t count = 0;
    _cleanup_closedir_ DIR *dir = opendir(place->top);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    return count;
}

/* As the receiving side goes about it, up to the point where it would be restored. */
static int take(const struct place *place, struct stream *stream, struct received *received,
                struct image *image, struct err *err)
{
    struct moving moving = {.addresses = "10.0.0.5/24@eth0"};
    uint64_t size;
    uint32_t files;
    volatile bool cancel = false;
    int error = receive_begin(stream, received, &size, &files, err);
    if (!error)
        error = receive_check_places(received, &moving, err);
    if (!error)
        error = receive_image(stream, &place->store, "moved", size, files, received, err);
    if (!error)
        error = image_draft_open(&received->draft, "moved (migrated)", image, err);
    if (!error)
        error = image_verify_small(image, err);
    return error ? error : image_verify_pages(image, &cancel, err);
}

static int receive(void **state, struct wire *wire, struct err *err)
{
    const struct place *place = *state;
    struct stream stream;
    struct received received = RECEIVED_NONE;
    struct image image = IMAGE_NONE;
    _cleanup_close_ int in = memfd_create("stream", MFD_CLOEXEC);
    _cleanup_close_ int out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(fd_write_all(in, wire->bytes, wire->size), (ssize_t)wire->size);
    lseek(in, 0, SEEK_SET);
    assert_int_equal(stream_open(&stream, in, out, err), 0);
    int error = take(place, &stream, &received, &image, err);
    if (!error) {
        assert_string_equal(image.label, "moved (migrated)");
        assert_string_equal(image.manifest->name, "moved");
        assert_int_equal(received.place_count, 2);
        assert_int_equal(received.places[0].port, 80);
        assert_int_equal(received.tcp, 1);
    }
    image_close(&image);
    received_release(&received);
    stream_release(&stream);
    wire_close(wire);
    assert_int_equal(count_entries(place), 0);
    return error;
}

static void expect_refused(void **state, struct wire *wire, int error, const char *why)
{
    struct err err = {0};
    assert_int_equal(receive(state, wire, &err), error);
    if (!strstr(err.text, why))
        fail_msg("'%s' and not '%s'", err.text, why);
}

static struct wire begun(uint32_t files, uint64_t size)
{
    struct wire wire;
    wire_open(&wire);
    wire_begin(&wire, files, size);
    return wire;
}

static void takes_a_good_image(void **state)
{
    struct err err;
    struct wire wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    wire_manifest(&wire);
    if (receive(state, &wire, &err))
        fail_msg("%s", err.text);
}

static void refuses_odd_paths(void **state)
{
    static const char *const paths[] = {
        "",        "/etc/passwd",  "../x",   "criu/../../x", "criu/..", ".",
        "..",      "criu/",        "/",      "criu//x",      "a/b/c",   ".hidden",
        "criu/.x", IMAGE_MANIFEST, "a/../b", "./x"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct wire wire = begun(1, 0);
        wire_file(&wire, paths[i], 0);
        expect_refused(state, &wire, -EBADMSG, "odd path");
    }
    struct wire wire = begun(1, 0);
    wire_file_bytes(&wire, "criu/a\0b", 8, 0);
    expect_refused(state, &wire, -EBADMSG, "odd path");
    char long_path[NAME_MAX + 1];
    memset(long_path, 'x', NAME_MAX);
    long_path[NAME_MAX] = '\0';
    wire = begun(1, 0);
    wire_file(&wire, long_path, 0);
    expect_refused(state, &wire, -EBADMSG, "odd path");
}

static void refuses_a_file_twice(void **state)
{
    struct wire wire = begun(3, 18);
    wire_two_files(&wire);
    wire_file(&wire, "criu/core-77.img", 6);
    wire_chunk(&wire, 0, "a core");
    expect_refused(state, &wire, -EBADMSG, "a file twice");
}

/* A file and what would be below it. */
static void refuses_a_file_below_a_file(void **state)
{
    struct wire wire = begun(2, 6);
    wire_file(&wire, "a", 6);
    wire_chunk(&wire, 0, "a core");
    wire_file(&wire, "a/b", 0);
    struct err err;
    assert_int_equal(receive(state, &wire, &err), -ENOTDIR);
}

static void refuses_more_or_less_than_told(void **state)
{
    struct wire wire = begun(1, WIRE_SIZE);
    wire_two_files(&wire);
    expect_refused(state, &wire, -EBADMSG, "more than it had told");
    wire = begun(2, WIRE_SIZE - 1);
    wire_two_files(&wire);
    expect_refused(state, &wire, -EBADMSG, "more than it had told");
    wire = begun(3, WIRE_SIZE);
    wire_two_files(&wire);
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "less than it had told");
    wire = begun(1, 7);
    wire_file(&wire, "criu/core-77.img", 7);
    wire_chunk(&wire, 0, "a core");
    wire_list(&wire, IMAGE_PRELOAD, "shared");
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "less of a file");
    wire = begun(1, UINT64_MAX);
    expect_refused(state, &wire, -EBADMSG, "odd beginning");
    wire = begun(UINT32_MAX, 1);
    expect_refused(state, &wire, -EBADMSG, "odd beginning");
}

static void refuses_pieces_out_of_order(void **state)
{
    struct wire wire = begun(1, 6);
    wire_chunk(&wire, 0, "a core");
    expect_refused(state, &wire, -EBADMSG, "out of order");
    static const uint64_t offsets[] = {1, 6, UINT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        wire = begun(1, 12);
        wire_file(&wire, "criu/x", 12);
        wire_chunk(&wire, offsets[i], "a core");
        expect_refused(state, &wire, -EBADMSG, "out of order");
    }
    wire = begun(1, 5);
    wire_file(&wire, "criu/x", 5);
    wire_chunk(&wire, 0, "a core");
    expect_refused(state, &wire, -EBADMSG, "out of order");
    wire = begun(1, 5);
    wire_file(&wire, "criu/x", 5);
    wire_chunk(&wire, 0, "");
    expect_refused(state, &wire, -EBADMSG, "out of order");
}

static void say_packed(struct wire *wire, const char *packed, size_t packed_size, uint32_t size)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__Chunk chunk = FREEZEPOINT__STREAM__CHUNK__INIT;
    chunk.size = size;
    chunk.zstd = true;
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    message.chunk = &chunk;
    wire_say(wire, &message, packed, packed_size);
}

static void refuses_pieces_that_unpack_to_something_else(void **state)
{
    /* "a core", by zstd. */
    static const char packed[] = "\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00"
                                 "a core";
    struct err err;
    struct wire wire = begun(2, 12);
    wire_file(&wire, "criu/core-77.img", 6);
    say_packed(&wire, packed, sizeof(packed) - 1, 6);
    wire_list(&wire, "criu/core-77.img", "a core");
    wire_whole_file(&wire, IMAGE_PRELOAD, "shared");
    wire_manifest(&wire);
    if (receive(state, &wire, &err))
        fail_msg("%s", err.text);
    static const uint32_t sizes[] = {5, 7, 1000000};
    for (size_t i = 0; i < 3; i++) {
        wire = begun(1, sizes[i]);
        wire_file(&wire, "criu/x", sizes[i]);
        say_packed(&wire, packed, sizeof(packed) - 1, sizes[i]);
        expect_refused(state, &wire, -EBADMSG, "compressed piece of a file is damaged");
    }
    wire = begun(1, 1 << 30);
    wire_file(&wire, "criu/x", 1 << 30);
    say_packed(&wire, packed, sizeof(packed) - 1, 1 << 30);
    expect_refused(state, &wire, -EBADMSG, "out of order");
}

static void refuses_an_image_that_is_not_as_it_says(void **state)
{
    struct wire wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    wire.manifest->files[0]->sum ^= 1;
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "does not match its checksum");
    wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    wire.manifest->files[0]->size++;
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "bytes instead of");
    wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    wire_list(&wire, "criu/pages-1.img", "pages");
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "missing");
    wire = begun(WIRE_FILES + 1, WIRE_SIZE + 1);
    wire_two_files(&wire);
    wire_file(&wire, "criu/fs-77.img", 1);
    wire_chunk(&wire, 0, "x");
    wire_manifest(&wire);
    expect_refused(state, &wire, -EBADMSG, "does not belong to it");
}

static void refuses_a_manifest_of_another_version(void **state)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    uint8_t *bytes = NULL;
    size_t length = 0;
    struct err err;
    struct wire wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    assert_int_equal(manifest_encode(wire.manifest, &bytes, &length, &err), 0);
    /* Format, then its sum (lib/image_manifest.c). */
    bytes[8]++;
    XXH3_state_t *sum = XXH3_createState();
    XXH3_64bits_reset(sum);
    XXH3_64bits_update(sum, bytes, 24);
    XXH3_64bits_update(sum, bytes + 32, length - 32);
    uint64_t value = XXH3_64bits_digest(sum);
    XXH3_freeState(sum);
    memcpy(bytes + 24, &value, sizeof(value));
    message.kind = FREEZEPOINT__STREAM__KIND__MANIFEST;
    wire_say(&wire, &message, bytes, length);
    free(bytes);
    expect_refused(state, &wire, -ENOTSUP, "newer freezepoint");
}

static void ends_with_the_stream_at_any_byte(void **state)
{
    struct wire whole = begun(WIRE_FILES, WIRE_SIZE);
    wire_two_files(&whole);
    wire_manifest(&whole);
    for (size_t cut = 0; cut < whole.size; cut += 3) {
        struct wire wire;
        wire_open(&wire);
        wire.bytes = malloc(cut + 1);
        memcpy(wire.bytes, whole.bytes, cut);
        wire.size = cut;
        expect_refused(state, &wire, -EPIPE, "was cut");
    }
    wire_close(&whole);
}

static void ends_when_it_is_called_off(void **state)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    message.kind = FREEZEPOINT__STREAM__KIND__CANCEL;
    message.text = (char *)"thought better of it";
    struct wire wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_file(&wire, "criu/core-77.img", 6);
    wire_say(&wire, &message, NULL, 0);
    expect_refused(state, &wire, -ECANCELED, "thought better of it");
    message.kind = FREEZEPOINT__STREAM__KIND__GO;
    wire = begun(WIRE_FILES, WIRE_SIZE);
    wire_say(&wire, &message, NULL, 0);
    expect_refused(state, &wire, -EBADMSG, "something else than an image");
}

/* All packets of the host would be kept away. */
static void refuses_to_close_off_what_does_not_come_along(void **state)
{
    static const uint8_t any[] = {0, 0, 0, 0, 0, 0}, other[] = {0, 0, 10, 0, 0, 6}, odd[] = {1, 2};
    const struct {
        const uint8_t *bytes;
        size_t size;
    } places[] = {{any, 6}, {other, 6}, {odd, 2}};
    for (size_t i = 0; i < 3; i++) {
        struct wire wire;
        wire_open(&wire);
        ProtobufCBinaryData place = {.len = places[i].size, .data = (uint8_t *)places[i].bytes};
        StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
        Freezepoint__Stream__Begin begin = FREEZEPOINT__STREAM__BEGIN__INIT;
        begin.places = &place;
        begin.n_places = 1;
        message.kind = FREEZEPOINT__STREAM__KIND__BEGIN;
        message.begin = &begin;
        wire_say(&wire, &message, NULL, 0);
        expect_refused(state, &wire, -EBADMSG, i < 2 ? "not to come along" : "odd address");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(takes_a_good_image),
        TEST(refuses_odd_paths),
        TEST(refuses_a_file_twice),
        TEST(refuses_a_file_below_a_file),
        TEST(refuses_more_or_less_than_told),
        TEST(refuses_pieces_out_of_order),
        TEST(refuses_pieces_that_unpack_to_something_else),
        TEST(refuses_an_image_that_is_not_as_it_says),
        TEST(refuses_a_manifest_of_another_version),
        TEST(ends_with_the_stream_at_any_byte),
        TEST(ends_when_it_is_called_off),
        TEST(refuses_to_close_off_what_does_not_come_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
