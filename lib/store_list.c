#include "lib/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/image.h"
#include "lib/job.h"

static int visit_generation(const struct store *store, struct store_entry *entry,
                            store_visit *visit, void *context)
{
    _cleanup_(image_close) struct image image = IMAGE_NONE;
    char spec[NAME_MAX + 32];
    struct err problem;
    snprintf(spec, sizeof(spec), "%s@%" PRIu64, entry->name, entry->generation);
    int error = image_open(store, spec, &image, &problem);
    if (error == -ENOENT)
        return 0; /* removed meanwhile */
    entry->image = error ? NULL : &image;
    entry->problem = error ? problem.text : NULL;
    return visit(entry, context);
}

static int visit_name(const struct store *store, const char *name, store_visit *visit,
                      void *context)
{
    _cleanup_close_ int name_fd = -1;
    _cleanup_free_ uint64_t *generations = NULL;
    struct stat about;
    struct err problem;
    if (fstatat(store->fd, name, &about, AT_SYMLINK_NOFOLLOW) < 0 || S_ISREG(about.st_mode))
        return 0;
    int error = store_open_name(store, name, false, &name_fd, &problem);
    long count = error ? error : store_generations(name_fd, &generations, &problem);
    if (count == -ENOENT)
        return 0;
    struct store_entry entry = {.name = name};
    if (count < 0) {
        entry.problem = problem.text;
        return visit(&entry, context);
    }
    int stop = 0;
    for (long i = 0; generations && i < count && !stop; i++) {
        entry.generation = generations[i];
        entry.newest = i == count - 1;
        stop = visit_generation(store, &entry, visit, context);
    }
    return stop;
}

int store_list(const struct store *store, store_visit *visit, void *context, struct err *err)
{
    _cleanup_(job_names_free) struct job_names names = {0};
    int error = job_names_list(store->fd, &names);
    if (error)
        return err_set(err, -error, "read directory '%s'", store->path);
    int stop = 0;
    for (int i = 0; i < names.count && !stop; i++)
        stop = visit_name(store, names.list[i]->d_name, visit, context);
    return stop;
}
