/*
 * Sending an image to another host (lib/stream.h).
 */
#ifndef FREEZEPOINT_SEND_H
#define FREEZEPOINT_SEND_H

#include <stdint.h>

#include "lib/err.h"
#include "lib/stream.h"

/* Called with how many of the image's bytes are through, after each chunk.  Non-zero ends
 * the sending with that error. */
typedef int send_progress(void *context, uint64_t done, uint64_t total, struct err *err);

struct send_request {
    const char *path; /* the image's directory, complete */
    bool then_stop;   /* how the job is to be supervised there */
    uint32_t tcp;     /* Manifest.TcpMode */
    uint64_t checkpoints_left;
    ProtobufCBinaryData *places; /* lib/sockets.h */
    size_t place_count;
    send_progress *progress;
    void *context;
};

struct sent {
    uint64_t files, size; /* of the image; bytes */
    uint64_t packed;      /* of those, the bytes that were sent compressed */
};

/* The whole image; the other side has it when it answers. */
int send_image(struct stream *stream, const struct send_request *request, struct sent *out,
               struct err *err);

#endif
