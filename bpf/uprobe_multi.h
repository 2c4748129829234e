/*
 * Many uprobes of one file as one BPF link (Linux 6.6, commit 89ae89f53d20, "bpf: Add
 * multi uprobe link"): set one after another, but taken away together, which the kernel
 * waits for once and without holding up who sets others meanwhile.  By the bare system
 * call, since libbpf has had it only from 1.3 on.
 */
#ifndef FREEZEPOINT_BPF_UPROBE_MULTI_H
#define FREEZEPOINT_BPF_UPROBE_MULTI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Of the program, when it is loaded (enum bpf_attach_type); it can then no longer be
 * attached to single probes. */
#define UPROBE_MULTI_ATTACH 48

struct uprobe_place {
    uint64_t offset;    /* in the file */
    uint64_t semaphore; /* likewise: two bytes that are counted up; 0: none */
    uint64_t cookie;
};

/* Whether the kernel has it. */
bool uprobe_multi_is_there(void);

/* A new link's descriptor, CLOEXEC, or -errno: closing it takes the probes away.  In that
 * process alone or, where pid is 0, in all that map the file, also those that start later. */
int uprobe_multi_attach(int program_fd, pid_t pid, const char *path,
                        const struct uprobe_place *places, size_t count);

#endif
