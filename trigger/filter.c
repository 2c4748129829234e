#include "trigger/filter.h"

#include <errno.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "preload/abi.h"

static void release_context(scmp_filter_ctx *context)
{
    if (*context)
        seccomp_release(*context);
}

int filter_build(struct sock_filter *program, size_t capacity, struct err *err)
{
    _cleanup_(release_context) scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
    if (!context)
        return err_text(err, ENOMEM, "seccomp_init failed");
    /* 32-bit programs run unsupervised rather than being killed. */
    int error = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW);
    if (!error)
        error = seccomp_rule_add(context, SCMP_ACT_NOTIFY, SCMP_SYS(getpid), 1,
                                 SCMP_A0_64(SCMP_CMP_EQ, FZ_CALL_MAGIC, 0));
    if (error)
        return err_set(err, -error, "describe the seccomp filter");
    _cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "memfd_create");
    error = seccomp_export_bpf(context, fd);
    off_t size = error ? 0 : lseek(fd, 0, SEEK_CUR);
    if (error || size <= 0 || (size_t)size > capacity * sizeof(*program) ||
        pread(fd, program, (size_t)size, 0) != size)
        return err_text(err, EIO, "export the seccomp filter");
    return (int)((size_t)size / sizeof(*program));
}

int filter_install(const struct sock_filter *program, size_t length)
{
    struct sock_fprog wanted = {.len = (unsigned short)length, .filter = (void *)program};
    /* All threads always or never: one that was armed alone makes every later
     * TSYNC fail (kernel/seccomp.c, seccomp_can_sync_threads). */
    unsigned int flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC |
                         SECCOMP_FILTER_FLAG_TSYNC_ESRCH | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &wanted);
    return fd < 0 ? -errno : (int)fd;
}

int filter_receive(int listener, struct notification *out, struct err *err)
{
    struct seccomp_notif taken;
    memset(&taken, 0, sizeof(taken)); /* the kernel insists: seccomp_notify_recv */
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &taken) < 0) {
        if (errno == ENOENT || errno == EINTR || errno == EAGAIN)
            return 0;
        return err_set(err, errno, "receive a seccomp notification");
    }
    *out = (struct notification){
        .id = taken.id, .pid = (int)taken.pid, .op = (unsigned int)taken.data.args[1]};
    for (int i = 0; i < 4; i++)
        out->arguments[i] = taken.data.args[i + 2];
    return 1;
}

int filter_answer(int listener, unsigned long long id, long value)
{
    struct seccomp_notif_resp answer = {.id = id, .val = value};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 ? -errno : 0;
}

#define STOP_STEPS   1000
#define STOP_STEP_NS 1000000

/* A seized thread's next stop; -ESRCH where it has died. */
static int await_stop(pid_t thread)
{
    if (ptrace(PTRACE_INTERRUPT, thread, 0, 0) < 0)
        return -errno;
    for (int i = 0; i < STOP_STEPS; i++) {
        int status;
        pid_t found = waitpid(thread, &status, __WALL | __WNOTHREAD | WNOHANG);
        if (found == thread)
            return WIFSTOPPED(status) ? 0 : -ESRCH;
        if (found < 0)
            return -errno;
        nanosleep(&(struct timespec){.tv_nsec = STOP_STEP_NS}, NULL);
    }
    return -ETIMEDOUT;
}

/* It stands at the end of the system call, which has its result in rax already. */
static int replace_answer(pid_t thread)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, thread, 0, &registers) < 0)
        return -errno;
    if (registers.orig_rax != SYS_getpid || registers.rax != FZ_ANSWER_GO_ON)
        return -EPROTO;
    registers.rax = (unsigned long long)-EINTR;
    return ptrace(PTRACE_SETREGS, thread, 0, &registers) < 0 ? -errno : 0;
}

struct taking {
    pid_t thread;
    const char *doing;
    int error;
};

static void *take_back(void *context)
{
    struct taking *taking = context;
    taking->doing = "seize";
    if (ptrace(PTRACE_SEIZE, taking->thread, 0, 0) < 0) {
        taking->error = -errno;
        return NULL;
    }
    taking->doing = "take back the answer to";
    taking->error = await_stop(taking->thread);
    if (!taking->error)
        taking->error = replace_answer(taking->thread);
    ptrace(PTRACE_DETACH, taking->thread, 0, 0);
    return NULL;
}

int filter_take_back(pid_t thread, struct err *err)
{
    struct taking taking = {.thread = thread};
    /* A tracee that does not stop cannot be detached, except by the end of its tracer,
     * which is a thread (kernel/ptrace.c, exit_ptrace()). */
    pthread_t tracer;
    int errnum = pthread_create(&tracer, NULL, take_back, &taking);
    if (errnum)
        return err_set(err, errnum, "start a thread");
    pthread_join(tracer, NULL);
    return taking.error ? err_set(err, -taking.error, "%s thread %d", taking.doing, thread) : 0;
}
