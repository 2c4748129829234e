/* Probes of what the kernel lets one process do to others. */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/probe_list.h"
#include "lib/proc.h"

#define WAIT_MS 3000

int probe_seccomp_install(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    if (geteuid() != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    unsigned int flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC |
                         SECCOMP_FILTER_FLAG_TSYNC_ESRCH | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    return fd < 0 ? -errno : (int)fd;
}

#define ANSWER 0x66700042

/* Its own copy of the listener is closed, so that it cannot wait for ever for
 * a probe that has died: the call fails with ENOSYS then. */
static void ask_once(int socket)
{
    int listener = probe_seccomp_install();
    if (fd_send(socket, &listener, sizeof(listener), listener) < 0 || listener < 0)
        _exit(1);
    close(listener);
    _exit(syscall(SYS_getpid) == ANSWER ? 0 : 2);
}

static int answer_once(int listener)
{
    int events = fd_wait(listener, POLLIN, WAIT_MS);
    if (events <= 0)
        return events < 0 ? events : -ETIMEDOUT;
    struct seccomp_notif taken;
    memset(&taken, 0, sizeof(taken)); /* the kernel insists: seccomp_notify_recv */
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &taken) < 0)
        return -errno;
    struct seccomp_notif_resp answer = {.id = taken.id, .val = ANSWER};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 ? -errno : 0;
}

static const char *seccomp_remedy(int errnum)
{
    if (errnum == EBUSY)
        return "another supervisor listens already (a container manager, or freezepoint itself): "
               "run it outside of that";
    if (errnum == EINVAL)
        return "boot a kernel with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19 or newer)";
    return "boot a kernel with CONFIG_SECCOMP_FILTER; in a container, allow it: "
           "docker run --security-opt seccomp=unconfined";
}

void probe_seccomp_notify(struct probe_result *result)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
        probe_set_missing(result, errno, "free some file descriptors", "socketpair");
        return;
    }
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    _cleanup_(probe_child_end) pid_t child = fork();
    if (child == 0)
        ask_once(theirs);
    fd_close(&theirs);
    int said = -EIO;
    _cleanup_close_ int listener = -1;
    if (child > 0 && fd_wait(ours, POLLIN, WAIT_MS) > 0)
        fd_receive(ours, &said, sizeof(said), &listener);
    if (listener < 0) {
        int errnum = said < 0 ? -said : EIO;
        probe_set_missing(result, errnum, seccomp_remedy(errnum), "install a filter");
        return;
    }
    int error = answer_once(listener);
    if (!error)
        error = probe_child_wait(&child, WAIT_MS);
    if (error)
        probe_set_missing(result, error < 0 ? -error : EIO, seccomp_remedy(0),
                          "answer a notification");
    else
        probe_set_ok(result, "a call was intercepted and answered (WAIT_KILLABLE_RECV)");
}

static void remove_group(struct cgroup *group)
{
    struct err ignored;
    if (group->fd >= 0)
        cgroup_remove(group->path, &ignored);
    cgroup_release(group);
}

static pid_t start_in_group(int group_fd)
{
    struct clone_args args = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group_fd};
    pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (child < 0)
        return -errno;
    if (child == 0)
        for (;;)
            pause();
    return child;
}

static int exercise_freezer(const struct cgroup *group, struct err *err)
{
    _cleanup_(probe_child_end) pid_t child = start_in_group(group->fd);
    if (child < 0)
        return err_set(err, -child, "start a process in group '%s'", group->path);
    int error = cgroup_set_frozen(group->fd, true, WAIT_MS, err);
    if (!error)
        error = cgroup_set_frozen(group->fd, false, WAIT_MS, err);
    if (!error)
        error = cgroup_kill(group->fd, err);
    if (error)
        return err_wrap(err, "group '%s'", group->path);
    int status = probe_child_wait(&child, WAIT_MS);
    if (status != 128 + SIGKILL)
        return err_text(err, ETIMEDOUT, "cgroup.kill of group '%s' does not kill", group->path);
    return 0;
}

void probe_cgroup_freezer(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel whose cgroup v2 has cgroup.freeze, cgroup.kill and "
                                 "CLONE_INTO_CGROUP (Linux 5.14 or newer)";
    struct err err = {0};
    char mount[PATH_MAX], name[64];
    if (cgroup_find_mount(mount, sizeof(mount), &err)) {
        probe_set_failed(result, &err, NULL);
        return;
    }
    /* No job's name can start with a dot. */
    snprintf(name, sizeof(name), ".doctor.%d", getpid());
    _cleanup_(remove_group) struct cgroup group = {.fd = -1};
    if (cgroup_make(name, &group, &err))
        probe_set_failed(result, &err, geteuid() ? PROBE_BE_ROOT : NULL);
    else if (exercise_freezer(&group, &err))
        probe_set_failed(result, &err, remedy);
    else
        probe_set_ok(result, "%s: a process was frozen, thawed and killed", mount);
}

void probe_process_memory(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_CROSS_MEMORY_ATTACH, and allow it: "
                                 "sysctl kernel.yama.ptrace_scope=0";
    static volatile uint64_t cell; /* at the same address in the child */
    uint64_t written = 0x1122334455667788ULL, seen = 0;
    _cleanup_(probe_child_end) pid_t child = probe_child_start();
    int error = child < 0 ? child : 0;
    uint64_t address = (uint64_t)(uintptr_t)&cell;
    if (!error)
        error = proc_memory_write(child, address, &written, sizeof(written));
    if (!error)
        error = proc_memory_read(child, address, &seen, sizeof(seen));
    if (!error && (seen != written || cell != 0))
        error = -EIO;
    if (error)
        probe_set_missing(result, -error, remedy, "process_vm_writev and process_vm_readv");
    else
        probe_set_ok(result, "process_vm_readv and process_vm_writev");
}

void probe_pidfd(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with pidfd_open (Linux 5.3 or newer)";
    _cleanup_(probe_child_end) pid_t child = probe_child_start();
    _cleanup_close_ int pidfd = child < 0 ? child : proc_pidfd_open(child);
    if (pidfd < 0) {
        probe_set_missing(result, -pidfd, remedy, "pidfd_open");
        return;
    }
    int error = proc_pidfd_signal(pidfd, SIGTERM);
    if (!error)
        error = probe_child_wait(&child, WAIT_MS) == 128 + SIGTERM ? 0 : -EIO;
    if (error)
        probe_set_missing(result, -error, remedy, "pidfd_send_signal");
    else
        probe_set_ok(result, "pidfd_open, poll and pidfd_send_signal");
}

enum namespace_step { STEP_DONE, STEP_PID, STEP_PRIVATE, STEP_PROC };

static enum namespace_step try_namespaces(void)
{
    if (syscall(SYS_getpid) != 1)
        return STEP_PID;
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return STEP_PRIVATE;
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return STEP_PROC;
    return STEP_DONE;
}

void probe_namespaces(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_PID_NS and CONFIG_NET_NS; in a "
                                 "container, allow it: docker run --privileged";
    static const char *const failures[] = {
        [STEP_PID] = "a new pid namespace does not start at 1",
        [STEP_PRIVATE] = "mounts cannot be made private in a new mount namespace",
        [STEP_PROC] = "/proc cannot be mounted in a new pid namespace"};
    struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET,
                              .exit_signal = SIGCHLD};
    _cleanup_(probe_child_end) pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (child < 0) {
        probe_set_missing(result, errno, remedy, "clone3 into new namespaces");
        return;
    }
    if (child == 0)
        _exit(try_namespaces());
    int status = probe_child_wait(&child, WAIT_MS);
    if (status > STEP_DONE && status <= STEP_PROC)
        probe_set(result, PROBE_MISSING, remedy, "%s", failures[status]);
    else if (status)
        probe_set_missing(result, status < 0 ? -status : EIO, remedy,
                          "a process in new namespaces");
    else
        probe_set_ok(result, "pid, mount and network namespaces");
}

#define NOBODY 65534

static void become_other_user(int socket)
{
    int errnum = 0;
    if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
        setresuid(NOBODY, NOBODY, NOBODY) < 0)
        errnum = errno;
    fd_send(socket, &errnum, sizeof(errnum), -1);
    for (;;)
        pause();
}

int probe_other_user_dump(void)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return -errno;
    _cleanup_close_ int ours = sockets[0];
    _cleanup_close_ int theirs = sockets[1];
    _cleanup_(probe_child_end) pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0)
        become_other_user(theirs);
    fd_close(&theirs);
    int errnum = EIO, passed = -1;
    if (fd_wait(ours, POLLIN, WAIT_MS) > 0)
        fd_receive(ours, &errnum, sizeof(errnum), &passed);
    fd_close(&passed);
    if (errnum)
        return errnum == EPERM ? -EACCES : -errnum;
    struct rlimit limit;
    return prlimit(child, RLIMIT_NOFILE, NULL, &limit) < 0 ? -errno : 0;
}

void probe_other_user(struct probe_result *result)
{
    static const char remedy[] = "give freezepoint CAP_SYS_RESOURCE (docker run --cap-add "
                                 "SYS_RESOURCE), or run the program wholly as root";
    int error = probe_other_user_dump();
    if (error == -EACCES)
        probe_set_missing(result, EPERM, remedy, "become another user");
    else if (error)
        probe_set_missing(result, -error, remedy, "read the limits of another user's process");
    else
        probe_set_ok(result, "the limits of another user's process can be read");
}
