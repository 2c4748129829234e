/*
 * A manifest as trigger/ makes it, and an image with all kinds of files, for the
 * tests of the store.
 */
#ifndef FREEZEPOINT_TESTS_IMAGE_SAMPLE_H
#define FREEZEPOINT_TESTS_IMAGE_SAMPLE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/image.h"

#define SAMPLE_PAGES_SIZE ((1U << 20) + 4096)

static inline char *sample_text(const char *text)
{
    return strdup(text);
}

static inline ProtobufCBinaryData sample_bytes(const char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)strdup(text)};
}

#define SAMPLE_NEW(type, init)                                                                     \
    ({                                                                                             \
        type *made_ = calloc(1, sizeof(type));                                                     \
        init(made_);                                                                               \
        made_;                                                                                     \
    })

#define SAMPLE_LIST(message, field, type, init)                                                    \
    ((message)->n_##field = 1, (message)->field = calloc(1, sizeof(type *)),                       \
     (message)->field[0] = SAMPLE_NEW(type, init))

static inline void sample_lists(Freezepoint__Manifest *manifest)
{
    Freezepoint__Rule *rule =
        SAMPLE_LIST(manifest, points, Freezepoint__Rule, freezepoint__rule__init);
    rule->spec = sample_text("listen");
    rule->function = sample_text("listen");
    rule->first = 1;
    rule->done = true;
    Freezepoint__Stdio *stream =
        SAMPLE_LIST(manifest, stdio, Freezepoint__Stdio, freezepoint__stdio__init);
    stream->fd = 1;
    stream->kind = FREEZEPOINT__STDIO_KIND__STDIO_PIPE;
    stream->key = sample_text("fd[1]:pipe:[4242]");
    stream->direction = FREEZEPOINT__STDIO_DIRECTION__STDIO_OUTPUT;
    Freezepoint__Process *process =
        SAMPLE_LIST(manifest, processes, Freezepoint__Process, freezepoint__process__init);
    process->pid = 77;
    process->comm = sample_bytes("server");
    process->executable = sample_bytes("/usr/bin/server");
    process->threads = 3;
    process->control_address = 0x7f0000001000;
}

static inline Freezepoint__Manifest *sample_manifest(const char *name)
{
    Freezepoint__Manifest *manifest =
        SAMPLE_NEW(Freezepoint__Manifest, freezepoint__manifest__init);
    manifest->name = sample_text(name);
    manifest->created_unix_ns = 1700000000000000000ULL;
    manifest->reason = FREEZEPOINT__REASON__REASON_POINT;
    manifest->host = SAMPLE_NEW(Freezepoint__Host, freezepoint__host__init);
    manifest->host->hostname = sample_text("host");
    manifest->point = SAMPLE_NEW(Freezepoint__Point, freezepoint__point__init);
    manifest->point->spec = sample_text("listen");
    manifest->point->hit = 1;
    manifest->command = SAMPLE_NEW(Freezepoint__Command, freezepoint__command__init);
    manifest->command->argv = calloc(2, sizeof(ProtobufCBinaryData));
    manifest->command->argv[0] = sample_bytes("server");
    manifest->command->argv[1] = sample_bytes("--port=1");
    manifest->command->n_argv = 2;
    manifest->command->executable = sample_bytes("/usr/bin/server");
    manifest->command->cwd = sample_bytes("/srv");
    manifest->preload = SAMPLE_NEW(Freezepoint__Preload, freezepoint__preload__init);
    manifest->preload->path = sample_bytes("/run/freezepoint/.preload/abc.so");
    manifest->preload->file = sample_bytes(IMAGE_PRELOAD);
    manifest->timings = SAMPLE_NEW(Freezepoint__Timings, freezepoint__timings__init);
    manifest->timings->frozen_ns = 123456789;
    manifest->root_pid = manifest->max_pid = 77;
    sample_lists(manifest);
    return manifest;
}

/* 0 or -1. */
static inline int sample_write(const char *directory, const char *name, char fill, size_t size)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    _cleanup_free_ char *bytes = malloc(size + 1);
    memset(bytes, fill, size);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return fd >= 0 && fd_write_all(fd, bytes, size) == (ssize_t)size ? 0 : -1;
}

static inline int sample_fill(const struct image_draft *draft)
{
    return sample_write(draft->path, IMAGE_PRELOAD, 'p', 5000) |
           sample_write(draft->criu_path, "core-77.img", 'c', 700) |
           sample_write(draft->criu_path, "inventory.img", 'i', 0) |
           sample_write(draft->criu_path, "pages-1.img", 'm', SAMPLE_PAGES_SIZE) |
           sample_write(draft->criu_path, "dump.log", 'l', 3000);
}

/* A whole checkpoint of the sample.  0 or -errno. */
static inline int sample_commit(const struct store *store, const char *name, uint64_t *generation,
                                struct err *err)
{
    _cleanup_(image_draft_abandon) struct image_draft draft = IMAGE_DRAFT_NONE;
    int error = image_draft_begin(store, name, &draft, err);
    if (error)
        return error;
    if (sample_fill(&draft))
        return err_set(err, errno, "fill '%s'", draft.path);
    Freezepoint__Manifest *manifest = sample_manifest(name);
    error = image_draft_commit(&draft, manifest, generation, err);
    freezepoint__manifest__free_unpacked(manifest, NULL);
    return error;
}

#endif
