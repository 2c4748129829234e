#include "restore/send.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/image.h"
#include "lib/image_files.h"
#include "lib/proc.h"
#include "restore/pack.h"

struct sending {
    struct stream *stream;
    const struct send_request *request;
    struct sent *sent;
    int dirfd;
    uint8_t *buffer;
    struct pack pack;
    uint64_t done;
};

static int send_chunk(struct sending *self, uint64_t offset, size_t size, struct err *err)
{
    StreamMessage message;
    Freezepoint__Stream__Chunk chunk;
    freezepoint__stream__message__init(&message);
    freezepoint__stream__chunk__init(&chunk);
    message.kind = FREEZEPOINT__STREAM__KIND__CHUNK;
    message.chunk = &chunk;
    chunk.offset = offset;
    chunk.size = (uint32_t)size;
    uint64_t begun_ns = proc_monotonic_ns(), waited_ns = self->stream->waited_ns;
    const void *bytes = self->buffer;
    size_t packed = size;
    chunk.zstd = pack_piece(&self->pack, self->buffer, size, &bytes, &packed);
    int error = stream_send(self->stream, &message, bytes, packed, err);
    if (error)
        return error;
    pack_note(&self->pack, size, packed, proc_monotonic_ns() - begun_ns,
              self->stream->waited_ns - waited_ns);
    self->sent->packed += chunk.zstd ? size : 0;
    self->done += size;
    const struct send_request *request = self->request;
    return request->progress
               ? request->progress(request->context, self->done, self->sent->size, err)
               : 0;
}

static int announce_file(struct sending *self, const char *path, uint64_t size, struct err *err)
{
    StreamMessage message;
    Freezepoint__Stream__File file;
    freezepoint__stream__message__init(&message);
    freezepoint__stream__file__init(&file);
    message.kind = FREEZEPOINT__STREAM__KIND__FILE;
    message.file = &file;
    file.path = (ProtobufCBinaryData){.len = strlen(path), .data = (uint8_t *)path};
    file.size = size;
    return stream_send(self->stream, &message, NULL, 0, err);
}

static int send_contents(struct sending *self, int fd, uint64_t size, const char *path,
                         struct err *err)
{
    for (uint64_t offset = 0; offset < size;) {
        uint64_t left = size - offset;
        size_t wanted = left < STREAM_CHUNK_USUAL ? (size_t)left : STREAM_CHUNK_USUAL;
        ssize_t n = fd_read_all(fd, self->buffer, wanted);
        if (n != (ssize_t)wanted)
            return err_set(err, n < 0 ? (int)-n : EIO, "read '%s'", path);
        int error = send_chunk(self, offset, wanted, err);
        if (error)
            return error;
        offset += wanted;
    }
    return 0;
}

static int send_file(const char *path, const struct stat *about, void *context, struct err *err)
{
    struct sending *self = context;
    if (!S_ISREG(about->st_mode) || !strcmp(path, IMAGE_MANIFEST))
        return 0;
    _cleanup_close_ int fd = image_files_open(self->dirfd, path, O_RDONLY);
    if (fd < 0)
        return err_set(err, -fd, "open '%s'", path);
    int error = announce_file(self, path, (uint64_t)about->st_size, err);
    return error ? error : send_contents(self, fd, (uint64_t)about->st_size, path, err);
}

/* Last: with it the image is whole. */
static int send_manifest(struct sending *self, struct err *err)
{
    StreamMessage message;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__MANIFEST;
    _cleanup_close_ int fd = image_files_open(self->dirfd, IMAGE_MANIFEST, O_RDONLY);
    ssize_t n = fd < 0 ? fd : fd_read_all(fd, self->buffer, STREAM_CHUNK_MAX);
    if (n < 0)
        return err_set(err, (int)-n, "read " IMAGE_MANIFEST);
    if (n == STREAM_CHUNK_MAX)
        return err_text(err, EFBIG, "the image's description is too long to be sent");
    return stream_send(self->stream, &message, self->buffer, (size_t)n, err);
}

struct measure {
    uint64_t files, size;
};

static int add_size(const char *path, const struct stat *about, void *context, struct err *err)
{
    (void)err;
    struct measure *measure = context;
    if (S_ISREG(about->st_mode) && strcmp(path, IMAGE_MANIFEST) != 0) {
        measure->files++;
        measure->size += (uint64_t)about->st_size;
    }
    return 0;
}

static int open_image(const char *path, struct measure *measure, struct err *err)
{
    _cleanup_close_ int dirfd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dirfd < 0)
        return err_set(err, errno, "open '%s'", path);
    int error = image_files_walk(dirfd, add_size, measure, err);
    return error ? error : fd_steal(&dirfd);
}

static int begin(struct sending *self, const struct measure *measure, struct err *err)
{
    StreamMessage message;
    Freezepoint__Stream__Begin begin;
    freezepoint__stream__message__init(&message);
    freezepoint__stream__begin__init(&begin);
    message.kind = FREEZEPOINT__STREAM__KIND__BEGIN;
    message.begin = &begin;
    begin.then_stop = self->request->then_stop;
    begin.tcp = self->request->tcp;
    begin.checkpoints_left = self->request->checkpoints_left;
    begin.places = self->request->places;
    begin.n_places = self->request->place_count;
    begin.size = measure->size;
    begin.files = (uint32_t)measure->files;
    return stream_send(self->stream, &message, NULL, 0, err);
}

int send_image(struct stream *stream, const struct send_request *request, struct sent *out,
               struct err *err)
{
    struct measure measure = {0};
    _cleanup_close_ int dirfd = open_image(request->path, &measure, err);
    if (dirfd < 0)
        return dirfd;
    *out = (struct sent){.files = measure.files, .size = measure.size};
    _cleanup_free_ uint8_t *buffer = malloc(STREAM_CHUNK_MAX);
    if (!buffer)
        return err_set(err, ENOMEM, "send the image");
    struct sending self = {
        .stream = stream, .request = request, .sent = out, .dirfd = dirfd, .buffer = buffer};
    int error = pack_open(&self.pack, STREAM_CHUNK_USUAL, err);
    if (!error)
        error = begin(&self, &measure, err);
    if (!error)
        error = image_files_walk(dirfd, send_file, &self, err);
    if (!error)
        error = send_manifest(&self, err);
    pack_close(&self.pack);
    return error;
}
