#include "trigger/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"

#define BREAKPOINT 0xcc
#define LOOK_NS    200000

static bool has_breakpoint_at(pid_t pid, uint64_t address, const struct target *target)
{
    uint8_t byte;
    return target->byte != BREAKPOINT && proc_memory_read(pid, address, &byte, sizeof(byte)) == 0 &&
           byte == BREAKPOINT;
}

/* A file is known by its inode: its path may be another in the process's namespace, and
 * its device's number in maps is not always stat(2)'s.  A wrong one has no breakpoint. */
static bool has_breakpoint(pid_t pid, const struct target *targets, size_t count)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    _cleanup_fclose_ FILE *maps = fopen(path, "re");
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (maps && getline(&line, &capacity, maps) > 0) {
        uint64_t start, end, offset, inode;
        char executable;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*2c%c%*c %" SCNx64 " %*s %" SCNu64, &start, &end,
                   &executable, &offset, &inode) != 5 ||
            executable != 'x')
            continue;
        for (size_t i = 0; i < count; i++)
            if (inode == targets[i].inode && targets[i].offset >= offset &&
                targets[i].offset - offset < end - start &&
                has_breakpoint_at(pid, start + (targets[i].offset - offset), &targets[i]))
                return true;
    }
    return false;
}

int text_await_clean(int group_fd, const struct target *targets, size_t count, int timeout_ms,
                     struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t processes = cgroup_processes(group_fd, &pids, err);
    if (processes < 0)
        return (int)processes;
    uint64_t deadline = proc_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
    for (ssize_t i = 0; i < processes; i++) {
        while (has_breakpoint(pids[i], targets, count)) {
            if (proc_monotonic_ns() >= deadline)
                return err_text(err, EBUSY,
                                "process %d keeps a breakpoint in its code that is not ours: "
                                "another probe is set there",
                                pids[i]);
            nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        }
    }
    return 0;
}
