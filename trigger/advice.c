#include "trigger/advice.h"

#include <math.h>
#include <stdlib.h>

#define IDLE_NS 200000000ULL
/* Of that time: what a runtime's own timers use. */
#define IDLE_CPU_NS (IDLE_NS / 20)
/* Samples that find a thread awake, of four. */
#define AWAKE_OF_FOUR 1
/* What a restore takes, roughly: CRIU forks every process and fills its memory. */
#define RESTORE_NS         12000000.0
#define RESTORE_PROCESS_NS 3000000.0
#define RESTORE_BYTE_NS    (600000.0 / (1024 * 1024))
/* What a restored program does takes longer than at first: it finds no cache filled. */
#define AFTER_RESTORE 1.5
/* Other threads that are still at work, compilers for instance, hardly delay one that
 * waits already where it is going to. */
#define IN_BACKGROUND 0.25
/* Of the time up to a call: another thread's that is as near may be before it next time. */
#define NEAR 10
/* Of the processor time. */
#define NEARLY_ALL 0.95
#define MOST       0.90
/* What makes a point better or worse than one from which the job is ready sooner: 0.10
 * as much as taking a tenth longer. */
#define WORTH_OF_WAITING   0.02
#define WORTH_OF_MARGIN    0.02
#define COST_OF_ORDER      0.10 /* of threads or processes: it may be another one next time */
#define COST_OF_RACES      0.05 /* where threads call it, by doublings of the number */
#define COST_OF_USE        0.12 /* so may the requests; and not all work for one is done once */
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

/* The next time that it is idle, from sample *first on; *last: for how long that is sure. */
static bool find_idle(const struct advice_run *run, size_t *first, size_t *last)
{
    for (; *first < run->sample_count; (*first)++)
        if (run->samples[*first].cpu_ns && run->samples[*first].blocked &&
            is_idle_from(run->samples, run->sample_count, *first, last))
            return true;
    return false;
}

/* UINT64_MAX: none. */
static uint64_t first_connected(const struct advice_run *run, uint64_t after_ns)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < run->hit_count; i++)
        if (run->hits[i].connections && run->hits[i].time_ns > after_ns &&
            run->hits[i].time_ns < first)
            first = run->hits[i].time_ns;
    return first;
}

/* As the last hit before has found it. */
static bool is_connected(const struct advice_run *run, uint64_t time_ns)
{
    const struct advice_hit *last = NULL;
    for (size_t i = 0; i < run->hit_count; i++)
        if (run->hits[i].time_ns <= time_ns && (!last || run->hits[i].time_ns >= last->time_ns))
            last = &run->hits[i];
    return last && last->connections;
}

static void find_rest_after_use(const struct advice_run *run, struct advice_start_up *found)
{
    size_t first = 0, last;
    found->used_ns = first_connected(run, found->idle_ns);
    while (first < run->sample_count && run->samples[first].time_ns <= found->used_ns)
        first++;
    for (; find_idle(run, &first, &last); first++) {
        if (is_connected(run, run->samples[first].time_ns)) {
            first = last; /* the same rest */
            continue;
        }
        found->used = true;
        found->rest_ns = run->samples[first].time_ns;
        found->rest_cpu_ns = run->samples[last].cpu_ns;
        return;
    }
}

/* So much more work after a rest that this was a sleep, and that not of a timer. */
static bool is_start_up(uint64_t cpu_ns, uint64_t before_ns)
{
    return cpu_ns > before_ns + IDLE_CPU_NS && cpu_ns > before_ns + before_ns / 10;
}

struct advice_start_up advice_find_start_up(const struct advice_run *run)
{
    const struct advice_sample *samples = run->samples;
    struct advice_start_up found = {.ended = false};
    uint64_t used_ns = UINT64_MAX, idle_cpu_ns = 0;
    for (size_t first = 0, last; find_idle(run, &first, &last); first++) {
        if (samples[first].time_ns >= used_ns)
            break;
        if (!found.ended || is_start_up(samples[first].cpu_ns, idle_cpu_ns)) {
            found = (struct advice_start_up){
                .ended = true, .idle_ns = samples[first].time_ns, .cpu_ns = samples[last].cpu_ns};
            used_ns = first_connected(run, found.idle_ns);
        }
        idle_cpu_ns = samples[last].cpu_ns;
    }
    if (found.ended)
        find_rest_after_use(run, &found);
    else if (run->sample_count)
        found.cpu_ns = samples[run->sample_count - 1].cpu_ns;
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

static bool is_near(const struct advice_run *run, const struct advice_hit *hit,
                    const struct advice_hit *other)
{
    uint64_t begun_ns = run->sample_count ? run->samples[0].time_ns : 0;
    uint64_t elapsed_ns = hit->time_ns > begun_ns ? hit->time_ns - begun_ns : 0;
    uint64_t apart_ns = other->time_ns > hit->time_ns ? other->time_ns - hit->time_ns
                                                      : hit->time_ns - other->time_ns;
    return apart_ns <= elapsed_ns / NEAR;
}

/* In the same process, about then, up to the end of the start-up: whichever is first
 * there next time has the number. */
static uint32_t count_threads(const struct advice_run *run, const struct advice_hit *hit,
                              uint64_t end_ns)
{
    uint32_t seen[16], count = 0;
    for (size_t i = 0; i < run->hit_count && count < 16; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function != hit->function || other->pid != hit->pid || other->time_ns > end_ns ||
            !is_near(run, hit, other))
            continue;
        bool known = false;
        for (uint32_t j = 0; j < count; j++)
            known = known || seen[j] == other->tid;
        if (!known)
            seen[count++] = other->tid;
    }
    return count;
}

static uint32_t count_processes(const struct advice_run *run, uint64_t time_ns)
{
    uint32_t count = 0;
    for (size_t i = 0; i < run->process_count; i++)
        count += run->processes[i].forked_ns <= time_ns &&
                 (!run->processes[i].ended_ns || run->processes[i].ended_ns > time_ns);
    return count;
}

static bool is_forked(const struct advice_run *run, uint32_t pid)
{
    for (size_t i = 0; i < run->process_count; i++)
        if (run->processes[i].pid == pid)
            return run->processes[i].forked_ns > 0;
    return false;
}

/* Among workers it does not matter which of them is first, but between them and who forks
 * them it does; and how far they are while that one goes on is another time otherwise. */
static bool is_raced(const struct advice_run *run, const struct advice_hit *hit, double share,
                     uint64_t end_ns)
{
    if (share < NEARLY_ALL && !is_forked(run, hit->pid) && count_processes(run, hit->time_ns) > 1)
        return true;
    for (size_t i = 0; i < run->hit_count; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function == hit->function && other->number == hit->number &&
            other->pid != hit->pid && other->time_ns <= end_ns &&
            is_forked(run, other->pid) != is_forked(run, hit->pid))
            return true;
    }
    return false;
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

/* The call before it found no connection open either: another time, when it comes to the
 * number a call earlier, it can be checkpointed as well. */
static bool has_margin(const struct advice_run *run, const struct advice_hit *hit)
{
    for (size_t i = 0; i < run->hit_count; i++) {
        const struct advice_hit *other = &run->hits[i];
        if (other->function == hit->function && other->pid == hit->pid &&
            other->number + 1 == hit->number)
            return !other->connections;
    }
    return false;
}

static unsigned int doublings(uint64_t number)
{
    unsigned int count = 0;
    while (number >>= 1)
        count++;
    return count;
}

static uint64_t all_cpu(const struct advice_start_up *start_up)
{
    return start_up->used ? start_up->rest_cpu_ns : start_up->cpu_ns;
}

static double part_of_left(const struct advice *advice)
{
    bool is_ready = advice->waits && advice->share > MOST && advice->processes <= 1;
    return is_ready ? IN_BACKGROUND : AFTER_RESTORE;
}

/* From the start of a restore until the job is ready.  Where it slept and went on, it
 * does so again. */
static double ready_after(const struct advice_start_up *start_up, const struct advice *advice)
{
    const struct advice_hit *hit = &advice->hit;
    double left = part_of_left(advice) * (1 - advice->share) * (double)all_cpu(start_up);
    double again = hit->time_ns + hit->waited_ns < start_up->idle_ns ? (double)hit->waited_ns : 0;
    return left + again + RESTORE_NS + RESTORE_PROCESS_NS * advice->processes +
           RESTORE_BYTE_NS * (double)hit->memory_bytes;
}

static double costs(const struct advice_run *run, const struct advice *advice, uint64_t end_ns)
{
    const struct advice_hit *hit = &advice->hit;
    double cost = COST_OF_DOUBLING * doublings(hit->number);
    if (advice->after_use)
        cost += COST_OF_USE - (has_margin(run, hit) ? WORTH_OF_MARGIN : 0);
    else if (advice->threads > 1)
        cost += COST_OF_ORDER + COST_OF_RACES * doublings(hit->number);
    else if (is_raced(run, hit, advice->share, end_ns))
        cost += COST_OF_ORDER;
    return cost + (hit->connections ? COST_OF_CONNECTION : 0) +
           (advice->is_half_started ? COST_OF_CHILD : 0);
}

/* All but the score. */
static struct advice examine(const struct advice_run *run, const struct advice_start_up *start_up,
                             const struct advice_hit *hit)
{
    uint64_t cpu_ns = all_cpu(start_up);
    bool after_use = start_up->used && hit->time_ns > start_up->used_ns;
    /* After use: in that very call, and not while the connection's end is being seen to. */
    struct advice advice = {.hit = *hit,
                            .waits = is_where_it_waits(run, hit) && (!after_use || hit->waited_ns),
                            .after_use = after_use,
                            .is_half_started = has_half_started_child(run, hit->time_ns),
                            .threads = count_threads(run, hit, start_up->idle_ns + IDLE_NS),
                            .processes = count_processes(run, hit->time_ns)};
    advice.share = cpu_ns ? (double)hit->cpu_ns / (double)cpu_ns : 0;
    advice.share = advice.share > 1 ? 1 : advice.share;
    return advice;
}

/* Of the start-up, or after the first use. */
static bool is_candidate(const struct advice_run *run, const struct advice_start_up *start_up,
                         const struct advice_hit *hit)
{
    bool is_early = hit->time_ns <= start_up->idle_ns + IDLE_NS;
    return (is_early || (start_up->used && hit->time_ns > start_up->used_ns)) &&
           is_first_of_number(run, hit);
}

static double soonest_of_all(const struct advice_run *run, const struct advice_start_up *start_up)
{
    double soonest = INFINITY;
    for (size_t i = 0; i < run->hit_count; i++) {
        if (!is_candidate(run, start_up, &run->hits[i]))
            continue;
        struct advice advice = examine(run, start_up, &run->hits[i]);
        double after = ready_after(start_up, &advice);
        soonest = after < soonest ? after : soonest;
    }
    return soonest == INFINITY ? 0 : soonest;
}

/* soonest: of all candidates. */
static struct advice judge(const struct advice_run *run, const struct advice_start_up *start_up,
                           const struct advice_hit *hit, double soonest)
{
    struct advice advice = examine(run, start_up, hit);
    advice.score = soonest / ready_after(start_up, &advice) +
                   (advice.waits ? WORTH_OF_WAITING : 0) -
                   costs(run, &advice, start_up->idle_ns + IDLE_NS);
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
    double soonest = soonest_of_all(run, start_up);
    for (size_t i = 0; i < run->hit_count; i++) {
        const struct advice_hit *hit = &run->hits[i];
        if (!is_candidate(run, start_up, hit))
            continue;
        struct advice advice = judge(run, start_up, hit, soonest);
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
