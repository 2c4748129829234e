/*
 * The image store: a directory with one directory per image name, which holds
 * the generations (directories "1", "2", ...), `latest`, a symbolic link to the
 * newest, and drafts of writers (dot names).
 *
 * An image holds a program's memory and restoring one runs code as root: a store
 * that a user other than root and ourselves could have written to is refused,
 * ancestors included (lib/trusted.h).
 *
 * A struct store owns its descriptor; store_close() releases it.  It is never
 * written to once open: threads may share it.  Writers of one name, in whatever
 * process, exclude each other by a lock on the name's directory for the moments
 * in which names are made, renamed and removed.
 */
#ifndef FREEZEPOINT_STORE_H
#define FREEZEPOINT_STORE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

/* Leaves room for "/NAME/GENERATION/criu" in PATH_MAX. */
#define STORE_PATH_MAX (PATH_MAX - 1024)

struct store {
    char path[STORE_PATH_MAX]; /* absolute, no symbolic links in it */
    int fd;                    /* -1: none */
};

#define STORE_NONE ((struct store){.fd = -1})

/* $FREEZEPOINT_IMAGES where it is set and not empty, else /var/lib/freezepoint. */
const char *store_default_path(void);

/* Opens the store at `path` (NULL: the default), making it (0700) with the
 * levels above it where it is missing. */
int store_open(const char *path, struct store *out, struct err *err);

/* For commands that only read: -ENOENT where there is no store. */
int store_find(const char *path, struct store *out, struct err *err);

/* Safe on STORE_NONE. */
void store_close(struct store *store);

struct image;

struct store_entry {
    const char *name;
    uint64_t generation;       /* 0: the name's directory as a whole has a problem */
    bool newest;               /* of its name */
    const struct image *image; /* NULL where it cannot be used */
    const char *problem;       /* why not: one line; NULL where it can */
};

/* Returns 0 to go on; anything else ends the listing and is returned. */
typedef int store_visit(const struct store_entry *entry, void *context);

/* Every generation of every name, names in strcmp() order, generations upwards.
 * `entry` and what it points to live during the visit only.  What is damaged or
 * of a newer format is an entry with a `problem`, not an error. */
int store_list(const struct store *store, store_visit *visit, void *context, struct err *err);

/* "1" .. "999999999999999999", no sign, no leading zero.  0 for anything else. */
uint64_t store_parse_generation(const char *text);

/*
 * For lib/image*.c.
 *
 * Opens the directory of `name` and checks that it is ours alone.  With `make` it
 * is made where missing, else -ENOENT.  *out is a CLOEXEC descriptor, the caller's.
 */
int store_open_name(const struct store *store, const char *name, bool make, int *out,
                    struct err *err);

/* As store_open_name(), and takes the name's lock. */
int store_lock_name(const struct store *store, const char *name, bool make, int *out,
                    struct err *err);

/* The lock of an open name's directory; waits up to 30 s (-ETIMEDOUT).  It ends
 * with store_unlock() or with the descriptor. */
int store_lock(int name_fd, struct err *err);
void store_unlock(int name_fd);

/* The generations that are there, sorted upwards; malloc'ed.  Returns the count
 * or -errno. */
long store_generations(int name_fd, uint64_t **generations, struct err *err);

/* The number for the next image: above every generation that is or, while the
 * name's directory lives, was there.  Under the lock. */
int store_next_generation(int name_fd, uint64_t *next, struct err *err);

/* `latest` in two steps, so that a full disk shows before the image does: under
 * the lock, make the link aside, then put it in place. */
int store_prepare_latest(int name_fd, uint64_t generation, struct err *err);
int store_place_latest(int name_fd, struct err *err);

/* Under the lock, before `generation` goes: `latest` moves to the newest of the
 * others and the number is kept from coming again. */
int store_forget_generation(int name_fd, uint64_t generation, struct err *err);

/* Takes the name's directory away where no generation and no draft is in it. */
int store_drop_name(const struct store *store, const char *name, struct err *err);

/* Puts the remedy behind what opening or writing answered: ENOSPC, EDQUOT, EROFS,
 * EACCES, EPERM.  Returns -err->errnum. */
int store_hint(struct err *err);

#endif
