#include "bpf/trigger.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/print.h"
#include "bpf/uprobe_multi.h"
#include "lib/fd.h"
#include "trigger.skel.h"

#define ATTACH_TIMEOUT_MS 10000

struct trigger {
    struct trigger_bpf *program;
    struct ring_buffer *ring;
    bool is_multi; /* probes are set by uprobe_multi links */
    pid_t holder;  /* the process that has the probes set; 0: none */
    int holder_fd;
    pid_t leaving; /* one before that, which is about to end; 0: none */
    void (*visit)(const struct mark *mark, void *context);
    void *context;
};

static int take_one(void *context, void *data, size_t size)
{
    const struct trigger *trigger = context;
    if (size >= sizeof(struct mark))
        trigger->visit(data, trigger->context);
    return 0;
}

static int fill_maps(const struct trigger *trigger, int group_fd,
                     const struct trigger_point *points, size_t count, struct err *err)
{
    __u32 key = 0, value = (__u32)group_fd;
    int error = bpf_map_update_elem(bpf_map__fd(trigger->program->maps.group), &key, &value, 0);
    for (size_t i = 0; i < count && !error; i++)
        error = points[i].rule < TRIGGER_MAX
                    ? bpf_map_update_elem(bpf_map__fd(trigger->program->maps.counts),
                                          &points[i].rule, &points[i].count, 0)
                    : -EINVAL;
    return error ? err_set(err, -error, "tell the BPF program of the job") : 0;
}

static int load(struct trigger *trigger, int group_fd, const struct trigger_point *points,
                size_t count, struct err *err)
{
    struct stat about, namespace;
    if (fstat(group_fd, &about) < 0 || stat("/proc/self/ns/pid", &namespace) < 0)
        return err_set(err, errno, "stat the job's group");
    trigger->program = trigger_bpf__open();
    if (!trigger->program)
        return err_set(err, errno, "read the BPF program");
    trigger->program->rodata->group_id = about.st_ino;
    trigger->program->rodata->pid_namespace = (__u32) namespace.st_ino;
    trigger->is_multi = uprobe_multi_is_there();
    if (trigger->is_multi)
        bpf_program__set_expected_attach_type(trigger->program->progs.hit, UPROBE_MULTI_ATTACH);
    int error = trigger_bpf__load(trigger->program);
    if (error)
        return err_set(err, -error, "load the BPF program");
    error = fill_maps(trigger, group_fd, points, count, err);
    if (error)
        return error;
    trigger->ring =
        ring_buffer__new(bpf_map__fd(trigger->program->maps.ring), take_one, trigger, NULL);
    return trigger->ring ? 0 : err_set(err, errno, "map the BPF ring buffer");
}

int trigger_load(int group_fd, const struct trigger_point *points, size_t count,
                 struct trigger **out, struct err *err)
{
    libbpf_set_print(bpf_print);
    struct trigger *trigger = calloc(1, sizeof(*trigger));
    if (!trigger)
        return err_set(err, ENOMEM, "trigger");
    trigger->holder_fd = -1;
    int error = load(trigger, group_fd, points, count, err);
    if (error)
        trigger_release(trigger);
    else
        *out = trigger;
    return error;
}

/* Only what it needs: it must not keep anybody's pipes open. */
static void keep_two(int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;
    if (low > 0)
        close_range(0, (unsigned)low - 1, 0);
    if (high > low + 1)
        close_range((unsigned)low + 1, (unsigned)high - 1, 0);
    close_range((unsigned)high + 1, ~0U, 0);
}

static int set_one(const struct trigger *trigger, const struct trigger_point *point)
{
    LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = point->rule,
                .ref_ctr_offset = (size_t)point->semaphore);
    const struct bpf_link *link = bpf_program__attach_uprobe_opts(
        trigger->program->progs.hit, -1, point->path, (size_t)point->offset, &options);
    return link ? 0 : errno ? errno : EIO;
}

/* Those at the beginning that are of one file; their number is put into *count.  The
 * link is the process's until it ends. */
static int set_file(const struct trigger *trigger, const struct trigger_point *points,
                    size_t *count)
{
    size_t same = 1;
    while (same < *count && !strcmp(points[same].path, points[0].path))
        same++;
    *count = same;
    struct uprobe_place *places = calloc(same, sizeof(*places));
    if (!places)
        return ENOMEM;
    for (size_t i = 0; i < same; i++)
        places[i] = (struct uprobe_place){points[i].offset, points[i].semaphore, points[i].rule};
    int link = uprobe_multi_attach(bpf_program__fd(trigger->program->progs.hit), 0, points[0].path,
                                   places, same);
    free(places);
    return link < 0 ? -link : 0;
}

/* 0, or an errno. */
static int set_all(const struct trigger *trigger, const struct trigger_point *points, size_t count)
{
    int errnum = 0;
    for (size_t i = 0, set; i < count && !errnum; i += set) {
        set = trigger->is_multi ? count - i : 1;
        errnum =
            trigger->is_multi ? set_file(trigger, &points[i], &set) : set_one(trigger, &points[i]);
    }
    return errnum;
}

/* The holder's whole life: sets the probes, tells how that went, and ends with them when
 * its socket is closed, or the supervisor has died. */
static _Noreturn void hold(const struct trigger *trigger, const struct trigger_point *points,
                           size_t count, int socket)
{
    int errnum = 0;
    char byte;
    /* Who kills the supervisor's process group shall not kill it, too. */
    setsid();
    prctl(PR_SET_NAME, "freezepoint-probe");
    keep_two(socket, bpf_program__fd(trigger->program->progs.hit));
    if (chdir("/") < 0)
        errnum = errno;
    if (!errnum)
        errnum = set_all(trigger, points, count);
    if (write(socket, &errnum, sizeof(errnum)) == (ssize_t)sizeof(errnum))
        while (read(socket, &byte, 1) < 0 && errno == EINTR)
            ;
    _exit(0);
}

static int await_set(const struct trigger *trigger, struct err *err)
{
    int errnum = 0;
    if (fd_wait(trigger->holder_fd, POLLIN, ATTACH_TIMEOUT_MS) <= 0)
        return err_text(err, ETIMEDOUT, "the probes are not set within %d s",
                        ATTACH_TIMEOUT_MS / 1000);
    if (read(trigger->holder_fd, &errnum, sizeof(errnum)) != (ssize_t)sizeof(errnum))
        return err_text(err, ECHILD, "the process that sets the probes has died");
    return errnum ? err_set(err, errnum, "set the probes") : 0;
}

int trigger_attach(struct trigger *trigger, const struct trigger_point *points, size_t count,
                   struct err *err)
{
    int sockets[2];
    if (trigger->holder || !count)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return err_set(err, errno, "socketpair");
    sigset_t all, kept;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &kept);
    pid_t holder = fork();
    if (holder == 0)
        hold(trigger, points, count, sockets[1]);
    int errnum = errno;
    pthread_sigmask(SIG_SETMASK, &kept, NULL);
    close(sockets[1]);
    if (holder < 0) {
        close(sockets[0]);
        return err_set(err, errnum, "start a process");
    }
    trigger->holder = holder;
    trigger->holder_fd = sockets[0];
    int error = await_set(trigger, err);
    if (error)
        trigger_detach(trigger);
    return error;
}

static void await_left(struct trigger *trigger)
{
    while (trigger->leaving && waitpid(trigger->leaving, NULL, 0) < 0 && errno == EINTR)
        ;
    trigger->leaving = 0;
}

void trigger_detach(struct trigger *trigger)
{
    if (!trigger->holder)
        return;
    await_left(trigger);
    fd_close(&trigger->holder_fd);
    trigger->leaving = trigger->holder;
    trigger->holder = 0;
}

bool trigger_is_detached(struct trigger *trigger)
{
    if (trigger->leaving && waitpid(trigger->leaving, NULL, WNOHANG) != 0)
        trigger->leaving = 0;
    return !trigger->leaving;
}

void trigger_end(struct trigger *trigger)
{
    static const struct trigger_count never = {0};
    for (__u32 i = 0; i < TRIGGER_MAX; i++)
        bpf_map_update_elem(bpf_map__fd(trigger->program->maps.counts), &i, &never, 0);
    trigger_detach(trigger);
    await_left(trigger);
}

int trigger_collect(struct trigger *trigger, void (*visit)(const struct mark *mark, void *context),
                    void *context)
{
    trigger->visit = visit;
    trigger->context = context;
    return ring_buffer__consume(trigger->ring);
}

int trigger_fd(const struct trigger *trigger)
{
    return ring_buffer__epoll_fd(trigger->ring);
}

uint64_t trigger_lost(const struct trigger *trigger)
{
    return *(const volatile __u64 *)&trigger->program->bss->lost;
}

uint64_t trigger_hits(const struct trigger *trigger, uint32_t rule)
{
    struct trigger_count count = {0};
    bpf_map_lookup_elem(bpf_map__fd(trigger->program->maps.counts), &rule, &count);
    return count.hits;
}

void trigger_release(struct trigger *trigger)
{
    if (!trigger)
        return;
    if (trigger->program && trigger->ring)
        trigger_end(trigger);
    ring_buffer__free(trigger->ring);
    trigger_bpf__destroy(trigger->program);
    free(trigger);
}
