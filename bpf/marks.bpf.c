// SPDX-License-Identifier: MIT OR GPL-2.0-only
#define __FREEZEPOINT_BPF__
#include "bpf/kernel.h"
#include "bpf/marks.h"

#define GETPID     39                    /* x86_64 */
#define CALL_MAGIC 0x66726565707a6e74ULL /* preload/abi.h, FZ_CALL_MAGIC */
#define OP_POINT   2
#define NO_RESULT  (-38) /* -ENOSYS, from entry on (arch/x86/entry/entry_64.S) */

char marks_license[] SEC("license") = "Dual MIT/GPL";

const volatile __u64 group_id = 0;
/* Of who reads the marks: the inode of /proc/self/ns/pid. */
const volatile __u32 pid_namespace_id = 0;

/* As deep as the kernel counts, which a cgroup namespace does not let us see from
 * outside: learnt from the first freeze. */
int group_level = 0;
/* From being frozen until somebody runs: whose turn it is to be marked. */
enum { WAIT_NOTHING, WAIT_THAW, WAIT_RESUME };
int waiting = WAIT_NOTHING;
__u64 lost = 0;

struct {
    __uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} group SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 256 * 1024);
} ring SEC(".maps");

static __always_inline struct mark *begin(__u32 kind)
{
    struct mark *mark = bpf_ringbuf_reserve(&ring, sizeof(*mark), 0);
    if (!mark) {
        __sync_fetch_and_add(&lost, 1);
        return NULL;
    }
    mark->time_ns = bpf_ktime_get_ns();
    mark->cgroup_id = group_id;
    mark->kind = kind;
    mark->pid = mark->tid = mark->inner_pid = mark->inner_tid = 0;
    mark->rule = mark->stack_depth = 0;
    mark->hit = 0;
    mark->comm[0] = '\0';
    return mark;
}

static __always_inline void enter_task(struct mark *mark, struct task_struct *task)
{
    mark->pid = number_in(BPF_CORE_READ(task, group_leader), pid_namespace_id);
    mark->tid = number_in(task, pid_namespace_id);
    mark->inner_pid = inner_number(BPF_CORE_READ(task, group_leader));
    mark->inner_tid = inner_number(task);
    bpf_core_read_str(mark->comm, sizeof(mark->comm), &task->comm);
}

/* Whether the task is in the no-op system call, at a due point, and has no answer yet;
 * once it has, it may stop on its way out, frozen or traced. */
static __always_inline bool waits_at_point(const struct pt_regs *user)
{
    return user->orig_ax == GETPID && user->di == CALL_MAGIC && user->si == OP_POINT &&
           (long)user->ax == NO_RESULT;
}

static __always_inline void mark_point(void *ctx, struct task_struct *task,
                                       const struct pt_regs *user)
{
    struct mark *mark = begin(MARK_POINT);
    if (!mark)
        return;
    enter_task(mark, task);
    mark->rule = user->dx;
    mark->hit = user->r10;
    bpf_probe_read_kernel(&mark->registers, sizeof(mark->registers), user);
    long size = bpf_get_stack(ctx, mark->stack, sizeof(mark->stack), BPF_F_USER_STACK);
    mark->stack_depth = size > 0 ? size / sizeof(mark->stack[0]) : 0;
    bpf_ringbuf_submit(mark, 0);
}

static __always_inline void mark_resumed(struct task_struct *next)
{
    if (__sync_val_compare_and_swap(&waiting, WAIT_RESUME, WAIT_NOTHING) != WAIT_RESUME)
        return;
    struct mark *mark = begin(MARK_RESUMED);
    if (!mark)
        return;
    enter_task(mark, next);
    bpf_ringbuf_submit(mark, 0);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *previous, struct task_struct *next)
{
    /* `previous` is still the current task.  Also where it is only preempted: it may
     * have its answer before it sleeps. */
    const struct pt_regs *user = (const void *)bpf_task_pt_regs(previous);
    if (waits_at_point(user) && bpf_current_task_under_cgroup(&group, 0) == 1)
        mark_point(ctx, previous, user);
    if (waiting == WAIT_RESUME && !BPF_CORE_READ(next, ptrace) &&
        is_in_group(next, group_id, group_level))
        mark_resumed(next);
    return 0;
}

SEC("tp_btf/cgroup_notify_frozen")
int BPF_PROG(frozen_changed, struct cgroup *changed, const char *path, bool frozen)
{
    if (BPF_CORE_READ(changed, kn, id) != group_id)
        return 0;
    group_level = BPF_CORE_READ(changed, level);
    waiting = frozen ? WAIT_THAW : WAIT_RESUME;
    struct mark *mark = begin(frozen ? MARK_FROZEN : MARK_THAWED);
    if (mark)
        bpf_ringbuf_submit(mark, 0);
    return 0;
}
