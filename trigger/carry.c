#include "trigger/carry.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "trigger/manifest_fill.h"

struct carrying {
    Freezepoint__Manifest *manifest;
    int directory_fd; /* IMAGE_CARRIED of the draft; -1: not made yet */
    const struct image_draft *draft;
};

static bool is_known(const Freezepoint__Manifest *manifest, const char *path)
{
    for (size_t i = 0; i < manifest->n_carried; i++) {
        const ProtobufCBinaryData *known = &manifest->carried[i]->path;
        if (known->len == strlen(path) && !memcmp(known->data, path, known->len))
            return true;
    }
    return false;
}

static int stat_parent(const char *path, struct stat *about)
{
    char parent[PATH_MAX];
    snprintf(parent, sizeof(parent), "%s", path);
    *(strrchr(parent, '/') + 1) = '\0';
    return stat(parent, about) < 0 ? -errno : 0;
}

static int open_directory(struct carrying *carrying)
{
    if (carrying->directory_fd >= 0)
        return 0;
    if (mkdirat(carrying->draft->dirfd, IMAGE_CARRIED, 0700) < 0 && errno != EEXIST)
        return -errno;
    carrying->directory_fd = openat(carrying->draft->dirfd, IMAGE_CARRIED,
                                    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return carrying->directory_fd < 0 ? -errno : 0;
}

/* Not to its end: somebody outside the job may be adding to it all the time. */
static int copy_file(struct carrying *carrying, int from, size_t size, const char *name)
{
    int error = open_directory(carrying);
    if (error)
        return error;
    _cleanup_free_ void *bytes = malloc(size + 1);
    ssize_t n = bytes ? fd_read_all(from, bytes, size) : -ENOMEM;
    if (n < 0)
        return (int)n;
    _cleanup_close_ int to = openat(carrying->directory_fd, name,
                                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    n = fd_write_all(to, bytes, (size_t)n);
    return n < 0 ? (int)n : 0;
}

static void enter_file(struct carrying *carrying, const char *path, const char *name,
                       const struct stat *about, const struct stat *parent)
{
    Freezepoint__CarriedFile *carried = MANIFEST_ADD(
        carrying->manifest, carried, Freezepoint__CarriedFile, freezepoint__carried_file__init);
    if (!carried)
        return;
    char file[64];
    snprintf(file, sizeof(file), IMAGE_CARRIED "/%s", name);
    carried->path = manifest_copy_bytes(path);
    carried->file = manifest_copy_bytes(file);
    carried->mode = about->st_mode & 07777;
    carried->uid = about->st_uid;
    carried->gid = about->st_gid;
    carried->directory_mode = parent->st_mode & 07777;
    carried->directory_uid = parent->st_uid;
    carried->directory_gid = parent->st_gid;
}

static void carry_one(const char *path, void *context)
{
    struct carrying *carrying = context;
    struct stat about, parent;
    if (is_known(carrying->manifest, path))
        return;
    _cleanup_close_ int from = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (from < 0 || fstat(from, &about) < 0 || !S_ISREG(about.st_mode) || about.st_nlink == 0 ||
        about.st_size > IMAGE_CARRIED_SIZE_MAX || stat_parent(path, &parent))
        return;
    char name[32];
    snprintf(name, sizeof(name), "%zu", carrying->manifest->n_carried);
    int error = copy_file(carrying, from, (size_t)about.st_size, name);
    if (error)
        log_info("carry", "'%s' is not carried: %s", path, strerror(-error));
    else
        enter_file(carrying, path, name, &about, &parent);
}

int carry_files(const pid_t *pids, size_t count, const struct image_draft *draft,
                Freezepoint__Manifest *manifest, struct err *err)
{
    struct carrying carrying = {.manifest = manifest, .directory_fd = -1, .draft = draft};
    int error = 0;
    for (size_t i = 0; i < count && !error; i++)
        error = proc_mapped_files(pids[i], PROC_MAPPED_SHARED, carry_one, &carrying);
    fd_close(&carrying.directory_fd);
    return error && error != -ESRCH ? err_set(err, -error, "list mapped files") : 0;
}
