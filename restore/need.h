/*
 * What a job needs of the host that it is to move to, and whether that has it: found out
 * before anything is frozen.
 */
#ifndef FREEZEPOINT_NEED_H
#define FREEZEPOINT_NEED_H

#include <stddef.h>

#include "lib/err.h"
#include "lib/job.h"
#include "lib/stream.h"

/*
 * The source's side: says hello for the job, and hears what the other side says.  *out is
 * the answer, to be freed with freezepoint__stream__message__free_unpacked(); its hello
 * is there.  Where it has refusals, nothing may follow.
 */
int need_ask(struct stream *stream, const char *job_name, const char *id, const char *criu,
             const char *const *addresses, StreamMessage **out, struct err *err);

/* The target's side: answers `hello`; *refusals gets how many reasons there are against
 * it. */
int need_answer(struct stream *stream, const Freezepoint__Stream__Hello *hello, const char *criu,
                const char *store_path, size_t *refusals, struct err *err);

#endif
