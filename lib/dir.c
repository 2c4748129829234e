#include "lib/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

int dir_make(const char *path, mode_t mode, struct err *err)
{
    char partial[PATH_MAX];
    if (strlen(path) >= sizeof(partial))
        return err_set(err, ENAMETOOLONG, "directory '%s'", path);
    snprintf(partial, sizeof(partial), "%s", path);
    for (char *c = partial + 1;; c++) {
        if (*c != '/' && *c != '\0')
            continue;
        char kept = *c;
        *c = '\0';
        if (mkdir(partial, mode) < 0 && errno != EEXIST)
            return err_set(err, errno, "make directory '%s'", partial);
        *c = kept;
        if (kept == '\0')
            return 0;
    }
}

static int remove_contents(int parent_fd, const char *name, struct err *err)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_set(err, errno, "open directory '%s'", name);
    _cleanup_closedir_ DIR *dir = fdopendir(fd);
    if (!dir) {
        int errnum = errno;
        fd_close(&fd);
        return err_set(err, errnum, "read directory '%s'", name);
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int error = dir_remove_recursive(dirfd(dir), entry->d_name, err);
        if (error)
            return error;
    }
    return 0;
}

int dir_remove_recursive(int parent_fd, const char *name, struct err *err)
{
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return err_set(err, errno, "remove '%s'", name);
    int error = remove_contents(parent_fd, name, err);
    if (error)
        return error;
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return err_set(err, errno, "remove directory '%s'", name);
    return 0;
}
