/*
 * Points in code that no preload library reaches: uprobes that count a job's hits and
 * stop the process whose hit is due, at that very instruction.
 *
 * A uprobe is of a file: every process that maps it gets the breakpoint, those outside
 * the job and those that start later too, but only the job's hits count.  While it is
 * attached the job must not be dumped: the breakpoint would be in the image.
 *
 * A due hit: the mark (bpf/marks.h) is handed over, then the thread's process gets
 * SIGSTOP, which no program can refuse.  The probed instruction has been executed, and
 * the next one has not, when it stops (kernel/events/uprobes.c, uprobe_deny_signal(): no
 * signal is taken before that, so that no thread ever stands in the copied instruction).
 *
 * The part above __FREEZEPOINT_BPF__ is shared with trigger.bpf.c.
 */
#ifndef FREEZEPOINT_BPF_TRIGGER_H
#define FREEZEPOINT_BPF_TRIGGER_H

#include <linux/types.h>

#define TRIGGER_MAX 64 /* as FZ_RULE_MAX in preload/abi.h */

struct trigger_count {
    __u64 hits; /* so far, of the whole job */
    __u64 first, every;
};

#ifndef __FREEZEPOINT_BPF__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf/marks.h"
#include "lib/err.h"

struct trigger;

/* Several of one rule count as one. */
struct trigger_point {
    const char *path;   /* an ELF file; neighbours of one file are set together */
    uint64_t offset;    /* in the file */
    uint64_t semaphore; /* likewise: two bytes that the kernel counts up in each process while
                         * the point is set; 0: none */
    uint32_t rule;      /* below TRIGGER_MAX: what a mark says */
    struct trigger_count count;
};

/* Loads the program for the v2 group with this directory and these points, which need not
 * outlive the call.  Nothing is attached.  Takes some 10 ms. */
int trigger_load(int group_fd, const struct trigger_point *points, size_t count,
                 struct trigger **out, struct err *err);

/*
 * Sets the breakpoints of these points: in running processes too, stopped, frozen or traced
 * ones among them.  Their counts go on where they were.  Nothing is done where some are set.
 *
 * A process of its own holds them: where somebody is killed who is just taking probes away,
 * the kernel leaves their breakpoints in the text for ever (kernel/events/uprobes.c,
 * uprobe_unregister_nosync(), "leaking uprobe").  It ends by itself when we do.
 */
int trigger_attach(struct trigger *trigger, const struct trigger_point *points, size_t count,
                   struct err *err);

/* Begins to take all away and returns at once: the breakpoints go in some 20 ms, but for
 * the kernel's own ends that takes another 100 (uprobe_unregister_sync()), which may be
 * waited for by trigger_attach() where the kernel has no uprobe_multi links. */
void trigger_detach(struct trigger *trigger);

/* Whether nothing of what trigger_detach() began to take away is left. */
bool trigger_is_detached(struct trigger *trigger);

/* For good, and returns when it is done: no process is stopped after that. */
void trigger_end(struct trigger *trigger);

/* As marks_collect(), marks_fd() and marks_lost(). */
int trigger_collect(struct trigger *trigger, void (*visit)(const struct mark *mark, void *context),
                    void *context);
int trigger_fd(const struct trigger *trigger);
uint64_t trigger_lost(const struct trigger *trigger);

/* How often it has been hit. */
uint64_t trigger_hits(const struct trigger *trigger, uint32_t rule);

/* Detaches; safe on NULL. */
void trigger_release(struct trigger *trigger);

#endif

#endif
