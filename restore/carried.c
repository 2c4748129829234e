#include "restore/carried.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"

/* The paths are those that the kernel showed (/proc/PID/maps) and have no links in
 * them.  A link on the way now was put there by who owns the directory, and would have
 * us write where that one cannot. */
static int open_directory(int at, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, at, path, &how, sizeof(how));
    return fd < 0 ? -errno : fd;
}

/* Only of a directory that is still as mkdirat() has made it. */
static int give_away(int fd, const Freezepoint__CarriedFile *carried)
{
    struct stat about;
    if (fstat(fd, &about) < 0)
        return -errno;
    if (about.st_uid != geteuid() || (about.st_mode & 07777) != 0700)
        return -EPERM;
    if (fchown(fd, carried->directory_uid, carried->directory_gid) < 0 ||
        fchmod(fd, carried->directory_mode) < 0)
        return -errno;
    return 0;
}

/* Opens the directory `path`, made where only it is missing.  `path` is changed and
 * put right again. */
static int open_parent(const Freezepoint__CarriedFile *carried, char *path, struct err *err)
{
    int fd = open_directory(AT_FDCWD, path);
    if (fd != -ENOENT)
        return fd < 0 ? err_set(err, -fd, "open '%s', where the program has a file", path) : fd;
    char *slash = strrchr(path, '/');
    *slash = '\0';
    _cleanup_close_ int above = open_directory(AT_FDCWD, *path ? path : "/");
    *slash = '/';
    if (above < 0)
        return err_set(err, -above, "open the directory above '%s', where the program has a file",
                       path);
    bool made = mkdirat(above, slash + 1, 0700) == 0;
    if (!made && errno != EEXIST)
        return err_set(err, errno, "make '%s', where the program has a file", path);
    _cleanup_close_ int parent = open_directory(above, slash + 1);
    if (parent < 0)
        return err_set(err, -parent, "open '%s', where the program has a file", path);
    int error = made ? give_away(parent, carried) : 0;
    return error ? err_set(err, -error, "set the owner of '%s'", path) : fd_steal(&parent);
}

/* Complete or not there: the original or a clone may be looking for it. */
static int copy_in(const struct image *image, const Freezepoint__CarriedFile *carried, int parent,
                   const char *name, struct err *err)
{
    char file[PATH_MAX], temporary[NAME_MAX + 1];
    snprintf(file, sizeof(file), "%.*s", (int)carried->file.len, (const char *)carried->file.data);
    snprintf(temporary, sizeof(temporary), ".freezepoint.%d", getpid());
    _cleanup_close_ int from = openat(image->dirfd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0)
        return err_set(err, errno, "open '%s/%s'", image->path, file);
    _cleanup_close_ int to =
        openat(parent, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return err_set(err, errno, "make a file beside '%s'", name);
    int error = fd_copy(from, to);
    if (!error && (fchown(to, carried->uid, carried->gid) < 0 || fchmod(to, carried->mode) < 0))
        error = -errno;
    if (!error && linkat(parent, temporary, parent, name, 0) < 0 && errno != EEXIST)
        error = -errno;
    unlinkat(parent, temporary, 0);
    return error ? err_set(err, -error, "put back '%s'", name) : 0;
}

static int place(const struct image *image, const Freezepoint__CarriedFile *carried,
                 struct err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%.*s", (int)carried->path.len, (const char *)carried->path.data);
    char *slash = strrchr(path, '/');
    const char *name = slash + 1;
    *slash = '\0';
    /* Opened even where the file may be there, which is looked for in it. */
    _cleanup_close_ int parent =
        *path ? open_parent(carried, path, err) : open_directory(AT_FDCWD, "/");
    if (parent < 0)
        return parent;
    struct stat about;
    if (fstatat(parent, name, &about, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    return copy_in(image, carried, parent, name, err);
}

int carried_place(const struct image *image, struct err *err)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    int error = 0;
    for (size_t i = 0; i < manifest->n_carried && !error; i++)
        error = place(image, manifest->carried[i], err);
    return error;
}
