#include "bpf/multi.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "lib/fd.h"

/* union bpf_attr of BPF_LINK_CREATE with link_create.uprobe_multi: include/uapi/linux/bpf.h
 * of 6.6 and later. */
struct link_create {
    uint32_t program_fd, target_fd, attach_type, flags;
    uint64_t path, offsets, reference_counters, cookies;
    uint32_t count, multi_flags, pid, unused;
};

int multi_attach(int program_fd, pid_t pid, const char *path, const uint64_t *offsets,
                 const uint64_t *cookies, size_t count)
{
    struct link_create arguments = {.program_fd = (uint32_t)program_fd,
                                    .attach_type = MULTI_ATTACH_TYPE,
                                    .path = (uint64_t)(uintptr_t)path,
                                    .offsets = (uint64_t)(uintptr_t)offsets,
                                    .cookies = (uint64_t)(uintptr_t)cookies,
                                    .count = (uint32_t)count,
                                    .pid = (uint32_t)pid};
    long fd = syscall(SYS_bpf, BPF_LINK_CREATE, &arguments, sizeof(arguments));
    return fd < 0 ? -errno : (int)fd;
}

/* A directory has no code: the kernel says EBADF once it has understood all else. */
bool multi_is_supported(void)
{
    const struct bpf_insn instructions[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    LIBBPF_OPTS(bpf_prog_load_opts, options,
                .expected_attach_type = (enum bpf_attach_type)MULTI_ATTACH_TYPE);
    _cleanup_close_ int program =
        bpf_prog_load(BPF_PROG_TYPE_KPROBE, NULL, "GPL", instructions, 2, &options);
    if (program < 0)
        return false;
    const uint64_t offset = 0;
    _cleanup_close_ int link = multi_attach(program, 0, "/", &offset, NULL, 1);
    return link == -EBADF;
}
