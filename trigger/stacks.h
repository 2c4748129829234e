/*
 * From where the functions of a watched job were called: stacks that were copied at the
 * hits (bpf/points.h), each with the maps that its process had then, unwound and named
 * afterwards.  Bounded: what found no room is counted.  Names come from the program.
 */
#ifndef FREEZEPOINT_STACKS_H
#define FREEZEPOINT_STACKS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bpf/points.h"
#include "lib/stack.h"
#include "trigger/advice.h"

#define STACKS_MAX        160
#define STACKS_FIRSTS     64 /* of these: kept for first hits of a function */
#define STACKS_FRAMES_MAX 48

struct stacks_frame {
    uint64_t address, offset, symbol_offset;
    char *module, *symbol; /* NULL: not known */
};

struct stacks_entry {
    uint64_t time_ns, number; /* of the hit */
    uint32_t pid, tid, function;
    struct stack stack;  /* until it is named */
    char root[32];       /* what its files are found below, if not here */
    uint64_t *addresses; /* found by frame pointers, in place of a copy; or NULL */
    size_t address_count;
    struct stacks_frame *frames; /* innermost first */
    size_t frame_count;
};

/* Zeroed: none. */
struct stacks {
    struct stacks_entry *list;
    size_t count, left_out;
    size_t unnamed; /* there was no time for these */
};

/* Reads the process's maps, which are those of the hit if it is called soon after. */
void stacks_add(struct stacks *stacks, const struct points_copy *copy);

/* For a hit without a copy: where its calls go back to, as far as frame pointers led;
 * 0 ends them. */
void stacks_add_addresses(struct stacks *stacks, const struct advice_hit *hit,
                          const uint64_t *addresses, size_t max);

/* Unwinds and names them, in the order in which they came, in `limit_ns` at most or a
 * little more.  Their copies are given up. */
void stacks_name(struct stacks *stacks, uint64_t limit_ns);

/* NULL: it is not known. */
const struct stacks_entry *stacks_find(const struct stacks *stacks, uint32_t pid, uint32_t tid,
                                       uint32_t function, uint64_t number);

void stacks_release(struct stacks *stacks);

#endif
