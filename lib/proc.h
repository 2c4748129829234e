/*
 * What /proc and the pid calls tell of a process.  A process may end at any
 * moment: -ESRCH then.  Everything read here is outside information: bounded
 * copies, never trusted to be well-formed.
 */
#ifndef FREEZEPOINT_PROC_H
#define FREEZEPOINT_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "lib/err.h"

struct proc_info {
    pid_t pid;        /* in the caller's pid namespace */
    pid_t inner_pid;  /* in the process's own (last of NSpid) */
    pid_t inner_tgid; /* its thread group leader's, likewise (last of NStgid) */
    pid_t inner_max;  /* the highest of inner_pid, its group's and its session's */
    pid_t parent;     /* in the caller's */
    pid_t tracer;     /* likewise; 0: none */
    char comm[17];
    char state;
    uint32_t threads;
    uint64_t rss_bytes;
};

int proc_read(pid_t pid, struct proc_info *out, struct err *err);

/* When it began, in clock ticks since boot: with its number that names it for good.
 * *state, where not NULL, gets the letter of its state.  0 or -errno. */
int proc_start(pid_t pid, uint64_t *ticks, char *state);

/* Memory that it has present, of what it shares its part alone: what the pages of a
 * whole tree add up to.  0 or -errno (-EACCES: another user's, for all but root). */
int proc_pss(pid_t pid, uint64_t *bytes);

/* readlink of /proc/PID/exe or cwd; always NUL-terminated.  0 or -errno. */
int proc_link(pid_t pid, const char *name, char *path, size_t size);

/* The lowest address at which the file `path` is mapped into pid with offset 0:
 * an ELF object's load bias.  0 or -errno (-ENOENT: not mapped). */
int proc_find_mapping(pid_t pid, const char *path, uint64_t *address);

/* The files mapped into pid: code, memory shared with the file for writing, or all.
 * `visit` gets each path, sometimes twice.  0 or -errno. */
enum proc_mapped { PROC_MAPPED_CODE, PROC_MAPPED_SHARED, PROC_MAPPED_ALL };

int proc_mapped_files(pid_t pid, enum proc_mapped which,
                      void (*visit)(const char *path, void *context), void *context);

/* What pid has open that has a path, files of /proc and /sys excepted.  0 or -errno. */
struct proc_file {
    const char *path;
    int flags; /* of open(2) */
    const struct stat *about;
};

int proc_open_files(pid_t pid, void (*visit)(const struct proc_file *file, void *context),
                    void *context);

/* The regular files among them that are open for reading alone.  0 or -errno. */
int proc_read_files(pid_t pid, void (*visit)(const char *path, void *context), void *context);

/* process_vm_readv/writev of all of `size` bytes.  0 or -errno. */
int proc_memory_read(pid_t pid, uint64_t address, void *buffer, size_t size);
int proc_memory_write(pid_t pid, uint64_t address, const void *buffer, size_t size);

int proc_pidfd_open(pid_t pid); /* CLOEXEC descriptor or -errno */
int proc_pidfd_signal(int pidfd, int signal);

/* CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds. */
uint64_t proc_monotonic_ns(void);
uint64_t proc_realtime_ns(void);

#endif
