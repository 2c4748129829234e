#include "bpf/points.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/uprobe_multi.h"
#include "bpf/print.h"
#include "lib/fd.h"
#include "points.skel.h"

struct points {
    struct points_bpf *program;
    struct ring_buffer *ring;
    bool in_one; /* bpf/uprobe_multi.h */
    /* Of single probes, or of many in one. */
    struct bpf_link **probes;
    size_t probe_count;
    int *links;
    size_t link_count;
    uint32_t cpu_count;
    const struct points_visitor *visitor; /* while it is told */
};

static const struct {
    const char *name;
    uint32_t call;
} waits[] = {
    {"read", SYS_read},
    {"poll", SYS_poll},
    {"ppoll", SYS_ppoll},
    {"select", SYS_select},
    {"pselect6", SYS_pselect6},
    {"epoll_wait", SYS_epoll_wait},
    {"epoll_pwait", SYS_epoll_pwait},
    {"epoll_pwait2", 441},
    {"accept", SYS_accept},
    {"accept4", SYS_accept4},
    {"recvfrom", SYS_recvfrom},
    {"recvmsg", SYS_recvmsg},
    {"recvmmsg", SYS_recvmmsg},
    {"futex", SYS_futex},
    {"futex_wait", 455},
    {"nanosleep", SYS_nanosleep},
    {"clock_nanosleep", SYS_clock_nanosleep},
    {"restart_syscall", SYS_restart_syscall},
    {"pause", SYS_pause},
    {"rt_sigsuspend", SYS_rt_sigsuspend},
    {"rt_sigtimedwait", SYS_rt_sigtimedwait},
    {"wait4", SYS_wait4},
    {"waitid", SYS_waitid},
    {"io_getevents", SYS_io_getevents},
    {"io_uring_enter", 426},
};
#define WAITS (sizeof(waits) / sizeof(waits[0]))

const char *points_wait_name(uint32_t call)
{
    for (size_t i = 0; i < WAITS; i++)
        if (waits[i].call == call)
            return waits[i].name;
    return NULL;
}

static int take_event(void *context, void *data, size_t size)
{
    const struct points *points = context;
    if (size >= sizeof(struct points_event))
        points->visitor->event(data, points->visitor->context);
    return 0;
}

static int take_run(void *context, void *data, size_t size)
{
    const struct points *points = context;
    if (size >= sizeof(struct points_run))
        points->visitor->run(data, points->visitor->context);
    return 0;
}

static int take_copy(void *context, void *data, size_t size)
{
    const struct points *points = context;
    if (size >= sizeof(struct points_copy))
        points->visitor->copy(data, points->visitor->context);
    return 0;
}

static int map_rings(struct points *points)
{
    points->ring =
        ring_buffer__new(bpf_map__fd(points->program->maps.ring), take_event, points, NULL);
    if (!points->ring)
        return -errno;
    int error =
        ring_buffer__add(points->ring, bpf_map__fd(points->program->maps.runs), take_run, points);
    return error ? error
                 : ring_buffer__add(points->ring, bpf_map__fd(points->program->maps.copies),
                                    take_copy, points);
}

static int lack(struct err *err, int errnum, const char *what)
{
    return err_lack(err,
                    "%s: %s; 'points' needs a kernel with BPF and BTF, and the right to use them; "
                    "see 'freezepoint doctor'",
                    what, strerror(errnum));
}

static int load(struct points *points, const struct scope *scope, struct err *err)
{
    points->program = points_bpf__open();
    if (!points->program)
        return lack(err, errno, "read the BPF program");
    struct points_bpf__rodata *constants = points->program->rodata;
    memcpy((void *)&constants->scope, scope, sizeof(*scope));
    constants->cpu_count = points->cpu_count;
    for (size_t i = 0; i < WAITS; i++)
        *(bool *)&constants->may_wait[waits[i].call] = true;
    points->in_one = uprobe_multi_is_there();
    if (points->in_one)
        bpf_program__set_expected_attach_type(points->program->progs.called,
                                              (enum bpf_attach_type)UPROBE_MULTI_ATTACH);
    int error = points_bpf__load(points->program);
    if (error)
        return lack(err, -error, "load the BPF program");
    error = map_rings(points);
    if (error)
        return err_set(err, -error, "map the BPF ring buffers");
    bpf_program__set_autoattach(points->program->progs.called, false);
    error = points_bpf__attach(points->program);
    return error ? lack(err, -error, "attach the BPF program") : 0;
}

int points_open(const struct scope *scope, struct points **out, struct err *err)
{
    libbpf_set_print(bpf_print);
    struct points *points = calloc(1, sizeof(*points));
    if (!points)
        return err_set(err, ENOMEM, "points");
    int cpus = libbpf_num_possible_cpus();
    points->cpu_count = cpus > 0 && cpus < POINTS_CPUS_MAX ? (uint32_t)cpus : POINTS_CPUS_MAX;
    int error = load(points, scope, err);
    if (error)
        points_release(points);
    else
        *out = points;
    return error;
}

void points_begin(struct points *points)
{
    *(volatile bool *)&points->program->bss->begun = true;
}

static uint64_t cookie_of(const struct points_entry *entry)
{
    uint64_t pages = (entry->image_size + 4095) >> 12;
    return (uint64_t)entry->function << 56 | (pages & 0xffffff) << 32 | (uint32_t)entry->address;
}

static int attach_singly(struct points *points, pid_t pid, const char *library,
                         const struct points_entry *entries, size_t count)
{
    struct bpf_link **larger =
        reallocarray(points->probes, points->probe_count + count, sizeof(struct bpf_link *));
    if (!larger)
        return -ENOMEM;
    points->probes = larger;
    for (size_t i = 0; i < count; i++) {
        LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = cookie_of(&entries[i]));
        struct bpf_link *link = bpf_program__attach_uprobe_opts(
            points->program->progs.called, pid, library, entries[i].offset, &options);
        if (!link)
            return -errno;
        points->probes[points->probe_count++] = link;
    }
    return 0;
}

static int attach_in_one(struct points *points, pid_t pid, const char *library,
                         const struct points_entry *entries, size_t count)
{
    int *larger = reallocarray(points->links, points->link_count + 1, sizeof(int));
    if (!larger)
        return -ENOMEM;
    points->links = larger;
    _cleanup_free_ struct uprobe_place *places = calloc(count, sizeof(*places));
    if (!places)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        places[i] =
            (struct uprobe_place){.offset = entries[i].offset, .cookie = cookie_of(&entries[i])};
    int link = uprobe_multi_attach(bpf_program__fd(points->program->progs.called), pid, library,
                                   places, count);
    if (link < 0)
        return link;
    points->links[points->link_count++] = link;
    return 0;
}

int points_attach(struct points *points, pid_t pid, const char *library,
                  const struct points_entry *entries, size_t count, struct err *err)
{
    int error = points->in_one ? attach_in_one(points, pid, library, entries, count)
                               : attach_singly(points, pid, library, entries, count);
    return error ? err_set(err, -error, "probe '%s' in process %d", library, pid) : 0;
}

/* The kernel waits some 100 ms at each, and lets no other go meanwhile. */
void points_detach(struct points *points)
{
    for (size_t i = 0; i < points->probe_count; i++)
        bpf_link__destroy(points->probes[i]);
    for (size_t i = 0; i < points->link_count; i++)
        fd_close(&points->links[i]);
    points->probe_count = points->link_count = 0;
}

int points_fd(const struct points *points)
{
    return ring_buffer__epoll_fd(points->ring);
}

int points_collect(struct points *points, const struct points_visitor *visitor)
{
    points->visitor = visitor;
    return ring_buffer__consume(points->ring);
}

uint64_t points_cpu(const struct points *points, uint64_t now_ns)
{
    const volatile struct points_bpf__bss *data = points->program->bss;
    uint64_t used = data->cpu_ns;
    for (uint32_t i = 0; i < points->cpu_count; i++) {
        uint64_t since = data->since_ns[i];
        if (data->busy[i] && now_ns > since)
            used += now_ns - since;
    }
    return used;
}

uint32_t points_connections(const struct points *points)
{
    return *(const volatile __u32 *)&points->program->bss->connection_count;
}

uint64_t points_lost(const struct points *points)
{
    return *(const volatile __u64 *)&points->program->bss->lost;
}

uint64_t points_uncounted(const struct points *points)
{
    return *(const volatile __u64 *)&points->program->bss->uncounted;
}

uint64_t points_lost_runs(const struct points *points)
{
    return *(const volatile __u64 *)&points->program->bss->lost_runs;
}

uint64_t points_lost_copies(const struct points *points)
{
    return *(const volatile __u64 *)&points->program->bss->lost_copies;
}

/* Entries that come or go meanwhile may be missed; those that stay are not. */
static void each_count(const struct bpf_map *map,
                       void (*visit)(const struct points_key *, const struct points_count *,
                                     void *context),
                       void *context)
{
    int fd = bpf_map__fd(map);
    struct points_key key, next;
    struct points_count count;
    for (const void *from = NULL; bpf_map_get_next_key(fd, from, &next) == 0; from = &key) {
        key = next;
        if (bpf_map_lookup_elem(fd, &key, &count) == 0)
            visit(&key, &count, context);
    }
}

void points_each_function(const struct points *points,
                          void (*visit)(const struct points_key *, const struct points_count *,
                                        void *context),
                          void *context)
{
    each_count(points->program->maps.functions, visit, context);
}

void points_each_call(const struct points *points,
                      void (*visit)(const struct points_key *, const struct points_count *,
                                    void *context),
                      void *context)
{
    each_count(points->program->maps.calls, visit, context);
}

void points_each_thread(const struct points *points,
                        void (*visit)(uint32_t tid, const struct points_thread *, void *context),
                        void *context)
{
    int fd = bpf_map__fd(points->program->maps.threads);
    uint32_t key = 0, next;
    struct points_thread thread;
    for (const void *from = NULL; bpf_map_get_next_key(fd, from, &next) == 0; from = &key) {
        key = next;
        if (bpf_map_lookup_elem(fd, &key, &thread) == 0)
            visit(key, &thread, context);
    }
}

void points_release(struct points *points)
{
    if (!points)
        return;
    points_detach(points);
    free(points->probes);
    free(points->links);
    ring_buffer__free(points->ring);
    points_bpf__destroy(points->program);
    free(points);
}
