#include "lib/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"

static void parse_status_line(const char *line, struct proc_info *out)
{
    unsigned long long number;
    if (sscanf(line, "Name: %16[^\n]", out->comm) == 1)
        return;
    if (sscanf(line, "State: %c", &out->state) == 1)
        return;
    if (sscanf(line, "PPid: %d", &out->parent) == 1)
        return;
    if (sscanf(line, "TracerPid: %d", &out->tracer) == 1)
        return;
    if (sscanf(line, "Threads: %u", &out->threads) == 1)
        return;
    if (sscanf(line, "VmRSS: %llu", &number) == 1)
        out->rss_bytes = number * 1024;
    const char *last = strrchr(line, '\t');
    int inner = last ? atoi(last + 1) : 0;
    if (!strncmp(line, "NStgid:", 7) && last)
        out->inner_tgid = inner;
    if (!strncmp(line, "NSpid:", 6) && last)
        out->inner_pid = inner;
    else if (strncmp(line, "NSpgid:", 7) != 0 && strncmp(line, "NSsid:", 6) != 0)
        return;
    out->inner_max = inner > out->inner_max ? inner : out->inner_max;
}

int proc_read(pid_t pid, struct proc_info *out, struct err *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    _cleanup_fclose_ FILE *status = fopen(path, "re");
    if (!status)
        return err_set(err, errno == ENOENT ? ESRCH : errno, "open '%s'", path);
    *out = (struct proc_info){.pid = pid, .inner_pid = pid, .inner_tgid = pid};
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, status) > 0)
        parse_status_line(line, out);
    /* It may end between the opening and the reading. */
    return out->state ? 0 : err_set(err, ESRCH, "read '%s'", path);
}

/* All of a small file below /proc/PID, as text. */
static int read_text(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    ssize_t n = fd_read_all(fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    return n < 0 ? (int)n : 0;
}

int proc_start(pid_t pid, uint64_t *ticks, char *state)
{
    char text[1024], letter;
    int error = read_text(pid, "stat", text, sizeof(text));
    if (error)
        return error;
    /* proc(5): the state is the third field, the start the 22nd.  The second, a name
     * in parentheses, can hold anything. */
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest,
                        ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                        "%*d %*d %*d %" SCNu64,
                        &letter, ticks) != 2)
        return -EPROTO;
    if (state)
        *state = letter;
    return 0;
}

int proc_pss(pid_t pid, uint64_t *bytes)
{
    char text[2048];
    unsigned long long kilobytes;
    int error = read_text(pid, "smaps_rollup", text, sizeof(text));
    if (error)
        return error;
    /* Empty: its memory has gone before it. */
    const char *line = strstr(text, "\nPss:");
    *bytes = line && sscanf(line, " Pss: %llu", &kilobytes) == 1 ? kilobytes * 1024 : 0;
    return 0;
}

int proc_link(pid_t pid, const char *name, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof(link), "/proc/%d/%s", pid, name);
    ssize_t n = readlink(link, path, size - 1);
    if (n < 0) {
        path[0] = '\0';
        return -errno;
    }
    path[n] = '\0';
    return 0;
}

struct mapping {
    uint64_t start, offset;
    bool executable, shared_writable;
    char *path; /* NULL: anonymous */
};

static int walk_mappings(pid_t pid, bool (*visit)(const struct mapping *, void *), void *context)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    _cleanup_fclose_ FILE *maps = fopen(path, "re");
    if (!maps)
        return errno == ENOENT ? -ESRCH : -errno;
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, maps) > 0) {
        struct mapping map = {0};
        char permissions[5];
        int used = 0;
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%" SCNx64 "-%*x %4s %" SCNx64 " %*s %*s %n", &map.start, permissions,
                   &map.offset, &used) < 3)
            continue;
        map.executable = permissions[2] == 'x';
        map.shared_writable = permissions[1] == 'w' && permissions[3] == 's';
        map.path = line[used] == '/' ? line + used : NULL;
        if (!visit(&map, context))
            return 0;
    }
    return 0;
}

struct mapping_search {
    const char *path;
    uint64_t address;
    bool found;
};

static bool match_mapping(const struct mapping *map, void *context)
{
    struct mapping_search *search = context;
    if (!map->path || map->offset != 0 || strcmp(map->path, search->path) != 0)
        return true;
    search->address = map->start;
    search->found = true;
    return false;
}

int proc_find_mapping(pid_t pid, const char *path, uint64_t *address)
{
    struct mapping_search search = {.path = path};
    int error = walk_mappings(pid, match_mapping, &search);
    if (error)
        return error;
    if (!search.found)
        return -ENOENT;
    *address = search.address;
    return 0;
}

struct file_walk {
    enum proc_mapped which;
    void (*visit)(const char *path, void *context);
    void *context;
    char last[PATH_MAX];
};

static bool visit_file(const struct mapping *map, void *context)
{
    struct file_walk *walk = context;
    bool wanted = walk->which == PROC_MAPPED_CODE     ? map->executable
                  : walk->which == PROC_MAPPED_SHARED ? map->shared_writable
                                                      : true;
    if (!map->path || !wanted || !strcmp(map->path, walk->last))
        return true;
    snprintf(walk->last, sizeof(walk->last), "%s", map->path);
    walk->visit(map->path, walk->context);
    return true;
}

int proc_mapped_files(pid_t pid, enum proc_mapped which,
                      void (*visit)(const char *path, void *context), void *context)
{
    struct file_walk walk = {.which = which, .visit = visit, .context = context};
    return walk_mappings(pid, visit_file, &walk);
}

/* "flags:" of a descriptor, octal; -1 where it cannot be read. */
static long descriptor_flags(pid_t pid, const char *number)
{
    char path[64], text[128];
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", pid, number);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : fd_read_all(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = '\0';
    const char *flags = strstr(text, "flags:");
    return flags ? strtol(flags + 6, NULL, 8) : -1;
}

/* Made by the kernel as they are read: neither their times nor, with a process's
 * number in it, their names say whether they are the same. */
static bool is_of_kernel(const char *path)
{
    return !strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5);
}

int proc_open_files(pid_t pid, void (*visit)(const struct proc_file *file, void *context),
                    void *context)
{
    char path[64], target[PATH_MAX];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    _cleanup_closedir_ DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? -ESRCH : -errno;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat about;
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (target[0] != '/' || is_of_kernel(target))
            continue;
        long flags = descriptor_flags(pid, entry->d_name);
        if (flags < 0 || fstatat(dirfd(dir), entry->d_name, &about, 0) < 0)
            continue;
        struct proc_file file = {.path = target, .flags = (int)flags, .about = &about};
        visit(&file, context);
    }
    return 0;
}

struct read_walk {
    void (*visit)(const char *path, void *context);
    void *context;
};

static void visit_read_file(const struct proc_file *file, void *context)
{
    const struct read_walk *walk = context;
    if ((file->flags & O_ACCMODE) == O_RDONLY && S_ISREG(file->about->st_mode))
        walk->visit(file->path, walk->context);
}

int proc_read_files(pid_t pid, void (*visit)(const char *path, void *context), void *context)
{
    struct read_walk walk = {.visit = visit, .context = context};
    return proc_open_files(pid, visit_read_file, &walk);
}

int proc_memory_read(pid_t pid, uint64_t address, void *buffer, size_t size)
{
    struct iovec here = {.iov_base = buffer, .iov_len = size};
    struct iovec there = {.iov_base = (void *)(uintptr_t)address, .iov_len = size};
    ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (n < 0)
        return -errno;
    return (size_t)n == size ? 0 : -EFAULT;
}

int proc_memory_write(pid_t pid, uint64_t address, const void *buffer, size_t size)
{
    struct iovec here = {.iov_base = (void *)buffer, .iov_len = size};
    struct iovec there = {.iov_base = (void *)(uintptr_t)address, .iov_len = size};
    ssize_t n = process_vm_writev(pid, &here, 1, &there, 1, 0);
    if (n < 0)
        return -errno;
    return (size_t)n == size ? 0 : -EFAULT;
}

int proc_pidfd_open(pid_t pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : (int)fd;
}

int proc_pidfd_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

uint64_t proc_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t proc_realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}
