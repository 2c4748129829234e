#include "trigger/stacks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/err.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"

_Static_assert(sizeof(((struct points_copy *)0)->registers) == STACK_REGISTERS * sizeof(uint64_t),
               "lib/stack.h");

#define SP_NUMBER 7

/* Files of another mount namespace have other names here. */
static void find_root(pid_t pid, char *root, size_t size)
{
    char ours[64] = "", theirs[64] = "", path[32];
    proc_link(getpid(), "ns/mnt", ours, sizeof(ours));
    int error = proc_link(pid, "ns/mnt", theirs, sizeof(theirs));
    snprintf(path, sizeof(path), "/proc/%d/root", pid);
    snprintf(root, size, "%s", error || strcmp(ours, theirs) != 0 ? path : "");
}

/* The maps with each file's name below the root. */
static int put_root(struct stack *stack, const char *root)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return -ENOMEM;
    for (size_t i = 0; i < stack->maps_size; i++) {
        char c = stack->maps[i];
        bool is_name = c == '/' && i && stack->maps[i - 1] == ' ';
        if (is_name)
            fputs(root, to);
        for (; i < stack->maps_size && stack->maps[i] != '\n' && is_name; i++)
            fputc(stack->maps[i], to);
        if (i < stack->maps_size)
            fputc(stack->maps[i], to);
    }
    if (fclose(to)) {
        free(text);
        return -ENOMEM;
    }
    free(stack->maps);
    stack->maps = text;
    stack->maps_size = size;
    return 0;
}

static int add(struct stacks *stacks, struct stacks_entry *entry, size_t room)
{
    if (!stacks->list)
        stacks->list = calloc(STACKS_MAX, sizeof(*stacks->list));
    if (!stacks->list || stacks->count >= room)
        return -ENOMEM;
    int error = stack_copy_maps(&entry->stack);
    find_root(entry->stack.pid, entry->root, sizeof(entry->root));
    if (!error && entry->root[0])
        error = put_root(&entry->stack, entry->root);
    if (!error)
        stacks->list[stacks->count++] = *entry;
    return error;
}

static int copy_bytes(const struct points_copy *copy, struct stack *out)
{
    *out = (struct stack){.pid = (pid_t)copy->pid,
                          .bottom = copy->registers[SP_NUMBER],
                          .size = copy->size <= sizeof(copy->bytes) ? copy->size : 0};
    memcpy(out->registers, copy->registers, sizeof(out->registers));
    out->bytes = malloc(out->size ? out->size : 1);
    if (!out->bytes)
        return -ENOMEM;
    memcpy(out->bytes, copy->bytes, out->size);
    return 0;
}

void stacks_add(struct stacks *stacks, const struct points_copy *copy)
{
    struct stacks_entry entry = {.time_ns = copy->time_ns,
                                 .number = copy->number,
                                 .pid = copy->pid,
                                 .tid = copy->tid,
                                 .function = copy->function};
    size_t room = copy->number == 1 ? STACKS_MAX : STACKS_MAX - STACKS_FIRSTS;
    if (copy_bytes(copy, &entry.stack) < 0 || add(stacks, &entry, room) < 0) {
        stack_free(&entry.stack);
        stacks->left_out++;
    }
}

void stacks_add_addresses(struct stacks *stacks, const struct advice_hit *hit,
                          const uint64_t *addresses, size_t max)
{
    struct stacks_entry entry = {.time_ns = hit->time_ns,
                                 .number = hit->number,
                                 .pid = hit->pid,
                                 .tid = hit->tid,
                                 .function = hit->function,
                                 .stack = {.pid = (pid_t)hit->pid}};
    while (entry.address_count < max && addresses[entry.address_count])
        entry.address_count++;
    entry.addresses = calloc(max + 1, sizeof(*addresses));
    if (entry.addresses)
        memcpy(entry.addresses, addresses, entry.address_count * sizeof(*addresses));
    if (!entry.addresses || add(stacks, &entry, STACKS_MAX) < 0) {
        free(entry.addresses);
        stack_free(&entry.stack);
        stacks->left_out++;
    }
}

static const char *without_root(const struct stacks_entry *entry, const char *path)
{
    size_t length = strlen(entry->root);
    return strncmp(path, entry->root, length) == 0 ? path + length : path;
}

static void keep_frame(const struct stack_frame *frame, void *context)
{
    struct stacks_entry *entry = context;
    if (!entry->frames || entry->frame_count == STACKS_FRAMES_MAX)
        return;
    entry->frames[entry->frame_count++] = (struct stacks_frame){
        .address = frame->address,
        .offset = frame->offset,
        .symbol_offset = frame->symbol_offset,
        .module = frame->module ? strdup(without_root(entry, frame->module)) : NULL,
        .symbol = frame->symbol ? strdup(frame->symbol) : NULL};
}

static bool have_same_maps(const struct stack *one, const struct stack *other)
{
    return one->pid == other->pid && one->maps_size == other->maps_size &&
           !memcmp(one->maps, other->maps, one->maps_size);
}

static void name_like(struct stacks *stacks, size_t first, uint64_t deadline)
{
    struct stack_walker *walker = NULL;
    struct err err;
    const struct stack *maps = &stacks->list[first].stack;
    if (stack_walker_open(maps, &walker, &err)) {
        log_debug("points", "%s", err.text);
        return;
    }
    for (size_t i = first; i < stacks->count && proc_monotonic_ns() < deadline; i++) {
        struct stacks_entry *entry = &stacks->list[i];
        if (entry->frames || !have_same_maps(maps, &entry->stack))
            continue;
        entry->frames = calloc(STACKS_FRAMES_MAX, sizeof(*entry->frames));
        if (!entry->addresses)
            stack_walker_walk(walker, &entry->stack, STACKS_FRAMES_MAX, keep_frame, entry);
        for (size_t j = 0; j < entry->address_count; j++)
            stack_walker_name(walker, entry->addresses[j], true, keep_frame, entry);
    }
    stack_walker_close(walker);
}

void stacks_name(struct stacks *stacks, uint64_t limit_ns)
{
    uint64_t deadline = proc_monotonic_ns() + limit_ns;
    for (size_t i = 0; i < stacks->count && proc_monotonic_ns() < deadline; i++)
        if (!stacks->list[i].frames)
            name_like(stacks, i, deadline);
    for (size_t i = 0; i < stacks->count; i++) {
        stacks->unnamed += !stacks->list[i].frames;
        stack_free(&stacks->list[i].stack);
    }
}

const struct stacks_entry *stacks_find(const struct stacks *stacks, uint32_t pid, uint32_t tid,
                                       uint32_t function, uint64_t number)
{
    for (size_t i = 0; i < stacks->count; i++) {
        const struct stacks_entry *entry = &stacks->list[i];
        if (entry->pid == pid && entry->tid == tid && entry->function == function &&
            entry->number == number && entry->frame_count)
            return entry;
    }
    return NULL;
}

void stacks_release(struct stacks *stacks)
{
    for (size_t i = 0; i < stacks->count; i++) {
        struct stacks_entry *entry = &stacks->list[i];
        for (size_t j = 0; j < entry->frame_count; j++) {
            free(entry->frames[j].module);
            free(entry->frames[j].symbol);
        }
        free(entry->frames);
        free(entry->addresses);
        stack_free(&entry->stack);
    }
    free(stacks->list);
    *stacks = (struct stacks){0};
}
