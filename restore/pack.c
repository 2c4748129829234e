#include "restore/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

/* What is measured at once: long enough to see through the pipes' buffers. */
#define TURN_BYTES (4U << 20)
#define TURN_NS    (40ULL * 1000 * 1000)
/* So often the other way is tried again. */
#define TURNS_UNTIL_TRIAL 24
/* Of the time: below it, the link is not what is waited for. */
#define WAITING_PART 0.4
/* Bytes a second: compressing is seldom faster, and trying it would cost a quick link most. */
#define QUICK_LINK (250.0 * 1000 * 1000)
/* What does not get smaller than this part is not worth it. */
#define WORTH_PART 0.95

int pack_open(struct pack *pack, size_t size, struct err *err)
{
    *pack = (struct pack){.way = PACK_PLAIN, .capacity = ZSTD_compressBound(size)};
    pack->context = ZSTD_createCCtx();
    pack->buffer = malloc(pack->capacity);
    if (pack->context && pack->buffer)
        return 0;
    pack_close(pack);
    return err_set(err, ENOMEM, "compress the image");
}

void pack_close(struct pack *pack)
{
    ZSTD_freeCCtx(pack->context);
    free(pack->buffer);
    *pack = (struct pack){.way = PACK_PLAIN};
}

bool pack_piece(struct pack *pack, const void *bytes, size_t size, const void **packed,
                size_t *packed_size)
{
    if (pack->way == PACK_PLAIN)
        return false;
    size_t n =
        ZSTD_compressCCtx(pack->context, pack->buffer, pack->capacity, bytes, size, PACK_LEVEL);
    if (ZSTD_isError(n) || n >= size)
        return false;
    *packed = pack->buffer;
    *packed_size = n;
    return true;
}

static enum pack_way next_way(struct pack *pack)
{
    enum pack_way other = pack->way == PACK_PLAIN ? PACK_ZSTD : PACK_PLAIN;
    double waiting = (double)pack->waited_ns / (double)(pack->elapsed_ns + 1);
    if (pack->way == PACK_ZSTD && (double)pack->packed > WORTH_PART * (double)pack->bytes)
        return PACK_PLAIN;
    /* Nothing could be won. */
    if (pack->way == PACK_PLAIN && (waiting < WAITING_PART || pack->rate[PACK_PLAIN] > QUICK_LINK))
        return PACK_PLAIN;
    if (pack->rate[other] == 0 || pack->turns >= TURNS_UNTIL_TRIAL)
        return other;
    return pack->rate[other] > pack->rate[pack->way] ? other : pack->way;
}

void pack_note(struct pack *pack, size_t size, size_t sent, uint64_t elapsed_ns, uint64_t waited_ns)
{
    pack->bytes += size;
    pack->packed += sent;
    pack->elapsed_ns += elapsed_ns;
    pack->waited_ns += waited_ns;
    if (pack->bytes < TURN_BYTES && pack->elapsed_ns < TURN_NS)
        return;
    pack->rate[pack->way] = (double)pack->bytes * 1e9 / (double)(pack->elapsed_ns + 1);
    enum pack_way next = next_way(pack);
    pack->turns = next == pack->way ? pack->turns + 1 : 0;
    pack->way = next;
    pack->bytes = pack->packed = pack->elapsed_ns = pack->waited_ns = 0;
}

int pack_unpack(void **context, const void *packed, size_t packed_size, void *bytes, size_t size,
                struct err *err)
{
    if (!*context)
        *context = ZSTD_createDCtx();
    if (!*context)
        return err_set(err, ENOMEM, "decompress the image");
    size_t n = ZSTD_decompressDCtx(*context, bytes, size, packed, packed_size);
    if (ZSTD_isError(n) || n != size)
        return err_text(err, EBADMSG, "a compressed piece of a file is damaged");
    return 0;
}

void pack_forget(void *context)
{
    ZSTD_freeDCtx(context);
}
