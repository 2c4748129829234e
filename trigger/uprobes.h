/*
 * The probes of a job (bpf/trigger.h) while it is supervised: set, lifted for each
 * dump, set again; the hits that were due, and the processes that stand stopped by them.
 *
 * The order of a checkpoint: uprobes_next(), freeze, uprobes_lift(), dump, but no
 * memory before uprobes_await_lifted(); then, while
 * CRIU still holds the threads, uprobes_set().  No hit is missed so, and none is in an
 * image that its count is not.
 *
 * What is stopped is the process of the hit.  A due hit in another process, or by another
 * thread before the stop has come to it, before the group is frozen, is of the same
 * moment: one image is made of them.
 */
#ifndef FREEZEPOINT_UPROBES_H
#define FREEZEPOINT_UPROBES_H

#include <stdbool.h>

#include "lib/err.h"
#include "trigger/hit.h"
#include "trigger/supervision.h"

struct uprobes;

/*
 * Sets those of the points that are probes and not done; *out stays NULL where there is
 * none.  `points` is used until uprobes_release(): `hits` is read here, and kept up to
 * date.  -EINVAL as target_find(); ERR_LACK without BPF.
 */
int uprobes_start(int group_fd, struct supervised_point *points, size_t count, struct uprobes **out,
                  struct err *err);

/* Readable when a hit was due; not the caller's to close. */
int uprobes_fd(const struct uprobes *self);

/* The next due hit, whose process is stopped.  False: none. */
bool uprobes_next(struct uprobes *self, struct hit *hit);

/* The stopped processes go on, at once or when they are thawed. */
void uprobes_go_on(struct uprobes *self);

/*
 * The group is frozen: begins to take the probes out of the text of all processes, and
 * takes those that are stopped out of that state.  They stay frozen.  Due hits that nobody
 * has taken yet are done with.
 */
int uprobes_lift(struct uprobes *self, const struct supervision *job, struct err *err);

/* Waits until none is in the text any more, others' neither: not before may it be dumped. */
int uprobes_await_lifted(struct uprobes *self, const struct supervision *job, struct err *err);

/* Sets them again, but for those that are done; and others' that were lifted too. */
int uprobes_set(struct uprobes *self, struct err *err);

/* Takes them away; what is stopped goes on.  Safe on NULL. */
void uprobes_release(struct uprobes *self);

#endif
