#include "bpf/uprobe_multi.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "lib/fd.h"

/* union bpf_attr for BPF_LINK_CREATE; older headers lack its last part. */
struct link_create {
    uint32_t program_fd, target_fd, attach_type, flags;
    uint64_t path, offsets, semaphores, cookies; /* pointers */
    uint32_t count, multi_flags, pid, padding;
};

static int create(struct link_create *attributes)
{
    long fd = syscall(SYS_bpf, BPF_LINK_CREATE, attributes, sizeof(*attributes));
    return fd < 0 ? -errno : (int)fd;
}

int uprobe_multi_attach(int program_fd, pid_t pid, const char *path,
                        const struct uprobe_place *places, size_t count)
{
    _cleanup_free_ uint64_t *numbers = calloc(3 * count + 1, sizeof(*numbers));
    if (!numbers)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        numbers[i] = places[i].offset;
        numbers[count + i] = places[i].semaphore;
        numbers[2 * count + i] = places[i].cookie;
    }
    struct link_create attributes = {
        .program_fd = (uint32_t)program_fd,
        .attach_type = UPROBE_MULTI_ATTACH,
        .path = (uintptr_t)path,
        .offsets = (uintptr_t)numbers,
        .semaphores = (uintptr_t)(numbers + count),
        .cookies = (uintptr_t)(numbers + 2 * count),
        .count = (uint32_t)count,
        .pid = (uint32_t)pid,
    };
    return create(&attributes);
}

/* A file that is no regular one is refused with EBADF, but only by who knows what is
 * asked for; others find the whole of it wrong: EINVAL. */
bool uprobe_multi_is_there(void)
{
    const struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = UPROBE_MULTI_ATTACH);
    _cleanup_close_ int program = bpf_prog_load(BPF_PROG_TYPE_KPROBE, NULL, "GPL", code,
                                                sizeof(code) / sizeof(*code), &options);
    if (program < 0)
        return false;
    const struct uprobe_place place = {.offset = 1};
    _cleanup_close_ int link = uprobe_multi_attach(program, 0, "/", &place, 1);
    return link == -EBADF;
}
