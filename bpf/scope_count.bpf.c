// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Counts one system call by each way of telling containers apart: to hold the ways
 * against each other. */
#define __FREEZEPOINT_BPF__
#include "bpf/scope.h"

#define GETPID     39 /* x86_64 */
#define CONTAINERS 3

char scope_count_license[] SEC("license") = "Dual MIT/GPL";

/* What its first argument has to be. */
const volatile __u64 magic = 0;
/* The same container in each line, by each of the kinds. */
const volatile struct scope scopes[CONTAINERS][SCOPE_KINDS] = {0};

int levels[CONTAINERS] = {SCOPE_LEVEL_UNKNOWN, SCOPE_LEVEL_UNKNOWN, SCOPE_LEVEL_UNKNOWN};
__u64 counts[CONTAINERS][SCOPE_KINDS] = {0};
__u64 total = 0;

SEC("tp_btf/sys_enter")
int BPF_PROG(entered, struct pt_regs *registers, long number)
{
    __u64 argument = 0;
    if (number != GETPID ||
        bpf_probe_read_kernel(&argument, sizeof(argument), &registers->di) < 0 || argument != magic)
        return 0;
    __sync_fetch_and_add(&total, 1);
    for (int i = 0; i < CONTAINERS; i++)
        for (int kind = 0; kind < SCOPE_KINDS; kind++)
            if (scope_holds(&scopes[i][kind], &levels[i]))
                __sync_fetch_and_add(&counts[i][kind], 1);
    return 0;
}
