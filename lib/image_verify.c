#include "lib/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/image_files.h"
#include "lib/image_manifest.h"
#include "lib/trusted.h"

/* Shorter than NAME_MAX and without a NUL: manifest_decode() has seen to that. */
static void path_of(const Freezepoint__File *file, char path[NAME_MAX])
{
    memcpy(path, file->path.data, file->path.len);
    path[file->path.len] = '\0';
}

static int open_file(const struct image *image, const Freezepoint__File *file, struct err *err)
{
    char path[NAME_MAX];
    path_of(file, path);
    _cleanup_close_ int fd = image_files_open(image->dirfd, path, O_RDONLY);
    if (fd == -ENOENT)
        return err_text(err, EBADMSG, "%s is missing", path);
    if (fd == -ELOOP || fd == -ENOTDIR || fd == -ENXIO)
        return err_text(err, EBADMSG, "%s is not a plain file", path);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) < 0)
        return err_set(err, fd < 0 ? -fd : errno, "open %s", path);
    if (!S_ISREG(about.st_mode))
        return err_text(err, EBADMSG, "%s is not a plain file", path);
    int error = trusted_check(&about, path, err);
    if (error)
        return error;
    if ((uint64_t)about.st_size != file->size)
        return err_text(err, EBADMSG, "%s has %jd bytes instead of %" PRIu64, path,
                        (intmax_t)about.st_size, file->size);
    return fd_steal(&fd);
}

static int verify_sum(const struct image *image, const Freezepoint__File *file,
                      volatile bool *cancel, struct err *err)
{
    _cleanup_close_ int fd = open_file(image, file, err);
    if (fd < 0)
        return fd;
    char path[NAME_MAX];
    path_of(file, path);
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    uint64_t sum, size;
    int error = image_files_sum(fd, cancel, &sum, &size);
    if (error == -ECANCELED)
        return err_text(err, ECANCELED, "the comparison with its checksums was cancelled");
    if (error)
        return err_set(err, -error, "read %s", path);
    if (sum != file->sum || size != file->size)
        return err_text(err, EBADMSG, "%s does not match its checksum", path);
    return 0;
}

/* What `criu restore` leaves beside the images that it was pointed at; CRIU reads
 * none of these. */
static bool is_harmless(const char *path, const struct stat *about)
{
    const char *name = strrchr(path, '/');
    const char *suffix = strrchr(path, '.');
    return S_ISREG(about->st_mode) && name &&
           (!strncmp(name, "/stats-", 7) || (suffix && !strcmp(suffix, ".log")));
}

static int check_known(const char *path, const struct stat *about, void *context, struct err *err)
{
    const struct image *image = context;
    if (S_ISDIR(about->st_mode) || strncmp(path, IMAGE_CRIU "/", strlen(IMAGE_CRIU "/")) != 0)
        return 0;
    if (manifest_find_file(image->manifest, path, strlen(path)) || is_harmless(path, about))
        return 0;
    return err_text(err, EBADMSG, "%s does not belong to it", path);
}

static int verify_small(const struct image *image, struct err *err)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    for (size_t i = 0; i < manifest->n_files; i++) {
        const Freezepoint__File *file = manifest->files[i];
        if (!manifest_is_pages(file)) {
            int error = verify_sum(image, file, NULL, err);
            if (error)
                return error;
            continue;
        }
        _cleanup_close_ int fd = open_file(image, file, err);
        if (fd < 0)
            return fd;
    }
    return image_files_walk(image->dirfd, check_known, (void *)image, err);
}

int image_verify_small(const struct image *image, struct err *err)
{
    return verify_small(image, err) ? image_blame(image->label, err) : 0;
}

int image_verify_pages(const struct image *image, volatile bool *cancel, struct err *err)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    for (size_t i = 0; i < manifest->n_files; i++) {
        if (!manifest_is_pages(manifest->files[i]))
            continue;
        int error = verify_sum(image, manifest->files[i], cancel, err);
        if (error)
            return image_blame(image->label, err);
    }
    return 0;
}
