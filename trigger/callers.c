#include "trigger/callers.h"

#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "trigger/manifest_fill.h"

#define FRAMES_MAX 64

void callers_copy(const struct hit *hit, struct stack *out)
{
    const struct pt_regs *seen = &hit->mark.registers;
    const uint64_t registers[STACK_REGISTERS] = {
        seen->rax, seen->rdx, seen->rcx, seen->rbx, seen->rsi, seen->rdi,
        seen->rbp, seen->rsp, seen->r8,  seen->r9,  seen->r10, seen->r11,
        seen->r12, seen->r13, seen->r14, seen->r15, seen->rip,
    };
    int error = stack_copy(hit->tid, registers, out);
    if (error)
        log_info("stack", "not copied: %s", strerror(-error));
}

struct describing {
    Freezepoint__Mark *mark;
    const char *preload_path;
};

static ProtobufCBinaryData copy_text(const char *text)
{
    return manifest_copy_bytes(text ? text : "");
}

static void describe_frame(const struct stack_frame *frame, void *context)
{
    struct describing *describing = context;
    if (frame->module && !strcmp(frame->module, describing->preload_path))
        return;
    Freezepoint__Frame *entry =
        MANIFEST_ADD(describing->mark, stack, Freezepoint__Frame, freezepoint__frame__init);
    if (!entry)
        return;
    entry->address = frame->address;
    entry->module = copy_text(frame->module);
    entry->offset = frame->offset;
    entry->symbol = copy_text(frame->symbol);
    entry->symbol_offset = frame->symbol_offset;
    entry->build_id.data = malloc(frame->build_id_size + 1);
    if (!entry->build_id.data)
        return;
    entry->build_id.len = frame->build_id_size;
    memcpy(entry->build_id.data, frame->build_id, frame->build_id_size);
}

void callers_describe(const struct stack *stack, const char *preload_path,
                      Freezepoint__Manifest *manifest)
{
    struct describing describing = {.mark = manifest->mark, .preload_path = preload_path};
    struct err err;
    if (!describing.mark || !stack->size)
        return;
    uint64_t start_ns = proc_monotonic_ns();
    int count = stack_walk(stack, FRAMES_MAX, describe_frame, &describing, &err);
    if (count < 0)
        log_info("stack", "%s", err.text);
    else
        log_debug("stack", "%d frames in %.1f ms", count,
                  (double)(proc_monotonic_ns() - start_ns) / 1e6);
}
