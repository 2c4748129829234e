/*
 * The stream of a migration: frames over a pair of pipes (the --via command's standard
 * input and output).  Contents are those of proto/migrate.proto.
 *
 * A frame, little-endian:
 *    0  4  magic
 *    4  4  length of the message
 *    8  4  length of the payload behind it
 *   12  4  zero
 *   16  8  XXH3 (64 bits) of the payload, seeded with that of the message, seeded with
 *          that of bytes 0 .. 15
 * Magic, lengths and sum stay as they are in all versions.
 *
 * What comes in is outside information: lengths are bounded before anything is
 * allocated, and a message is looked at only when its sum is right.
 *
 * A stream belongs to one thread at a time.  It borrows its descriptors, which must not
 * block; every wait ends after quiet_ms without a byte from (or room at) the other side.
 */
#ifndef FREEZEPOINT_STREAM_H
#define FREEZEPOINT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "migrate.pb-c.h"

#define STREAM_VERSION     1
#define STREAM_CHUNK_MAX   (1U << 20)
#define STREAM_CHUNK_USUAL (256U << 10)
#define STREAM_MESSAGE_MAX (1U << 20)

/* The two sides say ALIVE so often while they have nothing else to say. */
#define STREAM_BEAT_MS  1000
#define STREAM_QUIET_MS (10 * 1000)

typedef Freezepoint__Stream__Message StreamMessage;

struct stream {
    int in, out;
    int quiet_ms;
    uint64_t sent, received; /* bytes */
    uint64_t waited_ns;      /* for room at the other side */
    uint8_t *message;        /* of the last frame received */
    uint8_t *payload;        /* likewise, payload_size bytes; valid until the next */
    size_t payload_size;
    uint8_t header[24]; /* of the frame that is being received */
    size_t got;         /* bytes of it, with what is behind the header */
};

#define STREAM_NONE ((struct stream){.in = -1, .out = -1, .quiet_ms = STREAM_QUIET_MS})

/* Makes both descriptors non-blocking. */
int stream_open(struct stream *stream, int in, int out, struct err *err);

/* Frees; the descriptors stay open.  Safe on STREAM_NONE. */
void stream_release(struct stream *stream);

/* The payload may be NULL.  -EPIPE: the other side is gone; -ETIMEDOUT: it takes
 * nothing. */
int stream_send(struct stream *stream, const StreamMessage *message, const void *payload,
                size_t payload_size, struct err *err);

/*
 * The next message but ALIVE.  *out is freed with
 * freezepoint__stream__message__free_unpacked().  -EPIPE: the other side is gone;
 * -ETIMEDOUT: it has gone quiet; -EBADMSG: what came is no frame, or damaged.
 * stream_poll() waits at most timeout_ms: *out is NULL where nothing whole came in that
 * time (what came of it is kept); ALIVE counts as a sign of life alone.
 */
int stream_receive(struct stream *stream, StreamMessage **out, struct err *err);
int stream_poll(struct stream *stream, int timeout_ms, StreamMessage **out, struct err *err);

/* As stream_receive(), and anything but that kind is -EPROTO; FAILED and CANCEL become
 * their text. */
int stream_expect(struct stream *stream, Freezepoint__Stream__Kind kind, StreamMessage **out,
                  struct err *err);

/* A message of that kind alone. */
int stream_say(struct stream *stream, Freezepoint__Stream__Kind kind, const char *text,
               struct err *err);

/* The bytes of a frame, malloc'ed: for what another process sends as it is. */
int stream_frame(const StreamMessage *message, const void *payload, size_t payload_size,
                 uint8_t **bytes, size_t *size, struct err *err);

#endif
