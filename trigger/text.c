#include "trigger/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"

#define BREAKPOINT 0xcc
#define LOOK_NS    200000

struct mapping {
    pid_t pid;
    uint64_t start, end, offset;
    ino_t inode;
    bool writable, executable;
};

/* Until `visit` returns true, which is returned. */
static bool visit_mappings(pid_t pid, bool (*visit)(const struct mapping *, void *), void *context)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    _cleanup_fclose_ FILE *maps = fopen(path, "re");
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (maps && getline(&line, &capacity, maps) > 0) {
        struct mapping mapping = {.pid = pid};
        char writable, executable;
        uint64_t inode;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*c%c%c%*c %" SCNx64 " %*s %" SCNu64,
                   &mapping.start, &mapping.end, &writable, &executable, &mapping.offset,
                   &inode) != 6 ||
            !inode)
            continue;
        mapping.inode = inode;
        mapping.writable = writable == 'w';
        mapping.executable = executable == 'x';
        if (visit(&mapping, context))
            return true;
    }
    return false;
}

/* By the inode alone: its device's number in maps is not always stat(2)'s, its path may
 * be another in the process's namespace.  Good for reading: a wrong one has no breakpoint. */
static bool may_hold(const struct mapping *mapping, const struct target *target, uint64_t offset)
{
    return mapping->inode == target->inode && offset >= mapping->offset &&
           offset - mapping->offset < mapping->end - mapping->start;
}

static bool holds(const struct mapping *mapping, const struct target *target, uint64_t offset)
{
    if (!may_hold(mapping, target, offset))
        return false;
    char path[96];
    struct stat about;
    snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, mapping->pid,
             mapping->start, mapping->end);
    return stat(path, &about) == 0 && about.st_dev == target->device &&
           about.st_ino == target->inode;
}

static bool has_breakpoint_at(pid_t pid, uint64_t address, const struct target *target)
{
    uint8_t byte;
    return target->byte != BREAKPOINT && proc_memory_read(pid, address, &byte, sizeof(byte)) == 0 &&
           byte == BREAKPOINT;
}

struct places {
    const struct target *targets;
    size_t count;
};

static bool has_breakpoint_in(const struct mapping *mapping, void *context)
{
    const struct places *places = context;
    for (size_t i = 0; i < places->count; i++) {
        const struct target *target = &places->targets[i];
        if (mapping->executable && may_hold(mapping, target, target->offset) &&
            has_breakpoint_at(mapping->pid, mapping->start + (target->offset - mapping->offset),
                              target))
            return true;
    }
    return false;
}

static bool has_breakpoint(pid_t pid, const struct places *places)
{
    return visit_mappings(pid, has_breakpoint_in, (void *)places);
}

/* Also where the process itself may not write. */
static int poke(pid_t pid, uint64_t address, const void *bytes, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return pwrite(fd, bytes, size, (off_t)address) == (ssize_t)size ? 0 : -EIO;
}

struct semaphore {
    const struct target *target;
    uint64_t address; /* 0: not mapped */
};

static bool find_semaphore_in(const struct mapping *mapping, void *context)
{
    struct semaphore *semaphore = context;
    uint64_t offset = semaphore->target->semaphore;
    if (!mapping->writable || !holds(mapping, semaphore->target, offset))
        return false;
    semaphore->address = mapping->start + (offset - mapping->offset);
    return true;
}

static bool read_semaphore(pid_t pid, const struct target *target, uint64_t *address,
                           uint16_t *value)
{
    struct semaphore semaphore = {.target = target};
    if (!target->semaphore || !visit_mappings(pid, find_semaphore_in, &semaphore))
        return false;
    *address = semaphore.address;
    return proc_memory_read(pid, semaphore.address, value, sizeof(*value)) == 0;
}

static void lower_semaphore(pid_t pid, const struct target *target)
{
    uint64_t address;
    uint16_t value;
    if (!read_semaphore(pid, target, &address, &value) || value == 0)
        return;
    value--;
    poke(pid, address, &value, sizeof(value));
}

static bool clean_mapping(const struct mapping *mapping, void *context)
{
    const struct places *places = context;
    for (size_t i = 0; i < places->count; i++) {
        const struct target *target = &places->targets[i];
        uint64_t address = mapping->start + (target->offset - mapping->offset);
        if (!mapping->executable || !holds(mapping, target, target->offset) ||
            !has_breakpoint_at(mapping->pid, address, target))
            continue;
        if (poke(mapping->pid, address, &target->byte, sizeof(target->byte)) == 0)
            lower_semaphore(mapping->pid, target);
    }
    return false;
}

static int await_one(pid_t pid, const struct text_wait *wait, uint64_t deadline, bool *others,
                     struct err *err)
{
    const struct places places = {wait->targets, wait->count};
    while (has_breakpoint(pid, &places)) {
        if (wait->ours_are_gone(wait->context)) {
            visit_mappings(pid, clean_mapping, (void *)&places);
            *others = true;
            if (has_breakpoint(pid, &places))
                return err_text(err, EBUSY,
                                "process %d keeps a breakpoint in its code that is not ours: "
                                "another probe is set there",
                                pid);
        } else if (proc_monotonic_ns() >= deadline) {
            return err_text(err, ETIMEDOUT, "the breakpoints are not gone within %d s",
                            wait->timeout_ms / 1000);
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
    return 0;
}

int text_await_clean(const struct text_wait *wait, bool *others, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    *others = false;
    ssize_t count = cgroup_processes(wait->group_fd, &pids, err);
    if (count < 0)
        return (int)count;
    uint64_t deadline = proc_monotonic_ns() + (uint64_t)wait->timeout_ms * 1000000;
    int error = 0;
    for (ssize_t i = 0; i < count && !error; i++)
        error = await_one(pids[i], wait, deadline, others, err);
    return error;
}

/* How many places with the semaphore of targets[index] have a breakpoint. */
static uint16_t count_set(pid_t pid, const struct target *targets, size_t count, size_t index)
{
    uint16_t set = 0;
    for (size_t i = 0; i < count; i++) {
        bool again = targets[i].semaphore != targets[index].semaphore ||
                     targets[i].inode != targets[index].inode;
        for (size_t k = 0; k < i && !again; k++)
            again = targets[k].offset == targets[i].offset && targets[k].inode == targets[i].inode;
        const struct places one = {&targets[i], 1};
        set += !again && has_breakpoint(pid, &one);
    }
    return set;
}

void text_settle_semaphores(int group_fd, const struct target *targets, size_t count)
{
    _cleanup_free_ pid_t *pids = NULL;
    struct err ignored;
    ssize_t processes = cgroup_processes(group_fd, &pids, &ignored);
    for (ssize_t p = 0; p < processes; p++) {
        for (size_t i = 0; i < count; i++) {
            uint64_t address;
            uint16_t value;
            if (!read_semaphore(pids[p], &targets[i], &address, &value))
                continue;
            uint16_t set = count_set(pids[p], targets, count, i);
            if (value < set)
                poke(pids[p], address, &set, sizeof(set));
        }
    }
}
