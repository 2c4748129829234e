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

struct need_request {
    const char *job;
    const char *id; /* of the migration */
    const char *criu;
    const char *const *addresses; /* that go along, NULL-terminated, or NULL */
    bool hooks;                   /* commands of the user's may bring up addresses there */
};

/*
 * The source's side: says hello for the job, and hears what the other side says.  *out is
 * the answer, to be freed with freezepoint__stream__message__free_unpacked(); its hello
 * is there.  Where it has refusals, nothing may follow.
 */
int need_ask(struct stream *stream, const struct need_request *request, StreamMessage **out,
             struct err *err);

/* Where it is to run. */
struct need_place {
    const char *criu;
    const char *store_path;
    const char *device; /* for all addresses that come along, or NULL: that of the source */
};

/* The target's side: answers `hello`, which may be anything; *refusals gets how many reasons
 * there are against it. */
int need_answer(struct stream *stream, const Freezepoint__Stream__Hello *hello,
                const struct need_place *place, size_t *refusals, struct err *err);

/* Answers with one reason, found before anything was looked at. */
int need_refuse(struct stream *stream, const char *reason, struct err *err);

#endif
