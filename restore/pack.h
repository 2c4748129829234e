/*
 * Whether an image's next piece is better sent compressed: where the link is slower than
 * zstd, measured while it is sent.  Pieces are sent both ways by turns as long as it is
 * not clear which gets more of the image through in the same time; each way is tried
 * again now and then, since links and contents change.
 *
 * Belongs to one thread.
 */
#ifndef FREEZEPOINT_PACK_H
#define FREEZEPOINT_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* The fastest of zstd's usual levels: people wait for it. */
#define PACK_LEVEL 1

enum pack_way { PACK_PLAIN, PACK_ZSTD, PACK_WAYS };

struct pack {
    enum pack_way way;
    double rate[PACK_WAYS]; /* bytes of the image a second, when last measured; 0: not yet */
    unsigned int turns;     /* since the other way was last tried */
    /* The pieces that are being measured. */
    uint64_t bytes, packed, elapsed_ns, waited_ns;
    void *context; /* zstd's */
    uint8_t *buffer;
    size_t capacity;
};

/* For pieces of at most `size` bytes. */
int pack_open(struct pack *pack, size_t size, struct err *err);
void pack_close(struct pack *pack);

/* What is to be sent for the piece: itself, or (true) *packed, *packed_size bytes that
 * are valid until the next call. */
bool pack_piece(struct pack *pack, const void *bytes, size_t size, const void **packed,
                size_t *packed_size);

/* How that went: how long it took, packing included, and how long of that the link took
 * nothing. */
void pack_note(struct pack *pack, size_t size, size_t sent, uint64_t elapsed_ns,
               uint64_t waited_ns);

/* The other direction: exactly `size` bytes must come out.  *context is made when it is
 * needed, to be freed with pack_forget(). */
int pack_unpack(void **context, const void *packed, size_t packed_size, void *bytes, size_t size,
                struct err *err);
void pack_forget(void *context);

#endif
