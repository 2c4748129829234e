#include "cli/stored.h"

#include <string.h>

int stored_set(void *context, const char *name, const char *value, struct err *err)
{
    (void)err;
    struct stored_options *options = context;
    if (!strcmp(name, "json"))
        options->json = true;
    else
        options->images = value;
    return 0;
}

int stored_open(const struct stored_options *options, const char *spec, struct store *store,
                struct image *image, struct err *err)
{
    int error = image_spec_is_path(spec) ? 0 : store_find(options->images, store, err);
    if (!error)
        error = image_open(store->fd < 0 ? NULL : store, spec, image, err);
    return error;
}
