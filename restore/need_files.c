#include "restore/need_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/build_id.h"
#include "lib/fd.h"
#include "lib/image.h"
#include "lib/job.h"
#include "lib/proc.h"

typedef Freezepoint__Stream__NeededFile NeededFile;

/* A regular file that was opened as O_PATH, for reading.  What is found at a path may be
 * a device, which opening alone can set off. */
static int reopen(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static size_t read_build_id(int path_fd, uint8_t id[BUILD_ID_MAX])
{
    _cleanup_close_ int fd = reopen(path_fd);
    return fd < 0 ? 0 : build_id_read(fd, id);
}

/* ---- the source ---- */

struct gathering {
    Freezepoint__Stream__Need *need;
    size_t capacity;
    bool failed;
};

static NeededFile *make_file(const char *path, const struct stat *about)
{
    NeededFile *file = calloc(1, sizeof(*file));
    char *copy = strdup(path);
    if (!file || !copy) {
        free(file);
        free(copy);
        return NULL;
    }
    freezepoint__stream__needed_file__init(file);
    file->path = (ProtobufCBinaryData){.len = strlen(path), .data = (uint8_t *)copy};
    file->mode = about->st_mode;
    file->size = S_ISREG(about->st_mode) ? (uint64_t)about->st_size : 0;
    return file;
}

static NeededFile *add_file(struct gathering *self, const char *path, const struct stat *about)
{
    Freezepoint__Stream__Need *need = self->need;
    if (need->n_files == self->capacity) {
        size_t capacity = self->capacity * 2 + 64;
        NeededFile **grown = reallocarray(need->files, capacity, sizeof(*grown));
        self->failed |= !grown;
        if (!grown)
            return NULL;
        need->files = grown;
        self->capacity = capacity;
    }
    NeededFile *file = make_file(path, about);
    self->failed |= !file;
    if (file)
        need->files[need->n_files++] = file;
    return file;
}

static bool is_preload(const char *path)
{
    struct err ignored;
    bool ours = !strncmp(path, JOB_RUNTIME_ROOT "/.preload/", strlen(JOB_RUNTIME_ROOT) + 10) ||
                !strncmp(path, JOB_PRELOAD_FALLBACK "/", strlen(JOB_PRELOAD_FALLBACK) + 1);
    return ours && job_check_preload_place(path, &ignored) == 0;
}

static void note_preload(struct gathering *self, const char *path)
{
    ProtobufCBinaryData *preload = &self->need->preload;
    if (preload->len)
        return;
    preload->data = (uint8_t *)strdup(path);
    preload->len = preload->data ? strlen(path) : 0;
}

/* Those that are gone from their paths travel in the image. */
static void add_open(const struct proc_file *open_file, void *context)
{
    const struct stat *about = open_file->about;
    mode_t kind = about->st_mode & S_IFMT;
    if (about->st_nlink == 0 || (kind != S_IFREG && kind != S_IFDIR && kind != S_IFIFO))
        return;
    NeededFile *file = add_file(context, open_file->path, about);
    int access = open_file->flags & O_ACCMODE;
    if (!file || kind != S_IFREG)
        return;
    /* criu/files-reg.c, should_check_size(). */
    file->grows = access == O_WRONLY && (open_file->flags & O_APPEND);
    if (access != O_RDONLY)
        file->written_ns = about->st_mtim.tv_sec * 1000000000LL + about->st_mtim.tv_nsec;
}

static void add_mapped(const char *path, void *context)
{
    struct stat about;
    if (is_preload(path))
        note_preload(context, path);
    else if (stat(path, &about) == 0 && S_ISREG(about.st_mode))
        add_file(context, path, &about);
}

static void add_shared(const char *path, void *context)
{
    struct stat about;
    if (is_preload(path) || lstat(path, &about) < 0 || !S_ISREG(about.st_mode))
        return;
    NeededFile *file = add_file(context, path, &about);
    if (!file)
        return;
    file->travels = about.st_size <= IMAGE_CARRIED_SIZE_MAX;
    file->written_ns = about.st_mtim.tv_sec * 1000000000LL + about.st_mtim.tv_nsec;
}

static void add_directory(struct gathering *self, pid_t pid, const char *name)
{
    char path[PATH_MAX];
    struct stat about;
    if (proc_link(pid, name, path, sizeof(path)) == 0 && stat(path, &about) == 0 &&
        S_ISDIR(about.st_mode))
        add_file(self, path, &about);
}

static void gather_process(struct gathering *self, pid_t pid)
{
    proc_open_files(pid, add_open, self);
    proc_mapped_files(pid, PROC_MAPPED_ALL, add_mapped, self);
    proc_mapped_files(pid, PROC_MAPPED_SHARED, add_shared, self);
    add_directory(self, pid, "cwd");
    add_directory(self, pid, "root");
}

static int compare_files(const void *left, const void *right)
{
    const NeededFile *a = *(NeededFile *const *)left, *b = *(NeededFile *const *)right;
    return strcmp((const char *)a->path.data, (const char *)b->path.data);
}

/* Each use has its own demands. */
static void merge(NeededFile *kept, NeededFile *other)
{
    kept->grows &= other->grows;
    kept->travels |= other->travels;
    if (other->written_ns > kept->written_ns)
        kept->written_ns = other->written_ns;
    freezepoint__stream__needed_file__free_unpacked(other, NULL);
}

static void merge_files(Freezepoint__Stream__Need *need)
{
    size_t kept = 0;
    if (need->n_files)
        qsort(need->files, need->n_files, sizeof(*need->files), compare_files);
    for (size_t i = 0; i < need->n_files; i++) {
        if (kept && compare_files(&need->files[kept - 1], &need->files[i]) == 0)
            merge(need->files[kept - 1], need->files[i]);
        else
            need->files[kept++] = need->files[i];
    }
    need->n_files = kept;
}

static void add_build_id(NeededFile *file)
{
    uint8_t id[BUILD_ID_MAX];
    if (!S_ISREG(file->mode) || file->written_ns)
        return;
    _cleanup_close_ int fd = open((const char *)file->path.data, O_PATH | O_CLOEXEC);
    size_t size = fd < 0 ? 0 : read_build_id(fd, id);
    file->build_id.data = size ? malloc(size) : NULL;
    if (!file->build_id.data)
        return;
    memcpy(file->build_id.data, id, size);
    file->build_id.len = size;
}

int need_files_gather(const pid_t *pids, size_t count, Freezepoint__Stream__Need *need,
                      struct err *err)
{
    struct gathering self = {.need = need};
    for (size_t i = 0; i < count && !self.failed; i++)
        gather_process(&self, pids[i]);
    if (self.failed)
        return err_set(err, ENOMEM, "list the job's files");
    merge_files(need);
    for (size_t i = 0; i < need->n_files; i++)
        add_build_id(need->files[i]);
    return 0;
}

void need_files_free(Freezepoint__Stream__Need *need)
{
    for (size_t i = 0; i < need->n_files; i++)
        freezepoint__stream__needed_file__free_unpacked(need->files[i], NULL);
    free(need->files);
    free(need->preload.data);
    need->files = NULL;
    need->n_files = 0;
    need->preload = (ProtobufCBinaryData){0};
}

/* ---- the target ---- */

static bool is_path(const ProtobufCBinaryData *path)
{
    return path->len && path->len < PATH_MAX && path->data[0] == '/' &&
           !memchr(path->data, '\0', path->len);
}

static const char *kind_of(uint32_t mode)
{
    return S_ISREG(mode) ? "a file" : S_ISDIR(mode) ? "a directory" : "something else";
}

static void check_size(const NeededFile *file, const char *path, const struct stat *about,
                       struct refusals *refusals)
{
    uint64_t size = (uint64_t)about->st_size;
    int64_t written = about->st_mtim.tv_sec * 1000000000LL + about->st_mtim.tv_nsec;
    /* The same file, on storage that both sides have, may have grown since they looked. */
    bool grown = file->written_ns && size > file->size && written >= file->written_ns;
    if (size == file->size || file->grows || grown)
        return;
    refuse(refusals, "'%s' has %" PRIu64 " bytes here and %" PRIu64 " there; copy it here%s", path,
           size, file->size,
           file->written_ns ? ", or keep it on storage that both sides have" : "");
}

static void check_build_id(const NeededFile *file, const char *path, int fd,
                           struct refusals *refusals)
{
    uint8_t id[BUILD_ID_MAX];
    if (file->build_id.len == 0)
        return;
    size_t size = read_build_id(fd, id);
    if (size != file->build_id.len || memcmp(id, file->build_id.data, size) != 0)
        refuse(refusals,
               "'%s' is another build here than there (its build id differs); install the same "
               "version of it",
               path);
}

static void check_one(const NeededFile *file, const char *path, struct refusals *refusals)
{
    struct stat about;
    _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && file->travels)
        return;
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        refuse(refusals, "'%s' is missing here; %s it here", path,
               S_ISDIR(file->mode) ? "make" : "copy");
        return;
    }
    if (fd < 0 || fstat(fd, &about) < 0) {
        refuse(refusals, "'%s' cannot be opened here: %s", path, strerror(errno));
        return;
    }
    if ((about.st_mode & S_IFMT) != (file->mode & S_IFMT)) {
        refuse(refusals, "'%s' is %s here and %s there; make it the same", path,
               kind_of(about.st_mode), kind_of(file->mode));
        return;
    }
    if (about.st_mode != file->mode)
        refuse(refusals, "'%s' has the mode %04o here and %04o there; chmod it", path,
               about.st_mode & 07777U, file->mode & 07777U);
    if (!S_ISREG(about.st_mode))
        return;
    check_size(file, path, &about, refusals);
    check_build_id(file, path, fd, refusals);
}

void need_files_check(const Freezepoint__Stream__Need *need, struct refusals *refusals)
{
    char path[PATH_MAX];
    struct err err;
    for (size_t i = 0; i < need->n_files; i++) {
        const NeededFile *file = need->files[i];
        if (!is_path(&file->path)) {
            refuse(refusals, "a file that is needed has an odd path");
            continue;
        }
        snprintf(path, sizeof(path), "%.*s", (int)file->path.len, (const char *)file->path.data);
        check_one(file, path, refusals);
    }
    if (need->preload.len == 0)
        return;
    snprintf(path, sizeof(path), "%.*s", (int)need->preload.len, (const char *)need->preload.data);
    if (job_check_preload_place(path, &err))
        refuse(refusals, "%s", err.text);
}
