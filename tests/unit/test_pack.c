/* Whether pieces of an image are sent compressed (restore/pack.h). */
#include "restore/pack.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PIECE (256U << 10)
#define MB    1e6

/* A link of `link` bytes a second, and a processor that packs `speed`.  Returns how many
 * of the last quarter of the pieces went compressed. */
static unsigned int send(struct pack *pack, const uint8_t *piece, size_t pieces, double link,
                         double speed)
{
    unsigned int compressed = 0;
    for (size_t i = 0; i < pieces; i++) {
        const void *bytes = piece;
        size_t size = PIECE;
        bool zstd = pack_piece(pack, piece, PIECE, &bytes, &size);
        double packing = pack->way == PACK_ZSTD ? PIECE / speed : 1e-6;
        double sending = (double)size / link;
        double waited = sending > packing ? sending - packing : 0;
        double elapsed = packing + waited;
        pack_note(pack, PIECE, size, (uint64_t)(elapsed * 1e9), (uint64_t)(waited * 1e9));
        compressed += zstd && i >= pieces - pieces / 4;
    }
    return compressed;
}

static void fill(uint8_t *piece, bool compressible)
{
    srand(7);
    for (size_t i = 0; i < PIECE; i++)
        piece[i] = (uint8_t)(compressible ? i >> 6 : (size_t)rand() >> 5);
}

struct fixture {
    struct pack pack;
    uint8_t *piece;
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct err err;
    fixture->piece = malloc(PIECE);
    *state = fixture;
    return pack_open(&fixture->pack, PIECE, &err);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    pack_close(&fixture->pack);
    free(fixture->piece);
    free(fixture);
    return 0;
}

static void slow_links_get_compressed_pieces(void **state)
{
    struct fixture *fixture = *state;
    fill(fixture->piece, true);
    assert_int_equal(send(&fixture->pack, fixture->piece, 400, 10 * MB, 400 * MB), 100);
}

static void the_first_pieces_on_a_very_slow_link_too(void **state)
{
    struct fixture *fixture = *state;
    fill(fixture->piece, true);
    assert_true(send(&fixture->pack, fixture->piece, 8, 1 * MB, 400 * MB) == 2);
}

static void fast_links_get_plain_ones(void **state)
{
    struct fixture *fixture = *state;
    fill(fixture->piece, true);
    /* Tried once in a while, as packing would win if it were faster. */
    assert_in_range(send(&fixture->pack, fixture->piece, 4000, 4000 * MB, 100 * MB), 0, 100);
}

static void so_does_what_cannot_be_compressed(void **state)
{
    struct fixture *fixture = *state;
    fill(fixture->piece, false);
    assert_int_equal(send(&fixture->pack, fixture->piece, 400, 10 * MB, 400 * MB), 0);
}

static void a_link_that_becomes_slow_is_noticed(void **state)
{
    struct fixture *fixture = *state;
    fill(fixture->piece, true);
    send(&fixture->pack, fixture->piece, 1000, 4000 * MB, 100 * MB);
    /* But for a trial of the other way. */
    assert_in_range(send(&fixture->pack, fixture->piece, 1000, 10 * MB, 100 * MB), 240, 250);
}

static void pieces_come_out_as_they_went_in(void **state)
{
    struct fixture *fixture = *state;
    struct err err;
    const void *packed;
    size_t size;
    void *context = NULL;
    _Alignas(16) static uint8_t out[PIECE + 1];
    fill(fixture->piece, true);
    fixture->pack.way = PACK_ZSTD;
    assert_true(pack_piece(&fixture->pack, fixture->piece, PIECE, &packed, &size));
    assert_int_equal(pack_unpack(&context, packed, size, out, PIECE, &err), 0);
    assert_memory_equal(out, fixture->piece, PIECE);
    /* More, less, cut off, and altered. */
    assert_int_equal(pack_unpack(&context, packed, size, out, PIECE + 1, &err), -EBADMSG);
    assert_int_equal(pack_unpack(&context, packed, size, out, PIECE - 1, &err), -EBADMSG);
    assert_int_equal(pack_unpack(&context, packed, size - 1, out, PIECE, &err), -EBADMSG);
    ((uint8_t *)packed)[0] ^= 1;
    assert_int_equal(pack_unpack(&context, packed, size, out, PIECE, &err), -EBADMSG);
    pack_forget(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slow_links_get_compressed_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_pieces_on_a_very_slow_link_too, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(fast_links_get_plain_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(so_does_what_cannot_be_compressed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_that_becomes_slow_is_noticed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pieces_come_out_as_they_went_in, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
