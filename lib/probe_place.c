/* Probes of the two places where freezepoint keeps things. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/job.h"
#include "lib/probe_list.h"
#include "lib/store.h"
#include "lib/trusted.h"

#define SCARCE_BYTES (256ULL << 20)

/* The nearest directory on the way to `path` that is there already. */
static void find_existing(const char *path, char *found, size_t size)
{
    struct stat about;
    snprintf(found, size, "%s", path);
    while (stat(found, &about) < 0 && errno == ENOENT) {
        char *slash = strrchr(found, '/');
        if (!slash)
            snprintf(found, size, ".");
        else
            slash[slash == found] = '\0';
    }
}

struct trial_directory {
    char path[PATH_MAX], file[PATH_MAX + 8];
};

static void remove_trial(struct trial_directory *trial)
{
    if (trial->file[0])
        unlink(trial->file);
    if (trial->path[0])
        rmdir(trial->path);
}

/* Makes a directory below `parent`, and in it a synced file whose descriptor is
 * returned; or -errno. */
static int make_trial(const char *parent, struct trial_directory *trial)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/.doctor.XXXXXX", parent) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    if (!mkdtemp(path))
        return -errno;
    snprintf(trial->path, sizeof(trial->path), "%s", path);
    snprintf(trial->file, sizeof(trial->file), "%s/file", path);
    _cleanup_close_ int fd =
        open(trial->file, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    static const char page[4096];
    if (fd < 0 || fd_write_all(fd, page, sizeof(page)) < 0 || fsync(fd) < 0)
        return -errno;
    return fd_steal(&fd);
}

/* Fills an absolute path.  0 or -errno. */
static int find_store(char *path, size_t size)
{
    const char *store = store_default_path();
    char here[PATH_MAX] = "";
    if (store[0] != '/' && !getcwd(here, sizeof(here)))
        return -errno;
    int length = snprintf(path, size, "%s%s%s", here, here[0] ? "/" : "", store);
    return length < 0 || (size_t)length >= size ? -ENAMETOOLONG : 0;
}

static void judge_space(struct probe_result *result, const char *store, bool exists,
                        const char *remedy)
{
    char existing[PATH_MAX];
    struct statvfs space;
    find_existing(store, existing, sizeof(existing));
    if (statvfs(existing, &space) < 0) {
        probe_set_missing(result, errno, remedy, "statvfs");
        return;
    }
    unsigned long long free_bytes = (unsigned long long)space.f_bavail * space.f_frsize;
    const char *state = exists ? "" : " (will be made)";
    if (free_bytes < SCARCE_BYTES)
        probe_set(result, PROBE_LIMITED, remedy, "%s%s: only %llu MB are free", store, state,
                  free_bytes >> 20);
    else
        probe_set_ok(result, "%s%s: %llu.%llu GB free", store, state, free_bytes >> 30,
                     (free_bytes >> 20) % 1024 * 10 / 1024);
}

void probe_image_store(struct probe_result *result)
{
    static const char elsewhere[] =
        "use a directory elsewhere: export FREEZEPOINT_IMAGES=DIR, or --images DIR";
    char store[PATH_MAX], existing[PATH_MAX], what[PATH_MAX + 64];
    int error = find_store(store, sizeof(store));
    if (error) {
        probe_set_missing(result, -error, elsewhere, "name the image store");
        return;
    }
    find_existing(store, existing, sizeof(existing));
    bool exists = !strcmp(existing, store);
    _cleanup_(remove_trial) struct trial_directory trial = {0};
    _cleanup_close_ int fd = make_trial(existing, &trial);
    if (fd < 0) {
        snprintf(what, sizeof(what), "write in '%s'", existing);
        probe_set_missing(result, -fd, elsewhere, what);
        return;
    }
    /* A store that is still to be made will be trusted as the trial is. */
    struct err err = {0};
    _cleanup_close_ int trusted = trusted_open_path(exists ? store : trial.path, false, &err);
    if (trusted < 0)
        probe_set_failed(result, &err, elsewhere);
    else
        judge_space(result, store, exists, elsewhere);
}

/* The preload library is mapped from here, which a mount with noexec refuses. */
static int map_executable(int fd)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (page == MAP_FAILED)
        return -errno;
    munmap(page, 4096);
    return 0;
}

static int try_to_map(const char *directory)
{
    char existing[PATH_MAX];
    find_existing(directory, existing, sizeof(existing));
    _cleanup_(remove_trial) struct trial_directory trial = {0};
    _cleanup_close_ int fd = make_trial(existing, &trial);
    return fd < 0 ? fd : map_executable(fd);
}

void probe_runtime(struct probe_result *result)
{
    char existing[PATH_MAX], what[PATH_MAX + 64];
    find_existing(JOB_RUNTIME_ROOT, existing, sizeof(existing));
    _cleanup_(remove_trial) struct trial_directory trial = {0};
    _cleanup_close_ int fd = make_trial(existing, &trial);
    snprintf(what, sizeof(what), "write in '%s'", existing);
    if (fd < 0) {
        probe_set_missing(result, -fd, "make it writable: mount -o remount,rw /run", what);
        return;
    }
    const char *made = strcmp(existing, JOB_RUNTIME_ROOT) ? " (will be made)" : "";
    if (map_executable(fd) == 0)
        probe_set_ok(result, JOB_RUNTIME_ROOT "%s", made);
    else if (try_to_map(JOB_PRELOAD_FALLBACK) == 0)
        probe_set_ok(result,
                     JOB_RUNTIME_ROOT "%s; no library can be mapped from there (noexec), "
                                      "so it goes to " JOB_PRELOAD_FALLBACK,
                     made);
    else
        probe_set(result, PROBE_MISSING, "remount one of them: mount -o remount,exec",
                  "no library can be mapped from " JOB_RUNTIME_ROOT " or " JOB_PRELOAD_FALLBACK
                  " (mounted noexec?)");
}
