/* A stream with an image: once as it is, which its frames' sums refuse, and once with them
 * put right.  Whatever comes of it, nothing is left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/dir.h"
#include "restore/receive.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/wire.h"

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

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index)
        return NULL;
    struct wire wire;
    wire_open(&wire);
    wire_begin(&wire, WIRE_FILES, WIRE_SIZE);
    wire_two_files(&wire);
    wire_manifest(&wire);
    uint8_t *bytes = steal_pointer(&wire.bytes);
    *size = wire.size;
    wire_close(&wire);
    return bytes;
}
