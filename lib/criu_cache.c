/*
 * CRIU's cache of kernel features, /run/criu.kdat.
 *
 * CRIU loads it from anywhere but writes it only where /run is a tmpfs
 * (criu/kerndat.c, kerndat_save_cache).  So `criu check` runs in a mount
 * namespace whose /run is one, and the file is copied out.
 */
#include "lib/criu.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/spawn.h"

#define CACHE            "criu.kdat"
#define CHECK_TIMEOUT_MS (10 * 1000)

/* A cache older than this boot may describe another kernel. */
static bool is_current(int run_fd)
{
    struct stat about;
    struct timespec up, now;
    if (fstatat(run_fd, CACHE, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    clock_gettime(CLOCK_BOOTTIME, &up);
    clock_gettime(CLOCK_REALTIME, &now);
    return S_ISREG(about.st_mode) && about.st_uid == 0 &&
           about.st_mtim.tv_sec >= now.tv_sec - up.tv_sec;
}

static int copy_out(int run_fd)
{
    _cleanup_close_ int from = open("/run/" CACHE, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return -errno;
    char temporary[64];
    snprintf(temporary, sizeof(temporary), "." CACHE ".%d", getpid());
    _cleanup_close_ int to =
        openat(run_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    if (fd_copy(from, to) < 0 || renameat(run_fd, temporary, run_fd, CACHE) < 0) {
        unlinkat(run_fd, temporary, 0);
        return -EIO;
    }
    return 0;
}

static int make_cache(const char *criu, int run_fd)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ||
        mount("none", "/run", "tmpfs", 0, NULL) < 0)
        return -errno;
    char output[64];
    struct err ignored;
    char *const argv[] = {(char *)criu, "check", NULL};
    /* Its verdict does not matter: the cache is written before it is known. */
    ssize_t n = spawn_capture(argv, CHECK_TIMEOUT_MS, output, sizeof(output), &ignored);
    return n == -ETIMEDOUT ? -ETIMEDOUT : copy_out(run_fd);
}

int criu_cache_features(const char *criu, struct err *err)
{
    _cleanup_close_ int run_fd = open("/run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run_fd < 0)
        return err_set(err, errno, "open /run");
    if (is_current(run_fd))
        return 0;
    unlinkat(run_fd, CACHE, 0);
    pid_t child = fork();
    if (child < 0)
        return err_set(err, errno, "fork");
    if (child == 0)
        _exit(make_cache(criu, run_fd) ? 1 : 0);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return err_text(err, EIO, "CRIU's feature cache could not be made");
    return 0;
}
