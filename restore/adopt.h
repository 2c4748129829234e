/*
 * Telling a restored tree, before its first instruction, that it was restored
 * and where its new supervisor listens: the control blocks (preload/abi.h).
 */
#ifndef FREEZEPOINT_ADOPT_H
#define FREEZEPOINT_ADOPT_H

#include "lib/err.h"
#include "lib/job.h"
#include "manifest.pb-c.h"

/* For every process of the manifest that has a control block.  The tree must not
 * run.  *root gets the root's number in our pid namespace. */
int adopt_tree(const struct job *job, const Freezepoint__Manifest *manifest, uint64_t generation,
               pid_t *root, struct err *err);

#endif
