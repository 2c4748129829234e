// SPDX-License-Identifier: MIT OR GPL-2.0-only
#define __FREEZEPOINT_BPF__
#include "bpf/points.h"

/* x86_64 */
#define READ    0
#define CLOSE   3
#define CONNECT 42
#define ACCEPT  43
#define FUTEX   202
#define ACCEPT4 288

#define SHORT_NS 1000000

#define EINPROGRESS 115
#define INET        2
#define INET6       10

#define TYPE_MASK 0170000
#define REGULAR   0100000
#define DIRECTORY 0040000

char points_license[] SEC("license") = "Dual MIT/GPL";

const volatile struct scope scope = {0};
const volatile __u32 cpu_count = 1;
const volatile bool may_wait[POINTS_CALLS_MAX] = {0};

int level = SCOPE_LEVEL_UNKNOWN;
bool begun = false;
__u64 lost = 0, uncounted = 0, lost_runs = 0, lost_copies = 0;
__u32 connection_count = 0;

/* Processor time: what has been used up to the last switches, and since when each
 * processor has one of the scope's threads, if it has. */
__u64 cpu_ns = 0;
__u64 since_ns[POINTS_CPUS_MAX] = {0};
bool busy[POINTS_CPUS_MAX] = {0};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1024 * 1024);
} ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1024 * 1024);
} runs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 2 * 1024 * 1024);
} copies SEC(".maps");

/* Only the thread itself changes its entries here and in the next two, or the switch
 * from or to it. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, __u32);
    __type(value, struct points_thread);
} threads SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 32768);
    __type(key, struct points_key);
    __type(value, struct points_count);
} calls SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, struct points_key);
    __type(value, struct points_count);
} functions SEC(".maps");

/* By process, as a shim counts: over all threads, on from the parent's at a fork, anew
 * at an exec. */
struct numbers {
    __u64 of[POINTS_FUNCTIONS_MAX];
    __u32 connections;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, __u32);
    __type(value, struct numbers);
} processes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, __u64); /* process and descriptor */
    __type(value, __u8);
} connections SEC(".maps");

static const struct numbers no_numbers = {0};

static __always_inline __u64 used_by(__u64 now)
{
    __u64 used = cpu_ns;
    for (__u32 i = 0; i < POINTS_CPUS_MAX; i++) {
        if (i >= cpu_count)
            break;
        __u64 since = since_ns[i];
        if (busy[i] && now > since)
            used += now - since;
    }
    return used;
}

/* A program of its own, so that the loop is verified once. */
static __noinline __u64 used(__u64 now)
{
    return used_by(now);
}

static __always_inline struct points_event *begin(__u32 kind, __u32 pid, __u32 tid, __u64 now)
{
    struct points_event *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
    if (!event) {
        __sync_fetch_and_add(&lost, 1);
        return NULL;
    }
    event->time_ns = now;
    event->kind = kind;
    event->pid = pid;
    event->tid = tid;
    event->function = event->connections = event->stack_depth = 0;
    event->number = event->waited_ns = 0;
    event->cpu_ns = used(now);
    bpf_get_current_comm(event->comm, sizeof(event->comm));
    return event;
}

static __always_inline void tell(__u32 kind, __u32 pid, __u32 tid)
{
    struct points_event *event = begin(kind, pid, tid, bpf_ktime_get_ns());
    if (event)
        bpf_ringbuf_submit(event, 0);
}

static __always_inline struct points_thread *add_thread(__u32 pid, __u32 tid)
{
    struct points_thread fresh = {.pid = pid};
    if (bpf_map_update_elem(&threads, &tid, &fresh, BPF_NOEXIST) < 0)
        __sync_fetch_and_add(&uncounted, 1);
    if (bpf_map_update_elem(&processes, &pid, &no_numbers, BPF_NOEXIST) == 0)
        tell(POINTS_FOUND, pid, tid);
    return bpf_map_lookup_elem(&threads, &tid);
}

static __always_inline bool is_in_scope(__u32 pid)
{
    if (scope.kind == SCOPE_PROCESS)
        return pid == scope.init || bpf_map_lookup_elem(&processes, &pid);
    return scope_holds(&scope, &level);
}

/* The current one, where it is in the scope. */
static __always_inline struct points_thread *current_thread(void)
{
    __u64 both = bpf_get_current_pid_tgid();
    __u32 pid = both >> 32, tid = both;
    if (!begun || !is_in_scope(pid))
        return NULL;
    struct points_thread *thread = bpf_map_lookup_elem(&threads, &tid);
    if (thread)
        return thread;
    thread = add_thread(pid, tid);
    if (!thread)
        return NULL;
    thread->run_ns = thread->on_ns = bpf_ktime_get_ns();
    __u32 cpu = bpf_get_smp_processor_id();
    if (cpu < POINTS_CPUS_MAX && !busy[cpu]) {
        since_ns[cpu] = thread->on_ns;
        busy[cpu] = true;
    }
    return thread;
}

/* Returns the entry, which is the current thread's alone. */
static __always_inline struct points_count *count_one(void *map, __u32 tid, __u32 what, __u64 now)
{
    struct points_key key = {.tid = tid, .what = what};
    struct points_count *count = bpf_map_lookup_elem(map, &key);
    if (!count) {
        struct points_count fresh = {.first_ns = now};
        bpf_map_update_elem(map, &key, &fresh, BPF_NOEXIST);
        count = bpf_map_lookup_elem(map, &key);
    }
    if (!count) {
        __sync_fetch_and_add(&uncounted, 1);
        return NULL;
    }
    count->count++;
    count->last_ns = now;
    return count;
}

static __always_inline void change_connections(__u32 pid, __u32 by)
{
    __sync_fetch_and_add(&connection_count, by);
    struct numbers *process = bpf_map_lookup_elem(&processes, &pid);
    if (process)
        __sync_fetch_and_add(&process->connections, by);
}

static __always_inline void open_connection(__u32 pid, __u32 fd)
{
    __u64 key = (__u64)pid << 32 | fd;
    __u8 one = 1;
    if (bpf_map_update_elem(&connections, &key, &one, BPF_NOEXIST) == 0)
        change_connections(pid, 1);
}

static __always_inline void close_connection(__u32 pid, __u32 fd)
{
    __u64 key = (__u64)pid << 32 | fd;
    if (bpf_map_delete_elem(&connections, &key) == 0)
        change_connections(pid, -1);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(entered, struct pt_regs *registers, long number)
{
    struct points_thread *thread = current_thread();
    if (!thread || number < 0 || number >= POINTS_CALLS_MAX)
        return 0;
    __u64 now = bpf_ktime_get_ns();
    thread->call = number;
    thread->is_calling = 1;
    thread->is_waiting = may_wait[number];
    thread->has_slept = 0;
    thread->since_ns = now;
    unsigned long argument = 0;
    if (thread->is_waiting || number == CLOSE)
        bpf_probe_read_kernel(&argument, sizeof(argument), &registers->di);
    thread->argument = argument;
    count_one(&calls, (__u32)bpf_get_current_pid_tgid(), number, now);
    if (number == CLOSE)
        close_connection(thread->pid, argument);
    return 0;
}

static __always_inline void tell_wait(struct points_thread *thread, __u64 waited)
{
    struct points_event *event =
        begin(POINTS_WAITED, thread->pid, (__u32)bpf_get_current_pid_tgid(), thread->hit_ns);
    if (!event)
        return;
    event->cpu_ns = thread->hit_cpu_ns;
    event->function = thread->function;
    event->number = thread->number;
    event->connections = thread->connections;
    event->waited_ns = waited;
    bpf_ringbuf_submit(event, 0);
}

/* Reading a file takes its time too, but there is an end of it that nobody else has to
 * bring about. */
static __always_inline bool is_of_file(__u32 call, __u32 fd)
{
    if (call != READ)
        return false;
    unsigned int type = TYPE_MASK & descriptor_mode((const void *)bpf_get_current_task(), fd);
    return type == REGULAR || type == DIRECTORY;
}

static __always_inline void end_wait(struct points_thread *thread, __u64 now)
{
    __u64 waited = now - thread->since_ns;
    if (waited > SHORT_NS && is_of_file(thread->call, thread->argument))
        return;
    struct points_key key = {.tid = (__u32)bpf_get_current_pid_tgid(), .what = thread->call};
    struct points_count *count = bpf_map_lookup_elem(&calls, &key);
    if (count)
        count->waited_ns += waited;
    if (thread->number && waited >= POINTS_LONG_NS)
        tell_wait(thread, waited);
}

static __always_inline void end_connect(__u32 pid, const struct pt_regs *user)
{
    __u16 family = 0;
    bpf_probe_read_user(&family, sizeof(family), (const void *)user->si);
    if (family == INET || family == INET6)
        open_connection(pid, user->di);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(left, struct pt_regs *registers, long result)
{
    struct points_thread *thread = current_thread();
    if (!thread || !thread->is_calling)
        return 0;
    if (thread->is_waiting && thread->has_slept)
        end_wait(thread, bpf_ktime_get_ns());
    if ((thread->call == ACCEPT || thread->call == ACCEPT4) && result >= 0)
        open_connection(thread->pid, result);
    if (thread->call == CONNECT && (result == 0 || result == -EINPROGRESS)) {
        struct pt_regs user;
        if (bpf_probe_read_kernel(&user, sizeof(user), registers) == 0)
            end_connect(thread->pid, &user);
    }
    /* pthread_cond_wait() unlocks, which may be a futex call too, and then waits. */
    if (thread->call != FUTEX || bpf_ktime_get_ns() - thread->since_ns > SHORT_NS)
        thread->number = 0;
    thread->is_calling = thread->is_waiting = 0;
    return 0;
}

static __always_inline void tell_hit(void *ctx, const struct points_thread *thread, __u64 caller)
{
    struct points_event *event =
        begin(POINTS_HIT, thread->pid, (__u32)bpf_get_current_pid_tgid(), thread->hit_ns);
    if (!event)
        return;
    event->function = thread->function;
    event->number = thread->number;
    event->connections = thread->connections;
    long size = bpf_get_stack(ctx, event->stack, sizeof(event->stack), BPF_F_USER_STACK);
    event->stack_depth = size > 0 ? size / sizeof(event->stack[0]) : 1;
    /* In place of where it is: at its first instruction it has no frame yet. */
    event->stack[0] = caller;
    bpf_ringbuf_submit(event, 0);
}

static __always_inline void copy_registers(struct points_copy *copy, const struct pt_regs *ctx)
{
    const __u64 values[] = {ctx->ax,  ctx->dx,  ctx->cx,  ctx->bx,  ctx->si,  ctx->di,
                            ctx->bp,  ctx->sp,  ctx->r8,  ctx->r9,  ctx->r10, ctx->r11,
                            ctx->r12, ctx->r13, ctx->r14, ctx->r15, ctx->ip};
    __builtin_memcpy(copy->registers, values, sizeof(values));
}

/* As far as there is a stack. */
static __always_inline void tell_stack(const struct pt_regs *ctx,
                                       const struct points_thread *thread)
{
    struct points_copy *copy = bpf_ringbuf_reserve(&copies, sizeof(*copy), 0);
    if (!copy) {
        __sync_fetch_and_add(&lost_copies, 1);
        return;
    }
    copy->time_ns = thread->hit_ns;
    copy->number = thread->number;
    copy->pid = thread->pid;
    copy->tid = (__u32)bpf_get_current_pid_tgid();
    copy->function = thread->function;
    copy_registers(copy, ctx);
    __u32 chunks = 0;
    for (; chunks < POINTS_COPY_CHUNKS; chunks++)
        if (bpf_probe_read_user(copy->bytes + chunks * POINTS_COPY_CHUNK, POINTS_COPY_CHUNK,
                                (const void *)(ctx->sp + chunks * POINTS_COPY_CHUNK)))
            break;
    copy->size = chunks * POINTS_COPY_CHUNK;
    bpf_ringbuf_submit(copy, 0);
}

/* The cookie: function, size of the library in pages, address in the library. */
SEC("uprobe")
int called(struct pt_regs *ctx)
{
    __u64 cookie = bpf_get_attach_cookie(ctx);
    __u32 function = cookie >> 56;
    __u64 size = (cookie >> 32 & 0xffffff) << 12, base = ctx->ip - (__u32)cookie;
    __u64 caller = 0;
    bpf_probe_read_user(&caller, sizeof(caller), (const void *)ctx->sp);
    struct points_thread *thread = current_thread();
    if (!thread || function >= POINTS_FUNCTIONS_MAX || caller - base < size)
        return 0;
    __u32 pid = thread->pid;
    struct numbers *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process)
        return 0;
    __u64 now = bpf_ktime_get_ns();
    thread->function = function;
    thread->number = __sync_fetch_and_add(&process->of[function], 1) + 1;
    thread->hit_ns = now;
    thread->hit_cpu_ns = used(now);
    thread->connections = connection_count;
    count_one(&functions, (__u32)bpf_get_current_pid_tgid(), function, now);
    if (thread->number <= POINTS_DETAILS_MAX)
        tell_hit(ctx, thread, caller);
    if (thread->number <= POINTS_COPIES_MAX)
        tell_stack(ctx, thread);
    return 0;
}

/* Nobody is woken for it: that would be for each rest of each thread. */
static __always_inline void tell_run(const struct points_thread *thread,
                                     const struct task_struct *task, __u32 rest)
{
    struct points_run *run = bpf_ringbuf_reserve(&runs, sizeof(*run), 0);
    if (!run) {
        __sync_fetch_and_add(&lost_runs, 1);
        return;
    }
    run->from_ns = thread->run_ns;
    run->to_ns = thread->off_ns;
    run->cpu_ns = thread->run_cpu_ns;
    run->pid = thread->pid;
    run->tid = BPF_CORE_READ(task, pid);
    run->rest = rest;
    run->call = thread->rest_call;
    bpf_core_read(run->comm, sizeof(run->comm), &task->comm);
    bpf_ringbuf_submit(run, BPF_RB_NO_WAKEUP);
}

static __always_inline void leave_processor(struct points_thread *thread, __u64 now)
{
    if (thread->on_ns && now > thread->on_ns)
        thread->run_cpu_ns += now - thread->on_ns;
    thread->on_ns = 0;
    thread->off_ns = now;
}

static __always_inline void switch_from(struct points_thread *thread, bool sleeps, __u64 now)
{
    if (sleeps)
        thread->has_slept = 1;
    leave_processor(thread, now);
    thread->rest =
        !sleeps ? POINTS_REST_READY : (thread->is_calling ? POINTS_REST_CALL : POINTS_REST_KERNEL);
    thread->rest_call = thread->call;
}

static __always_inline void switch_to(struct points_thread *thread, const struct task_struct *task,
                                      __u64 now)
{
    bool rested = thread->off_ns && now - thread->off_ns >= POINTS_REST_NS;
    if (rested)
        tell_run(thread, task, thread->rest);
    if (rested || !thread->run_ns) {
        thread->run_ns = now;
        thread->run_cpu_ns = 0;
    }
    thread->on_ns = now;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *previous, struct task_struct *next)
{
    __u32 cpu = bpf_get_smp_processor_id();
    if (!begun || cpu >= POINTS_CPUS_MAX)
        return 0;
    __u64 now = bpf_ktime_get_ns();
    __u64 since = since_ns[cpu];
    if (busy[cpu] && now > since)
        __sync_fetch_and_add(&cpu_ns, now - since);
    __u32 tid = BPF_CORE_READ(previous, pid);
    struct points_thread *thread = busy[cpu] ? bpf_map_lookup_elem(&threads, &tid) : NULL;
    if (thread)
        switch_from(thread, !preempt && goes_to_sleep(previous), now);
    tid = BPF_CORE_READ(next, pid);
    since_ns[cpu] = now;
    thread = bpf_map_lookup_elem(&threads, &tid);
    if (thread)
        switch_to(thread, next, now);
    busy[cpu] = thread != NULL;
    return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(forked, struct task_struct *parent, struct task_struct *child)
{
    if (!current_thread())
        return 0;
    __u32 pid = BPF_CORE_READ(child, tgid), tid = BPF_CORE_READ(child, pid);
    __u32 parent_pid = BPF_CORE_READ(parent, tgid);
    if (pid != parent_pid) {
        struct numbers *from = bpf_map_lookup_elem(&processes, &parent_pid);
        bpf_map_update_elem(&processes, &pid, from ? from : &no_numbers, BPF_ANY);
        struct numbers *copy = bpf_map_lookup_elem(&processes, &pid);
        if (copy)
            copy->connections = 0;
        tell(POINTS_FORKED, pid, tid);
    }
    add_thread(pid, tid);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(executed, struct task_struct *task)
{
    struct points_thread *thread = current_thread();
    if (!thread)
        return 0;
    __u32 pid = thread->pid;
    struct numbers *process = bpf_map_lookup_elem(&processes, &pid);
    if (process)
        __builtin_memset(process->of, 0, sizeof(process->of));
    tell(POINTS_EXECUTED, pid, pid);
    return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(ended, struct task_struct *task)
{
    __u64 both = bpf_get_current_pid_tgid();
    __u32 pid = both >> 32, tid = both;
    struct points_thread *thread = bpf_map_lookup_elem(&threads, &tid);
    if (!thread)
        return 0;
    leave_processor(thread, bpf_ktime_get_ns());
    tell_run(thread, task, POINTS_REST_END);
    if (pid == tid) {
        struct numbers *process = bpf_map_lookup_elem(&processes, &pid);
        if (process && process->connections) {
            __sync_fetch_and_add(&connection_count, -process->connections);
            process->connections = 0;
        }
        tell(POINTS_ENDED, pid, tid);
    }
    bpf_map_delete_elem(&threads, &tid);
    /* What is left of it would be counted for whoever has its number next. */
    __u32 cpu = bpf_get_smp_processor_id();
    if (cpu < POINTS_CPUS_MAX && busy[cpu]) {
        __u64 now = bpf_ktime_get_ns(), since = since_ns[cpu];
        if (now > since)
            __sync_fetch_and_add(&cpu_ns, now - since);
        busy[cpu] = false;
    }
    return 0;
}
