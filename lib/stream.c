#include "lib/stream.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/fd.h"
#include "lib/proc.h"

/* Unpacked, a message is larger than its bytes, an empty part most of all. */
#define UNPACKED_SIZE_MAX (16U << 20)

static const char magic[4] = {'\x89', 'F', 'Z', 'S'};

struct header {
    char magic[4];
    uint32_t message;
    uint32_t payload;
    uint32_t zero;
    uint64_t sum;
};

_Static_assert(sizeof(struct header) == sizeof(((struct stream *)0)->header),
               "the header is part of the format");

static uint64_t sum_of(const struct header *header, const uint8_t *message, const void *payload)
{
    uint64_t sum = XXH3_64bits(header, offsetof(struct header, sum));
    sum = XXH3_64bits_withSeed(message, le32toh(header->message), sum);
    return XXH3_64bits_withSeed(payload, le32toh(header->payload), sum);
}

static int make_quick(int fd, struct err *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return err_set(err, errno, "make the stream non-blocking");
    return 0;
}

int stream_open(struct stream *stream, int in, int out, struct err *err)
{
    *stream = STREAM_NONE;
    int error = make_quick(in, err);
    if (!error)
        error = make_quick(out, err);
    if (error)
        return error;
    stream->message = malloc(STREAM_MESSAGE_MAX);
    stream->payload = malloc(STREAM_CHUNK_MAX + 1);
    if (!stream->message || !stream->payload) {
        stream_release(stream);
        return err_set(err, ENOMEM, "stream");
    }
    stream->in = in;
    stream->out = out;
    return 0;
}

void stream_release(struct stream *stream)
{
    free(stream->message);
    free(stream->payload);
    *stream = STREAM_NONE;
}

static int lost(int errnum, struct err *err)
{
    if (errnum == EPIPE || errnum == ECONNRESET)
        return err_text(err, EPIPE, "the connection to the other side was cut");
    return err_set(err, errnum, "the connection to the other side");
}

/* Sleeps until `fd` is ready. */
static int await(int fd, short events, int timeout_ms, const char *what, struct err *err)
{
    int ready = fd_wait(fd, events, timeout_ms);
    if (ready < 0)
        return lost(-ready, err);
    if (ready == 0)
        return err_text(err, ETIMEDOUT, "the other side has %s for %d s", what, timeout_ms / 1000);
    return 0;
}

static int put(struct stream *stream, const void *bytes, size_t size, struct err *err)
{
    const char *next = bytes;
    while (size) {
        ssize_t n = write(stream->out, next, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            uint64_t since_ns = proc_monotonic_ns();
            int error = await(stream->out, POLLOUT, stream->quiet_ms, "taken nothing", err);
            stream->waited_ns += proc_monotonic_ns() - since_ns;
            if (error)
                return error;
            continue;
        }
        if (n < 0)
            return lost(errno, err);
        next += n;
        size -= (size_t)n;
        stream->sent += (uint64_t)n;
    }
    return 0;
}

int stream_frame(const StreamMessage *message, const void *payload, size_t payload_size,
                 uint8_t **bytes, size_t *size, struct err *err)
{
    size_t length = freezepoint__stream__message__get_packed_size(message);
    if (length > STREAM_MESSAGE_MAX || payload_size > STREAM_CHUNK_MAX)
        return err_text(err, EMSGSIZE, "a message to the other side is too long");
    uint8_t *frame = malloc(sizeof(struct header) + length + payload_size);
    if (!frame)
        return err_set(err, ENOMEM, "message");
    freezepoint__stream__message__pack(message, frame + sizeof(struct header));
    if (payload_size)
        memcpy(frame + sizeof(struct header) + length, payload, payload_size);
    struct header header = {.message = htole32((uint32_t)length),
                            .payload = htole32((uint32_t)payload_size)};
    memcpy(header.magic, magic, sizeof(magic));
    header.sum = htole64(sum_of(&header, frame + sizeof(header), payload));
    memcpy(frame, &header, sizeof(header));
    *bytes = frame;
    *size = sizeof(header) + length + payload_size;
    return 0;
}

int stream_send(struct stream *stream, const StreamMessage *message, const void *payload,
                size_t payload_size, struct err *err)
{
    _cleanup_free_ uint8_t *frame = NULL;
    size_t size = 0;
    int error = stream_frame(message, payload, payload_size, &frame, &size, err);
    return error ? error : put(stream, frame, size, err);
}

int stream_say(struct stream *stream, Freezepoint__Stream__Kind kind, const char *text,
               struct err *err)
{
    StreamMessage message;
    freezepoint__stream__message__init(&message);
    message.kind = kind;
    message.text = (char *)text;
    return stream_send(stream, &message, NULL, 0, err);
}

/* As soon as it can be seen: what is shorter than a header is followed by the end. */
static int check_magic(const struct stream *stream, struct err *err)
{
    size_t size = stream->got < sizeof(magic) ? stream->got : sizeof(magic);
    if (memcmp(stream->header, magic, size) != 0)
        return err_text(err, EBADMSG,
                        "what comes from the other side is not freezepoint's stream; does the "
                        "command run 'freezepoint receive' and print nothing else?");
    return 0;
}

static int check_header(const struct header *header, struct err *err)
{
    if (le32toh(header->message) > STREAM_MESSAGE_MAX ||
        le32toh(header->payload) > STREAM_CHUNK_MAX || header->zero)
        return err_text(err, EBADMSG, "a message from the other side has an odd length");
    return 0;
}

/* Where the next bytes go, and how many are missing. */
static uint8_t *gap(struct stream *stream, const struct header *header, size_t *missing)
{
    size_t place = stream->got;
    size_t size = sizeof(*header), length = le32toh(header->message);
    if (place < size) {
        *missing = size - place;
        return stream->header + place;
    }
    place -= size;
    if (place < length) {
        *missing = length - place;
        return stream->message + place;
    }
    place -= length;
    *missing = le32toh(header->payload) - place;
    return stream->payload + place;
}

/* 1: a frame is whole; 0: nothing more is there yet. */
static int take(struct stream *stream, struct header *header, struct err *err)
{
    for (;;) {
        bool known = stream->got >= sizeof(*header);
        if (known)
            memcpy(header, stream->header, sizeof(*header));
        size_t missing;
        uint8_t *to = gap(stream, header, &missing);
        if (known && missing == 0)
            return 1;
        ssize_t n = read(stream->in, to, missing);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0)
            return lost(n == 0 ? EPIPE : errno, err);
        stream->got += (size_t)n;
        stream->received += (uint64_t)n;
        int error = known ? 0 : check_magic(stream, err);
        if (!error && !known && stream->got == sizeof(*header)) {
            memcpy(header, stream->header, sizeof(*header));
            error = check_header(header, err);
        }
        if (error)
            return error;
    }
}

static void *allocate_within(void *context, size_t size)
{
    size_t *left = context;
    if (size > *left)
        return NULL;
    *left -= size;
    return malloc(size);
}

static void release(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

static int open_frame(struct stream *stream, const struct header *header, StreamMessage **out,
                      struct err *err)
{
    stream->got = 0;
    stream->payload_size = le32toh(header->payload);
    if (le64toh(header->sum) != sum_of(header, stream->message, stream->payload))
        return err_text(err, EBADMSG, "a message from the other side does not match its checksum");
    size_t left = UNPACKED_SIZE_MAX;
    ProtobufCAllocator allocator = {
        .alloc = allocate_within, .free = release, .allocator_data = &left};
    *out =
        freezepoint__stream__message__unpack(&allocator, le32toh(header->message), stream->message);
    return *out ? 0 : err_text(err, EBADMSG, "a message from the other side cannot be decoded");
}

int stream_poll(struct stream *stream, int timeout_ms, StreamMessage **out, struct err *err)
{
    struct header header = {0};
    *out = NULL;
    int whole = take(stream, &header, err);
    if (whole == 0) {
        int ready = fd_wait(stream->in, POLLIN, timeout_ms);
        if (ready < 0)
            return lost(-ready, err);
        whole = ready ? take(stream, &header, err) : 0;
    }
    if (whole <= 0)
        return whole;
    return open_frame(stream, &header, out, err);
}

int stream_receive(struct stream *stream, StreamMessage **out, struct err *err)
{
    uint64_t heard = stream->received;
    uint64_t since_ns = proc_monotonic_ns();
    for (;;) {
        int error = stream_poll(stream, STREAM_BEAT_MS, out, err);
        if (error)
            return error;
        if (*out && (*out)->kind != FREEZEPOINT__STREAM__KIND__ALIVE)
            return 0;
        if (*out)
            freezepoint__stream__message__free_unpacked(*out, NULL);
        *out = NULL;
        if (stream->received != heard) {
            heard = stream->received;
            since_ns = proc_monotonic_ns();
        } else if (proc_monotonic_ns() - since_ns > (uint64_t)stream->quiet_ms * 1000000) {
            return err_text(err, ETIMEDOUT, "the other side has been quiet for %d s",
                            stream->quiet_ms / 1000);
        }
    }
}

int stream_expect(struct stream *stream, Freezepoint__Stream__Kind kind, StreamMessage **out,
                  struct err *err)
{
    StreamMessage *message = NULL;
    int error = stream_receive(stream, &message, err);
    if (!message)
        return error;
    if (message->kind == kind) {
        *out = message;
        return 0;
    }
    bool told = message->kind == FREEZEPOINT__STREAM__KIND__FAILED ||
                message->kind == FREEZEPOINT__STREAM__KIND__CANCEL;
    if (told)
        err_text(err, ECANCELED, "%s", message->text);
    else
        err_text(err, EPROTO, "the other side said something unexpected (%d instead of %d)",
                 (int)message->kind, (int)kind);
    freezepoint__stream__message__free_unpacked(message, NULL);
    return -err->errnum;
}
