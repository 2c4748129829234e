/*
 * Whose calls led to a point: unwinding a thread's stack by its programs' own unwind
 * tables, and naming what is found, with elfutils' libdw.  That is loaded when it is
 * first needed, since linking it costs each start 0.25 ms; without it there are no
 * stacks, and nothing else is missing.
 *
 * In two steps: what the thread has is copied while it stands still, which takes some
 * ten microseconds; unwinding and naming take milliseconds and need the program's files
 * alone.
 */
#ifndef FREEZEPOINT_STACK_H
#define FREEZEPOINT_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

/* As DWARF numbers them: rax rdx rcx rbx rsi rdi rbp rsp r8..r15 rip. */
#define STACK_REGISTERS 17

struct stack {
    pid_t pid;
    uint64_t registers[STACK_REGISTERS];
    uint64_t bottom; /* the address of bytes[0]: the stack pointer */
    void *bytes;
    size_t size;
    char *maps; /* /proc/PID/maps */
    size_t maps_size;
};

#define STACK_NONE ((struct stack){.pid = 0})

struct stack_frame {
    uint64_t address; /* where it goes on; the innermost: where it is */
    uint64_t offset, symbol_offset;
    const char *module, *symbol; /* NULL: not known */
    const uint8_t *build_id;
    size_t build_id_size;
};

/* The thread must not run meanwhile.  0 or -errno. */
int stack_copy(pid_t pid, const uint64_t registers[STACK_REGISTERS], struct stack *out);

/* For a stack that was copied by other means: the maps of its pid as they are now. */
int stack_copy_maps(struct stack *stack);

/*
 * Lines of the source are not looked up: reading all of python's takes 55 ms, and the
 * build id and offset are what addr2line(1) wants.
 *
 * Calls visit() for each frame, innermost first, at most `max`; what a frame points to
 * lives as long as the call.  Returns their number or -errno: ERR_LACK where there is no
 * libdw.  One thread at a time.
 */
int stack_walk(const struct stack *stack, size_t max,
               void (*visit)(const struct stack_frame *frame, void *context), void *context,
               struct err *err);

/*
 * For several stacks of one process whose maps are those of `stack`, which has to live
 * as long: symbols are read once.
 */
struct stack_walker;

int stack_walker_open(const struct stack *stack, struct stack_walker **out, struct err *err);
int stack_walker_walk(struct stack_walker *walker, const struct stack *stack, size_t max,
                      void (*visit)(const struct stack_frame *frame, void *context), void *context);

/* Of a single address: where a call goes back to, or where something is. */
void stack_walker_name(struct stack_walker *walker, uint64_t address, bool is_return,
                       void (*visit)(const struct stack_frame *frame, void *context),
                       void *context);

/* Safe on NULL. */
void stack_walker_close(struct stack_walker *walker);

/* Safe on STACK_NONE. */
void stack_free(struct stack *stack);

#endif
