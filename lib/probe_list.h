/*
 * The probes themselves, for lib/probe.c's table alone, and what they share.
 * Each runs in a child of probe_run() and fills its result.
 */
#ifndef FREEZEPOINT_PROBE_LIST_H
#define FREEZEPOINT_PROBE_LIST_H

#include <sys/types.h>

#include "lib/err.h"
#include "lib/probe.h"

#define PROBE_BE_ROOT "be root: sudo freezepoint doctor"

/* lib/probe_process.c */
void probe_seccomp_notify(struct probe_result *result);
void probe_cgroup_freezer(struct probe_result *result);
void probe_process_memory(struct probe_result *result);
void probe_pidfd(struct probe_result *result);
void probe_namespaces(struct probe_result *result);
void probe_other_user(struct probe_result *result);

/* lib/probe_criu.c */
void probe_criu(struct probe_result *result);
void probe_criu_cache(struct probe_result *result);
void probe_tcp_established(struct probe_result *result);

/* lib/probe_kernel.c */
void probe_userfaultfd(struct probe_result *result);
void probe_uprobes(struct probe_result *result);
void probe_bpf(struct probe_result *result);
void probe_pressure(struct probe_result *result);

/* lib/probe_place.c */
void probe_image_store(struct probe_result *result);
void probe_runtime(struct probe_result *result);

void probe_set_ok(struct probe_result *result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void probe_set(struct probe_result *result, enum probe_status status, const char *remedy,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

/* PROBE_MISSING: "WHAT: strerror(errnum)".  Where it was refused to somebody who
 * is not root, the remedy is to be root. */
void probe_set_missing(struct probe_result *result, int errnum, const char *remedy,
                       const char *what);

/* PROBE_MISSING with *err's text.  What follows its first ';' is its remedy,
 * unless `remedy` is given. */
void probe_set_failed(struct probe_result *result, const struct err *err, const char *remedy);

/* A copy of the caller that does nothing until it is killed.  Its pid or -errno. */
pid_t probe_child_start(void);

/* Kills and reaps; for _cleanup_.  Leaves 0; ignores what is not positive. */
void probe_child_end(pid_t *child);

/* Waits for its end, at most timeout_ms, and reaps it.  Its exit status (128 +
 * signal) or -errno; -ETIMEDOUT leaves it running. */
int probe_child_wait(pid_t *child, int timeout_ms);

/* Installs a filter that hands every getpid(2) to the listener which it returns
 * (CLOEXEC), or -errno.  It stays with the calling process for good. */
int probe_seccomp_install(void);

#endif
