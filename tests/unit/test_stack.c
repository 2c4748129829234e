/* Unwinding and naming the stack of a real process. */
#include "lib/stack.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* The leak check takes what lies before the thread-local memory of a library that was
 * loaded later for a header of its, as in glibc 2.19, and may die of that. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "intercept_tls_get_addr=0";
}

struct seen {
    char symbols[64][64];
    size_t count;
};

static volatile int depth;

__attribute__((noinline, noipa)) static void innermost(void)
{
    for (;;)
        pause();
}

__attribute__((noinline, noipa)) static void middle(void)
{
    innermost();
    depth++;
}

__attribute__((noinline, noipa)) static void outermost(void)
{
    middle();
    depth++;
}

static void keep(const struct stack_frame *frame, void *context)
{
    struct seen *seen = context;
    snprintf(seen->symbols[seen->count++], 64, "%s", frame->symbol ? frame->symbol : "");
    if (frame->symbol && !strcmp(frame->symbol, "outermost")) {
        assert_non_null(strstr(frame->module, "test_stack"));
        assert_true(frame->offset > 0 && frame->symbol_offset > 0 && frame->symbol_offset < 64);
    }
}

static pid_t start_stopped(uint64_t registers[STACK_REGISTERS])
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        outermost();
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    usleep(50000);
    kill(child, SIGSTOP);
    assert_int_equal(waitpid(child, NULL, 0), child);
    struct user_regs_struct now;
    assert_int_equal(ptrace(PTRACE_GETREGS, child, NULL, &now), 0);
    const uint64_t ordered[STACK_REGISTERS] = {now.rax, now.rdx, now.rcx, now.rbx, now.rsi, now.rdi,
                                               now.rbp, now.rsp, now.r8,  now.r9,  now.r10, now.r11,
                                               now.r12, now.r13, now.r14, now.r15, now.rip};
    memcpy(registers, ordered, sizeof(ordered));
    return child;
}

static size_t position(const struct seen *seen, const char *symbol)
{
    for (size_t i = 0; i < seen->count; i++)
        if (!strcmp(seen->symbols[i], symbol))
            return i;
    fail_msg("no %s among %zu frames", symbol, seen->count);
    return 0;
}

static void callers_have_their_names(void **state)
{
    (void)state;
    uint64_t registers[STACK_REGISTERS];
    pid_t child = start_stopped(registers);
    struct stack stack = STACK_NONE;
    struct seen seen = {0};
    struct err err;
    int error = stack_copy(child, registers, &stack);
    /* Everything that is needed is in the copy. */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(error, 0);
    int count = stack_walk(&stack, 64, keep, &seen, &err);
    if (count < 0)
        fail_msg("%s", err.text);
    assert_int_equal(count, (int)seen.count);
    size_t inner = position(&seen, "innermost");
    assert_int_equal(position(&seen, "middle"), inner + 1);
    assert_int_equal(position(&seen, "outermost"), inner + 2);
    assert_true(position(&seen, "main") > inner + 2);
    stack_free(&stack);
    assert_null(stack.bytes);
}

static void no_more_frames_than_asked_for(void **state)
{
    (void)state;
    uint64_t registers[STACK_REGISTERS];
    pid_t child = start_stopped(registers);
    struct stack stack = STACK_NONE;
    struct seen seen = {0};
    struct err err;
    int error = stack_copy(child, registers, &stack);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(error, 0);
    assert_int_equal(stack_walk(&stack, 2, keep, &seen, &err), 2);
    stack_free(&stack);
}

static void a_wild_stack_pointer_is_an_error(void **state)
{
    (void)state;
    uint64_t registers[STACK_REGISTERS] = {[7] = 64};
    struct stack stack = STACK_NONE;
    assert_int_equal(stack_copy(getpid(), registers, &stack), -EFAULT);
    assert_null(stack.bytes);
}

/* Where it is, in a function whose frame is found by rbp. */
__attribute__((noinline, noipa)) static uint64_t place_with_frame_pointer(size_t size)
{
    volatile char *room = __builtin_alloca(size);
    uint64_t here;
    room[0] = 0;
    __asm__ volatile("leaq 0(%%rip), %0" : "=r"(here));
    return here + (uint64_t)room[0];
}

/* A program may ask by its own system call, with any registers. */
static void a_stack_of_a_few_bytes_is_kept_to(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    uint64_t bottom = (uint64_t)(uintptr_t)pages + page - 4;
    uint64_t registers[STACK_REGISTERS] = {
        [6] = bottom + (1ULL << 40), [7] = bottom, [16] = place_with_frame_pointer(64)};
    struct stack stack = STACK_NONE;
    struct seen seen = {0};
    struct err err;
    assert_int_equal(stack_copy(getpid(), registers, &stack), 0);
    assert_int_equal(stack.size, 4);
    assert_int_equal(stack_walk(&stack, 64, keep, &seen, &err), 1);
    assert_string_equal(seen.symbols[0], "place_with_frame_pointer");
    stack_free(&stack);
    munmap(pages, 2 * page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callers_have_their_names),
        cmocka_unit_test(no_more_frames_than_asked_for),
        cmocka_unit_test(a_wild_stack_pointer_is_an_error),
        cmocka_unit_test(a_stack_of_a_few_bytes_is_kept_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
