#include "bpf/marks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/print.h"
#include "lib/fd.h"
#include "marks.skel.h"

struct marks {
    struct marks_bpf *program;
    struct ring_buffer *ring;
    void (*visit)(const struct mark *mark, void *context);
    void *context;
};

static int take_one(void *context, void *data, size_t size)
{
    const struct marks *marks = context;
    if (size >= sizeof(struct mark))
        marks->visit(data, marks->context);
    return 0;
}

static int attach(struct marks *marks, int group_fd, struct err *err)
{
    struct stat about, namespace;
    if (fstat(group_fd, &about) < 0)
        return err_set(err, errno, "stat the job's group");
    if (stat("/proc/self/ns/pid", &namespace) < 0)
        return err_set(err, errno, "stat '/proc/self/ns/pid'");
    marks->program = marks_bpf__open();
    if (!marks->program)
        return err_set(err, errno, "read the BPF program");
    marks->program->rodata->group_id = about.st_ino;
    marks->program->rodata->pid_namespace_id = (__u32) namespace.st_ino;
    int error = marks_bpf__load(marks->program);
    if (error)
        return err_set(err, -error, "load the BPF program");
    __u32 key = 0, value = (__u32)group_fd;
    error = bpf_map_update_elem(bpf_map__fd(marks->program->maps.group), &key, &value, BPF_ANY);
    if (error)
        return err_set(err, -error, "tell the BPF program which group");
    marks->ring = ring_buffer__new(bpf_map__fd(marks->program->maps.ring), take_one, marks, NULL);
    if (!marks->ring)
        return err_set(err, errno, "map the BPF ring buffer");
    error = marks_bpf__attach(marks->program);
    return error ? err_set(err, -error, "attach the BPF program") : 0;
}

int marks_attach(int group_fd, struct marks **out, struct err *err)
{
    libbpf_set_print(bpf_print);
    struct marks *marks = calloc(1, sizeof(*marks));
    if (!marks)
        return err_set(err, ENOMEM, "marks");
    int error = attach(marks, group_fd, err);
    if (error)
        marks_release(marks);
    else
        *out = marks;
    return error;
}

int marks_collect(struct marks *marks, void (*visit)(const struct mark *mark, void *context),
                  void *context)
{
    marks->visit = visit;
    marks->context = context;
    return ring_buffer__consume(marks->ring);
}

int marks_fd(const struct marks *marks)
{
    return ring_buffer__epoll_fd(marks->ring);
}

uint64_t marks_lost(const struct marks *marks)
{
    return *(const volatile __u64 *)&marks->program->bss->lost;
}

void marks_release(struct marks *marks)
{
    if (!marks)
        return;
    ring_buffer__free(marks->ring);
    marks_bpf__destroy(marks->program);
    free(marks);
}
