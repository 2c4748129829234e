#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/say.h"
#include "cli/stored.h"

/* NAME@GENERATION, spelled out: an image that cannot be opened must be removable,
 * and "the newest" would be a dangerous default. */
static int parse_image(const char *spec, char *name, size_t size, uint64_t *generation,
                       struct err *err)
{
    const char *at = strrchr(spec, '@');
    *generation = at ? store_parse_generation(at + 1) : 0;
    if (!*generation || at == spec || (size_t)(at - spec) >= size)
        return err_usage(err, "'%s': the image to remove is given as NAME@GENERATION", spec);
    snprintf(name, size, "%.*s", (int)(at - spec), spec);
    return 0;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    const struct stored_options *options = context;
    char name[256];
    uint64_t generation;
    struct store store = STORE_NONE;
    int error = parse_image(arguments->list[0], name, sizeof(name), &generation, err);
    if (!error)
        error = store_find(options->images, &store, err);
    if (!error)
        error = image_remove(&store, name, generation, err);
    if (!error)
        say("image %s@%" PRIu64 " is removed", name, generation);
    store_close(&store);
    return error;
}

static const struct option_spec options[] = {STORED_IMAGES_OPTION, {0}};

const struct command cmd_rm = {
    .name = "rm",
    .synopsis = "[OPTION]... NAME@GENERATION",
    .summary = "Remove an image",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = stored_set,
    .run = run,
    .context_size = sizeof(struct stored_options),
};
