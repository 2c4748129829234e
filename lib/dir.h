/*
 * Directories: making and removing whole trees, by descriptor and without ever
 * following a symbolic link.  No ownership is kept; threads may call at will.
 */
#ifndef FREEZEPOINT_DIR_H
#define FREEZEPOINT_DIR_H

#include <sys/types.h>

#include "lib/err.h"

/* mkdir -p: each missing level is made with `mode`.  Existing levels are left
 * as they are. */
int dir_make(const char *path, mode_t mode, struct err *err);

/* rm -rf of `name` in the directory parent_fd (AT_FDCWD allowed).  A missing
 * one is no error.  Does not cross into symbolic links. */
int dir_remove_recursive(int parent_fd, const char *name, struct err *err);

#endif
