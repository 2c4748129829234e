#include "trigger/published.h"

#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"

#define IDLE_MS 20
#define LATE_NS (500 * 1000 * 1000ULL)

/* Of the command's bytes. */
#define ARGUMENTS_SIZE_MAX 4096

static void changed(struct published *self)
{
    if (!self->changed_ns)
        self->changed_ns = proc_monotonic_ns();
}

/* As many as there is room for. */
static void enter_command(struct published *self)
{
    size_t left = ARGUMENTS_SIZE_MAX, count = 0;
    for (const char *const *word = self->job->argv; *word && count < PUBLISHED_ARGUMENTS_MAX;
         word++) {
        size_t length = strlen(*word);
        if (length > left)
            break;
        left -= length;
        self->argv[count++] = (ProtobufCBinaryData){.len = length, .data = (uint8_t *)*word};
    }
    self->status.argv = self->argv;
    self->status.n_argv = count;
}

void published_begin(struct published *self, const struct supervision *job)
{
    struct err err;
    *self = (struct published){.job = job};
    freezepoint__job_status__init(&self->status);
    if (job_status_sign(&self->status, &err)) {
        log_info("status", "%s", err.text);
        return;
    }
    self->status.supervised = true;
    self->status.started_unix_ns = proc_realtime_ns();
    self->status.root_pid = job->root > 0 ? (uint32_t)job->root : 0;
    self->status.image_name = (char *)job->image_name;
    if (job->restored_from)
        self->status.restored_from = (char *)job->restored_from;
    self->status.generation = job->restored_generation;
    enter_command(self);
    changed(self);
}

void published_hit(struct published *self)
{
    self->status.hits++;
    changed(self);
}

void published_checkpoint(struct published *self, uint64_t generation, uint64_t pause_ns)
{
    if (generation) {
        self->status.generation = generation;
        self->status.checkpoints++;
    } else {
        self->status.failures++;
    }
    if (pause_ns)
        self->status.last_pause_ns = pause_ns;
    changed(self);
}

int published_wait_ms(const struct published *self)
{
    return self->changed_ns ? IDLE_MS : -1;
}

void published_settle(struct published *self, bool idle)
{
    struct err err;
    if (!self->changed_ns || (!idle && proc_monotonic_ns() - self->changed_ns < LATE_NS))
        return;
    self->changed_ns = 0;
    if (job_status_write(self->job->job->runtime_path, &self->status, &err))
        log_info("status", "%s", err.text);
}
