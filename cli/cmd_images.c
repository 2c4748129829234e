#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cli/image_text.h"
#include "cli/stored.h"
#include "lib/store.h"

static int add_json(const struct store_entry *entry, void *context)
{
    json_object_array_add(context, image_summary_json(entry));
    return 0;
}

static int print_row(const struct store_entry *entry, void *context)
{
    bool *any = context;
    if (!*any)
        printf("%-24s %-20s %-20s %9s %5s  %s\n", "IMAGE", "CREATED", "POINT", "SIZE", "PROCS",
               "PROGRAM");
    *any = true;
    char label[300], created[32], point[600], bytes[32] = "?";
    snprintf(label, sizeof(label), "%s@%" PRIu64, entry->name, entry->generation);
    if (!entry->image) {
        printf("%-24s %s\n", entry->generation ? label : entry->name, entry->problem);
        return 0;
    }
    const Freezepoint__Manifest *manifest = entry->image->manifest;
    struct image_size size;
    struct err ignored;
    if (image_measure(entry->image, &size, &ignored) == 0)
        text_of_size(size.apparent, bytes);
    text_of_time(manifest->created_unix_ns, created);
    text_of_point(manifest->point, point, sizeof(point));
    printf("%-24s %-20s %-20s %9s %5zu  ", label, created, point, bytes, manifest->n_processes);
    print_bytes(stdout, &manifest->command->executable);
    putchar('\n');
    return 0;
}

static int list(const struct store *store, bool json, struct err *err)
{
    if (!json) {
        bool any = false;
        return store_list(store, print_row, &any, err);
    }
    struct json_object *array = json_object_new_array();
    int error = store_list(store, add_json, array, err);
    if (!error)
        puts(json_object_to_json_string_ext(array, JSON_C_TO_STRING_PRETTY));
    json_object_put(array);
    return error;
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    (void)arguments;
    const struct stored_options *options = context;
    struct store store = STORE_NONE;
    int error = store_find(options->images, &store, err);
    if (error == -ENOENT && !options->images) {
        /* The default store is made by the first checkpoint. */
        if (options->json)
            puts("[]");
        return 0;
    }
    if (!error)
        error = list(&store, options->json, err);
    store_close(&store);
    return error;
}

static const struct option_spec options[] = {
    STORED_IMAGES_OPTION,
    {"json", NULL, "a JSON array", NULL},
    {0},
};

const struct command cmd_images = {
    .name = "images",
    .synopsis = "[OPTION]...",
    .summary = "List the images of the store",
    .options = options,
    .needs = NEEDS_ROOT,
    .set = stored_set,
    .run = run,
    .context_size = sizeof(struct stored_options),
};
