#include "bpf/trigger.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/print.h"
#include "lib/fd.h"
#include "trigger.skel.h"

struct trigger {
    struct trigger_bpf *program;
    struct ring_buffer *ring;
    struct bpf_link *links[TRIGGER_MAX];
    pthread_t detaching[TRIGGER_MAX];
    bool is_detaching[TRIGGER_MAX];
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
    int error = load(trigger, group_fd, points, count, err);
    if (error)
        trigger_release(trigger);
    else
        *out = trigger;
    return error;
}

int trigger_attach(struct trigger *trigger, const struct trigger_point *point, struct err *err)
{
    if (trigger->links[point->rule])
        return 0;
    LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = point->rule);
    struct bpf_link *link = bpf_program__attach_uprobe_opts(
        trigger->program->progs.hit, -1, point->path, (size_t)point->offset, &options);
    if (!link)
        return err_set(err, errno, "put a probe into '%s' at 0x%llx", point->path,
                       (unsigned long long)point->offset);
    trigger->links[point->rule] = link;
    return 0;
}

static void *destroy(void *link)
{
    bpf_link__destroy(link);
    return NULL;
}

static void await_detached(struct trigger *trigger, size_t rule)
{
    if (trigger->is_detaching[rule])
        pthread_join(trigger->detaching[rule], NULL);
    trigger->is_detaching[rule] = false;
}

void trigger_detach(struct trigger *trigger)
{
    for (size_t i = 0; i < TRIGGER_MAX; i++) {
        struct bpf_link *link = steal_pointer(&trigger->links[i]);
        if (!link)
            continue;
        await_detached(trigger, i);
        if (pthread_create(&trigger->detaching[i], NULL, destroy, link))
            bpf_link__destroy(link);
        else
            trigger->is_detaching[i] = true;
    }
}

void trigger_end(struct trigger *trigger)
{
    static const struct trigger_count never = {0};
    for (__u32 i = 0; i < TRIGGER_MAX; i++)
        bpf_map_update_elem(bpf_map__fd(trigger->program->maps.counts), &i, &never, 0);
    trigger_detach(trigger);
    for (size_t i = 0; i < TRIGGER_MAX; i++)
        await_detached(trigger, i);
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
