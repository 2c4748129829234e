/*
 * Marks: what the kernel itself saw of a job's points and pauses, beside what shim and
 * supervisor say.
 *
 * A point is seen where its thread begins to wait in the no-op syscall
 * (preload/abi.h), by the system call's own arguments; freezing, thawing and the
 * program's first step afterwards by the scheduler.  Nothing is put into the
 * program: no breakpoint, which CRIU would write into the image.
 *
 * The part above __FREEZEPOINT_BPF__ is shared with marks.bpf.c.
 */
#ifndef FREEZEPOINT_BPF_MARKS_H
#define FREEZEPOINT_BPF_MARKS_H

#include <linux/types.h>

#ifndef __FREEZEPOINT_BPF__
#include <asm/ptrace.h>
#endif

#define MARK_STACK_MAX 64

enum mark_kind {
    MARK_POINT = 1, /* a thread waits at a due point */
    MARK_FROZEN,    /* the whole group stands */
    MARK_THAWED,    /* told to go on; CRIU may hold it still */
    MARK_RESUMED,   /* after that, the first thread that nobody traces runs */
};

struct mark {
    __u64 time_ns; /* CLOCK_MONOTONIC */
    __u64 cgroup_id;
    __u32 kind;
    /* MARK_POINT, MARK_RESUMED: the thread, in the pid namespace of who attached the
     * program (0: it has no number there) and in its own. */
    __u32 pid, tid, inner_pid, inner_tid;
    char comm[16];
    /* MARK_POINT: what the shim asked for; the thread's registers; the return addresses
     * of its callers as far as frame pointers lead, innermost first. */
    __u32 rule;
    __u32 stack_depth;
    __u64 hit;
    struct pt_regs registers;
    __u64 stack[MARK_STACK_MAX];
};

#ifndef __FREEZEPOINT_BPF__

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct marks;

/*
 * Attaches to the job in the v2 group with this directory.  Takes some 10 ms, most of
 * it reading the kernel's types.  -EPERM or another -errno with what is missing in
 * *err: everything but marks works without.  Safe in a thread.
 */
int marks_attach(int group_fd, struct marks **out, struct err *err);

/* Hands what has been recorded since to visit(), in order.  Returns how many, or -errno. */
int marks_collect(struct marks *marks, void (*visit)(const struct mark *mark, void *context),
                  void *context);

/* Readable when something has been recorded; not the caller's to close. */
int marks_fd(const struct marks *marks);

/* How many found no room. */
uint64_t marks_lost(const struct marks *marks);

/* Detaches; safe on NULL. */
void marks_release(struct marks *marks);

#endif

#endif
