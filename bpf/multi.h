/*
 * Many uprobes of one process as one BPF link (since Linux 6.6, commit 89ae89f53d20, "bpf:
 * Add multi uprobe link"): the kernel waits once where it takes them away, some 100 ms,
 * not once for each.  libbpf knows of it from 1.3 on and the headers of Linux 6.1 do
 * not; so it is asked for by the system call itself.
 */
#ifndef FREEZEPOINT_BPF_MULTI_H
#define FREEZEPOINT_BPF_MULTI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a program's expected attach type must be when it is loaded; it can then no
 * longer be attached to single probes. */
#define MULTI_ATTACH_TYPE 48 /* BPF_TRACE_UPROBE_MULTI */

/* Whether this kernel has them, found by trying. */
bool multi_is_supported(void);

/* The link's descriptor, CLOEXEC: closing it takes the probes away.  -errno. */
int multi_attach(int program_fd, pid_t pid, const char *path, const uint64_t *offsets,
                 const uint64_t *cookies, size_t count);

#endif
