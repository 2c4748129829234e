/*
 * Where a program should be checkpointed, judged from what it did in one run.  Pure:
 * numbers in, a ranking out.
 */
#ifndef FREEZEPOINT_ADVICE_H
#define FREEZEPOINT_ADVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADVICE_MAX 8

/* A function was called. */
struct advice_hit {
    uint32_t function, pid, tid;
    uint64_t number; /* in its process, from 1 */
    uint64_t time_ns, cpu_ns;
    uint64_t waited_ns;
    bool waits_still; /* at the end of the run; waited_ns up to then */
    uint32_t connections;
    uint64_t memory_bytes; /* of the whole job; 0: not known */
};

/* 0: before the run, or not yet. */
struct advice_process {
    uint32_t pid;
    uint64_t forked_ns, executed_ns, ended_ns;
};

/* The whole job at a moment. */
struct advice_sample {
    uint64_t time_ns, cpu_ns;
    bool blocked; /* every thread waits */
};

struct advice_run {
    const struct advice_hit *hits;
    size_t hit_count;
    const struct advice_process *processes;
    size_t process_count;
    const struct advice_sample *samples; /* by time */
    size_t sample_count;
};

/* The end of start-up. */
struct advice_start_up {
    bool ended;
    uint64_t idle_ns; /* the job is idle from here */
    uint64_t cpu_ns;  /* used for the start-up */
    /* Whether a connection was open after that and the job is idle again from rest_ns,
     * without one: what it does for its first client only is done, too. */
    bool used;
    uint64_t used_ns, rest_ns, rest_cpu_ns;
};

struct advice {
    struct advice_hit hit;
    double share;         /* of the start-up's processor time, before it: 0 to 1; where the job
                           * was used, of that until its rest */
    bool after_use;       /* its number depends on how the job was used, and when */
    bool waits;           /* long, or again and again */
    bool is_half_started; /* a child was forked and had not executed its program */
    uint32_t threads;     /* that call the function at about that time */
    uint32_t processes;   /* that are there, and would be restored */
    double score;         /* above 0: fit */
};

/* The first time that the job is idle for long; a sleep after which it goes on with its
 * start-up, before anybody connects, is none. */
struct advice_start_up advice_find_start_up(const struct advice_run *run);

/* The best hit of each function, best first: from which, once restored, the job is ready
 * soonest.  Returns how many. */
size_t advice_rank(const struct advice_run *run, const struct advice_start_up *start_up,
                   struct advice out[ADVICE_MAX]);

#endif
