#include "trigger/observe.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"

#define ATTACH_TIMEOUT_MS 5000
#define ATTACH_NICE       5
/* From CRIU's detaching the last thread to the first one's being on a processor. */
#define RESUME_TIMEOUT_MS 20

static void *attach_in_thread(void *context)
{
    struct observer *self = context;
    /* Of this thread alone: the program is starting. */
    setpriority(PRIO_PROCESS, 0, ATTACH_NICE);
    self->result = marks_attach(self->group_fd, &self->marks, &self->err);
    eventfd_write(self->done_fd, 1);
    return NULL;
}

int observe_start(struct observer *self, int group_fd, struct err *err)
{
    *self = OBSERVER_NONE;
    self->group_fd = group_fd;
    self->recent = calloc(OBSERVE_RECENT, sizeof(*self->recent));
    self->done_fd = eventfd(0, EFD_CLOEXEC);
    int errnum = !self->recent       ? ENOMEM
                 : self->done_fd < 0 ? errno
                                     : pthread_create(&self->thread, NULL, attach_in_thread, self);
    if (errnum) {
        observe_end(self);
        return err_set(err, errnum, "start a thread");
    }
    self->state = OBSERVE_STARTING;
    return 0;
}

static void join(struct observer *self)
{
    pthread_join(self->thread, NULL);
    self->state = self->result ? OBSERVE_OFF : OBSERVE_ON;
}

bool observe_await(struct observer *self, struct err *err)
{
    if (self->state != OBSERVE_STARTING)
        return false;
    bool was_through = fd_wait(self->done_fd, POLLIN, 0) > 0;
    if (!was_through && fd_wait(self->done_fd, POLLIN, ATTACH_TIMEOUT_MS) <= 0) {
        err_text(err, ETIMEDOUT, "the BPF program is not attached within %d s",
                 ATTACH_TIMEOUT_MS / 1000);
        return false;
    }
    join(self);
    if (self->result)
        *err = self->err;
    return true;
}

static struct mark *recent_point(const struct observer *self, uint64_t age)
{
    return &self->recent[(self->points - 1 - age) % OBSERVE_RECENT];
}

static bool is_same_hit(const struct mark *a, const struct mark *b)
{
    return a->tid == b->tid && a->rule == b->rule && a->hit == b->hit;
}

static void take(const struct mark *mark, void *context)
{
    struct observer *self = context;
    switch (mark->kind) {
    case MARK_POINT:
        /* A thread that was woken for nothing waits again, at the same hit. */
        if (self->points && is_same_hit(recent_point(self, 0), mark))
            break;
        self->points++;
        *recent_point(self, 0) = *mark;
        break;
    case MARK_FROZEN:
        self->frozen_ns = mark->time_ns;
        break;
    case MARK_THAWED:
        self->thawed_ns = mark->time_ns;
        break;
    case MARK_RESUMED:
        self->resumed_ns = mark->time_ns;
        break;
    default:
        break;
    }
}

static void collect(struct observer *self)
{
    int count = marks_collect(self->marks, take, self);
    if (count < 0)
        log_debug("bpf", "the ring buffer cannot be read: error %d", -count);
}

static const struct mark *find_point(const struct observer *self, const struct hit *hit)
{
    struct mark wanted = {
        .tid = (uint32_t)hit->tid, .rule = (uint32_t)hit->rule, .hit = hit->number};
    for (uint64_t age = 0; age < self->points && age < OBSERVE_RECENT; age++)
        if (is_same_hit(recent_point(self, age), &wanted))
            return recent_point(self, age);
    return NULL;
}

/* A time of this pause, not of one before. */
static uint64_t since(uint64_t start_ns, uint64_t time_ns)
{
    return time_ns >= start_ns ? time_ns : 0;
}

void observe_hit(struct observer *self, struct hit *hit, bool resumed)
{
    if (self->state != OBSERVE_ON)
        return;
    uint64_t deadline = proc_monotonic_ns() + RESUME_TIMEOUT_MS * 1000000ULL;
    do {
        fd_wait(marks_fd(self->marks), POLLIN, resumed ? 1 : 0);
        collect(self);
    } while (resumed && !since(hit->notified_ns, self->resumed_ns) &&
             proc_monotonic_ns() < deadline);
    const struct mark *point = find_point(self, hit);
    if (!point)
        return;
    hit->mark = *point;
    hit->kernel_frozen_ns = since(hit->notified_ns, self->frozen_ns);
    hit->kernel_thawed_ns = since(hit->notified_ns, self->thawed_ns);
    hit->kernel_resumed_ns = since(hit->notified_ns, self->resumed_ns);
    hit->marks_lost = marks_lost(self->marks);
}

void observe_end(struct observer *self)
{
    if (self->state == OBSERVE_STARTING)
        join(self);
    marks_release(self->marks);
    fd_close(&self->done_fd);
    free(self->recent);
    *self = OBSERVER_NONE;
}
