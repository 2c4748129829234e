/*
 * The files below an image's or a draft's directory: walking them, opening them
 * without leaving the directory, their sums.
 *
 * No state; threads may call at will.
 */
#ifndef FREEZEPOINT_IMAGE_FILES_H
#define FREEZEPOINT_IMAGE_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lib/err.h"

/* `path` is relative to the walk's directory, which itself is "" and comes last;
 * a directory comes after what is in it.  Non-zero ends the walk. */
typedef int image_files_visit(const char *path, const struct stat *about, void *context,
                              struct err *err);

/* Everything below dirfd in no order, symbolic links not followed.  At most 8
 * levels, and paths as long as the manifest takes them. */
int image_files_walk(int dirfd, image_files_visit *visit, void *context, struct err *err);

/* openat2() that follows no symbolic link and no ".."; what it creates has the mode
 * 0600.  Returns a CLOEXEC descriptor, the caller's, or -errno. */
int image_files_open(int dirfd, const char *path, int flags);

/* XXH3 (64 bits) of what is left to read of fd; *size gets how much that was.
 * Looks at *cancel (may be NULL) after each piece: -ECANCELED. */
int image_files_sum(int fd, volatile bool *cancel, uint64_t *sum, uint64_t *size);

#endif
