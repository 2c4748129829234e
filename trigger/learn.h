/*
 * Watching a running job (bpf/points.h) until its start-up is over, and what has been
 * learnt of it by then.  Everything in it comes from the observed program.
 */
#ifndef FREEZEPOINT_LEARN_H
#define FREEZEPOINT_LEARN_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bpf/points.h"
#include "lib/err.h"
#include "trigger/advice.h"
#include "trigger/functions.h"
#include "trigger/places.h"
#include "trigger/stacks.h"
#include "trigger/timeline.h"

#define LEARN_HITS_MAX      8192
#define LEARN_PROCESSES_MAX 1024
#define LEARN_PROBED_MAX    64 /* processes whose functions are seen */
#define LEARN_WAITS_MAX     64

struct learn_function {
    uint64_t count, waited_ns;
    uint64_t first_ns, last_ns, first_cpu_ns, last_cpu_ns; /* last_cpu_ns: of the last detail */
    uint32_t threads;
};

struct learn_call {
    uint32_t call;
    uint64_t count, waited_ns, first_ns, last_ns;
    uint32_t threads;
};

struct learn_memory {
    uint64_t time_ns, bytes;
    uint32_t connections; /* that are open then */
};

struct learnt {
    uint64_t begun_ns, ended_ns; /* CLOCK_MONOTONIC */
    uint64_t cpu_ns;
    struct learn_function functions[POINTS_FUNCTIONS_MAX];
    struct learn_call calls[LEARN_WAITS_MAX]; /* that may wait */
    size_t call_count;
    struct advice_hit *hits;
    uint64_t (*stacks)[POINTS_STACK_MAX]; /* of the hits, innermost first; 0: the end */
    size_t hit_count;
    struct places places; /* of processes that had not ended */
    struct advice_process processes[LEARN_PROCESSES_MAX];
    char names[LEARN_PROCESSES_MAX][16];
    size_t process_count;
    struct advice_sample *samples;
    struct learn_memory *memory;
    size_t sample_count, memory_count;
    struct timeline timeline;
    struct stacks callers;    /* of first hits and advised ones */
    size_t unprobed;          /* processes whose functions were not seen */
    uint64_t lost, uncounted; /* bpf/points.h */
    uint64_t lost_runs, lost_copies;
    bool samples_full; /* the memory and CPU curves end before the run */
    bool is_over;      /* nothing of it is left */
    struct advice_start_up start_up;
    struct advice advice[ADVICE_MAX];
    size_t advice_count;
};

/* What to watch for how long. */
struct learn {
    struct points *points;
    int group_fd; /* frozen while a new process gets its breakpoints; -1: they come as they can */
    int pidfd;    /* its end is the end, or -1 */
    uint64_t duration_ns; /* 0: as long as it is interesting */
    bool until_idle;      /* no longer than 2 s after the start-up */
    bool names_callers;   /* takes up to 3 s where programs are large */
    const volatile sig_atomic_t *stop;
    const char *library; /* the C library that is going to be mapped, or NULL */
};

/* Puts breakpoints into a process: before it runs, or while it does. */
int learn_probe(const struct learn *self, struct learnt *learnt, pid_t pid, struct err *err);

/* Returns when it is over; what it learnt is in *learnt, which learnt_init() has made
 * and learnt_release() frees. */
int learn_watch(const struct learn *self, struct learnt *learnt, struct err *err);

struct learnt *learnt_new(struct err *err);
void learnt_free(struct learnt *learnt);

/* Memory at a moment, by the nearest sample; 0: none. */
uint64_t learnt_memory_at(const struct learnt *learnt, uint64_t time_ns);

#endif
