#include "trigger/timeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"

static struct timeline_thread *find_thread(struct timeline *timeline, uint32_t pid, uint32_t tid)
{
    for (size_t i = timeline->thread_count; i-- > 0;) {
        struct timeline_thread *thread = &timeline->threads[i];
        if (thread->tid == tid && thread->pid == pid && !thread->ended)
            return thread;
    }
    if (timeline->thread_count == TIMELINE_THREADS_MAX)
        return NULL;
    if (!timeline->threads)
        timeline->threads = calloc(TIMELINE_THREADS_MAX, sizeof(*timeline->threads));
    if (!timeline->threads)
        return NULL;
    struct timeline_thread *thread = &timeline->threads[timeline->thread_count++];
    thread->pid = pid;
    thread->tid = tid;
    return thread;
}

void timeline_add(struct timeline *timeline, const struct points_run *run)
{
    struct timeline_thread *thread = find_thread(timeline, run->pid, run->tid);
    const struct span span = {run->from_ns, run->to_ns, run->cpu_ns, run->rest, run->call};
    if (!thread || spans_add(&thread->spans, &span) < 0) {
        timeline->left_out++;
        return;
    }
    memcpy(thread->comm, run->comm, sizeof(thread->comm));
    thread->cpu_ns += run->cpu_ns;
    thread->ended = run->rest == POINTS_REST_END;
}

void timeline_add_hold(struct timeline *timeline, uint64_t from_ns, uint64_t to_ns)
{
    if (timeline->hold_count == TIMELINE_HOLDS_MAX) {
        timeline->holds_left_out++;
        return;
    }
    timeline->holds[timeline->hold_count++] = (struct timeline_hold){from_ns, to_ns};
}

static void read_comm(uint32_t pid, uint32_t tid, char comm[16])
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%u/task/%u/comm", pid, tid);
    _cleanup_fclose_ FILE *from = fopen(path, "re");
    char text[17] = "";
    size_t size = from ? fread(text, 1, sizeof(text) - 1, from) : 0;
    if (!size)
        return;
    size -= text[size - 1] == '\n';
    memset(comm, 0, 16);
    memcpy(comm, text, size < 15 ? size : 15);
}

void timeline_finish(struct timeline *timeline, uint32_t tid, const struct points_thread *state,
                     uint64_t end_ns)
{
    if (!state->run_ns || state->run_ns > end_ns)
        return;
    bool runs = state->on_ns != 0;
    struct points_run run = {.from_ns = state->run_ns,
                             .to_ns = runs ? end_ns : state->off_ns,
                             .cpu_ns = state->run_cpu_ns,
                             .pid = state->pid,
                             .tid = tid,
                             .rest = runs ? POINTS_REST_READY : state->rest,
                             .call = state->rest_call};
    if (runs && end_ns > state->on_ns)
        run.cpu_ns += end_ns - state->on_ns;
    struct timeline_thread *known = find_thread(timeline, run.pid, run.tid);
    if (known)
        memcpy(run.comm, known->comm, sizeof(run.comm));
    read_comm(run.pid, run.tid, run.comm);
    timeline_add(timeline, &run);
}

void timeline_release(struct timeline *timeline)
{
    for (size_t i = 0; i < timeline->thread_count; i++)
        spans_release(&timeline->threads[i].spans);
    free(timeline->threads);
    *timeline = (struct timeline){0};
}
