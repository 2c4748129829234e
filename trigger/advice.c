#include "trigger/advice.h"

#include <stdlib.h>

#define IDLE_NS 200000000ULL
/* Of that time: what a runtime's own timers use. */
#define IDLE_CPU_NS (IDLE_NS / 20)
/* Samples that find a thread awake, of four. */
#define AWAKE_OF_FOUR 1
/* What makes a point better or worse than one with more of the start-up behind it. */
#define WORTH_OF_WAITING   0.10
#define COST_OF_THREADS    0.10 /* their order may be another one next time */
#define COST_OF_DOUBLING   0.01 /* of the number: so may it be */
#define COST_OF_CONNECTION 2.0
#define COST_OF_CHILD      2.0

static bool is_idle_from(const struct advice_sample *samples, size_t count, size_t first,
                         size_t *last)
{
    size_t awake = 0;
    for (size_t i = first; i < count; i++) {
        if (samples[i].cpu_ns - samples[first].cpu_ns > IDLE_CPU_NS)
            return false;
        awake += !samples[i].blocked;
        if (samples[i].time_ns - samples[first].time_ns < IDLE_NS)
            continue;
        *last = i;
        return awake * 4 <= (i - first + 1) * AWAKE_OF_FOUR;
    }
    return false;
}

struct advice_start_up advice_find_start_up(const struct advice_sample *samples, size_t count)
{
    struct advice_start_up found = {.ended = false};
    for (size_t i = 0; i < count && !found.ended; i++) {
        size_t last = 0;
        if (samples[i].cpu_ns && samples[i].blocked && is_idle_from(samples, count, i, &last))
            found = (struct advice_start_up){true, samples[i].time_ns, samples[last].cpu_ns};
    }
    if (!found.ended && count)
        found.cpu_ns = samples[count - 1].cpu_ns;
    return found;
}

/* A point is due in whichever process comes to its number first. */
static bool is_first_of_number(const struct advice_run *run, const struct advice_hit *hit)
{
    for (size_t i = 0; i < run->hit_count; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function == hit->function && other->number == hit->number &&
            other->time_ns < hit->time_ns)
            return false;
    }
    return true;
}

/* A child that never executes a program and lives on is a worker, and complete. */
static bool has_half_started_child(const struct advice_run *run, uint64_t time_ns)
{
    for (size_t i = 0; i < run->process_count; i++) {
        const struct advice_process *child = &run->processes[i];
        if (!child->forked_ns || child->forked_ns > time_ns ||
            (child->ended_ns && child->ended_ns <= time_ns) ||
            (child->executed_ns && child->executed_ns <= time_ns))
            continue;
        if (child->executed_ns || child->ended_ns)
            return true;
    }
    return false;
}

/* In the same process, up to the end of the start-up: whichever is first there next
 * time has the number. */
static uint32_t count_threads(const struct advice_run *run, const struct advice_hit *hit,
                              uint64_t end_ns)
{
    uint32_t seen[16], count = 0;
    for (size_t i = 0; i < run->hit_count && count < 16; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function != hit->function || other->pid != hit->pid || other->time_ns > end_ns)
            continue;
        bool known = false;
        for (uint32_t j = 0; j < count; j++)
            known = known || seen[j] == other->tid;
        if (!known)
            seen[count++] = other->tid;
    }
    return count;
}

/* At once, or again and again in the same function as long as nothing is to be done. */
static bool is_where_it_waits(const struct advice_run *run, const struct advice_hit *hit)
{
    uint64_t waited = 0;
    for (size_t i = 0; i < run->hit_count && waited < IDLE_NS; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function == hit->function && other->tid == hit->tid &&
            other->time_ns >= hit->time_ns)
            waited += other->waited_ns;
    }
    return waited >= IDLE_NS;
}

static unsigned int doublings(uint64_t number)
{
    unsigned int count = 0;
    while (number >>= 1)
        count++;
    return count;
}

static struct advice judge(const struct advice_run *run, const struct advice_start_up *start_up,
                           const struct advice_hit *hit)
{
    struct advice advice = {.hit = *hit,
                            .waits = is_where_it_waits(run, hit),
                            .is_half_started = has_half_started_child(run, hit->time_ns),
                            .threads = count_threads(run, hit, start_up->idle_ns + IDLE_NS)};
    advice.share = start_up->cpu_ns ? (double)hit->cpu_ns / (double)start_up->cpu_ns : 0;
    advice.share = advice.share > 1 ? 1 : advice.share;
    advice.score =
        advice.share - COST_OF_DOUBLING * doublings(hit->number) +
        (advice.waits ? WORTH_OF_WAITING : 0) - (advice.threads > 1 ? COST_OF_THREADS : 0) -
        (hit->connections ? COST_OF_CONNECTION : 0) - (advice.is_half_started ? COST_OF_CHILD : 0);
    return advice;
}

static int compare(const void *left, const void *right)
{
    const struct advice *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->hit.time_ns < b->hit.time_ns ? -1 : a->hit.time_ns > b->hit.time_ns;
}

static struct advice *find_function(struct advice *list, size_t count, uint32_t function)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].hit.function == function)
            return &list[i];
    return NULL;
}

size_t advice_rank(const struct advice_run *run, const struct advice_start_up *start_up,
                   struct advice out[ADVICE_MAX])
{
    struct advice best[64];
    size_t count = 0;
    if (!start_up->ended)
        return 0;
    for (size_t i = 0; i < run->hit_count; i++) {
        const struct advice_hit *hit = &run->hits[i];
        if (hit->time_ns > start_up->idle_ns + IDLE_NS || !is_first_of_number(run, hit))
            continue;
        struct advice advice = judge(run, start_up, hit);
        struct advice *known = find_function(best, count, hit->function);
        if (!known && count < sizeof(best) / sizeof(best[0]))
            best[count++] = advice;
        else if (known && compare(&advice, known) < 0)
            *known = advice;
    }
    qsort(best, count, sizeof(best[0]), compare);
    for (size_t i = 0; i < count && i < ADVICE_MAX; i++)
        out[i] = best[i];
    return count < ADVICE_MAX ? count : ADVICE_MAX;
}
