// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What our BPF programs know of the kernel: the few fields that they read, found in
 * the running kernel's own layout when they are loaded (CO-RE), and every difference
 * between kernels, each with its reason.  Types with a ___suffix are the same
 * kernel type as it is, or was, in some kernels (libbpf drops the suffix).
 */
#ifndef FREEZEPOINT_BPF_KERNEL_H
#define FREEZEPOINT_BPF_KERNEL_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
    __u64 id;
};

struct cgroup {
    int level;
    struct kernfs_node *kn;
    struct cgroup *ancestors[]; /* by level, the group itself last */
};

/* Before 6.1 (commit 7f203bc89eb6, "cgroup: Replace cgroup->ancestor_ids[] with
 * ->ancestors[]") their ids stood there themselves. */
struct cgroup___ids {
    __u64 ancestor_ids[0];
};

struct css_set {
    struct cgroup *dfl_cgrp; /* in the v2 hierarchy */
};

struct ns_common {
    unsigned int inum; /* what stat(2) of /proc/PID/ns/... shows as the inode */
};

struct pid_namespace {
    struct ns_common ns;
    struct task_struct *child_reaper; /* its init */
};

struct mnt_namespace {
    struct ns_common ns;
};

struct nsproxy {
    struct mnt_namespace *mnt_ns;
};

struct upid {
    int nr;
    struct pid_namespace *ns;
};

struct pid {
    unsigned int level;
    struct upid numbers[];
};

struct inode {
    unsigned short i_mode;
};

struct file {
    struct inode *f_inode;
};

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
};

struct files_struct {
    struct fdtable *fdt;
};

struct task_struct {
    unsigned int __state;
    int pid, tgid;
    unsigned int ptrace;
    char comm[16];
    struct css_set *cgroups;
    struct pid *thread_pid;
    struct task_struct *group_leader;
    struct nsproxy *nsproxy;    /* NULL from a thread's end on */
    struct files_struct *files; /* likewise */
};

/* Before 5.14 (commit 2f064a59a11f, "sched: Change task_struct::state"). */
struct task_struct___volatile {
    volatile long state;
};

#pragma clang attribute pop

/* arch/x86/include/uapi/asm/ptrace.h; a copy of the user's registers, whose order is
 * part of the kernel's interface, so that it needs no CO-RE. */
struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
    unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

static __always_inline __u64 ancestor_id(const struct cgroup *group, int level)
{
    const struct cgroup___ids *older = (const void *)group;
    __u64 id = 0;
    if (bpf_core_field_exists(older->ancestor_ids)) {
        bpf_core_read(&id, sizeof(id), &older->ancestor_ids[level]);
        return id;
    }
    struct cgroup *ancestor = NULL;
    bpf_core_read(&ancestor, sizeof(ancestor), &group->ancestors[level]);
    return BPF_CORE_READ(ancestor, kn, id);
}

/* Whether a task is in the v2 group `id`, which is `level` deep, or below it. */
static __always_inline bool is_in_group(const struct task_struct *task, __u64 id, int level)
{
    struct cgroup *group = BPF_CORE_READ(task, cgroups, dfl_cgrp);
    return level > 0 && BPF_CORE_READ(group, level) >= level && ancestor_id(group, level) == id;
}

/* The stride of an array is not found by itself, as offsets are. */
static __always_inline const struct upid *number_at(struct pid *pid, unsigned int level)
{
    return (const void *)((const char *)__builtin_preserve_access_index(&pid->numbers) +
                          level * bpf_core_type_size(struct upid));
}

/* include/linux/pid_namespace.h, MAX_PID_NS_LEVEL. */
#define PID_LEVEL_MAX 32

/* The task's number in the pid namespace with this inode; 0: it has none there. */
static __always_inline int number_in(const struct task_struct *task, __u32 namespace_inode)
{
    struct pid *pid = BPF_CORE_READ(task, thread_pid);
    unsigned int depth = BPF_CORE_READ(pid, level);
    for (unsigned int level = 0; level <= PID_LEVEL_MAX && level <= depth; level++) {
        const struct upid *number = number_at(pid, level);
        if (BPF_CORE_READ(number, ns, ns.inum) == namespace_inode)
            return BPF_CORE_READ(number, nr);
    }
    return 0;
}

/* The task's entry in its own pid namespace, the innermost of those that it has
 * numbers in. */
static __always_inline const struct upid *innermost(const struct task_struct *task)
{
    struct pid *pid = BPF_CORE_READ(task, thread_pid);
    unsigned int level = BPF_CORE_READ(pid, level);
    return number_at(pid, level);
}

/* Where it leaves the processor: because it waits for something, not because others
 * want it. */
static __always_inline bool goes_to_sleep(const struct task_struct *task)
{
    const struct task_struct___volatile *older = (const void *)task;
    if (bpf_core_field_exists(older->state)) {
        long state = 0;
        bpf_core_read(&state, sizeof(state), &older->state);
        return state != 0;
    }
    return BPF_CORE_READ(task, __state) != 0;
}

/* The inode's mode of a descriptor, 0 where there is none. */
static __always_inline unsigned int descriptor_mode(const struct task_struct *task, __u32 fd)
{
    struct fdtable *table = BPF_CORE_READ(task, files, fdt);
    if (fd >= BPF_CORE_READ(table, max_fds))
        return 0;
    struct file **list = BPF_CORE_READ(table, fd), *file = NULL;
    bpf_probe_read_kernel(&file, sizeof(file), &list[fd]);
    return BPF_CORE_READ(file, f_inode, i_mode);
}

static __always_inline int inner_number(const struct task_struct *task)
{
    return BPF_CORE_READ(innermost(task), nr);
}

#endif
