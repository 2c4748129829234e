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

#define FZ_ABI_VERSION 1

#define FZ_SLOT_MAX   64 /* distinct entry points (names and their aliases) */
#define FZ_RULE_MAX   64 /* --at options */
#define FZ_NAME_MAX   256
#define FZ_FILTER_MAX 16
#define FZ_PATH_MAX   108 /* sun_path */

/* Behind the user's slots: what the shim wraps for its own purposes. */
#define FZ_SLOT_DLSYM          64
#define FZ_SLOT_DLVSYM         65
#define FZ_SLOT_DLCLOSE        66
#define FZ_SLOT_START_MAIN     67 /* __libc_start_main, the default version */
#define FZ_SLOT_START_MAIN_OLD 68 /* __libc_start_main@GLIBC_2.2.5 */
#define FZ_SLOT_TOTAL          69

/* For the assembler. */
#define FZ_COUNTERS_OFFSET 1920 /* of counters in struct fz_control */
#define FZ_COUNTER_SIZE    128
#define FZ_DUE_OFFSET      64 /* in struct fz_counter */

/* fz_slot.state */
#define FZ_STATE_UNRESOLVED 0
#define FZ_STATE_COUNTED    1 /* count, compare, jump to the target */
#define FZ_STATE_PASSED     2 /* just jump: defined by another library than asked for */

/* Room in the template, in bytes. */
#define FZ_STUB_SIZE    64
#define FZ_SLOT_SIZE    64
#define FZ_SYMBOLS_MAX  (FZ_SLOT_TOTAL + 1)
#define FZ_STRINGS_SIZE 36864
#define FZ_HASH_SIZE    1024
#define FZ_VERDEF_SIZE  2048

#define FZ_BUILD_ID_SIZE 16

#ifndef __ASSEMBLER__

#include <stdint.h>

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
 * within it.  If the answer was FZ_ANSWER_GO_ON, that hit is settled and the process
 * re-arms at its next due one; else it re-arms at once and asks again.
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

/* One --at.  Written by the launcher into the library file, before the app runs. */
struct fz_rule {
    uint64_t first;   /* the hit that is due, from 1 */
    uint64_t every;   /* 0, or every so many hits after the first */
    uint32_t counter; /* index into fz_control.counters */
    uint32_t reserved;
};

/*
 * Calls of one function in this process, its aliases' included; shared by all
 * threads, copied by fork, new at exec.  What every call writes has a cache line of
 * its own: beside it, reading `due` would cost as much again where threads contend.
 */
struct fz_counter {
    uint64_t hits; /* the stub, atomically; stands still while disarmed */
    uint64_t reserved0[7];
    uint64_t due; /* a lower bound of the next due hit; UINT64_MAX: disarmed.
                     Launcher at build; shim; the supervisor at any freeze. */
    /* The shim's bookkeeping of due hits under way: how many (rule, hit) pairs
     * have been seen, and the highest such hit.  Who changes rules at a freeze
     * sets `seen` to the pairs at or below `hits`, `highest` to `hits`; else due
     * stays a bound that is too low, which costs time and nothing else. */
    uint64_t seen, highest;
    uint64_t reserved1[5];
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
    /* Where the listener of a re-armed filter is sent: /run/freezepoint/JOB/...
     * Launcher at build, then the restoring side; in a program that a restored
     * process executes, the shim, by its cgroup.  Unix SEQPACKET, NUL-terminated. */
    char socket_path[FZ_PATH_MAX];
    uint32_t disarmed; /* shim: 1 once it stopped asking */
    uint32_t rule_count;
    uint32_t counter_count;
    uint32_t slot_count;
    uint32_t filter_length;                             /* in instructions */
    struct fz_filter_instruction filter[FZ_FILTER_MAX]; /* launcher at build */
    uint64_t rearmed_generation;                        /* shim: the generation it last armed for */
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

/*
 * One exported function, in the library's data; read and written by the shim
 * alone once the program runs.  Strings are offsets into the string table; 0: none.
 */
struct fz_slot {
    uint64_t target;                 /* shim: the real function; valid unless unresolved */
    uint32_t state;                  /* shim: FZ_STATE_* */
    uint32_t name, version, library; /* launcher */
    uint32_t counter;                /* launcher */
    uint32_t reserved0;
    uint64_t object; /* shim: where the target's library may be unloaded, its l_ld */
    uint64_t reserved[3];
};

/*
 * What the launcher must know of the template, at FZ_TEMPLATE_OFFSET in it.  All
 * values are offsets from the start of the file, which are the addresses from the
 * load address too.  Written by the linker (preload/preload.lds).
 */
#define FZ_TEMPLATE_OFFSET 512
#define FZ_TEMPLATE_MAGIC  0x31746c706d747a66ULL

struct fz_template {
    uint64_t magic, abi_version;
    uint64_t image_size; /* what follows is section headers and the like */
    uint64_t dynamic, dynamic_size, constructor;
    uint64_t hash, symbols, strings, versym, verdef;
    uint64_t slots, control, main_slot;
    /* FZ_SLOT_TOTAL stubs of FZ_STUB_SIZE.  Stub i < FZ_SLOT_MAX is assembled for
     * counter i; `operands` are the 32-bit displacements in it that name the
     * counter, relative to the stub's start. */
    uint64_t stubs, operands[3];
    uint64_t build_id; /* FZ_BUILD_ID_SIZE bytes; launcher */
};

/*
 * Whether the library at `path` is what `pattern` of LIBRARY:FUNCTION means: the
 * path itself where the pattern has a slash, else its base name in full
 * (libssl.so.3), or what stands before a dot or a version (libssl of libssl.so.3,
 * libc of libc-2.31.so, _sqlite3 of _sqlite3.cpython-311-x86_64-linux-gnu.so).
 */
static inline int fz_library_matches(const char *pattern, const char *path)
{
    const char *name = path;
    int has_slash = 0;
    for (const char *p = pattern; *p; p++)
        has_slash |= *p == '/';
    for (const char *p = path; !has_slash && *p; p++)
        if (*p == '/')
            name = p + 1;
    while (*pattern && *pattern == *name) {
        pattern++;
        name++;
    }
    if (*pattern)
        return 0;
    return !*name ||
           (!has_slash && (*name == '.' || (*name == '-' && name[1] >= '0' && name[1] <= '9')));
}

_Static_assert(sizeof(struct fz_rule) == 24, "abi");
_Static_assert(sizeof(struct fz_counter) == FZ_COUNTER_SIZE, "abi");
_Static_assert(sizeof(struct fz_rearm) == 32, "abi");
_Static_assert(sizeof(struct fz_slot) == FZ_SLOT_SIZE, "abi");
_Static_assert(__builtin_offsetof(struct fz_slot, state) == 8, "preload/stubs.S");
_Static_assert(__builtin_offsetof(struct fz_counter, due) == FZ_DUE_OFFSET, "preload/stubs.S");
_Static_assert(__builtin_offsetof(struct fz_control, counters) == FZ_COUNTERS_OFFSET, "abi");

#endif /* __ASSEMBLER__ */

#endif
