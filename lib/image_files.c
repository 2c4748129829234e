#include "lib/image_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Chosen for the processor at run time, the sums of memory pages are half as
 * fast again: they compete with CRIU for the time to the first response. */
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "lib/fd.h"

#define DEPTH_MAX 8
/* Stays in a core's own cache, and on the heap: larger ones are mapped for each file. */
#define PIECE_SIZE ((size_t)64 << 10)

struct walk {
    image_files_visit *visit;
    void *context;
    struct err *err;
};

static int walk_directory(const struct walk *walk, int dirfd, const char *path, int depth);

static int walk_entry(const struct walk *walk, int dirfd, const char *parent, const char *name,
                      int depth)
{
    char path[NAME_MAX];
    int length = snprintf(path, sizeof(path), "%s%s%s", parent, *parent ? "/" : "", name);
    if (length >= (int)sizeof(path))
        return err_set(walk->err, ENAMETOOLONG, "'%s/%s'", parent, name);
    struct stat about;
    if (fstatat(dirfd, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(walk->err, errno, "stat '%s'", path);
    if (!S_ISDIR(about.st_mode))
        return walk->visit(path, &about, walk->context, walk->err);
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set(walk->err, errno, "open directory '%s'", path);
    return walk_directory(walk, fd, path, depth + 1);
}

/* Takes `fd` over. */
static int walk_directory(const struct walk *walk, int fd, const char *path, int depth)
{
    _cleanup_closedir_ DIR *dir = fdopendir(fd);
    if (!dir) {
        err_set(walk->err, errno, "read directory '%s'", path);
        fd_close(&fd);
        return -walk->err->errnum;
    }
    if (depth > DEPTH_MAX)
        return err_text(walk->err, ELOOP, "'%s' is nested too deep", path);
    struct stat about;
    if (fstat(fd, &about) < 0)
        return err_set(walk->err, errno, "stat '%s'", path);
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int error = walk_entry(walk, fd, path, entry->d_name, depth);
        if (error)
            return error;
    }
    if (errno)
        return err_set(walk->err, errno, "read directory '%s'", path);
    return walk->visit(path, &about, walk->context, walk->err);
}

int image_files_walk(int dirfd, image_files_visit *visit, void *context, struct err *err)
{
    struct walk walk = {.visit = visit, .context = context, .err = err};
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "read the directory") : walk_directory(&walk, fd, "", 0);
}

int image_files_open(int dirfd, const char *path, int flags)
{
    struct open_how how = {
        /* O_NONBLOCK: a FIFO must not hold us up before it is seen to be one. */
        .flags = (uint64_t)(flags | O_CLOEXEC | O_NONBLOCK),
        .mode = flags & O_CREAT ? 0600 : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

static int sum_pieces(int fd, volatile bool *cancel, XXH3_state_t *state, void *piece,
                      uint64_t *size)
{
    for (;;) {
        if (cancel && *cancel)
            return -ECANCELED;
        ssize_t n = fd_read_all(fd, piece, PIECE_SIZE);
        if (n < 0)
            return (int)n;
        XXH3_64bits_update(state, piece, (size_t)n);
        *size += (uint64_t)n;
        if ((size_t)n < PIECE_SIZE)
            return 0;
    }
}

int image_files_sum(int fd, volatile bool *cancel, uint64_t *sum, uint64_t *size)
{
    _cleanup_free_ void *piece = malloc(PIECE_SIZE);
    XXH3_state_t *state = XXH3_createState();
    int error = -ENOMEM;
    if (piece && state) {
        XXH3_64bits_reset(state);
        *size = 0;
        error = sum_pieces(fd, cancel, state, piece, size);
        *sum = XXH3_64bits_digest(state);
    }
    XXH3_freeState(state);
    return error;
}
