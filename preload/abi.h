/*
 * What the shim inside the app and the supervisor outside agree upon: the
 * no-op syscall, the preload library's patchable tables, and the control block.
 * The only header that both sides include.  Freestanding.
 *
 * Append-only: a field never moves or changes its meaning; a change that an
 * older reader would misread raises FZ_ABI_VERSION.  Each field says who writes
 * it and when.  Everything that the supervisor reads here is untrusted.
 */
#ifndef FREEZEPOINT_ABI_H
#define FREEZEPOINT_ABI_H

#include <stdint.h>

#define FZ_ABI_VERSION 1

/*
 * The no-op syscall is getpid(FZ_CALL_MAGIC, op, a2, a3, a4, a5).  The filter
 * hands it to the supervisor when the first argument's 64 bits are the magic.
 * What comes back:
 *   FZ_ANSWER_GO_ON  the supervisor is done with it: carry on;
 *   FZ_ANSWER_DISARM carry on, and never ask again in this process;
 *   1 .. FZ_PID_MAX  no filter: not supervised.  Disarm;
 *   -EINTR           a signal came before the supervisor took it: ask again;
 *   -ENOSYS          filter without a listener: the process was restored (the
 *                    control block's generation has changed: re-arm, ask again)
 *                    or its supervisor has gone (disarm).
 * Whenever the generation has changed over the call, the process was restored
 * within it: re-arm at once, and do not ask about the same hit again if the
 * answer was FZ_ANSWER_GO_ON.
 */
#define FZ_CALL_MAGIC    0x66726565707a6e74ULL
#define FZ_PID_MAX       (4L << 20) /* include/linux/threads.h, PID_MAX_LIMIT */
#define FZ_ANSWER_GO_ON  0x66700001L
#define FZ_ANSWER_DISARM 0x66700002L

enum fz_op {
    FZ_OP_HELLO = 1, /* a2 = address of struct fz_control; from the constructor */
    FZ_OP_POINT = 2, /* a2 = index of the rule, a3 = hit number (1 is the first),
                        a4 = address of struct fz_control */
};

#define FZ_SLOT_MAX  64 /* distinct entry points (names and their aliases) */
#define FZ_RULE_MAX  64 /* --at options */
#define FZ_NAME_MAX  256
#define FZ_FILTER_MAX 16
#define FZ_PATH_MAX  108 /* sun_path */

/* One --at.  Written by the launcher into the library file, before the app runs. */
struct fz_rule {
    uint64_t first; /* the hit that is due, from 1 */
    uint64_t every; /* 0, or every so many hits after the first */
    uint32_t counter; /* index into fz_control.counters */
    uint32_t reserved;
};

/*
 * Calls of one function in this process, its aliases' included; shared by all
 * threads, copied by fork, new at exec.  One cache line.
 */
struct fz_counter {
    uint64_t hits; /* the stub, atomically */
    uint64_t due;  /* a lower bound of the next due hit; UINT64_MAX: disarmed.
                      Launcher at build; shim; the supervisor at any freeze. */
    uint64_t reserved[6];
};

struct fz_filter_instruction { /* struct sock_filter */
    uint16_t code;
    uint8_t jt, jf;
    uint32_t k;
};

/*
 * In the library's writable data, found by the symbol fz_control in the
 * template, by HELLO, and by POINT.
 */
struct fz_control {
    uint64_t magic;       /* FZ_CONTROL_MAGIC; constant */
    uint32_t abi_version; /* FZ_ABI_VERSION; constant */
    uint32_t size;        /* sizeof(struct fz_control); constant */
    /* Written by the restoring side with process_vm_writev before a restored
     * process runs its first instruction.  0: never restored. */
    uint64_t generation;
    /* Where the listener of a re-armed filter is sent.  Launcher at build, then
     * the restoring side.  Unix SEQPACKET, NUL-terminated. */
    char socket_path[FZ_PATH_MAX];
    uint32_t disarmed; /* shim: 1 once it stopped asking */
    uint32_t rule_count;
    uint32_t counter_count;
    uint32_t slot_count;
    uint32_t filter_length; /* in instructions */
    struct fz_filter_instruction filter[FZ_FILTER_MAX]; /* launcher at build */
    uint64_t rearmed_generation; /* shim: the generation it last armed for */
    uint64_t reserved[8];
    struct fz_rule rules[FZ_RULE_MAX];
    struct fz_counter counters[FZ_SLOT_MAX] __attribute__((aligned(64)));
};

#define FZ_CONTROL_MAGIC 0x316c7274636e7a66ULL

/*
 * Re-arming: the shim connects to socket_path, sends this with the new listener
 * beside it (SCM_RIGHTS), waits for a struct fz_rearm_reply, closes both.
 */
struct fz_rearm {
    uint64_t magic;   /* FZ_CONTROL_MAGIC */
    uint64_t control; /* address of struct fz_control */
    uint64_t generation;
    uint32_t pid; /* as the app sees itself; informative only */
    uint32_t reserved;
};

struct fz_rearm_reply {
    uint64_t magic;
    uint32_t accepted; /* 1, or 0: disarm */
    uint32_t reserved;
};

#ifndef __ASSEMBLER__
_Static_assert(sizeof(struct fz_rule) == 24, "abi");
_Static_assert(sizeof(struct fz_counter) == 64, "abi");
_Static_assert(sizeof(struct fz_rearm) == 32, "abi");
#endif

#endif
