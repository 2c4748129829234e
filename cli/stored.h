/*
 * The commands that take one IMAGE and look at it or take it away: their options
 * and the opening of store and image.
 */
#ifndef FREEZEPOINT_STORED_H
#define FREEZEPOINT_STORED_H

#include "cli/command.h"
#include "lib/image.h"

struct stored_options {
    const char *images;
    bool json;
};

/* For struct command. */
int stored_set(void *context, const char *name, const char *value, struct err *err);

#define STORED_IMAGES_OPTION                                                                       \
    {                                                                                              \
        "images", "DIR", "image store (default: $FREEZEPOINT_IMAGES or /var/lib/freezepoint)",     \
            NULL                                                                                   \
    }

/* A store that is not needed, for an IMAGE that is a path, stays STORE_NONE. */
int stored_open(const struct stored_options *options, const char *spec, struct store *store,
                struct image *image, struct err *err);

#endif
