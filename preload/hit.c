/*
 * A due hit, and the conversation with the supervisor.
 *
 * Exactly once: the stub's locked addition gives every call its own number, and the
 * thread whose number a rule names asks about it.  `due` only decides who looks:
 * it may be too low, never above a number that a thread holds and has not yet
 * compared.  A thread can be preempted between the two for any time, so `due` is
 * raised only once every due hit up to the highest seen one has been seen: their
 * count is then what the rules say it is.
 */
#include "preload/shim.h"

#include <asm/unistd.h>
#include <errno.h>

/* Each repetition takes a signal or a restore, so this is no wait but a bound. */
#define ASK_MAX (1 << 20)

#define NEVER UINT64_MAX

struct fz_control fz_control __attribute__((section(".data"))) = {
    .magic = FZ_CONTROL_MAGIC,
    .abi_version = FZ_ABI_VERSION,
    .size = sizeof(struct fz_control),
};

void fz_disarm(void)
{
    fz_store(&fz_control.disarmed, 1);
    for (size_t i = 0; i < FZ_SLOT_MAX; i++)
        fz_store(&fz_control.counters[i].due, NEVER);
}

/* Asks until there is an answer that settles it, re-arming where the process was
 * restored before or within the call.  `inherited`: the filter is the one of who
 * executed this program; if nobody listens to it, that may have been a restored
 * process that had not re-armed itself yet. */
static void ask(enum fz_op op, uint64_t a2, uint64_t a3, uint64_t a4, bool inherited)
{
    for (int i = 0; i < ASK_MAX; i++) {
        if (!fz_ensure_armed(false))
            return;
        uint64_t armed = fz_load(&fz_control.rearmed_generation);
        long answer = fz_syscall(__NR_getpid, FZ_CALL_MAGIC, op, a2, a3, a4, 0);
        /* Also where the process was restored since: it arms itself at its next due
         * hit, rather than have the program wait for that now. */
        if (answer == FZ_ANSWER_GO_ON)
            return;
        bool lost = answer == -ENOSYS && inherited;
        bool restored = fz_load(&fz_control.generation) != armed;
        if (lost)
            fz_find_job();
        if ((restored || lost) && !fz_ensure_armed(lost))
            return;
        if (answer != -EINTR && !(answer == -ENOSYS && (restored || lost))) {
            fz_disarm();
            return;
        }
        inherited = inherited && !lost;
    }
}

/* How many hits up to `number` the rule makes due. */
static uint64_t due_up_to(const struct fz_rule *rule, uint64_t number)
{
    if (number < rule->first)
        return 0;
    return rule->every ? (number - rule->first) / rule->every + 1 : 1;
}

static uint64_t due_after(const struct fz_rule *rule, uint64_t number)
{
    if (number < rule->first)
        return rule->first;
    uint64_t next;
    if (!rule->every || __builtin_mul_overflow(due_up_to(rule, number), rule->every, &next) ||
        __builtin_add_overflow(next, rule->first, &next))
        return NEVER;
    return next;
}

static bool is_due(const struct fz_rule *rule, uint64_t number)
{
    return number && due_up_to(rule, number) != due_up_to(rule, number - 1);
}

static uint32_t rule_count(void)
{
    uint32_t count = fz_load(&fz_control.rule_count);
    return count < FZ_RULE_MAX ? count : FZ_RULE_MAX;
}

/* Notes that `pairs` rules have their hit `number`, and raises `due` if that leaves
 * no due hit below the highest one in the hands of a thread. */
static void note_seen(uint32_t index, uint64_t number, uint64_t pairs)
{
    struct fz_counter *counter = &fz_control.counters[index];
    uint64_t highest = fz_load(&counter->highest);
    while (highest < number && !fz_swap_if(&counter->highest, &highest, number))
        ;
    /* In this order: who reads `seen` finds a `highest` not below any of them. */
    uint64_t seen = __atomic_add_fetch(&counter->seen, pairs, __ATOMIC_SEQ_CST);
    highest = __atomic_load_n(&counter->highest, __ATOMIC_SEQ_CST);
    uint64_t expected = 0, next = NEVER;
    for (uint32_t i = 0; i < rule_count(); i++) {
        const struct fz_rule *rule = &fz_control.rules[i];
        if (rule->counter != index)
            continue;
        expected += due_up_to(rule, highest);
        uint64_t after = due_after(rule, highest);
        next = after < next ? after : next;
    }
    if (seen != expected)
        return;
    uint64_t due = fz_load(&counter->due);
    while (due < next && !fz_swap_if(&counter->due, &due, next))
        ;
}

void fz_hit(uint32_t slot, uint64_t number)
{
    uint32_t index = fz_slots[slot].counter % FZ_SLOT_MAX;
    uint32_t count = rule_count();
    uint64_t pairs = 0;
    for (uint32_t i = 0; i < count; i++)
        if (fz_control.rules[i].counter == index && is_due(&fz_control.rules[i], number))
            pairs++;
    if (!pairs)
        return;
    note_seen(index, number, pairs);
    for (uint32_t i = 0; i < count && !fz_load(&fz_control.disarmed); i++)
        if (fz_control.rules[i].counter == index && is_due(&fz_control.rules[i], number)) {
            fz_probe_point(i, number);
            ask(FZ_OP_POINT, i, number, FZ_POINTER(&fz_control), false);
        }
}

void fz_constructor(void)
{
    /* Now rather than at the first call: no other thread is there yet, and nothing
     * is in the argument registers. */
    fz_resolve_all();
    ask(FZ_OP_HELLO, FZ_POINTER(&fz_control), 0, 0, true);
}
