/*
 * The manifest's picture of a live group: its processes, their control blocks,
 * the program's files.
 */
#ifndef FREEZEPOINT_DESCRIBE_H
#define FREEZEPOINT_DESCRIBE_H

#include "lib/err.h"
#include "lib/image.h"
#include "manifest.pb-c.h"
#include "trigger/hit.h"
#include "trigger/supervision.h"

/* What is known without the processes.  *out gets a new manifest, to be freed with
 * freezepoint__manifest__free_unpacked().  `root` is in our pid namespace. */
int describe_job(const struct supervision *job, const struct hit *hit, pid_t root,
                 Freezepoint__Manifest **out, struct err *err);

/* Adds the processes, which must not run: frozen, or held by ptrace.  Small files
 * that the program may remove are copied into the draft (carry.h). */
int describe_processes(const struct supervision *job, pid_t root, const struct image_draft *draft,
                       Freezepoint__Manifest *manifest, struct err *err);

/* Enters what has changed of the points since describe_job(): probes count until they are
 * lifted. */
void describe_hits(const struct supervision *job, Freezepoint__Manifest *manifest);

/* Enters the times of `hit`, and its mark where there is one.  Of a program that goes on
 * it is called when it does. */
void describe_timings(Freezepoint__Manifest *manifest, const struct hit *hit);

/* How long the program stood, in ns: as the kernel saw it, else by our own clock; to the
 * end of the dump where it was not to go on. */
uint64_t describe_pause(const Freezepoint__Manifest *manifest);

/* The one process of the group whose parent is outside it, in our pid namespace;
 * -errno where there is none or more than one tree. */
pid_t describe_root(const struct supervision *job, struct err *err);

#endif
