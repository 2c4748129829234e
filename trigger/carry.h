/*
 * Files that an image must bring along, since the program may take them away when
 * it ends: those that a process has mapped shared and writable, up to
 * IMAGE_CARRIED_SIZE_MAX.  CRIU maps them again by their path and fails where they are
 * missing (criu/files-reg.c, open_path()).
 */
#ifndef FREEZEPOINT_CARRY_H
#define FREEZEPOINT_CARRY_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/image.h"

/* Copies the files of these processes, which should be frozen, into the draft and
 * enters them into the manifest.  A file that cannot be copied is left out: where
 * it is still there at the restore, it is not needed. */
int carry_files(const pid_t *pids, size_t count, const struct image_draft *draft,
                Freezepoint__Manifest *manifest, struct err *err);

#endif
