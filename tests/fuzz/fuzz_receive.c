/* A stream with an image: once as it is, which its frames' sums refuse, and once with them
 * put right.  Whatever comes of it, nothing is left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "lib/dir.h"
#include "lib/image_manifest.h"
#include "restore/receive.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/image_sample.h"

#define HEADER_SIZE 24
#define SUM_OFFSET  16

static char directory[] = "/tmp/freezepoint-fuzz-store-XXXXXX";
static struct store store = STORE_NONE;
static struct stream stream = STREAM_NONE; /* its buffers are large: one for all */

static void remove_store(void)
{
    struct err err;
    fd_close(&stream.in);
    fd_close(&stream.out);
    stream_release(&stream);
    store_close(&store);
    dir_remove_recursive(AT_FDCWD, directory, &err);
}

static void make_store(void)
{
    struct err err;
    if (store.fd >= 0)
        return;
    int in = memfd_create("stream", MFD_CLOEXEC);
    int out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (in < 0 || out < 0 || stream_open(&stream, in, out, &err) || !mkdtemp(directory) ||
        store_open(directory, &store, &err))
        abort();
    atexit(remove_store);
}

static void expect_empty(void)
{
    _cleanup_closedir_ DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            abort();
}

static void take_image(void)
{
    struct received received = RECEIVED_NONE;
    struct image image = IMAGE_NONE;
    struct moving moving = {.addresses = "10.0.0.5/24@eth0"};
    struct err err;
    uint64_t size;
    uint32_t files;
    int error = receive_begin(&stream, &received, &size, &files, &err);
    if (!error)
        error = receive_check_places(&received, &moving, &err);
    if (!error)
        error = receive_image(&stream, &store, "fuzz", size, files, &received, &err);
    if (!error)
        error = image_draft_open(&received.draft, "fuzz (migrated)", &image, &err);
    if (!error)
        image_verify_small(&image, &err);
    image_close(&image);
    received_release(&received);
    expect_empty();
}

static void decode(const uint8_t *bytes, size_t size)
{
    if (ftruncate(stream.in, 0) < 0 || lseek(stream.in, 0, SEEK_SET) < 0 ||
        fd_write_all(stream.in, bytes, size) != (ssize_t)size || lseek(stream.in, 0, SEEK_SET) < 0)
        abort();
    stream.got = 0;
    take_image();
}

static uint32_t bounded(uint8_t *place, size_t left)
{
    uint32_t length;
    memcpy(&length, place, sizeof(length));
    length = length > left ? (uint32_t)left : length;
    memcpy(place, &length, sizeof(length));
    return length;
}

static void put_right(uint8_t *bytes, size_t size)
{
    static const uint8_t magic[4] = {0x89, 'F', 'Z', 'S'};
    while (size >= HEADER_SIZE) {
        memcpy(bytes, magic, sizeof(magic));
        memset(bytes + 12, 0, 4);
        size_t message = bounded(bytes + 4, size - HEADER_SIZE);
        size_t payload = bounded(bytes + 8, size - HEADER_SIZE - message);
        uint64_t sum = XXH3_64bits(bytes, SUM_OFFSET);
        sum = XXH3_64bits_withSeed(bytes + HEADER_SIZE, message, sum);
        sum = XXH3_64bits_withSeed(bytes + HEADER_SIZE + message, payload, sum);
        memcpy(bytes + SUM_OFFSET, &sum, sizeof(sum));
        bytes += HEADER_SIZE + message + payload;
        size -= HEADER_SIZE + message + payload;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    make_store();
    decode(bytes, size);
    uint8_t *right = malloc(size + 1);
    memcpy(right, bytes, size);
    put_right(right, size);
    decode(right, size);
    free(right);
    return 0;
}

/* ---- a good one ---- */

struct text {
    uint8_t *bytes;
    size_t size;
};

static void append(struct text *text, const StreamMessage *message, const void *payload,
                   size_t payload_size)
{
    _cleanup_free_ uint8_t *frame = NULL;
    size_t size;
    struct err err;
    if (stream_frame(message, payload, payload_size, &frame, &size, &err))
        abort();
    text->bytes = realloc(text->bytes, text->size + size);
    memcpy(text->bytes + text->size, frame, size);
    text->size += size;
}

static void append_file(struct text *text, Freezepoint__Manifest *manifest, const char *path,
                        const char *contents)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__File file = FREEZEPOINT__STREAM__FILE__INIT;
    Freezepoint__Stream__Chunk chunk = FREEZEPOINT__STREAM__CHUNK__INIT;
    file.path = (ProtobufCBinaryData){.len = strlen(path), .data = (uint8_t *)path};
    file.size = chunk.size = (uint32_t)strlen(contents);
    message.kind = FREEZEPOINT__STREAM__KIND__FILE;
    message.file = &file;
    append(text, &message, NULL, 0);
    message.file = NULL;
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    message.chunk = &chunk;
    append(text, &message, contents, strlen(contents));
    Freezepoint__File *listed = SAMPLE_NEW(Freezepoint__File, freezepoint__file__init);
    listed->path = sample_bytes(path);
    listed->size = strlen(contents);
    listed->sum = XXH3_64bits(contents, strlen(contents));
    manifest->files[manifest->n_files++] = listed;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index)
        return NULL;
    struct text text = {0};
    struct err err;
    uint8_t place[] = {0, 80, 10, 0, 0, 1}, whole[] = {0, 0, 10, 0, 0, 5};
    ProtobufCBinaryData places[] = {{.len = sizeof(place), .data = place},
                                    {.len = sizeof(whole), .data = whole}};
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__Begin begin = FREEZEPOINT__STREAM__BEGIN__INIT;
    Freezepoint__Manifest *manifest = sample_manifest("fuzz");
    manifest->format = IMAGE_FORMAT;
    manifest->generation = 1;
    manifest->files = calloc(2, sizeof(*manifest->files));
    begin.tcp = 1;
    begin.files = 2;
    begin.size = 12;
    begin.places = places;
    begin.n_places = 2;
    message.kind = FREEZEPOINT__STREAM__KIND__BEGIN;
    message.begin = &begin;
    append(&text, &message, NULL, 0);
    append_file(&text, manifest, "criu/core-77.img", "a core");
    append_file(&text, manifest, IMAGE_PRELOAD, "shared");
    message.begin = NULL;
    message.kind = FREEZEPOINT__STREAM__KIND__MANIFEST;
    uint8_t *bytes = NULL;
    size_t length = 0;
    if (manifest_encode(manifest, &bytes, &length, &err))
        abort();
    append(&text, &message, bytes, length);
    free(bytes);
    freezepoint__manifest__free_unpacked(manifest, NULL);
    *size = text.size;
    return text.bytes;
}
