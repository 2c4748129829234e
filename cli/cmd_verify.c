#include "cli/say.h"
#include "cli/stored.h"

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct stored_options *options = context;
    struct store store = STORE_NONE;
    struct image image = IMAGE_NONE;
    volatile bool cancel = false;
    int error = stored_open(options, arguments->list[0], &store, &image, err);
    if (!error)
        error = image_verify_small(&image, err);
    if (!error)
        error = image_verify_pages(&image, &cancel, err);
    if (!error)
        say("image %s is whole", image.label);
    image_close(&image);
    store_close(&store);
    return error;
}

static const struct option_spec options[] = {STORED_IMAGES_OPTION, {0}};

const struct command cmd_verify = {
    .name = "verify",
    .synopsis = "[OPTION]... IMAGE",
    .summary = "Compare every file of an image with its checksum",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = stored_set,
    .run = run,
    .context_size = sizeof(struct stored_options),
};
