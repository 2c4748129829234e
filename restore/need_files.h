/*
 * The files that a job needs where it is to run: CRIU opens them by their paths and
 * compares size, mode and build id (criu/files-reg.c, validate_file()).
 */
#ifndef FREEZEPOINT_NEED_FILES_H
#define FREEZEPOINT_NEED_FILES_H

#include <sys/types.h>

#include "lib/err.h"
#include "migrate.pb-c.h"
#include "restore/refusal.h"

/* The source's side: fills need->files and need->preload, to be freed with
 * need_files_free(), also after a failure. */
int need_files_gather(const pid_t *pids, size_t count, Freezepoint__Stream__Need *need,
                      struct err *err);
void need_files_free(Freezepoint__Stream__Need *need);

/* The target's side. */
void need_files_check(const Freezepoint__Stream__Need *need, struct refusals *refusals);

#endif
