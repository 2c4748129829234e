#include "lib/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/job.h"
#include "lib/proc.h"
#include "lib/trusted.h"

#define DEFAULT_PATH    "/var/lib/freezepoint"
#define LOCK_TIMEOUT_NS (30 * 1000000000ULL)
#define LOCK_POLL_NS    (2 * 1000000L)

#define LATEST      "latest"
#define LATEST_NEXT ".latest" /* what becomes `latest` */
#define LAST        ".last"   /* -> the highest number that was removed */

#define GENERATION_DIGITS_MAX 18
#define GENERATION_MAX        999999999999999999ULL

const char *store_default_path(void)
{
    const char *path = getenv("FREEZEPOINT_IMAGES");
    return path && *path ? path : DEFAULT_PATH;
}

int store_hint(struct err *err)
{
    switch (err->errnum) {
    case ENOSPC:
    case EDQUOT:
        return err_hint(err, "the image store is full: make room ('freezepoint images' lists, "
                             "'freezepoint rm' removes) or use --images DIR elsewhere");
    case EROFS:
    case EACCES:
        return err_hint(err, "the image store cannot be written: use --images DIR elsewhere");
    case EPERM:
        return err_hint(err, "restoring an image runs code as root, so the store and all "
                             "directories above it must be root's and closed to other writers: "
                             "chown or 'chmod go-w' it, or use --images DIR elsewhere");
    default:
        return -err->errnum;
    }
}

static int open_at(const char *path, bool make, struct store *out, struct err *err)
{
    _cleanup_close_ int fd = trusted_open_path(path, make, err);
    if (fd < 0) {
        err_wrap(err, "image store '%s'", path);
        return store_hint(err);
    }
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out->path, sizeof(out->path));
    if (n < 0)
        return err_set(err, errno, "read link '%s'", link);
    if ((size_t)n >= sizeof(out->path))
        return err_set(err, ENAMETOOLONG, "image store '%s'", path);
    out->path[n] = '\0';
    out->fd = fd_steal(&fd);
    return 0;
}

int store_open(const char *path, struct store *out, struct err *err)
{
    return open_at(path ? path : store_default_path(), true, out, err);
}

int store_find(const char *path, struct store *out, struct err *err)
{
    if (!path)
        path = store_default_path();
    int error = open_at(path, false, out, err);
    return error == -ENOENT ? err_text(err, ENOENT, "there is no image store at '%s'", path)
                            : error;
}

void store_close(struct store *store)
{
    fd_close(&store->fd);
}

uint64_t store_parse_generation(const char *text)
{
    size_t length = strspn(text, "0123456789");
    if (text[length] != '\0' || length == 0 || length > GENERATION_DIGITS_MAX || text[0] == '0')
        return 0;
    return strtoull(text, NULL, 10);
}

int store_open_name(const struct store *store, const char *name, bool make, int *out,
                    struct err *err)
{
    if (!job_name_is_valid(name))
        return err_usage(err,
                         "'%s' cannot be an image's name: letters, digits and '._+-', at "
                         "most %d, starting with a letter or digit",
                         name, JOB_NAME_MAX);
    char shown[PATH_MAX];
    snprintf(shown, sizeof(shown), "%s/%s", store->path, name);
    if (make && mkdirat(store->fd, name, 0700) == 0) {
        if (fsync(store->fd) < 0)
            return err_set(err, errno, "sync '%s'", store->path);
    } else if (make && errno != EEXIST) {
        err_set(err, errno, "make directory '%s'", shown);
        return store_hint(err);
    }
    int fd = trusted_open_at(store->fd, name, O_RDONLY | O_DIRECTORY, shown, NULL, err);
    if (fd == -ENOENT)
        return err_text(err, ENOENT, "there is no image '%s' in '%s'", name, store->path);
    if (fd < 0)
        return store_hint(err);
    *out = fd;
    return 0;
}

int store_lock(int name_fd, struct err *err)
{
    uint64_t deadline = proc_monotonic_ns() + LOCK_TIMEOUT_NS;
    const struct timespec pause = {.tv_nsec = LOCK_POLL_NS};
    while (flock(name_fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(err, errno, "lock the image's directory");
        if (proc_monotonic_ns() > deadline)
            return err_text(err, ETIMEDOUT,
                            "another freezepoint keeps the image's directory "
                            "locked for more than 30 s");
        nanosleep(&pause, NULL);
    }
    return 0;
}

void store_unlock(int name_fd)
{
    flock(name_fd, LOCK_UN);
}

/* The last remover of a name takes its directory away, maybe after we opened it. */
static bool is_in_place(const struct store *store, const char *name, int name_fd)
{
    struct stat by_fd, by_name;
    return fstat(name_fd, &by_fd) == 0 &&
           fstatat(store->fd, name, &by_name, AT_SYMLINK_NOFOLLOW) == 0 &&
           by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev;
}

int store_lock_name(const struct store *store, const char *name, bool make, int *out,
                    struct err *err)
{
    int error = 0;
    for (int attempt = 0; attempt < 100; attempt++) {
        _cleanup_close_ int fd = -1;
        error = store_open_name(store, name, make, &fd, err);
        /* The last remover can also come between our mkdir() and our open(). */
        if (error == -ENOENT && make)
            continue;
        if (!error)
            error = store_lock(fd, err);
        if (make && error == -ENOENT)
            continue; /* removed between our making and opening it */
        if (error)
            return error;
        if (is_in_place(store, name, fd)) {
            *out = fd_steal(&fd);
            return 0;
        }
    }
    return error ? error
                 : err_text(err, EBUSY, "the directory '%s/%s' keeps changing", store->path, name);
}

/* A directory stream of its own, so that users do not share an offset. */
static DIR *open_stream(int fd, struct err *err)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    if (!dir) {
        err_set(err, errno, "read the image's directory");
        fd_close(&own);
    }
    return dir;
}

static int compare_numbers(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

long store_generations(int name_fd, uint64_t **generations, struct err *err)
{
    _cleanup_closedir_ DIR *dir = open_stream(name_fd, err);
    if (!dir)
        return -err->errnum;
    _cleanup_free_ uint64_t *list = NULL;
    long count = 0;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        uint64_t number = store_parse_generation(entry->d_name);
        if (number == 0)
            continue;
        uint64_t *grown = reallocarray(list, (size_t)count + 1, sizeof(*list));
        if (!grown)
            return err_set(err, ENOMEM, "list generations");
        list = grown;
        list[count++] = number;
    }
    if (errno)
        return err_set(err, errno, "read the image's directory");
    if (count)
        qsort(list, (size_t)count, sizeof(*list), compare_numbers);
    *generations = steal_pointer(&list);
    return count;
}

/* What a link of ours names; 0 where it is missing or odd. */
static uint64_t read_number(int name_fd, const char *link)
{
    char target[GENERATION_DIGITS_MAX + 2];
    ssize_t n = readlinkat(name_fd, link, target, sizeof(target) - 1);
    if (n <= 0)
        return 0;
    target[n] = '\0';
    return store_parse_generation(target);
}

static int write_number(int name_fd, const char *link, uint64_t number, struct err *err)
{
    char target[32];
    snprintf(target, sizeof(target), "%" PRIu64, number);
    if (unlinkat(name_fd, link, 0) < 0 && errno != ENOENT)
        return err_set(err, errno, "remove '%s'", link);
    if (symlinkat(target, name_fd, link) < 0)
        return err_set(err, errno, "make the link '%s'", link);
    return 0;
}

static uint64_t highest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

int store_next_generation(int name_fd, uint64_t *next, struct err *err)
{
    _cleanup_free_ uint64_t *list = NULL;
    long count = store_generations(name_fd, &list, err);
    if (count < 0)
        return (int)count;
    uint64_t last = highest(read_number(name_fd, LATEST), read_number(name_fd, LAST));
    if (count)
        last = highest(last, list[count - 1]);
    if (last >= GENERATION_MAX)
        return err_text(err, EOVERFLOW, "the generations have run out at %" PRIu64, last);
    *next = last + 1;
    return 0;
}

int store_prepare_latest(int name_fd, uint64_t generation, struct err *err)
{
    return write_number(name_fd, LATEST_NEXT, generation, err);
}

int store_place_latest(int name_fd, struct err *err)
{
    if (renameat(name_fd, LATEST_NEXT, name_fd, LATEST) < 0)
        return err_set(err, errno, "replace the link '" LATEST "'");
    return 0;
}

int store_forget_generation(int name_fd, uint64_t generation, struct err *err)
{
    _cleanup_free_ uint64_t *list = NULL;
    long count = store_generations(name_fd, &list, err);
    if (count < 0)
        return (int)count;
    uint64_t newest = 0;
    for (long i = 0; list && i < count; i++)
        if (list[i] != generation)
            newest = list[i];
    if (newest > generation)
        return 0;
    int error = 0;
    if (read_number(name_fd, LAST) < generation)
        error = write_number(name_fd, LAST, generation, err);
    if (!error && newest) {
        error = store_prepare_latest(name_fd, newest, err);
        return error ? error : store_place_latest(name_fd, err);
    }
    if (!error && unlinkat(name_fd, LATEST, 0) < 0 && errno != ENOENT)
        return err_set(err, errno, "remove the link '" LATEST "'");
    return error;
}

static const char *const links[] = {LATEST, LATEST_NEXT, LAST};

static bool is_link(const char *name)
{
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (!strcmp(name, links[i]))
            return true;
    return false;
}

int store_drop_name(const struct store *store, const char *name, struct err *err)
{
    _cleanup_close_ int fd = -1;
    int error = store_lock_name(store, name, false, &fd, err);
    if (error)
        return error == -ENOENT ? 0 : error;
    _cleanup_closedir_ DIR *dir = open_stream(fd, err);
    if (!dir)
        return -err->errnum;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !is_link(entry->d_name))
            return 0;
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        unlinkat(fd, links[i], 0);
    if (unlinkat(store->fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENOTEMPTY)
        return err_set(err, errno, "remove directory '%s/%s'", store->path, name);
    return 0;
}
