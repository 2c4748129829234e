/*
 * Opening what only root and we ourselves can have written.
 *
 * Trusted is a file or directory that belongs to root or to our effective user
 * and that neither group nor others may write to.  On the way to it every
 * directory must be trusted too, or be sticky (as /tmp: others cannot rename what
 * is ours there), and a symbolic link must belong to root or us.  Otherwise
 * somebody could put a directory of his own in the place of ours.
 *
 * No state; threads may call at will.
 */
#ifndef FREEZEPOINT_TRUSTED_H
#define FREEZEPOINT_TRUSTED_H

#include <stdbool.h>
#include <sys/stat.h>

#include "lib/err.h"

/* -EPERM where `about` (of a file that messages call `name`) is not trusted. */
int trusted_check(const struct stat *about, const char *name, struct err *err);

/*
 * Opens the directory `path` after checking the whole way from the root.  With
 * `make`, missing levels are made (0700) and synced.  Returns a CLOEXEC
 * descriptor, the caller's, or -errno: -EPERM where it is not trusted, -ENOENT.
 */
int trusted_open_path(const char *path, bool make, struct err *err);

/* Opens `name` in a trusted directory, following no symbolic link (-ELOOP or
 * -ENOTDIR), and checks it.  `flags` are open(2)'s; O_CLOEXEC and O_NOFOLLOW are
 * added.  Messages call it `shown`. *about may be NULL. */
int trusted_open_at(int parent_fd, const char *name, int flags, const char *shown,
                    struct stat *about, struct err *err);

#endif
