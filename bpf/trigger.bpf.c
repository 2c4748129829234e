// SPDX-License-Identifier: MIT OR GPL-2.0-only
#define __FREEZEPOINT_BPF__
#include "bpf/kernel.h"
#include "bpf/marks.h"
#include "bpf/trigger.h"

#define SIGSTOP 19 /* x86_64 */

char trigger_license[] SEC("license") = "Dual MIT/GPL";

const volatile __u64 group_id = 0;
const volatile __u32 pid_namespace = 0; /* the supervisor's */

__u64 lost = 0;

struct {
    __uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} group SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, TRIGGER_MAX);
    __type(key, __u32);
    __type(value, struct trigger_count);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 256 * 1024);
} ring SEC(".maps");

static __always_inline bool is_due(const struct trigger_count *count, __u64 hit)
{
    if (hit <= count->first || !count->every)
        return hit == count->first;
    return (hit - count->first) % count->every == 0;
}

static __always_inline void describe_task(struct mark *mark)
{
    struct task_struct *task = (void *)bpf_get_current_task();
    struct task_struct *leader = BPF_CORE_READ(task, group_leader);
    mark->pid = number_in(leader, pid_namespace);
    mark->tid = number_in(task, pid_namespace);
    mark->inner_pid = inner_number(leader);
    mark->inner_tid = inner_number(task);
    bpf_get_current_comm(mark->comm, sizeof(mark->comm));
}

SEC("uprobe")
int hit(struct pt_regs *ctx)
{
    if (bpf_current_task_under_cgroup(&group, 0) != 1)
        return 0;
    __u32 rule = bpf_get_attach_cookie(ctx);
    struct trigger_count *count = bpf_map_lookup_elem(&counts, &rule);
    if (!count)
        return 0;
    __u64 number = __sync_fetch_and_add(&count->hits, 1) + 1;
    if (!is_due(count, number))
        return 0;
    struct mark *mark = bpf_ringbuf_reserve(&ring, sizeof(*mark), 0);
    if (!mark) {
        __sync_fetch_and_add(&lost, 1);
        return 0;
    }
    mark->time_ns = bpf_ktime_get_ns();
    mark->cgroup_id = group_id;
    mark->kind = MARK_POINT;
    describe_task(mark);
    mark->rule = rule;
    mark->hit = number;
    bpf_probe_read_kernel(&mark->registers, sizeof(mark->registers), ctx);
    long size = bpf_get_stack(ctx, mark->stack, sizeof(mark->stack), BPF_F_USER_STACK);
    mark->stack_depth = size > 0 ? size / sizeof(mark->stack[0]) : 0;
    bpf_ringbuf_submit(mark, 0);
    bpf_send_signal(SIGSTOP);
    return 0;
}
