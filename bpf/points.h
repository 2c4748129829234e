/*
 * Learning where a program could be checkpointed: which functions of its libc it calls
 * and when, where its threads wait, what processes it starts, how much processor time
 * it had used by then.
 *
 * Calls are counted in maps, by thread, whatever their number; what can only be told
 * one by one comes through ring buffers, of which the lost ones are counted: what
 * happens, when each thread was on a processor, and copies of stacks.
 * Functions are seen by uprobes, which put breakpoints into the observed processes
 * alone: those must not be checkpointed meanwhile.
 *
 * The part above __FREEZEPOINT_BPF__ is shared with points.bpf.c.
 */
#ifndef FREEZEPOINT_BPF_POINTS_H
#define FREEZEPOINT_BPF_POINTS_H

#include <linux/types.h>

#include "bpf/scope.h"

#define POINTS_FUNCTIONS_MAX 32
#define POINTS_STACK_MAX     16
#define POINTS_DETAILS_MAX   64  /* hits of a function, in a process, that are told singly */
#define POINTS_CALLS_MAX     512 /* numbers of system calls */
#define POINTS_CPUS_MAX      256
#define POINTS_LONG_NS       20000000ULL /* waits that are told singly */
#define POINTS_REST_NS       1000000ULL  /* of a thread; shorter ones are part of its run */
#define POINTS_COPIES_MAX    4           /* hits of a function, in a process, with their stack */
#define POINTS_COPY_CHUNK    1024
#define POINTS_COPY_CHUNKS   16

/* A fourth scope, of points alone: a process and those that it starts from now on. */
#define SCOPE_PROCESS SCOPE_KINDS

enum points_kind {
    POINTS_FOUND = 1, /* a process that had not been seen */
    POINTS_FORKED,
    POINTS_EXECUTED,
    POINTS_ENDED,  /* its first thread */
    POINTS_HIT,    /* a function is called */
    POINTS_WAITED, /* the system call after a hit waited for long */
};

struct points_event {
    __u64 time_ns; /* CLOCK_MONOTONIC; POINTS_WAITED: of the hit */
    __u64 cpu_ns;  /* that the whole scope had used by then */
    __u32 kind;
    __u32 pid, tid; /* on the host */
    __u32 function;
    __u64 number; /* of the call in this process, as a shim would count it */
    __u64 waited_ns;
    __u32 connections; /* open ones that were accepted or made */
    __u32 stack_depth;
    char comm[16];
    /* POINTS_HIT: where the function goes back to, then further callers as far as frame
     * pointers lead. */
    __u64 stack[POINTS_STACK_MAX];
};

/* Why a thread is on no processor. */
enum points_rest {
    POINTS_REST_CALL,   /* asleep in a system call */
    POINTS_REST_KERNEL, /* asleep in none: a page that has to be read; or held still */
    POINTS_REST_READY,  /* it could run, but others do */
    POINTS_REST_END,    /* it has ended */
};

/* A thread ran, but for less than POINTS_REST_NS at a time, and then rested for longer. */
struct points_run {
    __u64 from_ns, to_ns;
    __u64 cpu_ns; /* of that on a processor */
    __u32 pid, tid;
    __u32 rest, call;
    char comm[16];
};

/* A thread's stack as it entered a function: its callers can be found later, by the
 * unwind tables of its programs. */
struct points_copy {
    __u64 time_ns, number; /* of the hit */
    __u32 pid, tid, function;
    __u32 size;
    __u64 registers[17]; /* lib/stack.h */
    __u8 bytes[POINTS_COPY_CHUNK * POINTS_COPY_CHUNKS];
};

/* What a thread is doing. */
struct points_thread {
    __u32 pid;
    __u32 is_waiting; /* in a system call that may wait */
    __u32 call;
    __u32 is_calling;
    __u32 has_slept; /* in it */
    __u64 since_ns;
    __u64 argument; /* its first: often a descriptor */
    /* The last hit; number 0: none, or something else has been called since. */
    __u32 function;
    __u32 connections;
    __u64 number, hit_ns, hit_cpu_ns;
    /* Its run: since when, on a processor since when (0: is not), off since when (0: never
     * was), and what it had used of it then. */
    __u64 run_ns, on_ns, off_ns, run_cpu_ns;
    __u32 rest, rest_call;
};

/* Of a thread's system call, or its function. */
struct points_key {
    __u32 tid;
    __u32 what;
};

struct points_count {
    __u64 count, first_ns, last_ns, waited_ns;
};

#ifndef __FREEZEPOINT_BPF__

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct points;

/* Where a function is entered. */
struct points_entry {
    uint32_t function;   /* index into the caller's table, less than POINTS_FUNCTIONS_MAX */
    uint64_t offset;     /* in the file */
    uint64_t address;    /* in the library, from its lowest */
    uint64_t image_size; /* of the library: calls from inside it do not count */
};

/* Loads and attaches; counts nothing before points_begin().  ERR_LACK where this kernel
 * or this user may not. */
int points_open(const struct scope *scope, struct points **out, struct err *err);
void points_begin(struct points *points);

/* Puts breakpoints at the entries into one process. */
int points_attach(struct points *points, pid_t pid, const char *library,
                  const struct points_entry *entries, size_t count, struct err *err);

/* Takes all breakpoints out again; safe to repeat. */
void points_detach(struct points *points);

/* Who is told of what has come; valid as long as the call. */
struct points_visitor {
    void (*event)(const struct points_event *event, void *context);
    void (*run)(const struct points_run *run, void *context);
    void (*copy)(const struct points_copy *copy, void *context);
    void *context;
};

/* Readable where an event or a copy has come; runs are to be fetched from time to time. */
int points_fd(const struct points *points);
int points_collect(struct points *points, const struct points_visitor *visitor);

/* Processor time of the scope since points_begin(), in ns. */
uint64_t points_cpu(const struct points *points, uint64_t now_ns);

/* Connections that are open now. */
uint32_t points_connections(const struct points *points);

/* Events that found no room, and threads, calls or functions that did; runs and copies
 * that did not. */
uint64_t points_lost(const struct points *points);
uint64_t points_uncounted(const struct points *points);
uint64_t points_lost_runs(const struct points *points);
uint64_t points_lost_copies(const struct points *points);

/* Each entry of a map: of functions, of system calls, of threads. */
void points_each_function(const struct points *points,
                          void (*visit)(const struct points_key *, const struct points_count *,
                                        void *context),
                          void *context);
void points_each_call(const struct points *points,
                      void (*visit)(const struct points_key *, const struct points_count *,
                                    void *context),
                      void *context);
void points_each_thread(const struct points *points,
                        void (*visit)(uint32_t tid, const struct points_thread *, void *context),
                        void *context);

/* Safe on NULL. */
void points_release(struct points *points);

/* The name of a system call that may wait, or NULL. */
const char *points_wait_name(uint32_t call);

#endif

#endif
