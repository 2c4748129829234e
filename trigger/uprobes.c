#include "trigger/uprobes.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/trigger.h"
#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "preload/abi.h"
#include "trigger/point.h"
#include "trigger/stopped.h"
#include "trigger/target.h"
#include "trigger/text.h"

#define FROZEN_TIMEOUT_MS (10 * 1000)
#define LIFT_TIMEOUT_MS   (5 * 1000)

_Static_assert(TRIGGER_MAX == FZ_RULE_MAX, "each point has its count");

struct uprobes {
    struct trigger *trigger;
    struct supervised_point *points;
    /* Each instruction where one is set, as the BPF side and as this one has it. */
    struct trigger_point *targets;
    struct target *places;
    size_t target_count;
    bool others_lifted; /* another's breakpoints are out of the text as well */
    /* Due hits: taken up to `next`.  Their processes are stopped from the first on. */
    struct mark *due;
    size_t next, due_count, due_capacity;
};

static bool make_room(struct uprobes *self, size_t more)
{
    size_t count = self->target_count + more;
    struct trigger_point *targets = reallocarray(self->targets, count, sizeof(*targets));
    self->targets = targets ? targets : self->targets;
    struct target *places = reallocarray(self->places, count, sizeof(*places));
    self->places = places ? places : self->places;
    return targets && places;
}

static int add_places(struct uprobes *self, size_t rule, const struct targets *found,
                      struct err *err)
{
    const struct supervised_point *given = &self->points[rule];
    if (!make_room(self, found->count))
        return err_set(err, ENOMEM, "probes");
    for (size_t i = 0; i < found->count; i++) {
        self->places[self->target_count] = found->list[i];
        self->targets[self->target_count++] = (struct trigger_point){
            .path = given->library,
            .offset = found->list[i].offset,
            .semaphore = found->list[i].semaphore,
            .rule = (uint32_t)rule,
            .count = {.hits = given->hits, .first = given->first, .every = given->every}};
    }
    return 0;
}

static int add_point(struct uprobes *self, size_t rule, struct err *err)
{
    const struct supervised_point *given = &self->points[rule];
    struct point point;
    int error = point_parse(given->spec, &point, err);
    if (error)
        return error;
    free(point.library);
    point.library = strdup(given->library);
    _cleanup_(targets_release) struct targets found = {NULL};
    error = point.library ? target_find(&point, &found, err) : err_set(err, ENOMEM, "probe");
    point_release(&point);
    return error ? error : add_places(self, rule, &found, err);
}

static int start(struct uprobes *self, int group_fd, struct err *err)
{
    int error = trigger_load(group_fd, self->targets, self->target_count, &self->trigger, err);
    if (error) {
        err->kind = ERR_LACK;
        return err_wrap(err, "probes need BPF");
    }
    error = uprobes_set(self, err);
    if (!error)
        text_settle_semaphores(group_fd, self->places, self->target_count);
    return error;
}

int uprobes_start(int group_fd, struct supervised_point *points, size_t count, struct uprobes **out,
                  struct err *err)
{
    struct uprobes *self = calloc(1, sizeof(*self));
    if (!self)
        return err_set(err, ENOMEM, "probes");
    self->points = points;
    int error = 0;
    for (size_t i = 0; i < count && i < TRIGGER_MAX && !error; i++)
        if (point_is_probe(points[i].spec) && !points[i].done)
            error = add_point(self, i, err);
    if (!error && self->target_count)
        error = start(self, group_fd, err);
    if (error || !self->target_count)
        uprobes_release(self);
    else
        *out = self;
    return error;
}

int uprobes_fd(const struct uprobes *self)
{
    return trigger_fd(self->trigger);
}

static void take(const struct mark *mark, void *context)
{
    struct uprobes *self = context;
    if (self->due_count == self->due_capacity) {
        size_t capacity = self->due_capacity ? 2 * self->due_capacity : 8;
        struct mark *larger = reallocarray(self->due, capacity, sizeof(*larger));
        if (!larger) {
            kill((pid_t)mark->pid, SIGCONT);
            return;
        }
        self->due = larger;
        self->due_capacity = capacity;
    }
    self->due[self->due_count++] = *mark;
}

static void collect(struct uprobes *self)
{
    int count = trigger_collect(self->trigger, take, self);
    if (count < 0)
        log_warning("probe", "the ring buffer cannot be read: error %d", -count);
}

bool uprobes_next(struct uprobes *self, struct hit *hit)
{
    collect(self);
    if (self->next == self->due_count)
        return false;
    const struct mark *mark = &self->due[self->next++];
    *hit = (struct hit){.rule = mark->rule,
                        .number = mark->hit,
                        .tid = (pid_t)mark->tid,
                        .notified_ns = proc_monotonic_ns(),
                        .mark = *mark};
    return true;
}

static void continue_stopped(struct uprobes *self)
{
    for (size_t i = 0; i < self->due_count; i++)
        if (self->due[i].pid)
            kill((pid_t)self->due[i].pid, SIGCONT);
    self->next = self->due_count = 0;
}

/* While they are frozen, and so that an image can be made. */
static int continue_frozen(struct uprobes *self, pid_t root, struct err *err)
{
    int error = 0;
    for (size_t i = 0; i < self->due_count && !error; i++)
        if (self->due[i].pid)
            error = stopped_continue((pid_t)self->due[i].pid, (pid_t)self->due[i].tid, root, err);
    if (error)
        continue_stopped(self);
    self->next = self->due_count = 0;
    return error;
}

void uprobes_go_on(struct uprobes *self)
{
    if (self->next == self->due_count)
        continue_stopped(self);
}

static void enter_hits(struct uprobes *self)
{
    for (size_t i = 0; i < self->target_count; i++) {
        uint32_t rule = self->targets[i].rule;
        self->points[rule].hits = trigger_hits(self->trigger, rule);
    }
}

static void say_merged(const struct mark *mark, struct supervised_point *point,
                       const struct supervision *job)
{
    char line[PATH_MAX];
    snprintf(line, sizeof(line), "%s was hit (call %" PRIu64 ") at the same moment: one image",
             point->spec, (uint64_t)mark->hit);
    job->say(line, job->say_context);
    point->done = point->every == 0;
}

int uprobes_lift(struct uprobes *self, const struct supervision *job, struct err *err)
{
    collect(self);
    trigger_detach(self->trigger);
    enter_hits(self);
    for (size_t i = self->next; i < self->due_count; i++)
        say_merged(&self->due[i], &self->points[self->due[i].rule], job);
    int error = continue_frozen(self, job->root, err);
    if (error)
        return error;
    return cgroup_wait_frozen(job->job->group.fd, true, FROZEN_TIMEOUT_MS, err);
}

static bool ours_are_gone(void *context)
{
    const struct uprobes *self = context;
    return trigger_is_detached(self->trigger);
}

int uprobes_await_lifted(struct uprobes *self, const struct supervision *job, struct err *err)
{
    const struct text_wait wait = {.group_fd = job->job->group.fd,
                                   .targets = self->places,
                                   .count = self->target_count,
                                   .timeout_ms = LIFT_TIMEOUT_MS,
                                   .ours_are_gone = ours_are_gone,
                                   .context = self};
    bool others = false;
    int error = text_await_clean(&wait, &others, err);
    self->others_lifted |= others;
    return error;
}

int uprobes_set(struct uprobes *self, struct err *err)
{
    _cleanup_free_ struct trigger_point *wanted = calloc(self->target_count, sizeof(*wanted));
    if (!wanted)
        return err_set(err, ENOMEM, "probes");
    size_t count = 0;
    for (size_t i = 0; i < self->target_count; i++)
        if (!self->points[self->targets[i].rule].done || self->others_lifted)
            wanted[count++] = self->targets[i];
    self->others_lifted = false;
    return trigger_attach(self->trigger, wanted, count, err);
}

void uprobes_release(struct uprobes *self)
{
    if (!self)
        return;
    if (self->trigger) {
        trigger_end(self->trigger);
        collect(self);
        continue_stopped(self);
        if (trigger_lost(self->trigger))
            log_warning("probe", "%" PRIu64 " due hits found no room", trigger_lost(self->trigger));
    }
    trigger_release(self->trigger);
    free(self->targets);
    free(self->places);
    free(self->due);
    free(self);
}
