#include "restore/receive.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/image_files.h"
#include "restore/pack.h"

#define FILES_MAX  100000
#define PLACES_MAX 100000

/* The image that is being received. */
struct receiving {
    struct stream *stream;
    struct received *to;
    uint64_t files, size; /* announced, of what BEGIN told */
    int fd;               /* the file being written; -1: none */
    uint64_t file_size, offset;
    char path[NAME_MAX];
    uint8_t *buffer; /* STREAM_CHUNK_MAX bytes, for what came compressed */
    void *unpacking; /* pack.h */
};

static void free_message(StreamMessage **message)
{
    if (*message)
        freezepoint__stream__message__free_unpacked(*message, NULL);
}

static int odd(struct err *err, const char *what)
{
    return err_text(err, EBADMSG, "the other side sent %s; nothing of it was run", what);
}

/* One directory deep at most: all that an image has. */
static bool is_image_path(const ProtobufCBinaryData *path)
{
    if (path->len == 0 || path->len >= NAME_MAX || memchr(path->data, '\0', path->len))
        return false;
    const char *text = (const char *)path->data, *end = text + path->len;
    const char *slash = memchr(text, '/', path->len);
    if (slash &&
        (slash == text || slash + 1 == end || memchr(slash + 1, '/', (size_t)(end - slash - 1))))
        return false;
    const char *name = slash ? slash + 1 : text;
    return *text != '.' && *name != '.' &&
           !(path->len == strlen(IMAGE_MANIFEST) && !memcmp(text, IMAGE_MANIFEST, path->len));
}

static int make_parent(const struct receiving *self, struct err *err)
{
    char parent[NAME_MAX];
    snprintf(parent, sizeof(parent), "%s", self->path);
    char *slash = strchr(parent, '/');
    if (!slash)
        return 0;
    *slash = '\0';
    if (mkdirat(self->to->draft.dirfd, parent, 0700) < 0 && errno != EEXIST)
        return err_set(err, errno, "make '%s'", parent);
    return 0;
}

static int finish_file(struct receiving *self, struct err *err)
{
    if (self->fd < 0)
        return 0;
    if (self->offset != self->file_size)
        return odd(err, "less of a file than it had told");
    fd_close(&self->fd);
    return 0;
}

static int begin_file(struct receiving *self, const Freezepoint__Stream__File *file,
                      struct err *err)
{
    int error = finish_file(self, err);
    if (error)
        return error;
    if (!file || !is_image_path(&file->path))
        return odd(err, "a file with an odd path");
    if (self->files == 0 || file->size > self->size)
        return odd(err, "more than it had told");
    self->files--;
    self->size -= file->size;
    snprintf(self->path, sizeof(self->path), "%.*s", (int)file->path.len,
             (const char *)file->path.data);
    error = make_parent(self, err);
    if (error)
        return error;
    self->fd = image_files_open(self->to->draft.dirfd, self->path, O_WRONLY | O_CREAT | O_EXCL);
    if (self->fd == -EEXIST)
        return odd(err, "a file twice");
    if (self->fd < 0)
        return err_set(err, -self->fd, "make '%s/%s'", self->to->draft.path, self->path);
    self->file_size = file->size;
    self->offset = 0;
    return 0;
}

static int write_chunk(struct receiving *self, const Freezepoint__Stream__Chunk *chunk,
                       struct err *err)
{
    const struct stream *stream = self->stream;
    if (!chunk || self->fd < 0 || chunk->offset != self->offset || chunk->size == 0 ||
        chunk->size > STREAM_CHUNK_MAX || chunk->size > self->file_size - self->offset ||
        (!chunk->zstd && chunk->size != stream->payload_size))
        return odd(err, "a piece of a file out of order");
    const uint8_t *bytes = stream->payload;
    if (chunk->zstd) {
        int error = pack_unpack(&self->unpacking, stream->payload, stream->payload_size,
                                self->buffer, chunk->size, err);
        if (error)
            return error;
        bytes = self->buffer;
    }
    ssize_t n = fd_write_all(self->fd, bytes, chunk->size);
    if (n < 0)
        return err_set(err, (int)-n, "write '%s/%s'", self->to->draft.path, self->path);
    self->offset += chunk->size;
    return 0;
}

static int write_manifest(struct receiving *self, struct err *err)
{
    int error = finish_file(self, err);
    if (error)
        return error;
    if (self->files || self->size)
        return odd(err, "less than it had told");
    _cleanup_close_ int fd =
        image_files_open(self->to->draft.dirfd, IMAGE_MANIFEST, O_WRONLY | O_CREAT | O_EXCL);
    ssize_t n = fd < 0 ? fd : fd_write_all(fd, self->stream->payload, self->stream->payload_size);
    return n < 0 ? err_set(err, (int)-n, "write '%s/" IMAGE_MANIFEST "'", self->to->draft.path) : 0;
}

/* 1: there is more to come. */
static int receive_one(struct receiving *self, struct err *err)
{
    _cleanup_(free_message) StreamMessage *message = NULL;
    int error = stream_receive(self->stream, &message, err);
    if (error)
        return error;
    switch (message->kind) {
    case FREEZEPOINT__STREAM__KIND__FILE:
        error = begin_file(self, message->file, err);
        return error ? error : 1;
    case FREEZEPOINT__STREAM__KIND__CHUNK:
        error = write_chunk(self, message->chunk, err);
        return error ? error : 1;
    case FREEZEPOINT__STREAM__KIND__MANIFEST:
        return write_manifest(self, err);
    case FREEZEPOINT__STREAM__KIND__CANCEL:
        return err_text(err, ECANCELED, "called off by the other side: %s", message->text);
    default:
        return odd(err, "something else than an image");
    }
}

static int take_places(const Freezepoint__Stream__Begin *begin, struct received *out,
                       struct err *err)
{
    if (begin->n_places > PLACES_MAX)
        return odd(err, "too many connections");
    out->places = calloc(begin->n_places + 1, sizeof(*out->places));
    if (!out->places)
        return err_set(err, ENOMEM, "the job's connections");
    for (size_t i = 0; i < begin->n_places; i++)
        if (!socket_address_unpack(begin->places[i].data, begin->places[i].len, &out->places[i]))
            return odd(err, "an odd address");
    out->place_count = begin->n_places;
    return 0;
}

int receive_begin(struct stream *stream, struct received *out, uint64_t *size, uint32_t *files,
                  struct err *err)
{
    _cleanup_(free_message) StreamMessage *message = NULL;
    int error = stream_expect(stream, FREEZEPOINT__STREAM__KIND__BEGIN, &message, err);
    if (error)
        return error;
    const Freezepoint__Stream__Begin *begin = message->begin;
    if (!begin || begin->files > FILES_MAX || begin->size > INT64_MAX ||
        begin->tcp > FREEZEPOINT__TCP_MODE__TCP_CLOSE)
        return odd(err, "an odd beginning");
    out->then_stop = begin->then_stop;
    out->tcp = begin->tcp;
    out->checkpoints_left = begin->checkpoints_left;
    *size = begin->size;
    *files = begin->files;
    return take_places(begin, out, err);
}

static bool comes_along(const struct moving *moving, const struct socket_address *place)
{
    char text[sizeof(moving->addresses)], *rest = NULL;
    memcpy(text, moving->addresses, sizeof(text));
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        struct moved_address moved;
        struct err ignored;
        if (address_parse(word, &moved, &ignored) == 0 &&
            socket_address_equals(&moved.address, place))
            return true;
    }
    return false;
}

int receive_check_places(const struct received *received, const struct moving *moving,
                         struct err *err)
{
    for (size_t i = 0; i < received->place_count; i++)
        if (received->places[i].port == 0 && !comes_along(moving, &received->places[i]))
            return odd(err, "an address that is not to come along");
    return 0;
}

int receive_image(struct stream *stream, const struct store *store, const char *name, uint64_t size,
                  uint32_t files, struct received *out, struct err *err)
{
    int error = image_draft_begin(store, name, &out->draft, err);
    struct receiving self = {.stream = stream, .to = out, .files = files, .size = size, .fd = -1};
    self.buffer = malloc(STREAM_CHUNK_MAX);
    if (!error && !self.buffer)
        error = err_set(err, ENOMEM, "receive the image");
    error = error ? error : 1;
    while (error == 1)
        error = receive_one(&self, err);
    fd_close(&self.fd);
    free(self.buffer);
    pack_forget(self.unpacking);
    return error;
}

void received_release(struct received *received)
{
    image_draft_abandon(&received->draft);
    free(received->places);
    *received = RECEIVED_NONE;
}
