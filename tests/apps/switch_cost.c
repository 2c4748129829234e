/* Two processes on one processor wake each other through pipes, in short rounds; prints
 * the nanoseconds per context switch of the fastest round, which nothing else on the
 * machine has disturbed. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 200
#define TURNS  2000

static double monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void answer(int from, int to)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1)
        ;
    _exit(0);
}

int main(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    int there[2], back[2];
    if (sched_setaffinity(0, sizeof(one), &one) < 0 || pipe(there) < 0 || pipe(back) < 0)
        return 1;
    if (fork() == 0) {
        close(there[1]);
        close(back[0]);
        answer(there[0], back[1]);
    }
    double fastest = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = monotonic_ns();
        char byte = 0;
        for (int i = 0; i < TURNS; i++)
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                return 1;
        double took = (monotonic_ns() - start) / (2 * TURNS);
        if (round == 0 || took < fastest)
            fastest = took;
    }
    printf("%.1f\n", fastest);
    return 0;
}
