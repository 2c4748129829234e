/*
 * What a source says while it sends an image, made piece by piece, so that tests can have
 * it say other things.
 */
#ifndef FREEZEPOINT_TESTS_WIRE_H
#define FREEZEPOINT_TESTS_WIRE_H

#include <xxhash.h>

#include "lib/image_manifest.h"
#include "lib/stream.h"
#include "tests/unit/image_sample.h"

#define WIRE_FILES_MAX 16

struct wire {
    uint8_t *bytes;
    size_t size;
    Freezepoint__Manifest *manifest; /* what the image is said to be */
};

static inline void wire_open(struct wire *wire)
{
    *wire = (struct wire){.manifest = sample_manifest("moved")};
    wire->manifest->format = IMAGE_FORMAT;
    wire->manifest->generation = 1;
    wire->manifest->files = calloc(WIRE_FILES_MAX, sizeof(*wire->manifest->files));
}

static inline void wire_close(struct wire *wire)
{
    free(wire->bytes);
    freezepoint__manifest__free_unpacked(wire->manifest, NULL);
}

static inline void wire_say(struct wire *wire, const StreamMessage *message, const void *payload,
                            size_t payload_size)
{
    _cleanup_free_ uint8_t *frame = NULL;
    size_t size;
    struct err err;
    if (stream_frame(message, payload, payload_size, &frame, &size, &err))
        abort();
    wire->bytes = realloc(wire->bytes, wire->size + size);
    memcpy(wire->bytes + wire->size, frame, size);
    wire->size += size;
}

/* With the port 10.0.0.1:80, and 10.0.0.5 as a whole. */
static inline void wire_begin(struct wire *wire, uint32_t files, uint64_t size)
{
    uint8_t place[] = {0, 80, 10, 0, 0, 1}, whole[] = {0, 0, 10, 0, 0, 5};
    ProtobufCBinaryData places[] = {{.len = sizeof(place), .data = place},
                                    {.len = sizeof(whole), .data = whole}};
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__Begin begin = FREEZEPOINT__STREAM__BEGIN__INIT;
    begin.tcp = 1;
    begin.files = files;
    begin.size = size;
    begin.places = places;
    begin.n_places = 2;
    message.kind = FREEZEPOINT__STREAM__KIND__BEGIN;
    message.begin = &begin;
    wire_say(wire, &message, NULL, 0);
}

static inline void wire_file_bytes(struct wire *wire, const void *path, size_t length,
                                   uint64_t size)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__File file = FREEZEPOINT__STREAM__FILE__INIT;
    file.path = (ProtobufCBinaryData){.len = length, .data = (uint8_t *)path};
    file.size = size;
    message.kind = FREEZEPOINT__STREAM__KIND__FILE;
    message.file = &file;
    wire_say(wire, &message, NULL, 0);
}

static inline void wire_file(struct wire *wire, const char *path, uint64_t size)
{
    wire_file_bytes(wire, path, strlen(path), size);
}

static inline void wire_chunk(struct wire *wire, uint64_t offset, const char *contents)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    Freezepoint__Stream__Chunk chunk = FREEZEPOINT__STREAM__CHUNK__INIT;
    chunk.offset = offset;
    chunk.size = (uint32_t)strlen(contents);
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    message.chunk = &chunk;
    wire_say(wire, &message, contents, strlen(contents));
}

/* In the manifest. */
static inline void wire_list(struct wire *wire, const char *path, const char *contents)
{
    Freezepoint__File *listed = SAMPLE_NEW(Freezepoint__File, freezepoint__file__init);
    listed->path = sample_bytes(path);
    listed->size = strlen(contents);
    listed->sum = XXH3_64bits(contents, strlen(contents));
    wire->manifest->files[wire->manifest->n_files++] = listed;
    manifest_sort_files(wire->manifest);
}

static inline void wire_whole_file(struct wire *wire, const char *path, const char *contents)
{
    wire_file(wire, path, strlen(contents));
    wire_chunk(wire, 0, contents);
    wire_list(wire, path, contents);
}

static inline void wire_manifest(struct wire *wire)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t length = 0;
    struct err err;
    if (manifest_encode(wire->manifest, &bytes, &length, &err))
        abort();
    message.kind = FREEZEPOINT__STREAM__KIND__MANIFEST;
    wire_say(wire, &message, bytes, length);
}

#define WIRE_FILES 2
#define WIRE_SIZE  12

static inline void wire_two_files(struct wire *wire)
{
    wire_whole_file(wire, "criu/core-77.img", "a core");
    wire_whole_file(wire, IMAGE_PRELOAD, "shared");
}

#endif
