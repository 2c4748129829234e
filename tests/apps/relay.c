/*
 * COMMAND...: a link that can be cut.  Runs the command, and passes bytes on between its
 * standard streams and our own.  A file descriptor's end is passed on as well.
 *
 *   SIGUSR1   passes nothing on any more, either way, and says nothing of it
 *   SIGUSR2   passes half of what comes next, either way, and ends
 *   SIGTSTP, SIGTTIN  passes nothing on any more from, to the command
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t silent[2], halve;

static void note(int number)
{
    silent[0] |= number == SIGUSR1 || number == SIGTTIN;
    silent[1] |= number == SIGUSR1 || number == SIGTSTP;
    halve |= number == SIGUSR2;
}

static void put(int fd, const char *bytes, size_t size)
{
    while (size) {
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EAGAIN)
            poll(&room, 1, -1);
        else if (n < 0 && errno != EINTR)
            exit(0);
        if (n > 0) {
            bytes += n;
            size -= (size_t)n;
        }
    }
}

/* False at the end. */
static int pass(int from, int to)
{
    static char bytes[65536];
    ssize_t n = read(from, bytes, sizeof(bytes));
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (halve) {
        put(to, bytes, (size_t)n / 2);
        exit(0);
    }
    put(to, bytes, (size_t)n);
    return n > 0;
}

int main(int argc, char **argv)
{
    int to[2], from[2], status = 0;
    if (argc < 2 || pipe(to) < 0 || pipe(from) < 0)
        return 1;
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[0]);
        close(to[1]);
        close(from[0]);
        close(from[1]);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    const int numbers[] = {SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        signal(numbers[i], note);
    signal(SIGPIPE, SIG_IGN);
    struct pollfd ways[2] = {{.fd = 0, .events = POLLIN}, {.fd = from[0], .events = POLLIN}};
    while (ways[1].fd >= 0) {
        struct pollfd now[2] = {ways[0], ways[1]};
        /* Not even an end is passed on in silence. */
        for (int i = 0; i < 2; i++)
            now[i].fd = silent[i] ? -1 : ways[i].fd;
        if (poll(now, 2, 50) < 0)
            continue;
        if (now[0].revents && !silent[0] && !pass(0, to[1])) {
            close(to[1]);
            ways[0].fd = -1;
        }
        if (now[1].revents && !silent[1] && !pass(from[0], 1))
            ways[1].fd = -1;
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
