#include "lib/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/image_files.h"
#include "lib/image_manifest.h"
#include "lib/trusted.h"

bool image_spec_is_path(const char *spec)
{
    return strchr(spec, '/') != NULL;
}

int image_blame(const char *label, struct err *err)
{
    switch (err->errnum) {
    case EBADMSG:
        err_wrap(err, "image '%s' is damaged", label);
        return err_hint(err, "use an older generation ('freezepoint images' lists them) or take a "
                             "new checkpoint");
    case EPERM:
        err_wrap(err, "image '%s' is refused", label);
        return err_hint(err, "restoring an image runs code as root, so its files must be root's "
                             "and closed to other writers");
    case ENOTSUP:
        return err_wrap(err, "image '%s' cannot be used", label);
    default:
        return err_wrap(err, "image '%s'", label);
    }
}

/* A part of an image that is missing or of another kind is damage, whatever open(2)
 * calls it. */
static int open_part(const struct image *image, const char *name, int flags, struct stat *about,
                     struct err *err)
{
    int fd = trusted_open_at(image->dirfd, name, flags, name, about, err);
    if (fd == -ENOENT)
        return err_text(err, EBADMSG, "%s is missing", name);
    if (fd == -ELOOP || fd == -ENOTDIR) {
        err->errnum = EBADMSG;
        return -EBADMSG;
    }
    return fd;
}

static int load_manifest(struct image *image, struct err *err)
{
    struct stat about;
    _cleanup_close_ int fd = open_part(image, IMAGE_MANIFEST, O_RDONLY, &about, err);
    if (fd < 0)
        return fd;
    if (!S_ISREG(about.st_mode) || about.st_size > (off_t)MANIFEST_SIZE_MAX)
        return err_text(err, EBADMSG, IMAGE_MANIFEST " is no file of a sane size");
    _cleanup_free_ uint8_t *bytes = malloc((size_t)about.st_size + 1);
    if (!bytes)
        return err_set(err, ENOMEM, IMAGE_MANIFEST);
    ssize_t n = fd_read_all(fd, bytes, (size_t)about.st_size);
    if (n < 0)
        return err_set(err, (int)-n, "read " IMAGE_MANIFEST);
    return manifest_decode(bytes, (size_t)n, &image->manifest, err);
}

/* A shared lock keeps image_remove() off while the image is open; where the
 * exclusive one is held, it is being removed.  File systems without locks do
 * without. */
static int share(const struct image *image, struct err *err)
{
    if (flock(image->dirfd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return err_text(err, ENOENT, "it is being removed");
    return 0;
}

static int load(struct image *image, struct err *err)
{
    if (snprintf(image->criu_path, sizeof(image->criu_path), "%s/" IMAGE_CRIU, image->path) >=
        (int)sizeof(image->criu_path))
        return err_set(err, ENAMETOOLONG, "directory '%s'", image->path);
    int error = share(image, err);
    if (!error)
        error = load_manifest(image, err);
    if (error)
        return error;
    _cleanup_close_ int criu_fd = open_part(image, IMAGE_CRIU, O_RDONLY | O_DIRECTORY, NULL, err);
    return criu_fd < 0 ? criu_fd : 0;
}

static int open_by_path(const char *spec, struct image *image, struct err *err)
{
    image->dirfd = trusted_open_path(spec, false, err);
    snprintf(image->label, sizeof(image->label), "%s", spec);
    if (image->dirfd < 0)
        return image->dirfd;
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", image->dirfd);
    ssize_t n = readlink(link, image->path, sizeof(image->path));
    if (n < 0 || (size_t)n >= sizeof(image->path))
        return err_set(err, n < 0 ? errno : ENAMETOOLONG, "directory '%s'", spec);
    image->path[n] = '\0';
    int error = load(image, err);
    if (!error)
        image->generation = image->manifest->generation;
    return error;
}

/* NAME, NAME@GENERATION; *generation 0: the newest. */
static int parse_spec(const char *spec, char name[NAME_MAX + 1], uint64_t *generation,
                      struct err *err)
{
    const char *at = strrchr(spec, '@');
    size_t length = at ? (size_t)(at - spec) : strlen(spec);
    *generation = at ? store_parse_generation(at + 1) : 0;
    if (length == 0 || length > NAME_MAX || (at && *generation == 0))
        return err_usage(err,
                         "'%s' is no IMAGE: NAME, NAME@GENERATION (a number from 1), or the "
                         "path of a directory, with a '/'",
                         spec);
    memcpy(name, spec, length);
    name[length] = '\0';
    return 0;
}

static int find_newest(int name_fd, uint64_t *generation, struct err *err)
{
    _cleanup_free_ uint64_t *list = NULL;
    long count = store_generations(name_fd, &list, err);
    if (count < 0)
        return (int)count;
    *generation = count ? list[count - 1] : 0;
    return 0;
}

static int open_by_name(const struct store *store, const char *spec, struct image *image,
                        struct err *err)
{
    char name[NAME_MAX + 1], entry[32];
    _cleanup_close_ int name_fd = -1;
    int error = parse_spec(spec, name, &image->generation, err);
    if (!error)
        error = store_open_name(store, name, false, &name_fd, err);
    if (!error && image->generation == 0)
        error = find_newest(name_fd, &image->generation, err);
    if (error)
        return error;
    if (image->generation == 0)
        return err_text(err, ENOENT, "there is no image '%s' in '%s'", name, store->path);
    snprintf(entry, sizeof(entry), "%" PRIu64, image->generation);
    snprintf(image->path, sizeof(image->path), "%s/%s/%s", store->path, name, entry);
    snprintf(image->label, sizeof(image->label), "%s@%s", name, entry);
    image->dirfd = trusted_open_at(name_fd, entry, O_RDONLY | O_DIRECTORY, image->path, NULL, err);
    if (image->dirfd == -ENOENT)
        return err_text(err, ENOENT, "there is no image '%s' in '%s'", image->label, store->path);
    error = image->dirfd < 0 ? image->dirfd : load(image, err);
    return error ? image_blame(image->label, err) : 0;
}

int image_open(const struct store *store, const char *spec, struct image *out, struct err *err)
{
    _cleanup_(image_close) struct image image = IMAGE_NONE;
    int error;
    if (image_spec_is_path(spec)) {
        error = open_by_path(spec, &image, err);
        if (error)
            return image_blame(image.label, err);
    } else if (!store) {
        return err_text(err, ENOENT, "there is no image store to find '%s' in", spec);
    } else {
        error = open_by_name(store, spec, &image, err);
        if (error)
            return error;
    }
    *out = image;
    image = IMAGE_NONE;
    return 0;
}

void image_close(struct image *image)
{
    if (image->manifest)
        freezepoint__manifest__free_unpacked(image->manifest, NULL);
    image->manifest = NULL;
    fd_close(&image->dirfd);
}

static int add_size(const char *path, const struct stat *about, void *context, struct err *err)
{
    (void)path;
    (void)err;
    struct image_size *size = context;
    if (S_ISREG(about->st_mode)) {
        size->apparent += (uint64_t)about->st_size;
        size->on_disk += (uint64_t)about->st_blocks * 512;
    }
    return 0;
}

int image_measure(const struct image *image, struct image_size *out, struct err *err)
{
    struct image_size size = {0};
    int error = image_files_walk(image->dirfd, add_size, &size, err);
    if (!error)
        *out = size;
    return error;
}
