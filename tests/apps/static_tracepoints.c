/*
 * CALLS [NAP]: passes that many times through a static tracepoint, tests:step, every time
 * after NAP microseconds: at two places by turns, each only where the semaphore says that
 * somebody looks.  Prints the number of each pass behind it, and at the end "passed N times,
 * seen M times, semaphore S".
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* As <sys/sdt.h> has them, which is not installed everywhere. */
volatile uint16_t tests_step_semaphore __attribute__((section(".probes"), used)) = 0;

#define TRACEPOINT()                                                                               \
    __asm__ volatile("990: nop\n"                                                                  \
                     ".pushsection .note.stapsdt, \"\", @note\n"                                   \
                     ".balign 4\n"                                                                 \
                     ".4byte 992f - 991f, 994f - 993f, 3\n"                                        \
                     "991: .asciz \"stapsdt\"\n"                                                   \
                     "992: .balign 4\n"                                                            \
                     "993: .8byte 990b, 0, tests_step_semaphore\n"                                 \
                     ".asciz \"tests\"\n"                                                          \
                     ".asciz \"step\"\n"                                                           \
                     ".asciz \"\"\n"                                                               \
                     "994: .balign 4\n"                                                            \
                     ".popsection\n")

static long seen;

static __attribute__((noipa)) void pass_even(void)
{
    if (!tests_step_semaphore)
        return;
    seen++;
    TRACEPOINT();
}

static __attribute__((noipa)) void pass_odd(void)
{
    if (!tests_step_semaphore)
        return;
    TRACEPOINT();
    seen++;
}

int main(int argc, char **argv)
{
    long calls = argc > 1 ? atol(argv[1]) : 100, nap_us = argc > 2 ? atol(argv[2]) : 0;
    for (long i = 1; i <= calls; i++) {
        if (i & 1)
            pass_odd();
        else
            pass_even();
        printf("%ld\n", i);
        fflush(stdout);
        if (nap_us)
            nanosleep(&(struct timespec){nap_us / 1000000, nap_us % 1000000 * 1000}, NULL);
    }
    printf("passed %ld times, seen %ld times, semaphore %d\n", calls, seen, tests_step_semaphore);
    return 0;
}
