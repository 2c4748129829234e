/*
 * Filling in a manifest.  What is put in belongs to the manifest and goes with
 * freezepoint__manifest__free_unpacked(); where memory runs out a field stays
 * empty.
 */
#ifndef FREEZEPOINT_MANIFEST_FILL_H
#define FREEZEPOINT_MANIFEST_FILL_H

#include <stdlib.h>
#include <string.h>

#include "manifest.pb-c.h"

static inline char *manifest_copy(const char *text)
{
    char *copied = strdup(text ? text : "");
    return copied ? copied : (char *)protobuf_c_empty_string;
}

static inline ProtobufCBinaryData manifest_copy_bytes(const char *text)
{
    ProtobufCBinaryData data = {.len = strlen(text)};
    data.data = malloc(data.len + 1);
    if (!data.data)
        data.len = 0;
    else
        memcpy(data.data, text, data.len);
    return data;
}

/* Grows a repeated field by one zeroed, initialised message; its address, or NULL. */
#define MANIFEST_ADD(manifest, field, type, init)                                                  \
    ({                                                                                             \
        type *added_ = calloc(1, sizeof(type));                                                    \
        type **list_ = reallocarray((manifest)->field, (manifest)->n_##field + 1, sizeof(type *)); \
        if (list_)                                                                                 \
            (manifest)->field = list_;                                                             \
        if (added_ && list_) {                                                                     \
            init(added_);                                                                          \
            list_[(manifest)->n_##field++] = added_;                                               \
        } else {                                                                                   \
            free(added_);                                                                          \
            added_ = NULL;                                                                         \
        }                                                                                          \
        added_;                                                                                    \
    })

#endif
