#include "cli/image_text.h"
#include "cli/stored.h"

static int show(const struct image *image, bool json, struct err *err)
{
    struct image_size size;
    int error = image_measure(image, &size, err);
    if (error)
        return error;
    if (!json) {
        image_print(stdout, image, &size);
        return 0;
    }
    struct json_object *object = image_json(image, &size);
    puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY));
    json_object_put(object);
    return 0;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct stored_options *options = context;
    struct store store = STORE_NONE;
    struct image image = IMAGE_NONE;
    int error = stored_open(options, arguments->list[0], &store, &image, err);
    if (!error)
        error = show(&image, options->json, err);
    image_close(&image);
    store_close(&store);
    return error;
}

static const struct option_spec options[] = {
    STORED_IMAGES_OPTION,
    {"json", NULL, "a JSON object", NULL},
    {0},
};

const struct command cmd_inspect = {
    .name = "inspect",
    .synopsis = "[OPTION]... IMAGE",
    .summary = "Show what an image holds: when, where, which processes, how long it took",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = stored_set,
    .run = run,
    .context_size = sizeof(struct stored_options),
};
