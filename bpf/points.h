/*
 * Learning where a program could be checkpointed: which functions of its libc it calls
 * and when, where its threads wait, what processes it starts, how much processor time
 * it had used by then.
 *
 * Calls are counted in maps, by thread, whatever their number; what can only be told
 * one by one comes through a ring buffer, of which the lost ones are counted.
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

int points_fd(const struct points *points);
int points_collect(struct points *points,
                   void (*visit)(const struct points_event *event, void *context), void *context);

/* Processor time of the scope since points_begin(), in ns. */
uint64_t points_cpu(const struct points *points, uint64_t now_ns);

/* Events that found no room, and threads, calls or functions that did. */
uint64_t points_lost(const struct points *points);
uint64_t points_uncounted(const struct points *points);

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
