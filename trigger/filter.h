/*
 * The seccomp filter that hands the no-op syscall, and nothing else, to the
 * supervisor, and the descriptor on which the supervisor listens.
 * Reference: seccomp_unotify(2), kernel/seccomp.c.
 */
#ifndef FREEZEPOINT_FILTER_H
#define FREEZEPOINT_FILTER_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"

/* Fills `program` with at most `capacity` instructions.  Returns their count or
 * -errno. */
int filter_build(struct sock_filter *program, size_t capacity, struct err *err);

/* Installs it on all threads of the caller and returns the listener (CLOEXEC),
 * or -errno.  Async-signal-safe: meant for between fork and exec. */
int filter_install(const struct sock_filter *program, size_t length);

/* One notification, in the supervisor. */
struct notification {
    unsigned long long id;
    int pid; /* the thread, in the supervisor's pid namespace */
    unsigned int op;
    unsigned long long arguments[4]; /* a2 .. a5 of preload/abi.h */
};

/* Takes one off the listener.  1: taken; 0: it has vanished meanwhile (its
 * thread died or was interrupted); -errno. */
int filter_receive(int listener, struct notification *out, struct err *err);

/* Lets the syscall return `value`.  0, or -errno: -ENOENT where the caller has
 * died meanwhile. */
int filter_answer(int listener, unsigned long long id, long value);

/* A thread that was answered FZ_ANSWER_GO_ON, and has been frozen since, is to find
 * that a signal came first: once it is thawed it asks again.  0 or -errno. */
int filter_take_back(pid_t thread, struct err *err);

#endif
