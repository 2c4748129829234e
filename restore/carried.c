#include "restore/carried.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

static int make_directory(const Freezepoint__CarriedFile *carried, const char *path,
                          struct err *err)
{
    char parent[PATH_MAX];
    snprintf(parent, sizeof(parent), "%s", path);
    *strrchr(parent, '/') = '\0';
    if (!parent[0] || mkdir(parent, 0700) < 0) {
        if (!parent[0] || errno == EEXIST)
            return 0;
        return err_set(err, errno, "make '%s', where the program has a file", parent);
    }
    if (lchown(parent, carried->directory_uid, carried->directory_gid) < 0 ||
        chmod(parent, carried->directory_mode) < 0)
        return err_set(err, errno, "set the owner of '%s'", parent);
    return 0;
}

/* Complete or not there: the original or a clone may be looking for it. */
static int copy_in(const struct image *image, const Freezepoint__CarriedFile *carried,
                   const char *path, struct err *err)
{
    char file[PATH_MAX], temporary[PATH_MAX];
    snprintf(file, sizeof(file), "%.*s", (int)carried->file.len, (const char *)carried->file.data);
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.%d", path, getpid()) >=
        sizeof(temporary))
        return err_set(err, ENAMETOOLONG, "'%s'", path);
    _cleanup_close_ int from = openat(image->dirfd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0)
        return err_set(err, errno, "open '%s/%s'", image->path, file);
    _cleanup_close_ int to =
        open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return err_set(err, errno, "make '%s'", temporary);
    int error = fd_copy(from, to);
    if (!error && (fchown(to, carried->uid, carried->gid) < 0 || fchmod(to, carried->mode) < 0))
        error = -errno;
    if (!error && link(temporary, path) < 0 && errno != EEXIST)
        error = -errno;
    unlink(temporary);
    return error ? err_set(err, -error, "put back '%s'", path) : 0;
}

int carried_place(const struct image *image, struct err *err)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    for (size_t i = 0; i < manifest->n_carried; i++) {
        const Freezepoint__CarriedFile *carried = manifest->carried[i];
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%.*s", (int)carried->path.len,
                 (const char *)carried->path.data);
        struct stat about;
        if (lstat(path, &about) == 0)
            continue;
        int error = make_directory(carried, path, err);
        if (!error)
            error = copy_in(image, carried, path, err);
        if (error)
            return error;
    }
    return 0;
}
