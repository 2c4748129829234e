/* PROCESSES CALLS: as many child processes as that, which all begin at once, and each of
 * which calls rand_r() that many times, 10 ms apart; says at the end whether each call
 * was executed once. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/apps/rand_r.h"

static int work(int start, unsigned int seed, int calls)
{
    char byte;
    int wrong = read(start, &byte, 1) != 0;
    for (int i = 0; i < calls; i++) {
        wrong += !draws_right(&seed);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return wrong != 0;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 8, calls = argc > 2 ? atoi(argv[2]) : 3;
    int start[2], status, wrong = 0;
    if (pipe(start) < 0)
        return 1;
    for (int i = 0; i < count; i++) {
        if (fork() == 0) {
            close(start[1]);
            _exit(work(start[0], (unsigned int)i + 1, calls));
        }
    }
    close(start[1]);
    while (wait(&status) > 0)
        wrong += status != 0;
    printf("%d processes, %s\n", count, wrong ? "some WRONG" : "each call executed once");
    return wrong != 0;
}
