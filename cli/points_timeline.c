#include "cli/points_timeline.h"

#include <string.h>

#include <seccomp.h>

#include "cli/image_text.h"
#include "lib/fd.h"

#define CURVE_MAX 2000 /* points of a curve: more than a screen has columns */

static void add(struct json_object *to, const char *key, struct json_object *value)
{
    json_object_object_add(to, key, value);
}

static void add_number(struct json_object *to, const char *key, uint64_t value)
{
    add(to, key, json_object_new_uint64(value));
}

static void append(struct json_object *list, uint64_t value)
{
    json_object_array_add(list, json_object_new_uint64(value));
}

static uint64_t since(const struct learnt *learnt, uint64_t time_ns)
{
    return time_ns > learnt->begun_ns ? time_ns - learnt->begun_ns : 0;
}

/* ---- threads ---- */

/* Why threads rested: each reason once, and spans have its index. */
struct reasons {
    uint32_t calls[256];
    size_t count;
    struct json_object *list;
};

#define REASONS_FIXED 4

static struct json_object *reason_json(const char *kind, const char *call, bool may_wait)
{
    struct json_object *object = json_object_new_object();
    add(object, "kind", json_object_new_string(kind));
    if (call) {
        add(object, "call", json_object_new_string(call));
        add(object, "may_wait", json_object_new_boolean(may_wait));
    }
    return object;
}

static struct json_object *call_json(uint32_t call)
{
    const char *known = points_wait_name(call);
    char *named = known ? NULL : seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, (int)call);
    struct json_object *object =
        reason_json("call", known ? known : (named ? named : "unknown"), known != NULL);
    free(named);
    return object;
}

static uint64_t find_reason(struct reasons *reasons, uint32_t rest, uint32_t call)
{
    if (rest != POINTS_REST_CALL)
        return rest == POINTS_REST_KERNEL ? 0 : (rest == POINTS_REST_READY ? 1 : 2);
    for (size_t i = 0; i < reasons->count; i++)
        if (reasons->calls[i] == call)
            return i + REASONS_FIXED;
    if (reasons->count == sizeof(reasons->calls) / sizeof(reasons->calls[0]))
        return REASONS_FIXED - 1;
    reasons->calls[reasons->count] = call;
    json_object_array_add(reasons->list, call_json(call));
    return reasons->count++ + REASONS_FIXED;
}

static struct json_object *spans_json(const struct learnt *learnt, const struct spans *spans,
                                      struct reasons *reasons)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < spans->count; i++) {
        const struct span *span = &spans->list[i];
        struct json_object *one = json_object_new_array_ext(4);
        append(one, since(learnt, span->from_ns));
        append(one, since(learnt, span->to_ns));
        append(one, span->cpu_ns);
        append(one, find_reason(reasons, span->rest, span->call));
        json_object_array_add(list, one);
    }
    return list;
}

static struct json_object *threads_json(const struct learnt *learnt, struct reasons *reasons)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < learnt->timeline.thread_count; i++) {
        const struct timeline_thread *thread = &learnt->timeline.threads[i];
        struct json_object *object = json_object_new_object();
        add_number(object, "pid", thread->pid);
        add_number(object, "tid", thread->tid);
        add(object, "comm", json_text(thread->comm, strnlen(thread->comm, 16)));
        add(object, "ended", json_object_new_boolean(thread->ended));
        add_number(object, "cpu_ns", thread->cpu_ns);
        add_number(object, "finest_rest_ns",
                   thread->spans.finest_ns ? thread->spans.finest_ns : POINTS_REST_NS);
        add(object, "spans", spans_json(learnt, &thread->spans, reasons));
        json_object_array_add(list, object);
    }
    return list;
}

/* ---- curves ---- */

/* Of a long run only each n-th sample. */
static size_t stride(size_t count)
{
    return (count + CURVE_MAX - 1) / CURVE_MAX + (count == 0);
}

/* What is left out does not hide a peak. */
static struct json_object *memory_json(const struct learnt *learnt)
{
    struct json_object *times = json_object_new_array(), *bytes = json_object_new_array(),
                       *connections = json_object_new_array();
    size_t step = stride(learnt->memory_count);
    for (size_t i = 0; i < learnt->memory_count; i += step) {
        struct learn_memory most = learnt->memory[i];
        for (size_t j = i; j < i + step && j < learnt->memory_count; j++) {
            const struct learn_memory *sample = &learnt->memory[j];
            most.bytes = sample->bytes > most.bytes ? sample->bytes : most.bytes;
            most.connections =
                sample->connections > most.connections ? sample->connections : most.connections;
        }
        append(times, since(learnt, most.time_ns));
        append(bytes, most.bytes);
        append(connections, most.connections);
    }
    struct json_object *object = json_object_new_object();
    add(object, "time_ns", times);
    add(object, "bytes", bytes);
    add(object, "connections", connections);
    return object;
}

static struct json_object *cpu_json(const struct learnt *learnt)
{
    struct json_object *times = json_object_new_array(), *used = json_object_new_array(),
                       *blocked = json_object_new_array();
    size_t step = stride(learnt->sample_count);
    for (size_t i = 0; i < learnt->sample_count; i += step) {
        append(times, since(learnt, learnt->samples[i].time_ns));
        append(used, learnt->samples[i].cpu_ns);
        append(blocked, learnt->samples[i].blocked);
    }
    struct json_object *object = json_object_new_object();
    add(object, "time_ns", times);
    add(object, "cpu_ns", used);
    add(object, "all_wait", blocked);
    return object;
}

static struct json_object *holds_json(const struct learnt *learnt)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < learnt->timeline.hold_count; i++) {
        struct json_object *one = json_object_new_array_ext(2);
        append(one, since(learnt, learnt->timeline.holds[i].from_ns));
        append(one, since(learnt, learnt->timeline.holds[i].to_ns));
        json_object_array_add(list, one);
    }
    return list;
}

struct json_object *timeline_json(const struct learnt *learnt)
{
    struct json_object *object = json_object_new_object();
    struct reasons reasons = {.list = json_object_new_array()};
    json_object_array_add(reasons.list, reason_json("kernel", NULL, false));
    json_object_array_add(reasons.list, reason_json("ready", NULL, false));
    json_object_array_add(reasons.list, reason_json("end", NULL, false));
    json_object_array_add(reasons.list, reason_json("call", "others", false));
    add(object, "threads", threads_json(learnt, &reasons));
    add(object, "rests", reasons.list);
    add(object, "memory", memory_json(learnt));
    add(object, "cpu", cpu_json(learnt));
    add(object, "held", holds_json(learnt));
    add_number(object, "lost_runs", learnt->lost_runs);
    add_number(object, "left_out_runs", learnt->timeline.left_out);
    add_number(object, "left_out_holds", learnt->timeline.holds_left_out);
    add(object, "samples_end_early", json_object_new_boolean(learnt->samples_full));
    return object;
}

/* ---- callers ---- */

static struct json_object *frame_json(const struct stacks_frame *frame)
{
    struct json_object *object = json_object_new_object();
    if (frame->symbol) {
        add(object, "symbol", json_text(frame->symbol, strlen(frame->symbol)));
        add_number(object, "symbol_offset", frame->symbol_offset);
    }
    if (frame->module) {
        add(object, "module", json_text(frame->module, strlen(frame->module)));
        add_number(object, "offset", frame->offset);
    }
    char address[32];
    snprintf(address, sizeof(address), "0x%llx", (unsigned long long)frame->address);
    add(object, "address", json_object_new_string(address));
    return object;
}

struct json_object *callers_json(const struct learnt *learnt, const struct advice_hit *hit)
{
    const struct stacks_entry *entry =
        stacks_find(&learnt->callers, hit->pid, hit->tid, hit->function, hit->number);
    if (!entry)
        return NULL;
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < entry->frame_count; i++)
        json_object_array_add(list, frame_json(&entry->frames[i]));
    struct json_object *object = json_object_new_object();
    add(object, "by",
        json_object_new_string(entry->addresses ? "frame pointers" : "unwind tables"));
    add(object, "frames", list);
    return object;
}
