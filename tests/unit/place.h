/*
 * A store of the test's own, empty, for cmocka's setup and teardown.
 */
#ifndef FREEZEPOINT_TESTS_PLACE_H
#define FREEZEPOINT_TESTS_PLACE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/dir.h"
#include "lib/store.h"

struct place {
    char top[64];
    struct store store;
};

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    struct err err;
    *state = place;
    snprintf(place->top, sizeof(place->top), "/tmp/freezepoint-store-XXXXXX");
    return mkdtemp(place->top) ? store_open(place->top, &place->store, &err) : -1;
}

static int teardown(void **state)
{
    struct place *place = *state;
    struct err err;
    store_close(&place->store);
    int error = dir_remove_recursive(AT_FDCWD, place->top, &err);
    free(place);
    return error;
}

#endif
