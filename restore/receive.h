/*
 * Receiving an image from another host (lib/stream.h).  What comes is outside
 * information: an image is made of it as if a stranger had written it, and only one
 * that matches its manifest is opened.
 */
#ifndef FREEZEPOINT_RECEIVE_H
#define FREEZEPOINT_RECEIVE_H

#include "lib/err.h"
#include "lib/image.h"
#include "lib/moving.h"
#include "lib/sockets.h"
#include "lib/stream.h"

struct received {
    struct image_draft draft;
    bool then_stop;
    uint32_t tcp; /* Manifest.TcpMode */
    uint64_t checkpoints_left;
    struct socket_address *places; /* where packets of the job come and go */
    size_t place_count;
};

#define RECEIVED_NONE ((struct received){.draft = IMAGE_DRAFT_NONE})

/* BEGIN: what is to come.  *out is to be released, also after a failure. */
int receive_begin(struct stream *stream, struct received *out, uint64_t *size, uint32_t *files,
                  struct err *err);

/* All packets of a place without a port are kept away: only those of addresses that come
 * along, which nobody else has here.  -EBADMSG. */
int receive_check_places(const struct received *received, const struct moving *moving,
                         struct err *err);

/* Then all up to MANIFEST. */
int receive_image(struct stream *stream, const struct store *store, const char *name, uint64_t size,
                  uint32_t files, struct received *out, struct err *err);

/* The draft is abandoned.  Safe on RECEIVED_NONE. */
void received_release(struct received *received);

#endif
