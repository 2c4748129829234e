/*
 * Keeps a walk over the loaded libraries and a dlclose() apart.  Both sides enter
 * themselves before they look for the other, so at least one sees the other; all
 * waits are short and bounded, since a library's destructor may itself wait for a
 * thread that is about to walk.
 *
 * Not a lock: a thread that is itself unloading (a destructor that calls a wrapped
 * function) walks at once; a crowd larger than the table is not kept apart; entries
 * that a fork copied from other threads do not count.
 */
#include "preload/shim.h"

#include <asm/unistd.h>
#include <linux/time_types.h>

#define PRESENT_MAX  32
#define WAIT_STEP_NS 100000L
#define WAIT_STEPS   2000

/* Process in the upper half, thread in the lower; 0: free. */
static uint64_t walking[PRESENT_MAX], unloading[PRESENT_MAX];

static uint64_t self_id(void)
{
    return (uint64_t)fz_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0) << 32 |
           (uint32_t)fz_syscall(__NR_gettid, 0, 0, 0, 0, 0, 0);
}

/* Returns the place, or -1 where all are taken. */
static int enter(uint64_t *table, uint64_t self)
{
    for (int i = 0; i < PRESENT_MAX; i++) {
        uint64_t found = fz_load(&table[i]);
        if ((found == 0 || found >> 32 != self >> 32) && fz_swap_if(&table[i], &found, self))
            return i;
    }
    return -1;
}

static void leave(uint64_t *table, int place)
{
    if (place >= 0)
        fz_store(&table[place], 0);
}

static bool has_self(const uint64_t *table, uint64_t self)
{
    for (int i = 0; i < PRESENT_MAX; i++)
        if (fz_load(&table[i]) == self)
            return true;
    return false;
}

static bool has_others(const uint64_t *table, uint64_t self)
{
    for (int i = 0; i < PRESENT_MAX; i++) {
        uint64_t found = __atomic_load_n(&table[i], __ATOMIC_SEQ_CST);
        if (found && found >> 32 == self >> 32 && found != self)
            return true;
    }
    return false;
}

static void sleep_a_step(void)
{
    struct __kernel_timespec step = {.tv_nsec = WAIT_STEP_NS};
    fz_syscall(__NR_nanosleep, FZ_POINTER(&step), 0, 0, 0, 0, 0);
}

int fz_begin_walk(void)
{
    uint64_t self = self_id();
    int place = enter(walking, self);
    for (int i = 0; i < WAIT_STEPS; i++) {
        if (!has_others(unloading, self) || has_self(unloading, self))
            break;
        leave(walking, place);
        sleep_a_step();
        place = enter(walking, self);
    }
    return place;
}

void fz_end_walk(int place)
{
    leave(walking, place);
}

int fz_begin_unload(void)
{
    uint64_t self = self_id();
    int place = enter(unloading, self);
    for (int i = 0; i < WAIT_STEPS && has_others(walking, self); i++)
        sleep_a_step();
    return place;
}

void fz_end_unload(int place)
{
    leave(unloading, place);
}
