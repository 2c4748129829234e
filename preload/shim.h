/*
 * Inside the shim.
 *
 * The contract of everything under preload/: it runs in other people's programs,
 * on any thread, in signal handlers, before libc is ready and between vfork and
 * exec.  So: no libc, no relocations, no thread-local storage, no locks, no
 * allocation, no vector registers; raw system calls only; errno and all argument
 * registers stay as they are; small stack frames.  Only stubs.S and the functions
 * called from it know about registers.
 */
#ifndef FREEZEPOINT_SHIM_H
#define FREEZEPOINT_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preload/abi.h"

/* Without this the compiler would go through relocated pointers. */
#pragma GCC visibility push(hidden)

/* What stubs.S saves, lowest address first.  Changes are carried into the call. */
struct fz_frame {
    uint64_t rdi, rsi, rdx, rcx, r8, r9, rax, r10;
    uint64_t slot;
    uint64_t number; /* of the hit; 0: nothing was counted */
};

extern struct fz_control fz_control;
extern struct fz_slot fz_slots[FZ_SLOT_TOTAL];
extern const char fz_strings[];
extern const char fz_stubs[];
extern uint32_t fz_main_slot; /* the slot of `main` plus 1, or 0; launcher */

#define fz_load(pointer)         __atomic_load_n(pointer, __ATOMIC_ACQUIRE)
#define fz_store(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_RELEASE)
#define fz_swap_if(pointer, expected, value)                                                       \
    __atomic_compare_exchange_n(pointer, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

static inline long fz_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                              uint64_t e, uint64_t f)
{
    long result;
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define FZ_POINTER(pointer) ((uint64_t)(uintptr_t)(pointer))

/* hit.c */
void fz_constructor(void);
void fz_hit(uint32_t slot, uint64_t number);
void fz_disarm(void);

/* rearm.c: true where a supervisor listens to this generation of the process;
 * false where there is none (then disarmed) or another thread is still at it.
 * `anew`: even if it seemed so already. */
bool fz_ensure_armed(bool anew);

/* A program that a restored process executes has the library as it was built, with
 * the socket of the job that was launched: sets that of the job whose group it is in. */
void fz_find_job(void);

/* usdt.c: tells tracers, if there are any, of a due hit. */
void fz_probe_point(uint64_t rule, uint64_t hit);

/* slots.c: where a stub goes on to.  Called from stubs.S. */
uint64_t fz_enter(struct fz_frame *frame);
void fz_resolve_all(void);
/* What the function of a name that no library has does: returns 0. */
extern const char fz_absent[];
/* Calls an IFUNC resolver and keeps the vector registers, in which the arguments
 * of the call under way may be. */
uint64_t fz_call_resolver(uint64_t resolver);

/* libraries.c */
struct fz_found {
    uint64_t address;
    uint64_t object;    /* its l_ld */
    const char *path;   /* l_name */
    const char *soname; /* or NULL */
};

/* The function that a reference to it would have been bound to, had this library
 * not been there.  version NULL: the default one.  Within a walk (unload.c). */
bool fz_find_function(const char *name, const char *version, struct fz_found *found);

/* Whether an object whose dynamic section is there is still loaded. */
bool fz_object_is_loaded(uint64_t l_ld);

bool fz_equal(const char *a, const char *b);

/* unload.c: each begin is given a place that its end takes back. */
int fz_begin_walk(void);
void fz_end_walk(int place);
int fz_begin_unload(void);
void fz_end_unload(int place);

#pragma GCC visibility pop

#endif
