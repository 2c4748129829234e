#include "restore/adopt.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "preload/abi.h"

static int adopt_process(pid_t pid, uint64_t address, const char *socket_path, uint64_t generation,
                         struct err *err)
{
    struct {
        uint64_t magic;
        uint32_t abi_version, size;
    } head;
    int error = proc_memory_read(pid, address, &head, sizeof(head));
    if (error)
        return err_set(err, -error, "read the control block of process %d", pid);
    if (head.magic != FZ_CONTROL_MAGIC || head.abi_version != FZ_ABI_VERSION ||
        head.size != sizeof(struct fz_control))
        return err_text(err, EPROTO, "process %d has no control block where the image says", pid);
    char path[FZ_PATH_MAX] = "";
    snprintf(path, sizeof(path), "%s", socket_path);
    error = proc_memory_write(pid, address + offsetof(struct fz_control, socket_path), path,
                              sizeof(path));
    if (!error)
        error = proc_memory_write(pid, address + offsetof(struct fz_control, generation),
                                  &generation, sizeof(generation));
    return error ? err_set(err, -error, "write the control block of process %d", pid) : 0;
}

static const Freezepoint__Process *find_process(const Freezepoint__Manifest *manifest, pid_t inner)
{
    for (size_t i = 0; i < manifest->n_processes; i++)
        if (manifest->processes[i]->pid == (uint32_t)inner)
            return manifest->processes[i];
    return NULL;
}

int adopt_tree(const struct job *job, const Freezepoint__Manifest *manifest, uint64_t generation,
               pid_t *root, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(job->group.fd, &pids, err);
    if (count < 0)
        return (int)count;
    *root = 0;
    for (ssize_t i = 0; i < count; i++) {
        struct proc_info info;
        struct err ignored;
        if (proc_read(pids[i], &info, &ignored))
            continue;
        const Freezepoint__Process *process = find_process(manifest, info.inner_pid);
        if (!process)
            continue; /* CRIU itself */
        if ((uint32_t)info.inner_pid == manifest->root_pid)
            *root = pids[i];
        if (process->control_address == 0)
            continue;
        int error =
            adopt_process(pids[i], process->control_address, job->socket_path, generation, err);
        if (error)
            return error;
    }
    return *root ? 0
                 : err_text(err, ESRCH, "the restored tree has no root process %u",
                            manifest->root_pid);
}
