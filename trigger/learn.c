#include "trigger/learn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"

#define STEP_MS         10
#define MEMORY_STEPS    2
#define SAMPLES_MAX     360000 /* an hour */
#define IDLE_SECONDS    2
#define BUSY_PERCENT    5
#define HOLD_TIMEOUT_MS 200
#define SECOND_NS       1000000000ULL
#define NAMES_LIMIT_NS  (3 * SECOND_NS)

/* ---- the probes ---- */

static void keep_libc(const char *path, void *context)
{
    char *found = context;
    if (functions_is_libc(path))
        snprintf(found, PATH_MAX, "%s", path);
}

/* As seen from its own root. */
static bool find_library(pid_t pid, char *path, size_t size)
{
    char mapped[PATH_MAX] = "";
    proc_mapped_files(pid, PROC_MAPPED_CODE, keep_libc, mapped);
    return mapped[0] && snprintf(path, size, "/proc/%d/root%s", pid, mapped) < (int)size;
}

static struct advice_process *find_process(struct learnt *learnt, uint32_t pid)
{
    for (size_t i = learnt->process_count; i-- > 0;)
        if (learnt->processes[i].pid == pid && !learnt->processes[i].ended_ns)
            return &learnt->processes[i];
    return NULL;
}

static struct advice_process *add_process(struct learnt *learnt, uint32_t pid, const char *name)
{
    struct advice_process *known = find_process(learnt, pid);
    if (known || learnt->process_count == LEARN_PROCESSES_MAX)
        return known;
    snprintf(learnt->names[learnt->process_count], sizeof(learnt->names[0]), "%.15s", name);
    learnt->processes[learnt->process_count].pid = pid;
    return &learnt->processes[learnt->process_count++];
}

int learn_probe(const struct learn *self, struct learnt *learnt, pid_t pid, struct err *err)
{
    char path[PATH_MAX + 32] = "";
    struct function_entries entries;
    struct proc_info info = {.comm = ""};
    proc_read(pid, &info, err);
    add_process(learnt, (uint32_t)pid, info.comm);
    /* One that has just begun to execute its program has nothing mapped. */
    if (!find_library(pid, path, sizeof(path)) && self->library)
        snprintf(path, sizeof(path), "%s", self->library);
    else if (!path[0])
        return err_text(err, ENOENT, "process %d has no C library mapped", pid);
    int error = functions_find(path, &entries, err);
    if (!error)
        error = points_attach(self->points, pid, path, entries.list, entries.count, err);
    if (error)
        learnt->unprobed++;
    return error;
}

/* ---- what happens ---- */

struct watch {
    const struct learn *learn;
    struct learnt *learnt;
    size_t probed;
    size_t step;
    bool holds; /* the group is frozen */
    uint64_t held_ns;
    uint64_t sampled_ns;
};

/* The calls that it makes before are not counted, and its numbers would be too low. */
static void hold(struct watch *watch)
{
    struct err err;
    if (watch->holds || watch->learn->group_fd < 0)
        return;
    watch->holds = true;
    watch->held_ns = proc_monotonic_ns();
    if (cgroup_set_frozen(watch->learn->group_fd, true, HOLD_TIMEOUT_MS, &err))
        log_debug("points", "%s", err.text);
}

static void let_go(struct watch *watch)
{
    struct err err;
    if (!watch->holds)
        return;
    if (cgroup_write_freeze(watch->learn->group_fd, false, &err))
        log_warning("points", "%s", err.text);
    timeline_add_hold(&watch->learnt->timeline, watch->held_ns, proc_monotonic_ns());
    watch->holds = false;
}

static void probe_new(struct watch *watch, pid_t pid)
{
    struct err err;
    if (watch->probed == LEARN_PROBED_MAX) {
        watch->learnt->unprobed++;
        return;
    }
    watch->probed++;
    hold(watch);
    if (learn_probe(watch->learn, watch->learnt, pid, &err))
        log_debug("points", "%s", err.text);
}

static void add_hit(struct learnt *learnt, const struct points_event *event)
{
    if (learnt->hit_count == LEARN_HITS_MAX) {
        learnt->lost++;
        return;
    }
    uint32_t depth = event->stack_depth < POINTS_STACK_MAX ? event->stack_depth : POINTS_STACK_MAX;
    memcpy(learnt->stacks[learnt->hit_count], event->stack, depth * sizeof(event->stack[0]));
    learnt->hits[learnt->hit_count++] = (struct advice_hit){.function = event->function,
                                                            .pid = event->pid,
                                                            .tid = event->tid,
                                                            .number = event->number,
                                                            .time_ns = event->time_ns,
                                                            .cpu_ns = event->cpu_ns,
                                                            .waited_ns = event->waited_ns,
                                                            .connections = event->connections};
}

static void add_wait(struct learnt *learnt, const struct points_event *event, bool still)
{
    learnt->functions[event->function].waited_ns += event->waited_ns;
    for (size_t i = learnt->hit_count; i-- > 0;) {
        struct advice_hit *hit = &learnt->hits[i];
        if (hit->function != event->function || hit->pid != event->pid ||
            hit->number != event->number || hit->time_ns != event->time_ns)
            continue;
        hit->waited_ns += event->waited_ns;
        hit->waits_still = still;
        return;
    }
    /* Its number was too high to be told when it happened. */
    add_hit(learnt, event);
}

static void take(const struct points_event *event, void *context)
{
    struct watch *watch = context;
    struct learnt *learnt = watch->learnt;
    struct advice_process *process;
    switch (event->kind) {
    case POINTS_FOUND:
        if (!find_process(learnt, event->pid)) {
            add_process(learnt, event->pid, event->comm);
            probe_new(watch, (pid_t)event->pid);
        }
        break;
    case POINTS_FORKED:
        process = add_process(learnt, event->pid, event->comm);
        if (process)
            process->forked_ns = event->time_ns;
        probe_new(watch, (pid_t)event->pid);
        break;
    case POINTS_EXECUTED:
        process = add_process(learnt, event->pid, event->comm);
        if (process) {
            process->executed_ns = event->time_ns;
            memcpy(learnt->names[process - learnt->processes], event->comm, 15);
        }
        break;
    case POINTS_ENDED:
        process = find_process(learnt, event->pid);
        if (process)
            process->ended_ns = event->time_ns;
        break;
    case POINTS_HIT:
        if (event->function < POINTS_FUNCTIONS_MAX)
            add_hit(learnt, event);
        break;
    case POINTS_WAITED:
        if (event->function < POINTS_FUNCTIONS_MAX)
            add_wait(learnt, event, false);
        break;
    default:
        break;
    }
}

static void take_run(const struct points_run *run, void *context)
{
    struct watch *watch = context;
    timeline_add(&watch->learnt->timeline, run);
}

static void take_copy(const struct points_copy *copy, void *context)
{
    struct watch *watch = context;
    if (copy->function < POINTS_FUNCTIONS_MAX)
        stacks_add(&watch->learnt->callers, copy);
}

/* ---- samples ---- */

/* Reading a file that is on its way from a disk is no rest. */
static bool reads_a_file(uint32_t pid, uint64_t fd)
{
    char path[64], link[64];
    snprintf(path, sizeof(path), "/proc/%u/fd/%u", pid, (uint32_t)fd);
    ssize_t n = readlink(path, link, sizeof(link) - 1);
    return n > 0 && link[0] == '/' && strncmp(link, "/dev/", 5) != 0;
}

static void look_at_thread(uint32_t tid, const struct points_thread *thread, void *context)
{
    (void)tid;
    bool *blocked = context;
    if (!thread->is_waiting || !thread->has_slept ||
        (thread->call == 0 && reads_a_file(thread->pid, thread->argument)))
        *blocked = false;
}

static void add_memory(struct watch *watch, uint64_t now)
{
    struct learnt *learnt = watch->learnt;
    uint64_t bytes = 0;
    for (size_t i = 0; i < learnt->process_count; i++) {
        struct proc_info info;
        struct err ignored;
        if (!learnt->processes[i].ended_ns &&
            proc_read((pid_t)learnt->processes[i].pid, &info, &ignored) == 0)
            bytes += info.rss_bytes;
    }
    if (bytes)
        learnt->memory[learnt->memory_count++] =
            (struct learn_memory){now, bytes, points_connections(watch->learn->points)};
}

static void add_sample(struct watch *watch)
{
    struct learnt *learnt = watch->learnt;
    learnt->samples_full = learnt->sample_count == SAMPLES_MAX;
    if (learnt->samples_full)
        return;
    struct advice_sample *sample = &learnt->samples[learnt->sample_count++];
    sample->time_ns = watch->sampled_ns = proc_monotonic_ns();
    sample->cpu_ns = points_cpu(watch->learn->points, sample->time_ns);
    sample->blocked = true;
    points_each_thread(watch->learn->points, look_at_thread, &sample->blocked);
    if (watch->step++ % MEMORY_STEPS == 0)
        add_memory(watch, sample->time_ns);
}

static uint64_t distance(uint64_t one, uint64_t other)
{
    return one > other ? one - other : other - one;
}

uint64_t learnt_memory_at(const struct learnt *learnt, uint64_t time_ns)
{
    const struct learn_memory *nearest = learnt->memory;
    for (size_t i = 1; i < learnt->memory_count; i++)
        if (distance(learnt->memory[i].time_ns, time_ns) <= distance(nearest->time_ns, time_ns))
            nearest = &learnt->memory[i];
    return learnt->memory_count ? nearest->bytes : 0;
}

/* ---- the end ---- */

static uint64_t cpu_at(const struct learnt *learnt, uint64_t time_ns)
{
    uint64_t cpu = 0;
    for (size_t i = learnt->sample_count; i-- > 0;) {
        cpu = learnt->samples[i].cpu_ns;
        if (learnt->samples[i].time_ns <= time_ns)
            break;
    }
    return cpu;
}

/* For as long, after its start-up. */
static bool has_rested(struct learnt *learnt)
{
    if (!learnt->start_up.ended)
        learnt->start_up = advice_find_start_up(
            &(struct advice_run){.samples = learnt->samples, .sample_count = learnt->sample_count});
    if (!learnt->start_up.ended)
        return false;
    const struct advice_sample *last = &learnt->samples[learnt->sample_count - 1];
    uint64_t rest = IDLE_SECONDS * SECOND_NS;
    if (last->time_ns < learnt->start_up.idle_ns + rest)
        return false;
    return last->cpu_ns - cpu_at(learnt, last->time_ns - rest) <= rest * BUSY_PERCENT / 100;
}

static bool is_over(const struct watch *watch)
{
    const struct learn *self = watch->learn;
    struct learnt *learnt = watch->learnt;
    uint64_t now = proc_monotonic_ns();
    if (self->pidfd >= 0 && fd_wait(self->pidfd, POLLIN, 0) > 0)
        learnt->is_over = true;
    return learnt->is_over || (self->stop && *self->stop) ||
           (self->duration_ns && now - learnt->begun_ns >= self->duration_ns) ||
           /* Looking for that costs something: not each time. */
           (self->until_idle && watch->step % 10 == 0 && has_rested(learnt));
}

/* ---- the sum of it ---- */

static void sum_function(const struct points_key *key, const struct points_count *count,
                         void *context)
{
    struct learnt *learnt = context;
    if (key->what >= POINTS_FUNCTIONS_MAX)
        return;
    struct learn_function *function = &learnt->functions[key->what];
    if (!function->count || count->first_ns < function->first_ns)
        function->first_ns = count->first_ns;
    if (count->last_ns > function->last_ns)
        function->last_ns = count->last_ns;
    function->count += count->count;
    function->threads++;
}

static void sum_call(const struct points_key *key, const struct points_count *count, void *context)
{
    struct learnt *learnt = context;
    if (!points_wait_name(key->what))
        return;
    struct learn_call *call = learnt->calls;
    struct learn_call *end = call + learnt->call_count;
    while (call < end && call->call != key->what)
        call++;
    if (call == end) {
        if (learnt->call_count == LEARN_WAITS_MAX)
            return;
        learnt->call_count++;
        *call = (struct learn_call){.call = key->what, .first_ns = count->first_ns};
    }
    call->first_ns = count->first_ns < call->first_ns ? count->first_ns : call->first_ns;
    call->last_ns = count->last_ns > call->last_ns ? count->last_ns : call->last_ns;
    call->count += count->count;
    call->waited_ns += count->waited_ns;
    call->threads++;
}

/* What is still being waited for. */
static void sum_pending(uint32_t tid, const struct points_thread *thread, void *context)
{
    struct learnt *learnt = context;
    timeline_finish(&learnt->timeline, tid, thread, learnt->ended_ns);
    if (!thread->is_waiting || !thread->has_slept || thread->since_ns >= learnt->ended_ns)
        return;
    uint64_t waited = learnt->ended_ns - thread->since_ns;
    for (size_t i = 0; i < learnt->call_count; i++)
        if (learnt->calls[i].call == thread->call)
            learnt->calls[i].waited_ns += waited;
    if (!thread->number || thread->function >= POINTS_FUNCTIONS_MAX)
        return;
    struct points_event event = {.time_ns = thread->hit_ns,
                                 .cpu_ns = thread->hit_cpu_ns,
                                 .pid = thread->pid,
                                 .tid = tid,
                                 .function = thread->function,
                                 .number = thread->number,
                                 .connections = thread->connections,
                                 .waited_ns = waited};
    add_wait(learnt, &event, true);
}

static void add_cpu(struct learnt *learnt)
{
    for (size_t i = 0; i < POINTS_FUNCTIONS_MAX; i++) {
        struct learn_function *function = &learnt->functions[i];
        function->first_cpu_ns = function->count ? cpu_at(learnt, function->first_ns) : 0;
        function->last_cpu_ns = function->count ? cpu_at(learnt, function->last_ns) : 0;
    }
    for (size_t i = 0; i < learnt->hit_count; i++) {
        const struct advice_hit *hit = &learnt->hits[i];
        struct learn_function *function = &learnt->functions[hit->function];
        if (hit->time_ns == function->first_ns)
            function->first_cpu_ns = hit->cpu_ns;
        if (hit->time_ns == function->last_ns)
            function->last_cpu_ns = hit->cpu_ns;
    }
}

static void add_advised(struct learnt *learnt, const struct advice_hit *advised)
{
    for (size_t i = 0; i < learnt->hit_count; i++) {
        const struct advice_hit *hit = &learnt->hits[i];
        if (hit->pid == advised->pid && hit->function == advised->function &&
            hit->number == advised->number && hit->time_ns == advised->time_ns) {
            stacks_add_addresses(&learnt->callers, hit, learnt->stacks[i], POINTS_STACK_MAX);
            return;
        }
    }
}

/* While the processes are there, whose files are found through them. */
static void name_callers(struct learnt *learnt)
{
    for (size_t i = 0; i < learnt->advice_count; i++)
        if (learnt->advice[i].hit.number > POINTS_COPIES_MAX)
            add_advised(learnt, &learnt->advice[i].hit);
    stacks_name(&learnt->callers, NAMES_LIMIT_NS);
}

static void sum_up(struct watch *watch)
{
    struct learnt *learnt = watch->learnt;
    const struct points *points = watch->learn->points;
    learnt->ended_ns = proc_monotonic_ns();
    learnt->cpu_ns = points_cpu(points, learnt->ended_ns);
    points_each_function(points, sum_function, learnt);
    points_each_call(points, sum_call, learnt);
    points_each_thread(points, sum_pending, learnt);
    add_cpu(learnt);
    for (size_t i = 0; i < learnt->process_count; i++)
        if (!learnt->processes[i].ended_ns)
            places_add(&learnt->places, (pid_t)learnt->processes[i].pid);
    learnt->lost += points_lost(points);
    learnt->uncounted = points_uncounted(points);
    learnt->lost_runs = points_lost_runs(points);
    learnt->lost_copies = points_lost_copies(points);
    struct advice_run run = {learnt->hits,          learnt->hit_count, learnt->processes,
                             learnt->process_count, learnt->samples,   learnt->sample_count};
    for (size_t i = 0; i < learnt->hit_count; i++)
        learnt->hits[i].memory_bytes = learnt_memory_at(learnt, learnt->hits[i].time_ns);
    learnt->start_up = advice_find_start_up(&run);
    learnt->advice_count = advice_rank(&run, &learnt->start_up, learnt->advice);
    if (watch->learn->names_callers)
        name_callers(learnt);
}

/* A process that is held may have made another one meanwhile. */
static int collect(struct watch *watch)
{
    const struct points_visitor visitor = {take, take_run, take_copy, watch};
    int count;
    do
        count = points_collect(watch->learn->points, &visitor);
    while (count > 0 && watch->holds);
    let_go(watch);
    return count;
}

int learn_watch(const struct learn *self, struct learnt *learnt, struct err *err)
{
    struct watch watch = {.learn = self, .learnt = learnt};
    learnt->begun_ns = learnt->begun_ns ? learnt->begun_ns : proc_monotonic_ns();
    do {
        fd_wait(points_fd(self->points), POLLIN, STEP_MS);
        int count = collect(&watch);
        if (count < 0)
            return err_set(err, -count, "read the BPF ring buffer");
        if (proc_monotonic_ns() - watch.sampled_ns >= STEP_MS * 1000000ULL)
            add_sample(&watch);
    } while (!is_over(&watch));
    collect(&watch);
    sum_up(&watch);
    return 0;
}

struct learnt *learnt_new(struct err *err)
{
    struct learnt *learnt = calloc(1, sizeof(*learnt));
    if (learnt) {
        learnt->hits = calloc(LEARN_HITS_MAX, sizeof(*learnt->hits));
        learnt->stacks = calloc(LEARN_HITS_MAX, sizeof(*learnt->stacks));
        learnt->samples = calloc(SAMPLES_MAX, sizeof(*learnt->samples));
        learnt->memory = calloc(SAMPLES_MAX / MEMORY_STEPS + 1, sizeof(*learnt->memory));
    }
    if (!learnt || !learnt->hits || !learnt->stacks || !learnt->samples || !learnt->memory) {
        learnt_free(learnt);
        err_set(err, ENOMEM, "what is learnt");
        return NULL;
    }
    return learnt;
}

void learnt_free(struct learnt *learnt)
{
    if (!learnt)
        return;
    free(learnt->hits);
    free(learnt->stacks);
    places_release(&learnt->places);
    timeline_release(&learnt->timeline);
    stacks_release(&learnt->callers);
    free(learnt->samples);
    free(learnt->memory);
    free(learnt);
}
