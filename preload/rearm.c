/*
 * A restored process has its filter back but nobody listens to it.  It installs
 * the filter once more and sends the new listener to the socket that the restoring
 * side wrote into the control block.  One thread does it for all (TSYNC).
 */
#include "preload/shim.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/time_types.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define REPLY_TIMEOUT_MS  5000
#define INTERRUPTIONS_MAX 100
#define WAIT_STEP_NS      1000000L
#define WAIT_STEPS        (REPLY_TIMEOUT_MS + 1000)

static uint64_t rearming; /* the process that a thread is at it in, or 0 */

static int install_filter(void)
{
    struct sock_fprog program = {.len = (unsigned short)fz_control.filter_length,
                                 .filter = (struct sock_filter *)fz_control.filter};
    if (program.len == 0 || program.len > FZ_FILTER_MAX)
        return -EINVAL;
    /* Without CAP_SYS_ADMIN this needs no_new_privs, which is not ours to set: it
     * would change what set-uid programs do that this one starts. */
    return (int)fz_syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER,
                           SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC |
                               SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
                               SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                           FZ_POINTER(&program), 0, 0, 0);
}

static int connect_supervisor(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    for (size_t i = 0; i < sizeof(address.sun_path) - 1 && i < FZ_PATH_MAX; i++)
        address.sun_path[i] = ((volatile char *)fz_control.socket_path)[i];
    /* Non-blocking: a full backlog is a failure, not a wait (net/unix/af_unix.c). */
    long fd =
        fz_syscall(__NR_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0);
    if (fd < 0)
        return (int)fd;
    long error =
        fz_syscall(__NR_connect, (uint64_t)fd, FZ_POINTER(&address), sizeof(address), 0, 0, 0);
    if (error < 0) {
        fz_syscall(__NR_close, (uint64_t)fd, 0, 0, 0, 0, 0);
        return (int)error;
    }
    return (int)fd;
}

/* After "/freezepoint/" in the line of the cgroup v2 hierarchy: where the job's name
 * begins, or NULL. */
static const char *find_job_name(const char *text)
{
    static const char group[] = "/freezepoint/";
    bool right_line = false;
    for (const char *c = text; *c; c++) {
        if (c == text || c[-1] == '\n')
            right_line = c[0] == '0' && c[1] == ':' && c[2] == ':';
        size_t same = 0;
        while (right_line && group[same] && c[same] == group[same])
            same++;
        if (right_line && !group[same])
            return c + same;
    }
    return NULL;
}

static void replace_job(const char *name)
{
    char *path = fz_control.socket_path, end[FZ_PATH_MAX];
    size_t length = 0, slash = 0, former = 0, at = 0;
    for (; length < FZ_PATH_MAX - 1 && path[length]; length++) {
        if (path[length] == '/') {
            former = slash;
            slash = length;
        }
    }
    while (slash + at < length) {
        end[at] = path[slash + at];
        at++;
    }
    end[at] = '\0';
    size_t to = former + 1;
    while (*name && *name != '/' && *name != '\n' && to < FZ_PATH_MAX - 1)
        path[to++] = *name++;
    for (at = 0; end[at] && to < FZ_PATH_MAX - 1; at++)
        path[to++] = end[at];
    path[to] = '\0';
}

void fz_find_job(void)
{
    char text[4096];
    long fd =
        fz_syscall(__NR_open, FZ_POINTER("/proc/self/cgroup"), O_RDONLY | O_CLOEXEC, 0, 0, 0, 0);
    if (fd < 0)
        return;
    long size = fz_syscall(__NR_read, (uint64_t)fd, FZ_POINTER(text), sizeof(text) - 1, 0, 0, 0);
    fz_syscall(__NR_close, (uint64_t)fd, 0, 0, 0, 0, 0);
    text[size > 0 ? size : 0] = '\0';
    const char *name = find_job_name(text);
    if (name)
        replace_job(name);
}

static bool send_listener(int socket, int listener, uint64_t generation)
{
    struct fz_rearm message = {.magic = FZ_CONTROL_MAGIC,
                               .control = FZ_POINTER(&fz_control),
                               .generation = generation,
                               .pid = (uint32_t)fz_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0)};
    struct {
        struct cmsghdr header;
        int fd;
    } __attribute__((aligned(8))) passed = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                                       .cmsg_level = SOL_SOCKET,
                                                       .cmsg_type = SCM_RIGHTS},
                                            .fd = listener};
    struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &passed,
                            .msg_controllen = CMSG_SPACE(sizeof(int))};
    return fz_syscall(__NR_sendmsg, (uint64_t)socket, FZ_POINTER(&header), MSG_NOSIGNAL, 0, 0, 0) ==
           (long)sizeof(message);
}

static bool await_reply(int socket)
{
    struct pollfd wanted = {.fd = socket, .events = POLLIN};
    /* Signals are blocked, but a stop by a tracer interrupts it as well. */
    long ready = -EINTR;
    for (int i = 0; i < INTERRUPTIONS_MAX && ready == -EINTR; i++)
        ready = fz_syscall(__NR_poll, FZ_POINTER(&wanted), 1, REPLY_TIMEOUT_MS, 0, 0, 0);
    if (ready <= 0)
        return false;
    struct fz_rearm_reply reply = {0};
    long size = fz_syscall(__NR_read, (uint64_t)socket, FZ_POINTER(&reply), sizeof(reply), 0, 0, 0);
    return size == (long)sizeof(reply) && reply.magic == FZ_CONTROL_MAGIC && reply.accepted == 1;
}

static bool rearm(uint64_t generation)
{
    /* First, so that no filter is added in vain where nobody is there. */
    int socket = connect_supervisor();
    if (socket < 0)
        return false;
    bool accepted = false;
    int listener = fz_load(&fz_control.generation) == generation ? install_filter() : -ESTALE;
    if (listener >= 0) {
        accepted = send_listener(socket, listener, generation) && await_reply(socket);
        /* Before the socket: its end tells the supervisor that both are closed. */
        fz_syscall(__NR_close, (uint64_t)listener, 0, 0, 0, 0, 0);
    }
    fz_syscall(__NR_close, (uint64_t)socket, 0, 0, 0, 0, 0);
    return accepted;
}

/* True where this thread is to do it. */
static bool begin(uint64_t process)
{
    uint64_t owner = 0;
    if (fz_swap_if(&rearming, &owner, process))
        return true;
    /* Forked while a thread of the parent was at it. */
    return owner != process && fz_swap_if(&rearming, &owner, process);
}

static bool await_other(void)
{
    struct __kernel_timespec step = {.tv_nsec = WAIT_STEP_NS};
    for (int i = 0; i < WAIT_STEPS && fz_load(&rearming); i++)
        fz_syscall(__NR_nanosleep, FZ_POINTER(&step), 0, 0, 0, 0, 0);
    return fz_load(&fz_control.rearmed_generation) == fz_load(&fz_control.generation) &&
           !fz_load(&fz_control.disarmed);
}

bool fz_ensure_armed(bool anew)
{
    if (fz_load(&fz_control.disarmed))
        return false;
    uint64_t generation = fz_load(&fz_control.generation);
    if (!anew && fz_load(&fz_control.rearmed_generation) == generation)
        return true;
    /* A signal handler on this thread that hits a point would wait for itself. */
    uint64_t all = UINT64_MAX, before = 0;
    fz_syscall(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, FZ_POINTER(&all), FZ_POINTER(&before),
               sizeof(all), 0, 0);
    bool armed;
    if (begin((uint64_t)fz_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0))) {
        /* Another process may have had the tree dumped before this one connected:
         * in a copy it then goes to the supervisor of the original. */
        do {
            generation = fz_load(&fz_control.generation);
            armed = (!anew && fz_load(&fz_control.rearmed_generation) == generation) ||
                    rearm(generation);
        } while (fz_load(&fz_control.generation) != generation);
        if (armed)
            fz_store(&fz_control.rearmed_generation, generation);
        else
            fz_disarm();
        fz_store(&rearming, 0);
    } else {
        armed = await_other();
    }
    fz_syscall(__NR_rt_sigprocmask, 2, FZ_POINTER(&before), 0, sizeof(before), 0, 0);
    return armed;
}
