#include "lib/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/fd.h"

#define PARENT "freezepoint"

/* A mountinfo line: id parent major:minor root mountpoint options ... - type source super */
static bool parse_mountinfo_line(char *line, char **root, char **mountpoint)
{
    char *separator = strstr(line, " - cgroup2 ");
    if (!separator)
        return false;
    *separator = '\0';
    char *save = NULL;
    char *field = strtok_r(line, " ", &save);
    for (int i = 0; field && i < 3; i++)
        field = strtok_r(NULL, " ", &save);
    *root = field;
    *mountpoint = field ? strtok_r(NULL, " ", &save) : NULL;
    return *mountpoint != NULL;
}

int cgroup_find_mount(char *path, size_t size, struct err *err)
{
    _cleanup_fclose_ FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (!mounts)
        return err_set(err, errno, "open /proc/self/mountinfo");
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    bool found = false;
    while (getline(&line, &capacity, mounts) > 0) {
        char *root, *mountpoint;
        if (!parse_mountinfo_line(line, &root, &mountpoint))
            continue;
        if (found && strcmp(root, "/") != 0)
            continue;
        snprintf(path, size, "%s", mountpoint);
        found = true;
        if (!strcmp(root, "/"))
            break;
    }
    if (!found)
        return err_lack(err, "no cgroup v2 hierarchy is mounted; mount it with "
                             "'mount -t cgroup2 none /sys/fs/cgroup/unified'");
    return 0;
}

static int make_group_directory(const char *path, struct err *err)
{
    if (mkdir(path, 0755) == 0)
        return 0;
    if (errno == EROFS || errno == EACCES || errno == EPERM)
        return err_lack(err,
                        "cgroup v2 is not writable (make group '%s': %s); run as root, in a "
                        "container with a writable cgroup file system",
                        path, strerror(errno));
    if (errno != EEXIST)
        return err_set(err, errno, "make group '%s'", path);
    return 0;
}

int cgroup_make(const char *name, struct cgroup *out, struct err *err)
{
    char mount[PATH_MAX - 300];
    int error = cgroup_find_mount(mount, sizeof(mount), err);
    if (error)
        return error;
    out->fd = -1;
    char parent[PATH_MAX];
    snprintf(parent, sizeof(parent), "%s/%s", mount, PARENT);
    snprintf(out->path, sizeof(out->path), "%s/%s/%s", mount, PARENT, name);
    /* Another job's end may remove the shared parent between the two steps. */
    for (int attempt = 0; attempt < 20; attempt++) {
        /* An empty left-over may be frozen, or remember a cgroup.kill: that ends also
         * who is born in it later (kernel/fork.c, cgroup_post_fork()). */
        rmdir(out->path);
        error = make_group_directory(parent, err);
        if (!error)
            error = make_group_directory(out->path, err);
        if (error != -ENOENT)
            break;
    }
    if (error)
        return error;
    _cleanup_close_ int fd = open(out->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open group '%s'", out->path);
    int populated = cgroup_populated(fd);
    if (populated < 0)
        return err_set(err, -populated, "read '%s/cgroup.events'", out->path);
    if (populated)
        return err_text(err, EEXIST, "the group '%s' still has processes", out->path);
    out->fd = fd_steal(&fd);
    return 0;
}

int cgroup_open(const char *name, struct cgroup *out, struct err *err)
{
    char mount[PATH_MAX - 300];
    int error = cgroup_find_mount(mount, sizeof(mount), err);
    if (error)
        return error;
    snprintf(out->path, sizeof(out->path), "%s/" PARENT "/%s", mount, name);
    out->fd = open(out->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return out->fd < 0 ? err_set(err, errno, "open group '%s'", out->path) : 0;
}

void cgroup_release(struct cgroup *group)
{
    fd_close(&group->fd);
}

static int remove_tree(const char *path)
{
    _cleanup_closedir_ DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        char below[PATH_MAX];
        snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
        int error = remove_tree(below);
        if (error)
            return error;
    }
    return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

int cgroup_remove(const char *path, struct err *err)
{
    int error = 0;
    for (int attempt = 0; attempt < 100; attempt++) {
        error = remove_tree(path);
        if (error != -EBUSY)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    if (error)
        return err_set(err, -error, "remove group '%s'", path);
    char parent[PATH_MAX];
    snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash) {
        *slash = '\0';
        const char *base = strrchr(parent, '/');
        if (base && !strcmp(base + 1, PARENT))
            rmdir(parent);
    }
    return 0;
}

int cgroup_write_freeze(int group_fd, bool frozen, struct err *err)
{
    _cleanup_close_ int fd = openat(group_fd, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open cgroup.freeze");
    if (write(fd, frozen ? "1" : "0", 1) != 1)
        return err_set(err, errno, "write cgroup.freeze");
    return 0;
}

int cgroup_open_events(int group_fd)
{
    int fd = openat(group_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* The value of `key` in cgroup.events, or -errno. */
static int event_value(int events_fd, const char *key)
{
    char text[256];
    ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    const char *line = strstr(text, key);
    if (!line)
        return -EPROTO;
    return atoi(line + strlen(key));
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Until the value of `key` in cgroup.events is `wanted`. */
static int await_event(int group_fd, const char *key, int wanted, int timeout_ms, struct err *err)
{
    _cleanup_close_ int fd = cgroup_open_events(group_fd);
    if (fd < 0)
        return err_set(err, -fd, "open cgroup.events");
    long long deadline = now_ms() + timeout_ms;
    for (;;) {
        int value = event_value(fd, key);
        if (value < 0)
            return err_set(err, -value, "read cgroup.events");
        if (value == wanted)
            return 0;
        long long left = deadline - now_ms();
        if (left <= 0)
            return err_text(err, ETIMEDOUT, "the group did not become '%s%d' within %d ms", key,
                            wanted, timeout_ms);
        /* kernfs wakes pollers with POLLPRI|POLLERR (fs/kernfs/file.c). */
        struct pollfd events = {.fd = fd, .events = POLLPRI};
        if (poll(&events, 1, (int)left) < 0 && errno != EINTR)
            return err_set(err, errno, "wait for cgroup.events");
    }
}

int cgroup_wait_frozen(int group_fd, bool frozen, int timeout_ms, struct err *err)
{
    return await_event(group_fd, "frozen ", frozen, timeout_ms, err);
}

int cgroup_wait_empty(int group_fd, int timeout_ms, struct err *err)
{
    return await_event(group_fd, "populated ", 0, timeout_ms, err);
}

int cgroup_set_frozen(int group_fd, bool frozen, int timeout_ms, struct err *err)
{
    int error = cgroup_write_freeze(group_fd, frozen, err);
    return error ? error : cgroup_wait_frozen(group_fd, frozen, timeout_ms, err);
}

int cgroup_events_populated(int events_fd)
{
    return event_value(events_fd, "populated ");
}

int cgroup_populated(int group_fd)
{
    _cleanup_close_ int fd = cgroup_open_events(group_fd);
    return fd < 0 ? fd : cgroup_events_populated(fd);
}

int cgroup_frozen(int group_fd)
{
    _cleanup_close_ int fd = cgroup_open_events(group_fd);
    return fd < 0 ? fd : event_value(fd, "frozen ");
}

/* All of a small file of the group, as text. */
static int read_text(int group_fd, const char *name, char *text, size_t size)
{
    _cleanup_close_ int fd = openat(group_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = fd_read_all(fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    return n < 0 ? (int)n : 0;
}

int cgroup_memory(int group_fd, uint64_t *bytes)
{
    char text[64];
    int error = read_text(group_fd, "memory.current", text, sizeof(text));
    if (!error && sscanf(text, "%" SCNu64, bytes) != 1)
        error = -EPROTO;
    return error;
}

static void parse_stall(const char *text, const char *which, struct cgroup_stall *out)
{
    const char *line = strstr(text, which);
    out->known =
        line && sscanf(line + strlen(which), " avg10=%lf avg60=%lf avg300=%lf total=%" SCNu64,
                       &out->avg10, &out->avg60, &out->avg300, &out->total_us) == 4;
}

void cgroup_pressure(int group_fd, const char *resource, struct cgroup_pressure *out)
{
    char name[32], text[512];
    *out = (struct cgroup_pressure){0};
    snprintf(name, sizeof(name), "%s.pressure", resource);
    if (read_text(group_fd, name, text, sizeof(text)))
        return;
    parse_stall(text, "some", &out->some);
    parse_stall(text, "full", &out->full);
}

static int read_processes(int group_fd, pid_t **pids, size_t *count, struct err *err)
{
    int fd = openat(group_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    _cleanup_fclose_ FILE *list = fd < 0 ? NULL : fdopen(fd, "r");
    if (!list)
        return err_set(err, errno, "open cgroup.procs");
    for (int pid; fscanf(list, "%d", &pid) == 1;) {
        pid_t *larger = reallocarray(*pids, *count + 1, sizeof(pid_t));
        if (!larger)
            return err_set(err, ENOMEM, "list of processes");
        *pids = larger;
        (*pids)[(*count)++] = pid;
    }
    return 0;
}

static int walk_processes(int group_fd, pid_t **pids, size_t *count, struct err *err)
{
    int error = read_processes(group_fd, pids, count, err);
    if (error)
        return error;
    int fd = openat(group_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return err_set(err, errno, "read the group's directory");
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        _cleanup_close_ int below =
            openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (below >= 0)
            error = walk_processes(below, pids, count, err);
        if (error)
            return error;
    }
    return 0;
}

ssize_t cgroup_processes(int group_fd, pid_t **pids, struct err *err)
{
    size_t count = 0;
    _cleanup_free_ pid_t *list = NULL;
    int error = walk_processes(group_fd, &list, &count, err);
    if (error)
        return error;
    *pids = steal_pointer(&list);
    return (ssize_t)count;
}

int cgroup_put_above(int group_fd, pid_t pid, struct err *err)
{
    _cleanup_close_ int fd = openat(group_fd, "../cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open cgroup.procs");
    if (dprintf(fd, "%d", pid) < 0)
        return err_set(err, errno, "move process %d to the group above", pid);
    return 0;
}

int cgroup_kill(int group_fd, struct err *err)
{
    _cleanup_close_ int fd = openat(group_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open cgroup.kill");
    if (write(fd, "1", 1) != 1)
        return err_set(err, errno, "write cgroup.kill");
    return 0;
}
