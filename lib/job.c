#include "lib/job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lib/dir.h"
#include "lib/fd.h"

bool job_name_is_valid(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    if (!*name || strlen(name) > JOB_NAME_MAX || !strchr(letters, name[0]))
        return false;
    for (const char *c = name; *c; c++)
        if (!strchr(letters, *c) && !strchr("._+-", *c))
            return false;
    return true;
}

static int is_name(const struct dirent *entry)
{
    return job_name_is_valid(entry->d_name);
}

static int compare_names(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name);
}

int job_names_list(int directory_fd, struct job_names *out)
{
    struct job_names names = {0};
    names.count = scandirat(directory_fd, ".", &names.list, is_name, compare_names);
    if (names.count < 0)
        return -errno;
    *out = names;
    return 0;
}

void job_names_free(struct job_names *names)
{
    for (int i = 0; i < names->count; i++)
        free(names->list[i]);
    free(names->list);
    *names = (struct job_names){0};
}

/* Somebody may just be looking whether the lock is held (job_is_claimed()), which
 * takes a shared one for a moment. */
static int lock_file(int fd)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK || flock(fd, LOCK_SH | LOCK_NB) < 0)
            return -errno;
        flock(fd, LOCK_UN);
        nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
    }
    return -EWOULDBLOCK;
}

int job_is_claimed(int directory_fd)
{
    _cleanup_close_ int fd = openat(directory_fd, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? 1 : -errno;
}

/* The lock file may be removed, with its directory, between our open and our
 * flock: then the lock is on a file that nobody else will find. */
static int try_lock(const char *runtime_path, struct err *err)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof(path), "%s/lock", runtime_path);
    for (int attempt = 0; attempt < 100; attempt++) {
        int error = dir_make(runtime_path, 0755, err);
        if (error)
            return error;
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return err_set(err, errno, "open '%s'", path);
        error = lock_file(fd);
        if (error)
            return error == -EWOULDBLOCK ? -EEXIST : err_set(err, -error, "lock '%s'", path);
        struct stat by_fd, by_path;
        if (fstat(fd, &by_fd) == 0 && stat(path, &by_path) == 0 && by_fd.st_ino == by_path.st_ino &&
            by_fd.st_dev == by_path.st_dev)
            return fd_steal(&fd);
    }
    return err_text(err, EBUSY, "'%s' keeps changing", path);
}

/* Returns the descriptor. */
static int listen_at(const char *path, mode_t mode, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path))
        return err_text(err, ENAMETOOLONG, "socket path '%s'", path);
    memcpy(address.sun_path, path, length + 1);
    unlink(path);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, errno, "socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return err_set(err, errno, "bind '%s'", path);
    /* All of a restored tree may come at once to re-arm, and whom there is no room for
     * disarms itself. */
    if (chmod(path, mode) < 0 || listen(fd, SOMAXCONN) < 0)
        return err_set(err, errno, "listen on '%s'", path);
    return fd_steal(&fd);
}

static int listen_for_others(struct job *job, struct err *err)
{
    /* A process of another user may have to re-arm; who connects is checked by
     * its membership of the job's group. */
    job->socket_fd = listen_at(job->socket_path, 0666, err);
    if (job->socket_fd < 0)
        return job->socket_fd;
    char path[PATH_MAX + sizeof(JOB_REQUEST_SOCKET) + 1];
    snprintf(path, sizeof(path), "%s/" JOB_REQUEST_SOCKET, job->runtime_path);
    job->request_fd = listen_at(path, 0600, err);
    return job->request_fd < 0 ? job->request_fd : 0;
}

static int make_group(struct job *job, struct err *err)
{
    int error = cgroup_make(job->name, &job->group, err);
    if (error == -EEXIST) {
        err_text(err, EEXIST,
                 "processes of an earlier job '%s' whose supervisor is gone still run (see "
                 "%s/cgroup.procs); end them, or choose another --name",
                 job->name, job->group.path);
        return -EEXIST;
    }
    return error;
}

int job_create(const char *name, struct job *out, struct err *err)
{
    if (!job_name_is_valid(name))
        return err_usage(err,
                         "'%s' cannot be a job's name: letters, digits and '._+-', at most %d, "
                         "starting with a letter or digit; give one with --name",
                         name, JOB_NAME_MAX);
    struct job job = JOB_NONE;
    snprintf(job.name, sizeof(job.name), "%s", name);
    snprintf(job.runtime_path, sizeof(job.runtime_path), "%s/%s", JOB_RUNTIME_ROOT, name);
    snprintf(job.socket_path, sizeof(job.socket_path), "%s/%s/control.sock", JOB_RUNTIME_ROOT,
             name);
    int fd = try_lock(job.runtime_path, err);
    if (fd == -EEXIST)
        return err_text(err, EEXIST, "a job named '%s' is running; choose another --name", name);
    if (fd < 0)
        return fd;
    job.lock_fd = fd;
    int error = make_group(&job, err);
    if (!error)
        error = listen_for_others(&job, err);
    if (error) {
        struct err ignored;
        bool keep_group = error == -EEXIST;
        if (keep_group)
            job.group.path[0] = '\0';
        job_destroy(&job, &ignored);
        return error;
    }
    *out = job;
    return 0;
}

int job_create_any(const char *name, struct job *out, struct err *err)
{
    int error = job_create(name, out, err);
    for (int number = 2; error == -EEXIST && number < 10000; number++) {
        char numbered[JOB_NAME_MAX + 1];
        int length =
            snprintf(numbered, sizeof(numbered), "%.*s.%d", JOB_NAME_MAX - 6, name, number);
        if (length < 0)
            return err_usage(err, "the name '%s' is too long", name);
        error = job_create(numbered, out, err);
    }
    return error;
}

int job_renew_group(struct job *job, struct err *err)
{
    int error = cgroup_remove(job->group.path, err);
    if (error)
        return error;
    cgroup_release(&job->group);
    return make_group(job, err);
}

void job_release(struct job *job)
{
    cgroup_release(&job->group);
    fd_close(&job->socket_fd);
    fd_close(&job->request_fd);
    fd_close(&job->lock_fd);
}

int job_destroy(struct job *job, struct err *err)
{
    int error = 0;
    if (job->group.path[0])
        error = cgroup_remove(job->group.path, err);
    struct err later;
    if (job->runtime_path[0] && job->lock_fd >= 0) {
        int removed = dir_remove_recursive(AT_FDCWD, job->runtime_path, &later);
        if (removed && !error) {
            *err = later;
            error = removed;
        }
    }
    job_release(job);
    return error;
}

int job_make_log_directory(const char *name, char *path, size_t size, struct err *err)
{
    if ((size_t)snprintf(path, size, JOB_LOG_ROOT "/%s", name) >= size)
        return err_set(err, ENAMETOOLONG, "log directory of '%s'", name);
    return dir_make(path, 0700, err);
}

static bool holds_same(const char *path, const void *bytes, size_t size)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) < 0 || about.st_uid != 0 || (about.st_mode & 022) ||
        (size_t)about.st_size != size)
        return false;
    _cleanup_free_ char *there = malloc(size);
    return there && fd_read_all(fd, there, size) == (ssize_t)size && !memcmp(there, bytes, size);
}

/* Many distributions mount /run noexec. */
static const char *const preload_places[] = {JOB_RUNTIME_ROOT "/.preload", JOB_PRELOAD_FALLBACK};
#define PRELOAD_PLACES (sizeof(preload_places) / sizeof(preload_places[0]))

static int place_preload(const char *directory, const char *name, const void *bytes, size_t size,
                         struct err *err)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (holds_same(path, bytes, size))
        return 0;
    snprintf(temporary, sizeof(temporary), "%s/.%s.%d", directory, name, getpid());
    unlink(temporary);
    _cleanup_close_ int fd =
        open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, errno, "make '%s'", temporary);
    ssize_t n = fd_write_all(fd, bytes, size);
    if (n < 0 || fchmod(fd, 0644) < 0 || rename(temporary, path) < 0) {
        int errnum = n < 0 ? (int)-n : errno;
        unlink(temporary);
        return err_set(err, errnum, "write '%s'", path);
    }
    return 0;
}

/* Makes the place; whether programs can map code from there. */
static int make_preload_place(const char *directory, bool *executable, struct err *err)
{
    int error = dir_make(directory, 0755, err);
    if (error)
        return error;
    struct statvfs about;
    if (statvfs(directory, &about) < 0)
        return err_set(err, errno, "statvfs '%s'", directory);
    *executable = !(about.f_flag & ST_NOEXEC);
    return 0;
}

int job_place_preload(const char *hash, const void *bytes, size_t size, char *path,
                      size_t path_size, struct err *err)
{
    for (size_t i = 0; i < PRELOAD_PLACES; i++) {
        bool executable = false;
        int error = make_preload_place(preload_places[i], &executable, err);
        if (error)
            return error;
        if (!executable)
            continue;
        char name[NAME_MAX];
        snprintf(name, sizeof(name), "%s.so", hash);
        snprintf(path, path_size, "%s/%s", preload_places[i], name);
        return place_preload(preload_places[i], name, bytes, size, err);
    }
    return err_lack(err,
                    "both '%s' and '%s' are mounted noexec, and programs must map the preload "
                    "library from one of them; remount one: mount -o remount,exec",
                    preload_places[0], preload_places[1]);
}

/* The place that `path` is in, or NULL. */
static const char *preload_place_of(const char *path)
{
    for (size_t i = 0; i < PRELOAD_PLACES; i++) {
        size_t length = strlen(preload_places[i]);
        if (strncmp(path, preload_places[i], length) != 0 || path[length] != '/')
            continue;
        const char *name = path + length + 1;
        if (*name && *name != '.' && !strchr(name, '/'))
            return preload_places[i];
    }
    return NULL;
}

int job_check_preload_place(const char *path, struct err *err)
{
    const char *place = preload_place_of(path);
    bool executable = false;
    if (!place)
        return err_text(err, EINVAL, "the image names a preload library at an odd path '%s'", path);
    int error = make_preload_place(place, &executable, err);
    if (!error && !executable)
        return err_lack(err,
                        "the image's processes map the preload library from '%s', which is "
                        "mounted noexec; remount it: mount -o remount,exec",
                        place);
    return error;
}

int job_put_back_preload(const char *path, const void *bytes, size_t size, struct err *err)
{
    const char *place = preload_place_of(path);
    int error = job_check_preload_place(path, err);
    if (error || !place)
        return error;
    return place_preload(place, path + strlen(place) + 1, bytes, size, err);
}
