#include "lib/fence.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proc.h"

#define ANSWER_TIMEOUT_MS 5000
#define END_TIMEOUT_MS    2000

#define CHILD_DESCRIPTORS_MAX 64

/* Said last, and answered without the kernel: when its answer is there, all is done. */
static const char last_command[] = "describe tcp dport\n", last_answer[] = "16 bits\n";

_Noreturn static void become_nft(int in, int out)
{
    static const char *const places[] = {"/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_IGN);
    setsid();
    if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0)
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
            execl(places[i], "nft", "-i", (char *)NULL);
    _exit(127);
}

static int start_child(struct fence *fence, struct err *err)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    fence->to = to[1];
    _cleanup_close_ int its_in = to[0];
    if (pipe2(from, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    fence->from = from[0];
    _cleanup_close_ int its_out = from[1];
    fence->pid = fork();
    if (fence->pid == 0)
        become_nft(its_in, its_out);
    if (fence->pid < 0)
        return err_set(err, errno, "fork");
    fence->pidfd = proc_pidfd_open(fence->pid);
    return fence->pidfd < 0 ? err_set(err, -fence->pidfd, "pidfd_open") : 0;
}

/* Enough for what may have come in part: a complaint's beginning, or the last answer. */
#define KEPT 512

static void note_complaint(const char *text, char *first, size_t size)
{
    const char *complaint = strstr(text, "Error: ");
    if (*first || !complaint || !strchr(complaint, '\n'))
        return;
    complaint += strlen("Error: ");
    snprintf(first, size, "%.*s", (int)strcspn(complaint, "\n"), complaint);
}

static bool is_netfilter_socket(int fd)
{
    int domain = 0, protocol = 0;
    socklen_t size = sizeof(int);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_NETLINK &&
           getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
           protocol == NETLINK_NETFILTER;
}

/* It has only few descriptors. */
static int take_socket(struct fence *fence, struct err *err)
{
    for (int number = 0; number < CHILD_DESCRIPTORS_MAX && fence->socket < 0; number++) {
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_getfd, fence->pidfd, number, 0);
        if (fd >= 0 && is_netfilter_socket(fd))
            fence->socket = fd_steal(&fd);
    }
    return fence->socket < 0 ? err_text(err, ENOENT, "nft has no socket that could be held") : 0;
}

/* What it says is nothing but complaints, and in the end the last answer. */
static int hear(struct fence *fence, struct err *err)
{
    char text[4096], first[256] = "";
    size_t length = 0;
    for (;;) {
        int ready = fd_wait(fence->from, POLLIN, ANSWER_TIMEOUT_MS);
        if (ready <= 0)
            return err_text(err, ETIMEDOUT, "nft does not answer");
        ssize_t n = read(fence->from, text + length, sizeof(text) - 1 - length);
        if (n <= 0)
            return err_lack(err, "nft is missing or has ended; install nftables");
        length += (size_t)n;
        text[length] = '\0';
        note_complaint(text, first, sizeof(first));
        if (length >= strlen(last_answer) &&
            !strcmp(text + length - strlen(last_answer), last_answer))
            break;
        /* Its beginning is not needed any more. */
        if (length > sizeof(text) / 2) {
            memmove(text, text + length - KEPT, KEPT);
            length = KEPT;
        }
    }
    return *first ? err_lack(err, "nftables cannot keep packets away: %s", first) : 0;
}

/* A script is made in memory and said as a whole. */
struct script {
    char *text;
    size_t size;
    FILE *stream;
    size_t rules; /* on this line */
};

/* Each line is a transaction of the kernel's, whose cost grows with the rules that are
 * there: 4000 rules one by one take 8 s, and 0.3 s in lines of 64. */
#define RULES_PER_LINE 64

static void end_rule(struct script *script)
{
    script->rules = (script->rules + 1) % RULES_PER_LINE;
    fputc(script->rules ? ';' : '\n', script->stream);
}

static int open_script(struct script *script, struct err *err)
{
    *script = (struct script){.rules = 0};
    script->stream = open_memstream(&script->text, &script->size);
    return script->stream ? 0 : err_set(err, ENOMEM, "rules for nft");
}

static int say(struct fence *fence, struct script *script, struct err *err)
{
    if (script->rules)
        fputc('\n', script->stream);
    fputs(last_command, script->stream);
    bool failed = fclose(script->stream) != 0;
    ssize_t n = failed ? -ENOMEM : fd_write_all(fence->to, script->text, script->size);
    free(script->text);
    if (n < 0)
        return err_set(err, (int)-n, "tell nft");
    return hear(fence, err);
}

int fence_start(const char *name, struct fence *out, struct err *err)
{
    struct fence fence = FENCE_NONE;
    struct script script = {0};
    snprintf(fence.name, sizeof(fence.name), "freezepoint-%.16s", name);
    int error = start_child(&fence, err);
    if (!error)
        error = open_script(&script, err);
    if (!error) {
        const char *t = fence.name;
        fprintf(script.stream,
                "add table inet %s { flags owner; }\n"
                "add chain inet %s in { type filter hook prerouting priority -310; }\n"
                "add chain inet %s out { type filter hook output priority -310; }\n"
                "add table arp %s { flags owner; }\n"
                "add chain arp %s in { type filter hook input priority -310; }\n"
                "add chain arp %s out { type filter hook output priority -310; }\n",
                t, t, t, t, t, t);
        error = say(&fence, &script, err);
    }
    if (!error)
        error = take_socket(&fence, err);
    if (error) {
        fence_end(&fence);
        return error;
    }
    *out = fence;
    return 0;
}

/* "ip daddr 10.0.0.1 tcp dport 80", for `side` 'd' or 's'. */
static void write_place(FILE *to, const struct socket_address *place, char side)
{
    char address[INET6_ADDRSTRLEN];
    inet_ntop(place->family, &place->v6, address, sizeof(address));
    if (!socket_address_is_any(place))
        fprintf(to, "%s %caddr %s ", place->family == AF_INET ? "ip" : "ip6", side, address);
    if (place->port)
        fprintf(to, "tcp %cport %u ", side, place->port);
}

int fence_refuse_new(struct fence *fence, const struct socket_address *places, size_t count,
                     struct err *err)
{
    struct script script;
    int error = open_script(&script, err);
    if (error)
        return error;
    for (size_t i = 0; i < count; i++) {
        fprintf(script.stream, "add rule inet %s in ", fence->name);
        write_place(script.stream, &places[i], 'd');
        fputs("tcp flags & (syn | ack) == syn drop", script.stream);
        end_rule(&script);
    }
    return say(fence, &script, err);
}

/* Who asks where the address is. */
static void hide(struct script *script, const char *table, const struct socket_address *place)
{
    char address[INET6_ADDRSTRLEN];
    inet_ntop(place->family, &place->v6, address, sizeof(address));
    if (place->family == AF_INET) {
        fprintf(script->stream, "add rule arp %s in arp daddr ip %s drop", table, address);
        end_rule(script);
        fprintf(script->stream, "add rule arp %s out arp saddr ip %s drop", table, address);
        end_rule(script);
        return;
    }
    /* The target address: nft of Debian 12 has no name for it. */
    fprintf(script->stream, "add rule inet %s in icmpv6 type nd-neighbor-solicit @th,64,128 0x",
            table);
    for (size_t i = 0; i < sizeof(place->v6); i++)
        fprintf(script->stream, "%02x", place->v6.s6_addr[i]);
    fputs(" drop", script->stream);
    end_rule(script);
}

int fence_close_off(struct fence *fence, const struct socket_address *places, size_t count,
                    struct err *err)
{
    struct script script;
    int error = open_script(&script, err);
    if (error)
        return error;
    for (size_t i = 0; i < count; i++) {
        const char *const chains = "ds";
        for (size_t k = 0; k < 2; k++) {
            fprintf(script.stream, "add rule inet %s %s ", fence->name, k == 0 ? "in" : "out");
            write_place(script.stream, &places[i], chains[k]);
            fputs("drop", script.stream);
            end_rule(&script);
        }
        if (places[i].port == 0)
            hide(&script, fence->name, &places[i]);
    }
    return say(fence, &script, err);
}

int fence_open(struct fence *fence, struct err *err)
{
    struct script script;
    int error = open_script(&script, err);
    if (error)
        return error;
    fprintf(script.stream, "delete table inet %s\ndelete table arp %s\n", fence->name, fence->name);
    return say(fence, &script, err);
}

void fence_end(struct fence *fence)
{
    fd_close(&fence->to);
    if (fence->pid > 0) {
        if (fence->pidfd < 0 || fd_wait(fence->pidfd, POLLIN, END_TIMEOUT_MS) <= 0)
            kill(fence->pid, SIGKILL);
        waitpid(fence->pid, NULL, 0);
    }
    fd_close(&fence->from);
    fd_close(&fence->pidfd);
    fd_close(&fence->socket);
    *fence = FENCE_NONE;
}
