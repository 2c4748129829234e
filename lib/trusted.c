#include "lib/trusted.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"

#define LINKS_MAX 16

struct walk {
    int fd; /* O_PATH */
    bool make;
    unsigned int links;
    char rest[PATH_MAX]; /* still to go */
};

static bool is_ours(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

int trusted_check(const struct stat *about, const char *name, struct err *err)
{
    if (!is_ours(about->st_uid))
        return err_text(err, EPERM, "'%s' belongs to user %u", name, about->st_uid);
    if (about->st_mode & 022)
        return err_text(err, EPERM, "'%s' can be written by other users (mode %04o)", name,
                        about->st_mode & 07777);
    return 0;
}

/* For messages: where a descriptor is. */
static const char *path_of(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = '\0';
    return path;
}

/* A sticky directory may be written by anybody: what is ours in it stays ours. */
static int check_way(int fd, const struct stat *about, struct err *err)
{
    char path[PATH_MAX];
    struct stat effective = *about;
    if (about->st_mode & S_ISVTX)
        effective.st_mode &= ~(mode_t)022;
    return trusted_check(&effective, path_of(fd, path), err);
}

/* Cuts the next part off walk->rest.  1, 0 at the end, or -errno. */
static int take_part(struct walk *walk, char part[NAME_MAX + 1])
{
    const char *begin = walk->rest + strspn(walk->rest, "/");
    size_t length = strcspn(begin, "/");
    if (length == 0)
        return 0;
    if (length > NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(part, begin, length);
    part[length] = '\0';
    memmove(walk->rest, begin + length, strlen(begin + length) + 1);
    return 1;
}

static int move_to(struct walk *walk, int fd)
{
    fd_close(&walk->fd);
    walk->fd = fd;
    return 0;
}

static int go_to_root(struct walk *walk, struct err *err)
{
    int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_set(err, errno, "open '/'") : move_to(walk, fd);
}

static int follow_link(struct walk *walk, int link_fd, const struct stat *about, struct err *err)
{
    char path[PATH_MAX], target[PATH_MAX], rest[PATH_MAX];
    if (!is_ours(about->st_uid))
        return err_text(err, EPERM, "the symbolic link '%s' belongs to user %u",
                        path_of(link_fd, path), about->st_uid);
    if (++walk->links > LINKS_MAX)
        return err_set(err, ELOOP, "'%s'", path_of(link_fd, path));
    ssize_t n = readlinkat(link_fd, "", target, sizeof(target) - 1);
    if (n < 0)
        return err_set(err, errno, "read link '%s'", path_of(link_fd, path));
    target[n] = '\0';
    memcpy(rest, walk->rest, sizeof(rest));
    if (snprintf(walk->rest, sizeof(walk->rest), "%s%s", target, rest) >= (int)sizeof(walk->rest))
        return err_set(err, ENAMETOOLONG, "'%s'", path_of(link_fd, path));
    return target[0] == '/' ? go_to_root(walk, err) : 0;
}

/* mkdir that survives a crash.  Another process may be making the same. */
static int make_level(int parent_fd, const char *part, struct err *err)
{
    char path[PATH_MAX];
    if (mkdirat(parent_fd, part, 0700) < 0 && errno != EEXIST)
        return err_set(err, errno, "make directory '%s' in '%s'", part, path_of(parent_fd, path));
    _cleanup_close_ int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return err_set(err, errno, "sync '%s'", path_of(parent_fd, path));
    return 0;
}

static int step(struct walk *walk, const char *part, struct err *err)
{
    char path[PATH_MAX];
    int flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    _cleanup_close_ int fd = openat(walk->fd, part, flags);
    if (fd < 0 && errno == ENOENT && walk->make) {
        int error = make_level(walk->fd, part, err);
        if (error)
            return error;
        fd = openat(walk->fd, part, flags);
    }
    struct stat about;
    if (fd < 0 || fstat(fd, &about) < 0)
        return err_set(err, errno, "open '%s' in '%s'", part, path_of(walk->fd, path));
    if (S_ISLNK(about.st_mode))
        return follow_link(walk, fd, &about, err);
    if (!S_ISDIR(about.st_mode))
        return err_set(err, ENOTDIR, "'%s'", path_of(fd, path));
    int error = check_way(fd, &about, err);
    return error ? error : move_to(walk, fd_steal(&fd));
}

static int walk_all(struct walk *walk, struct err *err)
{
    char part[NAME_MAX + 1];
    for (;;) {
        int more = take_part(walk, part);
        if (more < 0)
            return err_set(err, -more, "path");
        if (more == 0)
            return 0;
        int error = step(walk, part, err);
        if (error)
            return error;
    }
}

static int start(struct walk *walk, const char *path, struct err *err)
{
    char here[PATH_MAX] = "";
    if (path[0] != '/' && !getcwd(here, sizeof(here)))
        return err_set(err, errno, "the working directory");
    if (snprintf(walk->rest, sizeof(walk->rest), "%s/%s", here, path) >= (int)sizeof(walk->rest))
        return err_set(err, ENAMETOOLONG, "'%s'", path);
    return go_to_root(walk, err);
}

int trusted_open_path(const char *path, bool make, struct err *err)
{
    struct walk walk = {.fd = -1, .make = make};
    int error = start(&walk, path, err);
    if (!error)
        error = walk_all(&walk, err);
    _cleanup_close_ int way_fd = walk.fd;
    if (error)
        return error;
    char shown[PATH_MAX];
    path_of(way_fd, shown);
    return trusted_open_at(way_fd, ".", O_RDONLY | O_DIRECTORY, shown, NULL, err);
}

int trusted_open_at(int parent_fd, const char *name, int flags, const char *shown,
                    struct stat *about, struct err *err)
{
    /* O_NONBLOCK: a FIFO must not hold us up before it is seen to be one. */
    _cleanup_close_ int fd = openat(parent_fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP)
        return err_text(err, ELOOP, "'%s' is a symbolic link", shown);
    struct stat found;
    if (fd < 0 || fstat(fd, &found) < 0)
        return err_set(err, errno, "open '%s'", shown);
    int error = trusted_check(&found, shown, err);
    if (error)
        return error;
    if (about)
        *about = found;
    return fd_steal(&fd);
}
