/*
 * The functional probe of CRIU, over the road that programs take: a small process
 * with a listening TCP socket (and a filter, and where asked for an open
 * connection to itself) is dumped where it was born, restored inside fresh pid,
 * mount and network namespaces, and asked through its socket whether it is well.
 *
 * It is not born in a mount namespace of its own, since as a fork it maps files
 * through the mounts of ours, which CRIU would look for in vain there.  Only the
 * network is new for it: the prober itself has left ours.
 */
#include "lib/criu.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/dir.h"
#include "lib/fd.h"
#include "lib/job.h"
#include "lib/probe_list.h"
#include "lib/proc.h"
#include "lib/spawn.h"

#define CRIU_MS  7000 /* for each of dump and restore */
#define PART_MS  9000 /* for all of the restoring side */
#define REPLY_MS 1500
#define PORT     4242
#define LOG_ROOT JOB_LOG_ROOT "/.doctor"

struct trial {
    char criu[PATH_MAX];
    char images[PATH_MAX]; /* a temporary directory of ours; empty: none */
    bool established;
    pid_t subject; /* a child of ours; 0: none */
};

static void remove_images(struct trial *trial)
{
    struct err ignored;
    if (trial->images[0])
        dir_remove_recursive(AT_FDCWD, trial->images, &ignored);
}

static const struct sockaddr_in address = {
    .sin_family = AF_INET, .sin_port = __builtin_bswap16(PORT), .sin_addr = {0x0100007f}};

static int open_listener(void)
{
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
        return -errno;
    return fd;
}

static int connect_to_subject(void)
{
    struct timeval bound = {.tv_sec = REPLY_MS / 1000};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return fd_steal(&fd);
}

/* The subject's sockets. */
struct subject {
    int listener;
    int near, far; /* the two ends of its connection to itself, or -1 */
};

static int open_sockets(struct subject *subject, bool established)
{
    *subject = (struct subject){.listener = open_listener(), .near = -1, .far = -1};
    if (subject->listener < 0)
        return subject->listener;
    if (!established)
        return 0;
    subject->near = connect_to_subject();
    if (subject->near < 0)
        return subject->near;
    subject->far = accept4(subject->listener, NULL, NULL, SOCK_CLOEXEC);
    return subject->far < 0 ? -errno : 0;
}

static bool connection_works(const struct subject *subject)
{
    char sent = 'x', received = 0;
    if (subject->near < 0)
        return true;
    return write(subject->near, &sent, 1) == 1 && fd_wait(subject->far, POLLIN, REPLY_MS) > 0 &&
           read(subject->far, &received, 1) == 1 && received == sent;
}

__attribute__((noreturn)) static void serve(const struct subject *subject)
{
    for (;;) {
        int client = accept4(subject->listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        char reply = connection_works(subject) ? 'y' : 'n';
        send(client, &reply, 1, MSG_NOSIGNAL);
        close(client);
    }
}

/* Says 0 or its errno into ready_fd and closes that, so that nothing which leads
 * out of the namespaces is left to dump. */
__attribute__((noreturn)) static void run_subject(int ready_fd, bool established)
{
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null_fd = chdir("/") < 0 ? -1 : open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    dup2(ready_fd, 3);
    close_range(4, ~0U, 0);
    struct subject subject;
    int errnum = -open_sockets(&subject, established);
    /* With a filter whose listener has gone, as a program that was restored has it. */
    int filter_listener = errnum ? -1 : probe_seccomp_install();
    fd_close(&filter_listener);
    if (fd_write_all(3, &errnum, sizeof(errnum)) < 0 || errnum)
        _exit(1);
    close(3);
    serve(&subject);
}

static int start_subject(struct trial *trial, struct err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set(err, errno, "pipe");
    _cleanup_close_ int from = fds[0];
    _cleanup_close_ int to = fds[1];
    trial->subject = fork();
    if (trial->subject < 0)
        return err_set(err, errno, "fork");
    if (trial->subject == 0)
        run_subject(to, trial->established);
    fd_close(&to);
    int errnum = 0;
    if (fd_wait(from, POLLIN, REPLY_MS) <= 0 ||
        fd_read_all(from, &errnum, sizeof(errnum)) != (ssize_t)sizeof(errnum))
        return err_text(err, EPIPE, "the process to dump does not start");
    if (errnum)
        return err_set(err, errnum, "listen on a TCP socket in a new network namespace");
    /* The end of file: it has closed the pipe, which could not be dumped. */
    char byte;
    return fd_wait(from, POLLIN, REPLY_MS) > 0 && read(from, &byte, 1) == 0
               ? 0
               : err_text(err, EPIPE, "the process to dump does not get ready");
}

static void fill_options(const struct trial *trial, CriuOpts *options)
{
    criu_opts__init(options);
    options->images_dir_fd = -1;
    options->images_dir = (char *)trial->images;
    options->has_log_level = true;
    options->log_level = 2;
    options->has_manage_cgroups_mode = true;
    options->manage_cgroups_mode = CRIU_CG_MODE__IGNORE;
    options->has_tcp_established = true;
    options->tcp_established = trial->established;
    options->has_network_lock = true;
    options->network_lock =
        trial->established ? CRIU_NETWORK_LOCK_METHOD__NFTABLES : CRIU_NETWORK_LOCK_METHOD__SKIP;
}

static void free_response(CriuResp **response)
{
    if (*response)
        criu_resp__free_unpacked(*response, NULL);
}

/* A CRIU that cannot start at all on this kernel fails before it opens the log
 * of a request; its self-check then tells why. */
static void log_check(const char *criu, const char *path)
{
    char ignored[16];
    struct err ignored_err;
    char *const argv[] = {(char *)criu, "check", "-o", (char *)path, NULL};
    spawn_capture(argv, REPLY_MS, ignored, sizeof(ignored), &ignored_err);
}

/* The images go away; the log of a failure stays, and is what *err names. */
static int explain(const struct trial *trial, const char *what, const char *log_name,
                   const CriuResp *response, struct err *err)
{
    char from[PATH_MAX + 32], to[PATH_MAX];
    int error = dir_make(LOG_ROOT, 0700, err);
    if (error)
        return error;
    snprintf(from, sizeof(from), "%s/%s", trial->images, log_name);
    snprintf(to, sizeof(to), LOG_ROOT "/%s", log_name);
    unlink(to);
    if (rename(from, to) < 0)
        log_check(trial->criu, to);
    return criu_explain(what, response, to, err);
}

static int request(const struct trial *trial, CriuReqType type, CriuOpts *options, const char *what,
                   struct err *err)
{
    _cleanup_(criu_worker_end) struct criu_worker worker = CRIU_WORKER_NONE;
    _cleanup_(free_response) CriuResp *response = NULL;
    CriuReq message = CRIU_REQ__INIT;
    message.type = type;
    message.opts = options;
    int error = criu_worker_start(trial->criu, 0, &worker, err);
    if (!error)
        error = criu_send(worker.socket, &message, err);
    /* An absolute bound, unlike criu_receive()'s: so little is soon done. */
    if (!error && fd_wait(worker.socket, POLLIN, CRIU_MS) <= 0)
        error = err_text(err, ETIMEDOUT, "%s: no end within %d ms", what, CRIU_MS);
    if (!error)
        error = criu_receive(&worker, worker.pid, CRIU_MS, &response, err);
    /* It has died: ECONNRESET where it did so before it read the request. */
    bool died = error == -EPIPE || error == -ECONNRESET;
    if (error && !died)
        return error;
    if (died || !response->success)
        return explain(trial, what, options->log_file, response, err);
    return 0;
}

static int dump_subject(const struct trial *trial, struct err *err)
{
    CriuOpts options;
    fill_options(trial, &options);
    options.log_file = (char *)"dump.log";
    options.has_pid = true;
    options.pid = trial->subject;
    options.has_leave_running = true;
    options.leave_running = true;
    return request(trial, CRIU_REQ_TYPE__DUMP, &options, "dump", err);
}

static int restore_subject(const struct trial *trial, struct err *err)
{
    CriuOpts options;
    fill_options(trial, &options);
    options.log_file = (char *)"restore.log";
    options.has_rst_sibling = true;
    options.rst_sibling = true;
    int error = request(trial, CRIU_REQ_TYPE__RESTORE, &options, "restore", err);
    if (error)
        return error;
    char reply = 0;
    _cleanup_close_ int fd = connect_to_subject();
    if (fd < 0)
        return err_set(err, -fd, "connect to the restored process");
    if (recv(fd, &reply, 1, 0) != 1)
        return err_text(err, EIO, "the restored process does not serve its socket");
    if (reply != 'y')
        return err_text(err, EIO, "the restored process's own TCP connection is dead");
    return 0;
}

static int raise_loopback(struct err *err)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &loopback) < 0)
        return err_set(err, errno, "bring the loopback interface up");
    return 0;
}

/* CRIU itself must not sit on the number that the image needs. */
static int reserve_pid(pid_t subject, struct err *err)
{
    char text[16];
    int length = snprintf(text, sizeof(text), "%d", subject + 1);
    _cleanup_close_ int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    /* EINVAL: the number is pid_max itself, and low ones come next. */
    if (fd < 0 || (write(fd, text, (size_t)length) < 0 && errno != EINVAL))
        return err_set(err, errno, "set ns_last_pid");
    return 0;
}

static int enter_namespaces(pid_t subject, struct err *err)
{
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return err_set(err, errno, "make mounts private");
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return err_set(err, errno, "mount /proc");
    int error = reserve_pid(subject, err);
    return error ? error : raise_loopback(err);
}

static void run_inside(const struct trial *trial, int socket)
{
    struct err err = {0};
    if (enter_namespaces(trial->subject, &err) == 0)
        restore_subject(trial, &err);
    fd_send(socket, &err, sizeof(err), -1);
}

static int await_part(int socket, struct err *err)
{
    int passed;
    struct err said;
    int events = fd_wait(socket, POLLIN, PART_MS);
    if (events <= 0)
        return err_text(err, ETIMEDOUT, "restore: no end within %d ms", PART_MS);
    ssize_t n = fd_receive(socket, &said, sizeof(said), &passed);
    fd_close(&passed);
    if (n != (ssize_t)sizeof(said))
        return err_text(err, EPIPE, "restore: pid 1 of the namespaces died");
    if (said.errnum)
        *err = said;
    return -said.errnum;
}

/* Pid 1 takes with it whatever CRIU has left.  It stays in the prober's process
 * group, and so ends with that. */
static int restore_inside(const struct trial *trial, struct err *err)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET,
                              .exit_signal = SIGCHLD};
    _cleanup_(probe_child_end) pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (child < 0)
        return err_set(err, errno, "make namespaces");
    if (child == 0) {
        run_inside(trial, theirs);
        _exit(0);
    }
    fd_close(&theirs);
    return await_part(ours, err);
}

static int make_images_directory(struct trial *trial, struct err *err)
{
    char path[] = JOB_RUNTIME_ROOT "/.doctor.XXXXXX";
    int error = dir_make(JOB_RUNTIME_ROOT, 0755, err);
    if (error)
        return error;
    if (!mkdtemp(path))
        return err_set(err, errno, "make a directory in " JOB_RUNTIME_ROOT);
    snprintf(trial->images, sizeof(trial->images), "%s", path);
    return 0;
}

static int make_and_dump(struct trial *trial, struct err *err)
{
    if (unshare(CLONE_NEWNET) < 0)
        return err_set(err, errno, "make a network namespace");
    int error = raise_loopback(err);
    if (!error)
        error = start_subject(trial, err);
    return error ? error : dump_subject(trial, err);
}

static int perform_trial(struct trial *trial, struct err *err)
{
    int error = make_and_dump(trial, err);
    pid_t dumped = trial->subject;
    probe_child_end(&dumped);
    return error ? error : restore_inside(trial, err);
}

static const char install[] = "install a CRIU that works on this kernel with 'scripts/setup', or "
                              "name one: export FREEZEPOINT_CRIU=PATH";

/* What has to be there before CRIU can be tried at all. */
static bool prepare_trial(struct trial *trial, struct probe_result *result)
{
    struct err err = {0};
    if (criu_locate(trial->criu, sizeof(trial->criu), &err))
        probe_set_failed(result, &err, NULL);
    else if (make_images_directory(trial, &err))
        probe_set_failed(result, &err, "as for runtime-dir, below");
    else
        return true;
    return false;
}

void probe_criu(struct probe_result *result)
{
    struct err err = {0};
    char version[32];
    _cleanup_(remove_images) struct trial trial = {.established = false};
    if (!prepare_trial(&trial, result))
        return;
    if (criu_version(trial.criu, version, sizeof(version), &err)) {
        probe_set_failed(result, &err, install);
        return;
    }
    uint64_t start_ns = proc_monotonic_ns();
    if (perform_trial(&trial, &err)) {
        err_wrap(&err, "%s (%s)", trial.criu, version);
        probe_set_failed(result, &err, install);
        return;
    }
    probe_set_ok(result, "%s (%s): a listening process was dumped and restored in %llu ms",
                 trial.criu, version,
                 (unsigned long long)((proc_monotonic_ns() - start_ns) / 1000000));
}

static bool works_without_connection(void)
{
    struct err ignored;
    struct probe_result ignored_result;
    _cleanup_(remove_images) struct trial trial = {.established = false};
    return prepare_trial(&trial, &ignored_result) && perform_trial(&trial, &ignored) == 0;
}

void probe_tcp_established(struct probe_result *result)
{
    static const char remedy[] =
        "boot a kernel with CONFIG_NF_TABLES_INET and CONFIG_NF_CT_NETLINK "
        "(modprobe nf_tables), and use a CRIU built with nftables";
    struct err err = {0};
    _cleanup_(remove_images) struct trial trial = {.established = true};
    if (!prepare_trial(&trial, result))
        return;
    int error = perform_trial(&trial, &err);
    if (!error)
        probe_set_ok(result, "an open connection was kept over dump and restore (nftables)");
    else if (error == -ETIMEDOUT)
        probe_set_failed(result, &err, install);
    else if (!works_without_connection())
        probe_set(result, PROBE_MISSING, install, "CRIU does not work even without connections");
    else
        probe_set_failed(result, &err, remedy);
}

void probe_criu_cache(struct probe_result *result)
{
    static const char path[] = "/run/criu.kdat";
    struct err err = {0};
    char criu[PATH_MAX];
    struct stat before, after;
    bool existed = stat(path, &before) == 0;
    if (criu_locate(criu, sizeof(criu), &err)) {
        probe_set_failed(result, &err, NULL);
        return;
    }
    if (criu_cache_features(criu, &err)) {
        probe_set_failed(result, &err, "'criu check' tells what it lacks; make /run writable");
        return;
    }
    bool kept = existed && stat(path, &after) == 0 && before.st_ino == after.st_ino;
    probe_set_ok(result, "%s: %s", path, kept ? "of this boot" : "made now");
}
