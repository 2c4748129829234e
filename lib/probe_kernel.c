/* Probes of what the kernel tells and hands over: faults, breakpoints, BPF, pressure. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/probe_list.h"

/* Since 6.7, and so not in every linux/userfaultfd.h. */
#define FEATURE_WP_ASYNC (1U << 15)

static int copy_into_hole(int uffd, char *hole, const char *page, size_t size)
{
    struct uffdio_register wanted = {.range = {.start = (uintptr_t)hole, .len = size},
                                     .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &wanted) < 0)
        return -errno;
    struct uffdio_copy copy = {.dst = (uintptr_t)hole, .src = (uintptr_t)page, .len = size};
    if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
        return -errno;
    return memcmp(hole, page, size) ? -EIO : 0;
}

static int fill_one_page(int uffd)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return -errno;
    memset(pages + size, 0x5a, size);
    int error = copy_into_hole(uffd, pages, pages + size, size);
    munmap(pages, 2 * size);
    return error;
}

/* Only one handshake is allowed for each descriptor. */
static int open_userfaultfd(uint64_t features, uint64_t *known)
{
    _cleanup_close_ int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0)
        return -errno;
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (ioctl(uffd, UFFDIO_API, &api) < 0)
        return -errno;
    *known = api.features;
    return fd_steal(&uffd);
}

void probe_userfaultfd(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_USERFAULTFD";
    /* What CRIU's lazy-pages asks for (criu/uffd.c, need_page_fault_features). */
    const uint64_t wanted = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                            UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
    uint64_t known = 0, ignored;
    _cleanup_close_ int plain = open_userfaultfd(0, &known);
    int error = plain < 0 ? plain : fill_one_page(plain);
    if (error) {
        probe_set_missing(result, -error, remedy, "fill a page of memory on demand");
        return;
    }
    _cleanup_close_ int full = open_userfaultfd(wanted, &ignored);
    if (full < 0)
        probe_set(result, PROBE_LIMITED, "be root, on a kernel with the events of userfaultfd",
                  "pages are filled on demand, but not followed over fork and unmap: %s",
                  strerror(-full));
    else
        probe_set_ok(result, "a page was filled on demand%s",
                     known & FEATURE_WP_ASYNC ? "; asynchronous write protection" : "");
}

/* Where a probe can be set without disturbing anything else. */
__attribute__((noinline)) static int probed_function(int number)
{
    __asm__ volatile("" : "+r"(number));
    return number;
}

struct place {
    uintptr_t address;
    uint64_t offset; /* in the executable's file */
};

static int find_offset(struct dl_phdr_info *object, size_t size, void *context)
{
    (void)size;
    struct place *place = context;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr;
        if (segment->p_type != PT_LOAD || place->address < start ||
            place->address >= start + segment->p_memsz)
            continue;
        place->offset = place->address - start + segment->p_offset;
        return 1;
    }
    return 0;
}

/* The type of perf event that makes uprobes, or -errno. */
static int read_uprobe_type(void)
{
    _cleanup_fclose_ FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
    int type;
    if (!file)
        return -errno;
    return fscanf(file, "%d", &type) == 1 ? type : -EPROTO;
}

/* How often the probe fired over one call, or -errno. */
static int count_one_call(int type)
{
    struct place place = {.address = (uintptr_t)probed_function};
    if (!dl_iterate_phdr(find_offset, &place))
        return -ENOEXEC;
    struct perf_event_attr wanted = {.type = (uint32_t)type,
                                     .size = sizeof(wanted),
                                     .uprobe_path = (uintptr_t) "/proc/self/exe",
                                     .probe_offset = place.offset};
    _cleanup_close_ int fd =
        (int)syscall(SYS_perf_event_open, &wanted, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return -errno;
    probed_function(1);
    uint64_t count = 0;
    return read(fd, &count, sizeof(count)) == sizeof(count) ? (int)count : -EIO;
}

void probe_uprobes(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_UPROBE_EVENTS; in a container, allow "
                                 "perf_event_open: docker run --cap-add PERFMON";
    int type = read_uprobe_type();
    if (type < 0) {
        probe_set_missing(result, -type, remedy, "find the uprobe event source");
        return;
    }
    int count = count_one_call(type);
    if (count < 0)
        probe_set_missing(result, -count, remedy, "set a uprobe");
    else if (count != 1)
        probe_set(result, PROBE_MISSING, remedy, "a uprobe counted %d of 1 calls", count);
    else
        probe_set_ok(result, "a uprobe counted a call");
}

static int load_program(void)
{
    /* return 0; */
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
                              {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr wanted;
    memset(&wanted, 0, sizeof(wanted));
    wanted.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
    wanted.insns = (uintptr_t)code;
    wanted.insn_cnt = sizeof(code) / sizeof(code[0]);
    wanted.license = (uintptr_t) "Dual MIT/GPL";
    _cleanup_close_ int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &wanted, sizeof(wanted));
    return fd < 0 ? -errno : 0;
}

static int make_ring(void)
{
    union bpf_attr wanted;
    memset(&wanted, 0, sizeof(wanted));
    wanted.map_type = BPF_MAP_TYPE_RINGBUF;
    wanted.max_entries = (uint32_t)sysconf(_SC_PAGESIZE);
    _cleanup_close_ int fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &wanted, sizeof(wanted));
    return fd < 0 ? -errno : 0;
}

static int read_types(void)
{
    _cleanup_close_ int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
    uint16_t magic = 0;
    if (fd < 0)
        return -errno;
    return read(fd, &magic, sizeof(magic)) == sizeof(magic) && magic == 0xeb9f ? 0 : -EPROTO;
}

void probe_bpf(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF; "
                                 "in a container, allow it: docker run --cap-add BPF,PERFMON";
    int error = load_program();
    if (error) {
        probe_set_missing(result, -error, remedy, "load a BPF program");
        return;
    }
    error = make_ring();
    if (error)
        probe_set_missing(result, -error, remedy, "make a BPF ring buffer");
    else if ((error = read_types()) != 0)
        probe_set(result, PROBE_LIMITED, remedy,
                  "programs load, but /sys/kernel/btf/vmlinux cannot be read: %s",
                  strerror(-error));
    else
        probe_set_ok(result, "a program was loaded; ring buffer; types in /sys/kernel/btf/vmlinux");
}

#define PRESSURE "/proc/pressure/memory"

void probe_pressure(struct probe_result *result)
{
    static const char remedy[] = "boot a kernel with CONFIG_PSI, with psi=1 on its command line";
    _cleanup_close_ int reader = open(PRESSURE, O_RDONLY | O_CLOEXEC);
    char text[256];
    /* Where PSI is switched off the file is there but cannot be read. */
    if (reader < 0 || read(reader, text, sizeof(text)) < 0) {
        probe_set_missing(result, errno, remedy, "read " PRESSURE);
        return;
    }
    static const char trigger[] = "some 200000 2000000"; /* us of stall in a window of us */
    _cleanup_close_ int writer = open(PRESSURE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (writer < 0 || write(writer, trigger, sizeof(trigger)) < 0)
        probe_set(result, PROBE_LIMITED, "be root, where " PRESSURE " is writable",
                  "pressure can be read, but not waited for: %s", strerror(errno));
    else
        probe_set_ok(result, PRESSURE " takes triggers");
}
