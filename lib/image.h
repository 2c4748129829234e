/*
 * An image: one generation of a name in the store (lib/store.h), or a directory
 * like it elsewhere:
 *   manifest.pb   header, then proto/manifest.proto
 *   criu/         CRIU's images and dump.log, untouched
 *   preload.so    the preload library that its processes have mapped
 *   carried/      small files of the program's that may be gone at the restore
 *
 * A draft becomes an image by one rename, after everything in it was synced.
 * Nothing with a generation's number is ever half made or written to again.
 *
 * A struct image and a struct image_draft own their descriptors and memory.  An
 * open image is not written to: threads may share it.  A draft belongs to one
 * thread at a time.  Contents are outside information: image_open() checks the
 * manifest so far that its users need not (see image_manifest.h), the verify
 * calls compare the files with it.
 */
#ifndef FREEZEPOINT_IMAGE_H
#define FREEZEPOINT_IMAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/store.h"
#include "manifest.pb-c.h"

/* What this program writes, and the newest that it reads. */
#define IMAGE_FORMAT 1

#define IMAGE_MANIFEST "manifest.pb"
#define IMAGE_CRIU     "criu"
#define IMAGE_PRELOAD  "preload.so"
#define IMAGE_CARRIED  "carried"

/* Of a file in IMAGE_CARRIED. */
#define IMAGE_CARRIED_SIZE_MAX (1 << 20)

/* Leaves room for the name of a file below it in PATH_MAX. */
#define IMAGE_PATH_MAX (PATH_MAX - NAME_MAX - 1)

struct image {
    char path[IMAGE_PATH_MAX];      /* absolute */
    char criu_path[IMAGE_PATH_MAX]; /* path + "/criu" */
    char label[IMAGE_PATH_MAX];     /* for messages: "NAME@GENERATION", or the path */
    uint64_t generation;
    int dirfd; /* -1: none */
    Freezepoint__Manifest *manifest;
};

#define IMAGE_NONE ((struct image){.dirfd = -1})

/*
 * Opens IMAGE: a NAME (its newest generation), NAME@GENERATION, or the path of an
 * image's directory (with a '/').  `store` may be NULL for a path.  -ENOENT where
 * there is none; -EPERM where another user could have written it; -EBADMSG where
 * the manifest is damaged; -ENOTSUP where a newer freezepoint made it.
 */
int image_open(const struct store *store, const char *spec, struct image *out, struct err *err);

/* Safe on IMAGE_NONE. */
void image_close(struct image *image);

/* True where IMAGE is a path, for which no store is needed. */
bool image_spec_is_path(const char *spec);

/*
 * Compare the files with the manifest: size, sum, owner.  `small` is all but the
 * memory pages, and that CRIU would find no file that the manifest does not know;
 * `pages` is criu/pages-*.img, which may be many gigabytes: it looks at *cancel
 * every few milliseconds and ends with -ECANCELED.  -EBADMSG names the file.
 */
int image_verify_small(const struct image *image, struct err *err);
int image_verify_pages(const struct image *image, volatile bool *cancel, struct err *err);

/* Bytes of all files, and of what they occupy. */
struct image_size {
    uint64_t apparent, on_disk;
};

int image_measure(const struct image *image, struct image_size *out, struct err *err);

/* What `run` is about to start. */
struct image_wanted {
    const char *const *argv; /* NULL-terminated */
    const char *executable;  /* as struct supervision has it */
    const char *cwd;
    const char *const *specs; /* the --at, in any order */
    size_t spec_count;
    uint64_t every; /* --every, 0: not given */
};

#define IMAGE_WHY_MAX 512

/*
 * Whether the image is of the same program in the same place: argv, executable
 * and working directory are equal, the set of --at and --every are equal, and each
 * file that the program was made of has the size, time and inode that it had.
 * Whether the program went on after the checkpoint (--then) does not matter: its
 * state in the image is the same.  Where not, `why` says so in a clause
 * ("'/usr/bin/x' has changed since").
 */
bool image_check_fresh(const struct image *image, const struct image_wanted *wanted,
                       char why[IMAGE_WHY_MAX]);

/* A new image in the making. */
struct image_draft {
    const struct store *store;      /* borrowed: outlives the draft */
    char path[IMAGE_PATH_MAX];      /* absolute */
    char criu_path[IMAGE_PATH_MAX]; /* for CRIU to write to */
    char name[NAME_MAX + 1];
    char entry[32]; /* the draft's name in name_fd */
    int name_fd;    /* the directory of the name; -1: none */
    int dirfd;      /* the draft, locked as long as its writer lives; -1: none */
    bool committed;
};

#define IMAGE_DRAFT_NONE ((struct image_draft){.name_fd = -1, .dirfd = -1})

/* Makes an empty draft (directories 0700) and removes drafts of writers that died. */
int image_draft_begin(const struct store *store, const char *name, struct image_draft *out,
                      struct err *err);

/*
 * Makes the draft the newest image of its name.  Fills the manifest's format,
 * generation and files.  Durable when it returns 0; on failure nothing is
 * visible and the draft is still to be abandoned.
 */
int image_draft_commit(struct image_draft *draft, Freezepoint__Manifest *manifest,
                       uint64_t *generation, struct err *err);

/*
 * Completes the draft without making it an image of the store: for one that is used up
 * while it is a draft, by its path.  Nothing is synced.  Its generation is 1.
 */
int image_draft_describe(const struct image_draft *draft, Freezepoint__Manifest *manifest,
                         struct err *err);

/* Opens such a draft, which is not to be written to any more; only then is it to be
 * abandoned.  `label` is what messages call it. */
int image_draft_open(const struct image_draft *draft, const char *label, struct image *out,
                     struct err *err);

/* Removes a draft that was not committed, and closes.  Safe on IMAGE_DRAFT_NONE
 * and on one that was abandoned before. */
void image_draft_abandon(struct image_draft *draft);

/* Removes one generation.  Gone at once for everybody else; `latest` follows.
 * -ENOENT; -EBUSY while somebody has it open. */
int image_remove(const struct store *store, const char *name, uint64_t generation, struct err *err);

/* For lib/image*.c: puts before what is wrong with an image which it is, and behind
 * it what to do.  Returns -err->errnum. */
int image_blame(const char *label, struct err *err);

#endif
