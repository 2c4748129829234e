/*
 * Whose events count: those of one container, told apart in three ways that need
 * nothing of each other.
 *
 *   group      the task's cgroup v2 group is this one or below it
 *   namespace  the task is in this pid namespace and this mount namespace; nested ones
 *              are not
 *   pid        the task has another number in its own pid namespace than on the host,
 *              and that namespace's init is this one
 *
 * The part above __FREEZEPOINT_BPF__ is shared with the BPF programs.
 */
#ifndef FREEZEPOINT_BPF_SCOPE_H
#define FREEZEPOINT_BPF_SCOPE_H

#include <linux/types.h>

enum scope_kind { SCOPE_GROUP, SCOPE_NAMESPACE, SCOPE_PID, SCOPE_KINDS };

struct scope {
    __u32 kind;
    __u32 pid_namespace, mount_namespace; /* inode numbers */
    __u32 init;                           /* as the host numbers it */
    __u64 group_id;
};

#ifdef __FREEZEPOINT_BPF__

#include "bpf/kernel.h"

/* In practice no deeper; a program's loops have an end. */
#define SCOPE_DEPTH_MAX     16
#define SCOPE_LEVEL_UNKNOWN (-1)

/*
 * The current task.  *level is how deep the group is as the kernel counts, which a
 * cgroup namespace does not let us see from outside: SCOPE_LEVEL_UNKNOWN until a task
 * of the group has come by, whom all others are compared by then.
 */
static __always_inline bool scope_by_group(__u64 group_id, int *level)
{
    int known = *level;
    if (known != SCOPE_LEVEL_UNKNOWN)
        return bpf_get_current_ancestor_cgroup_id(known) == group_id;
    for (int i = 0; i < SCOPE_DEPTH_MAX; i++) {
        __u64 id = bpf_get_current_ancestor_cgroup_id(i);
        if (!id)
            break;
        if (id == group_id) {
            *level = i;
            return true;
        }
    }
    /* Deeper than that. */
    return bpf_get_current_cgroup_id() == group_id;
}

/*
 * The pid namespace is that of the task's own number, not
 * nsproxy->pid_ns_for_children: that is where its next child will be, which unshare(2)
 * and setns(2) change and which is not where the task itself is.
 */
static __always_inline bool scope_by_namespace(const struct task_struct *task, __u32 pid_namespace,
                                               __u32 mount_namespace)
{
    return BPF_CORE_READ(innermost(task), ns, ns.inum) == pid_namespace &&
           BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == mount_namespace;
}

/* Equal numbers are not a container's: those are given from 1 on in each namespace, and
 * init, at least, has another one on the host. */
static __always_inline bool scope_by_pid(const struct task_struct *task, __u32 init)
{
    if (inner_number(task) == BPF_CORE_READ(task, pid) &&
        BPF_CORE_READ(task, thread_pid, level) == 0)
        return false;
    return (__u32)BPF_CORE_READ(innermost(task), ns, child_reaper, tgid) == init;
}

static __always_inline bool scope_holds(const volatile struct scope *scope, int *level)
{
    const struct task_struct *task = (const void *)bpf_get_current_task();
    switch (scope->kind) {
    case SCOPE_GROUP:
        return scope_by_group(scope->group_id, level);
    case SCOPE_NAMESPACE:
        return scope_by_namespace(task, scope->pid_namespace, scope->mount_namespace);
    default:
        return scope_by_pid(task, scope->init);
    }
}

#else

#include <sys/types.h>

#include "lib/err.h"

/* The v2 group with this directory. */
int scope_of_group(int group_fd, struct scope *out, struct err *err);

/*
 * The container that process `pid` is in, by SCOPE_NAMESPACE or SCOPE_PID.  ERR_USAGE
 * where it is in none but the host's own, which would be the whole machine; ERR_LACK
 * where the host's numbers are not seen from here.
 */
int scope_of_process(enum scope_kind kind, pid_t pid, struct scope *out, struct err *err);

#endif

#endif
