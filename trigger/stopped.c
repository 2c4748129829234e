#include "trigger/stopped.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"

/* Bit N-1 for signal N; of a thread `blocked`, of its process the others. */
struct signals {
    uint64_t blocked, ignored, caught;
};

static bool has(uint64_t set, int number)
{
    return set >> (number - 1) & 1;
}

static int read_signals(pid_t pid, pid_t tid, struct signals *out)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
    _cleanup_fclose_ FILE *status = fopen(path, "re");
    if (!status)
        return -errno;
    *out = (struct signals){0};
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, status) > 0)
        if (sscanf(line, "SigBlk: %" SCNx64, &out->blocked) != 1 &&
            sscanf(line, "SigIgn: %" SCNx64, &out->ignored) != 1)
            sscanf(line, "SigCgt: %" SCNx64, &out->caught);
    return 0;
}

/* A thread that does not block a signal, `tid` if it does not; 0: none. */
static pid_t find_open_thread(pid_t pid, pid_t tid, int number)
{
    struct signals signals = {0};
    if (read_signals(pid, tid, &signals) == 0 && !has(signals.blocked, number))
        return tid;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    _cleanup_closedir_ DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        pid_t other = (pid_t)strtol(entry->d_name, NULL, 10);
        if (other > 0 && read_signals(pid, other, &signals) == 0 && !has(signals.blocked, number))
            return other;
    }
    return 0;
}

static void send_to(pid_t pid, pid_t tid, int number)
{
    syscall(SYS_tgkill, pid, tid, number);
}

/* Sending any stop signal takes a pending SIGCONT away.  This one must come to nothing:
 * ignored, or delivered by default in a process group that nobody could continue
 * (kernel/signal.c, get_signal(), is_current_pgrp_orphaned()). */
static bool take_back(pid_t pid, pid_t tid, pid_t root, const struct signals *signals)
{
    static const int stops[] = {SIGTTOU, SIGTTIN, SIGTSTP};
    bool orphaned = getpgid(pid) == getpgid(root);
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
        pid_t open = find_open_thread(pid, tid, stops[i]);
        bool harmless =
            has(signals->ignored, stops[i]) || (orphaned && !has(signals->caught, stops[i]));
        if (!open || !harmless)
            continue;
        send_to(pid, open, stops[i]);
        return true;
    }
    return false;
}

int stopped_continue(pid_t pid, pid_t tid, pid_t root, struct err *err)
{
    struct signals signals = {0};
    if (read_signals(pid, tid, &signals))
        return 0; /* it has ended */
    pid_t open = has(signals.caught, SIGCONT) ? 0 : find_open_thread(pid, tid, SIGCONT);
    if (open) {
        send_to(pid, open, SIGCONT);
        return 0;
    }
    kill(pid, SIGCONT);
    if (take_back(pid, tid, root, &signals))
        return 0;
    return err_text(err, ENOTSUP,
                    "process %d catches or blocks SIGCONT and each of the terminal's stop "
                    "signals: a stop at a probe would stay in the image",
                    pid);
}
