#include "lib/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/dir.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/image_files.h"
#include "lib/image_manifest.h"
#include "lib/log.h"

/* A directory with this name whose lock is free was left by a writer or a remover
 * that died. */
#define DRAFT_PREFIX  ".draft-"
#define LEFTOVERS_MAX 16
#define ENTRY_SIZE    sizeof(((struct image_draft *)0)->entry)

static int open_directory(int parent_fd, const char *name)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void name_draft(char entry[ENTRY_SIZE])
{
    uint64_t number = 0;
    while (getrandom(&number, sizeof(number), 0) < 0 && errno == EINTR)
        ;
    snprintf(entry, ENTRY_SIZE, DRAFT_PREFIX "%016" PRIx64, number);
}

struct leftovers {
    char entry[LEFTOVERS_MAX][NAME_MAX + 1];
    int fd[LEFTOVERS_MAX]; /* holds the lock, so that nobody else removes it too */
    size_t count;
};

/* Under the name's lock: no draft is between its making and its locking. */
static void find_leftovers(int name_fd, struct leftovers *found)
{
    int stream_fd = open_directory(name_fd, ".");
    _cleanup_closedir_ DIR *dir = stream_fd < 0 ? NULL : fdopendir(stream_fd);
    if (!dir)
        fd_close(&stream_fd);
    for (struct dirent *entry; dir && found->count < LEFTOVERS_MAX && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, DRAFT_PREFIX, strlen(DRAFT_PREFIX)) != 0)
            continue;
        _cleanup_close_ int fd = open_directory(name_fd, entry->d_name);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            continue;
        snprintf(found->entry[found->count], sizeof(found->entry[0]), "%s", entry->d_name);
        found->fd[found->count++] = fd_steal(&fd);
    }
}

static void remove_leftovers(int name_fd, struct leftovers *found)
{
    for (size_t i = 0; i < found->count; i++) {
        struct err err;
        if (dir_remove_recursive(name_fd, found->entry[i], &err))
            log_warning("image", "the left-over draft '%s': %s", found->entry[i], err.text);
        fd_close(&found->fd[i]);
    }
}

static int make_draft(struct image_draft *draft, const char *store_path, struct err *err)
{
    name_draft(draft->entry);
    snprintf(draft->path, sizeof(draft->path), "%s/%s/%s", store_path, draft->name, draft->entry);
    if (snprintf(draft->criu_path, sizeof(draft->criu_path), "%s/" IMAGE_CRIU, draft->path) >=
        (int)sizeof(draft->criu_path))
        return err_set(err, ENAMETOOLONG, "directory '%s'", draft->path);
    if (mkdirat(draft->name_fd, draft->entry, 0700) < 0)
        return err_set(err, errno, "make directory '%s'", draft->path);
    draft->dirfd = open_directory(draft->name_fd, draft->entry);
    if (draft->dirfd < 0)
        return err_set(err, -draft->dirfd, "open '%s'", draft->path);
    if (flock(draft->dirfd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, errno, "lock '%s'", draft->path);
    if (mkdirat(draft->dirfd, IMAGE_CRIU, 0700) < 0)
        return err_set(err, errno, "make directory '%s'", draft->criu_path);
    return 0;
}

int image_draft_begin(const struct store *store, const char *name, struct image_draft *out,
                      struct err *err)
{
    _cleanup_(image_draft_abandon) struct image_draft draft = IMAGE_DRAFT_NONE;
    draft.store = store;
    int error = store_lock_name(store, name, true, &draft.name_fd, err);
    if (error)
        return error;
    snprintf(draft.name, sizeof(draft.name), "%s", name);
    struct leftovers leftovers = {.count = 0};
    find_leftovers(draft.name_fd, &leftovers);
    error = make_draft(&draft, store->path, err);
    store_unlock(draft.name_fd);
    remove_leftovers(draft.name_fd, &leftovers);
    if (error)
        return store_hint(err);
    *out = draft;
    draft = IMAGE_DRAFT_NONE;
    return 0;
}

void image_draft_abandon(struct image_draft *draft)
{
    if (draft->name_fd >= 0 && !draft->committed) {
        struct err err;
        int error = 0;
        if (draft->entry[0])
            error = dir_remove_recursive(draft->name_fd, draft->entry, &err);
        if (!error)
            error = store_drop_name(draft->store, draft->name, &err);
        if (error)
            log_warning("image", "the draft '%s': %s", draft->path, err.text);
    }
    fd_close(&draft->dirfd);
    fd_close(&draft->name_fd);
    *draft = IMAGE_DRAFT_NONE;
}

struct gathering {
    int dirfd;
    bool durable;
    Freezepoint__Manifest *manifest;
    size_t capacity;
};

static int add_file(struct gathering *gathering, const char *path, uint64_t size, struct err *err)
{
    Freezepoint__Manifest *manifest = gathering->manifest;
    if (manifest->n_files == gathering->capacity) {
        size_t capacity = gathering->capacity * 2 + 64;
        Freezepoint__File **grown =
            reallocarray(manifest->files, capacity, sizeof(*manifest->files));
        if (!grown)
            return err_set(err, ENOMEM, "list the image's files");
        manifest->files = grown;
        gathering->capacity = capacity;
    }
    Freezepoint__File *file = calloc(1, sizeof(*file));
    char *name = strdup(path);
    if (!file || !name) {
        free(file);
        free(name);
        return err_set(err, ENOMEM, "list the image's files");
    }
    freezepoint__file__init(file);
    file->path = (ProtobufCBinaryData){.len = strlen(path), .data = (uint8_t *)name};
    file->size = size;
    manifest->files[manifest->n_files++] = file;
    return 0;
}

/* Gives it its mode and, where it is to be durable, starts its way to the disk, which then
 * goes on beside the sums; fsync() later waits for what is left. */
static int gather(const char *path, const struct stat *about, void *context, struct err *err)
{
    struct gathering *gathering = context;
    bool directory = S_ISDIR(about->st_mode);
    if (!directory && !S_ISREG(about->st_mode))
        return err_text(err, ENOTSUP, "'%s' in the new image is neither file nor directory", path);
    if (*path == '\0')
        return 0;
    _cleanup_close_ int fd = image_files_open(gathering->dirfd, path, O_RDONLY);
    if (fd < 0)
        return err_set(err, -fd, "open '%s'", path);
    mode_t mode = directory ? 0700 : 0600;
    if ((about->st_mode & 07777) != mode && fchmod(fd, mode) < 0)
        return err_set(err, errno, "set the mode of '%s'", path);
    if (directory)
        return 0;
    if (gathering->durable)
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return add_file(gathering, path, (uint64_t)about->st_size, err);
}

static void forget_files(Freezepoint__Manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_files; i++)
        freezepoint__file__free_unpacked(manifest->files[i], NULL);
    free(manifest->files);
    manifest->files = NULL;
    manifest->n_files = 0;
}

static int sum_up(int dirfd, Freezepoint__File *file, bool durable, struct err *err)
{
    const char *path = (const char *)file->path.data; /* add_file() has ended it with a NUL */
    _cleanup_close_ int fd = image_files_open(dirfd, path, O_RDONLY);
    if (fd < 0)
        return err_set(err, -fd, "open '%s'", path);
    uint64_t size;
    int error = image_files_sum(fd, NULL, &file->sum, &size);
    if (error)
        return err_set(err, -error, "read '%s'", path);
    if (size != file->size)
        return err_text(err, EBUSY, "'%s' is still being written", path);
    return durable && fsync(fd) < 0 ? err_set(err, errno, "sync '%s'", path) : 0;
}

static int sync_directory(const char *path, const struct stat *about, void *context,
                          struct err *err)
{
    const struct image_draft *draft = context;
    if (!S_ISDIR(about->st_mode))
        return 0;
    _cleanup_close_ int fd =
        image_files_open(draft->dirfd, *path ? path : ".", O_RDONLY | O_DIRECTORY);
    if (fd < 0 || fsync(fd) < 0)
        return err_set(err, fd < 0 ? -fd : errno, "sync directory '%s'", path);
    return 0;
}

static int fill_files(const struct image_draft *draft, Freezepoint__Manifest *manifest,
                      bool durable, struct err *err)
{
    forget_files(manifest);
    struct gathering gathering = {.dirfd = draft->dirfd, .durable = durable, .manifest = manifest};
    int error = image_files_walk(draft->dirfd, gather, &gathering, err);
    manifest_sort_files(manifest);
    for (size_t i = 0; i < manifest->n_files && !error; i++)
        error = sum_up(draft->dirfd, manifest->files[i], durable, err);
    return error;
}

static int write_manifest(const struct image_draft *draft, const Freezepoint__Manifest *manifest,
                          bool durable, struct err *err)
{
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size;
    int error = manifest_encode(manifest, &bytes, &size, err);
    if (error)
        return error;
    _cleanup_close_ int fd = openat(draft->dirfd, IMAGE_MANIFEST,
                                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "make " IMAGE_MANIFEST);
    ssize_t n = fd_write_all(fd, bytes, size);
    if (n < 0)
        return err_set(err, (int)-n, "write " IMAGE_MANIFEST);
    return durable && fsync(fd) < 0 ? err_set(err, errno, "sync " IMAGE_MANIFEST) : 0;
}

/* Some file systems know no RENAME_NOREPLACE (EINVAL).  There a plain rename is
 * as good: it does not replace a directory with something in it. */
static int rename_to_new(int fd, const char *from, const char *to)
{
    if (renameat2(fd, from, fd, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EINVAL && renameat(fd, from, fd, to) == 0)
        return 0;
    return errno == ENOTEMPTY ? -EEXIST : -errno;
}

/* Visible from the rename on, unless that cannot be made durable. */
static int show(struct image_draft *draft, uint64_t generation, struct err *err)
{
    char entry[32];
    snprintf(entry, sizeof(entry), "%" PRIu64, generation);
    /* Before it is an image, or readers would take it for one that is being removed.
     * The name's lock keeps those out who remove leftovers. */
    flock(draft->dirfd, LOCK_UN);
    fault_point("commit:rename");
    int error = rename_to_new(draft->name_fd, draft->entry, entry);
    if (error)
        return err_set(err, -error, "rename the draft to '%s'", entry);
    fault_point("commit:renamed");
    error = store_place_latest(draft->name_fd, err);
    if (!error && fsync(draft->name_fd) < 0)
        error = err_set(err, errno, "sync the directory of '%s'", draft->name);
    if (!error) {
        draft->committed = true;
        return 0;
    }
    struct err ignored;
    store_forget_generation(draft->name_fd, generation, &ignored);
    rename_to_new(draft->name_fd, entry, draft->entry);
    return error;
}

static int publish(struct image_draft *draft, Freezepoint__Manifest *manifest, uint64_t *generation,
                   struct err *err)
{
    int error = store_next_generation(draft->name_fd, generation, err);
    if (error)
        return error;
    manifest->generation = *generation;
    fault_point("commit:manifest");
    error = write_manifest(draft, manifest, true, err);
    if (!error)
        error = image_files_walk(draft->dirfd, sync_directory, draft, err);
    if (!error)
        error = store_prepare_latest(draft->name_fd, *generation, err);
    return error ? error : show(draft, *generation, err);
}

/* The name's lock keeps other writers out; only somebody who makes directories by
 * hand can take a number in between. */
static int publish_next(struct image_draft *draft, Freezepoint__Manifest *manifest,
                        uint64_t *generation, struct err *err)
{
    int error = store_lock(draft->name_fd, err);
    if (error)
        return error;
    do
        error = publish(draft, manifest, generation, err);
    while (error == -EEXIST);
    store_unlock(draft->name_fd);
    return error;
}

int image_draft_commit(struct image_draft *draft, Freezepoint__Manifest *manifest,
                       uint64_t *generation, struct err *err)
{
    manifest->format = IMAGE_FORMAT;
    int error = fill_files(draft, manifest, true, err);
    if (!error)
        error = publish_next(draft, manifest, generation, err);
    if (error) {
        err_wrap(err, "make an image in '%s'", draft->path);
        return store_hint(err);
    }
    return 0;
}

int image_draft_describe(const struct image_draft *draft, Freezepoint__Manifest *manifest,
                         struct err *err)
{
    manifest->format = IMAGE_FORMAT;
    manifest->generation = 1;
    int error = fill_files(draft, manifest, false, err);
    if (!error)
        error = write_manifest(draft, manifest, false, err);
    return error ? err_wrap(err, "describe the image in '%s'", draft->path) : 0;
}

int image_draft_open(const struct image_draft *draft, const char *label, struct image *out,
                     struct err *err)
{
    /* An image's readers share a lock. */
    flock(draft->dirfd, LOCK_SH | LOCK_NB);
    int error = image_open(NULL, draft->path, out, err);
    if (!error)
        snprintf(out->label, sizeof(out->label), "%s", label);
    return error;
}

/* Under the name's lock. */
static int hide(int name_fd, uint64_t generation, char entry[ENTRY_SIZE], int *dirfd,
                struct err *err)
{
    char shown[32];
    snprintf(shown, sizeof(shown), "%" PRIu64, generation);
    _cleanup_close_ int fd = open_directory(name_fd, shown);
    if (fd == -ENOENT)
        return err_text(err, ENOENT, "there is no such image");
    if (fd < 0)
        return err_set(err, -fd, "open the image");
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return err_text(err, EBUSY, "it is in use: being restored, verified or shown");
    int error = store_forget_generation(name_fd, generation, err);
    if (error)
        return error;
    name_draft(entry);
    error = rename_to_new(name_fd, shown, entry);
    if (error)
        return err_set(err, -error, "rename the image");
    if (fsync(name_fd) < 0)
        return err_set(err, errno, "sync the image's directory");
    *dirfd = fd_steal(&fd);
    return 0;
}

int image_remove(const struct store *store, const char *name, uint64_t generation, struct err *err)
{
    char entry[ENTRY_SIZE];
    _cleanup_close_ int name_fd = -1;
    _cleanup_close_ int dirfd = -1;
    int error = store_lock_name(store, name, false, &name_fd, err);
    if (error)
        return error;
    error = hide(name_fd, generation, entry, &dirfd, err);
    store_unlock(name_fd);
    if (!error)
        error = dir_remove_recursive(name_fd, entry, err);
    fd_close(&dirfd);
    if (!error)
        error = store_drop_name(store, name, err);
    if (error) {
        err_wrap(err, "remove image '%s@%" PRIu64 "'", name, generation);
        return store_hint(err);
    }
    return 0;
}
