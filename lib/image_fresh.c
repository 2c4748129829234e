#include "lib/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool equals(const ProtobufCBinaryData *data, const char *text)
{
    return data->len == strlen(text) && (data->len == 0 || !memcmp(data->data, text, data->len));
}

static bool same_command_line(const Freezepoint__Command *command, const char *const *argv)
{
    size_t count = 0;
    while (argv[count])
        count++;
    bool same = count == command->n_argv;
    for (size_t i = 0; same && i < count; i++)
        same = equals(&command->argv[i], argv[i]);
    return same;
}

static bool manifest_has_spec(const Freezepoint__Manifest *manifest, const char *spec)
{
    for (size_t i = 0; i < manifest->n_points; i++)
        if (!strcmp(manifest->points[i]->spec, spec))
            return true;
    return false;
}

static bool wanted_has_spec(const struct image_wanted *wanted, const char *spec)
{
    for (size_t i = 0; i < wanted->spec_count; i++)
        if (!strcmp(wanted->specs[i], spec))
            return true;
    return false;
}

static bool same_points(const Freezepoint__Manifest *manifest, const struct image_wanted *wanted)
{
    bool same = true;
    for (size_t i = 0; same && i < wanted->spec_count; i++)
        same = manifest_has_spec(manifest, wanted->specs[i]);
    for (size_t i = 0; same && i < manifest->n_points; i++)
        same = wanted_has_spec(wanted, manifest->points[i]->spec);
    return same;
}

static bool same_interval(const Freezepoint__Manifest *manifest, const struct image_wanted *wanted)
{
    for (size_t i = 0; i < manifest->n_points; i++)
        if (manifest->points[i]->every != wanted->every)
            return false;
    return true;
}

static bool same_file(const Freezepoint__Fingerprint *print, char why[IMAGE_WHY_MAX])
{
    char *path = strndup((const char *)print->path.data, print->path.len);
    struct stat about = {0};
    int errnum = !path ? ENOMEM : stat(path, &about) < 0 ? errno : 0;
    bool same = errnum == 0 && S_ISREG(about.st_mode) && (uint64_t)about.st_size == print->size &&
                about.st_mtim.tv_sec * 1000000000LL + about.st_mtim.tv_nsec == print->mtime_ns &&
                about.st_ino == print->inode;
    if (errnum)
        snprintf(why, IMAGE_WHY_MAX, "'%s': %s", path ? path : "a file", strerror(errnum));
    else if (!same)
        snprintf(why, IMAGE_WHY_MAX, "'%s' has changed since", path);
    free(path);
    return same;
}

bool image_check_fresh(const struct image *image, const struct image_wanted *wanted,
                       char why[IMAGE_WHY_MAX])
{
    const Freezepoint__Manifest *manifest = image->manifest;
    const Freezepoint__Command *command = manifest->command;
    const char *differs = NULL;
    if (!same_command_line(command, wanted->argv))
        differs = "the command line differs";
    else if (!equals(&command->executable, wanted->executable))
        differs = "the program's file is another";
    else if (!equals(&command->cwd, wanted->cwd))
        differs = "the working directory differs";
    else if (!same_points(manifest, wanted))
        differs = "--at differs";
    else if (!same_interval(manifest, wanted))
        differs = "--every differs";
    if (differs) {
        snprintf(why, IMAGE_WHY_MAX, "%s", differs);
        return false;
    }
    for (size_t i = 0; i < manifest->n_fingerprint; i++)
        if (!same_file(manifest->fingerprint[i], why))
            return false;
    return true;
}
