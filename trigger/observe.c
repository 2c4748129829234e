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
/* From the notification to the thread's leaving its processor; a millisecond each. */
#define SEE_TRIES 3

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

int observe_await(struct observer *self, struct err *err)
{
    if (self->state != OBSERVE_STARTING)
        return 0;
    bool first = !self->late;
    self->late = fd_wait(self->done_fd, POLLIN, first ? ATTACH_TIMEOUT_MS : 0) <= 0;
    if (self->late && !first)
        return 0;
    if (self->late)
        return err_text(err, ETIMEDOUT, "the BPF program is not attached within %d s",
                        ATTACH_TIMEOUT_MS / 1000);
    join(self);
    if (self->result)
        *err = self->err;
    return self->result;
}

static struct recent_point *recent_point(const struct observer *self, uint64_t age)
{
    return &self->recent[(self->points - 1 - age) % OBSERVE_RECENT];
}

/* The one that still has to be served. */
static struct recent_point *find_point(const struct observer *self, uint32_t tid, uint32_t rule,
                                       uint64_t hit)
{
    for (uint64_t age = 0; age < self->points && age < OBSERVE_RECENT; age++) {
        struct recent_point *point = recent_point(self, age);
        if (!point->served && point->mark.tid == tid && point->mark.rule == rule &&
            point->mark.hit == hit)
            return point;
    }
    return NULL;
}

static void take(const struct mark *mark, void *context)
{
    struct observer *self = context;
    log_debug("bpf", "mark %u of thread %u: rule %u, hit %llu", mark->kind, mark->tid, mark->rule,
              mark->hit);
    switch (mark->kind) {
    case MARK_POINT:
        /* A thread that was woken for nothing waits again, at the same hit. */
        if (find_point(self, mark->tid, mark->rule, mark->hit))
            break;
        self->points++;
        *recent_point(self, 0) = (struct recent_point){.mark = *mark};
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

bool observe_sees(struct observer *self, const struct hit *hit)
{
    for (int i = 0; self->state == OBSERVE_ON && i < SEE_TRIES; i++) {
        fd_wait(marks_fd(self->marks), POLLIN, i ? 1 : 0);
        collect(self);
        if (find_point(self, (uint32_t)hit->tid, (uint32_t)hit->rule, hit->number))
            return true;
    }
    return false;
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
    struct recent_point *point =
        find_point(self, (uint32_t)hit->tid, (uint32_t)hit->rule, hit->number);
    if (point) {
        point->served = true;
        hit->mark = point->mark;
    }
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
