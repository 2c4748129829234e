/*
 * The preload library's tracepoint: that tracers find it where it is, what they are
 * told, and that a breakpoint which was dumped with the program does not end it.
 */
#include "tests/unit/supervised.h"

#include <asm/perf_regs.h>
#include <gelf.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define NOP        0x90
#define BREAKPOINT 0xcc
#define RING_SIZE  4096UL
#define EVENTS_MAX 16

static const struct {
    const char *name;
    uint64_t perf;
} registers[] = {
    {"rax", PERF_REG_X86_AX},  {"rbx", PERF_REG_X86_BX},  {"rcx", PERF_REG_X86_CX},
    {"rdx", PERF_REG_X86_DX},  {"rsi", PERF_REG_X86_SI},  {"rdi", PERF_REG_X86_DI},
    {"rbp", PERF_REG_X86_BP},  {"r8", PERF_REG_X86_R8},   {"r9", PERF_REG_X86_R9},
    {"r10", PERF_REG_X86_R10}, {"r11", PERF_REG_X86_R11}, {"r12", PERF_REG_X86_R12},
    {"r13", PERF_REG_X86_R13}, {"r14", PERF_REG_X86_R14}, {"r15", PERF_REG_X86_R15},
};

/* What the note says; addresses are from the load address. */
struct tracepoint {
    uint64_t nop, base, semaphore;
    char provider[32], name[32];
    uint64_t arguments[2]; /* perf's registers */
};

struct file {
    int fd;
    Elf *elf;
};

static struct file library_open(void)
{
    struct file file = {.fd = open(library_path, O_RDONLY | O_CLOEXEC)};
    elf_version(EV_CURRENT);
    file.elf = elf_begin(file.fd, ELF_C_READ_MMAP, NULL);
    assert_non_null(file.elf);
    return file;
}

static void library_close(struct file *file)
{
    elf_end(file->elf);
    close(file->fd);
}

static Elf_Scn *find_section(const struct file *file, const char *name, GElf_Shdr *header)
{
    size_t strings;
    assert_int_equal(elf_getshdrstrndx(file->elf, &strings), 0);
    for (Elf_Scn *section = elf_nextscn(file->elf, NULL); section;
         section = elf_nextscn(file->elf, section)) {
        assert_non_null(gelf_getshdr(section, header));
        if (!strcmp(elf_strptr(file->elf, strings, header->sh_name), name))
            return section;
    }
    fail_msg("no section %s", name);
    return NULL;
}

/* The only note in the section: its contents, of `size` bytes. */
static const char *find_note(const struct file *file, const char *section_name, const char *owner,
                             uint32_t type, size_t *size)
{
    GElf_Shdr header;
    GElf_Nhdr note;
    size_t name, contents;
    Elf_Data *data = elf_getdata(find_section(file, section_name, &header), NULL);
    assert_int_equal(header.sh_type, SHT_NOTE);
    assert_non_null(data);
    assert_int_equal(gelf_getnote(data, 0, &note, &name, &contents), data->d_size);
    assert_int_equal(note.n_type, type);
    assert_int_equal(note.n_namesz, strlen(owner) + 1);
    assert_string_equal((const char *)data->d_buf + name, owner);
    *size = note.n_descsz;
    return (const char *)data->d_buf + contents;
}

static uint64_t register_of(const char *name)
{
    for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++)
        if (!strcmp(registers[i].name, name))
            return registers[i].perf;
    fail_msg("no register %s", name);
    return 0;
}

static struct tracepoint read_tracepoint(const struct file *file)
{
    struct tracepoint point = {0};
    uint64_t addresses[3];
    size_t size;
    const char *note = find_note(file, ".note.stapsdt", "stapsdt", 3, &size);
    assert_true(size > sizeof(addresses) && note[size - 1] == '\0');
    memcpy(addresses, note, sizeof(addresses));
    point.nop = addresses[0];
    point.base = addresses[1];
    point.semaphore = addresses[2];
    const char *provider = note + sizeof(addresses), *name = provider + strlen(provider) + 1,
               *arguments = name + strlen(name) + 1;
    assert_ptr_equal(arguments + strlen(arguments) + 1, note + size);
    snprintf(point.provider, sizeof(point.provider), "%s", provider);
    snprintf(point.name, sizeof(point.name), "%s", name);
    char first[8], second[8], more;
    assert_int_equal(sscanf(arguments, "8@%%%7s 8@%%%7s%c", first, second, &more), 2);
    point.arguments[0] = register_of(first);
    point.arguments[1] = register_of(second);
    return point;
}

static struct tracepoint find_tracepoint(void)
{
    struct file file = library_open();
    struct tracepoint point = read_tracepoint(&file);
    library_close(&file);
    return point;
}

/* Where in the file an address of the executable segment is. */
static uint64_t offset_of(const struct file *file, uint64_t address)
{
    size_t count;
    GElf_Phdr header;
    assert_int_equal(elf_getphdrnum(file->elf, &count), 0);
    for (int i = 0; i < (int)count; i++) {
        assert_non_null(gelf_getphdr(file->elf, i, &header));
        if (header.p_type == PT_LOAD && header.p_flags & PF_X && address >= header.p_vaddr &&
            address < header.p_vaddr + header.p_filesz)
            return address - header.p_vaddr + header.p_offset;
    }
    fail_msg("%#lx is in no executable segment", address);
    return 0;
}

static void test_note(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 0);
    struct file file = library_open();
    struct tracepoint point = read_tracepoint(&file);
    assert_string_equal(point.provider, "freezepoint");
    assert_string_equal(point.name, "point");
    assert_int_equal(point.semaphore, 0);
    GElf_Shdr header;
    find_section(&file, ".stapsdt.base", &header);
    assert_int_equal(point.base, header.sh_addr);
    find_section(&file, ".text", &header);
    assert_true(point.nop >= header.sh_addr && point.nop < header.sh_addr + header.sh_size);
    unsigned char byte = 0;
    assert_int_equal(pread(file.fd, &byte, 1, (off_t)offset_of(&file, point.nop)), 1);
    assert_int_equal(byte, NOP);
    library_close(&file);
}

static void read_build_id(char text[2 * FZ_BUILD_ID_SIZE + 1])
{
    struct file file = library_open();
    size_t size;
    const unsigned char *id =
        (const void *)find_note(&file, ".note.gnu.build-id", "GNU", NT_GNU_BUILD_ID, &size);
    assert_int_equal(size, FZ_BUILD_ID_SIZE);
    for (size_t i = 0; i < size; i++)
        snprintf(text + 2 * i, 3, "%02x", id[i]);
    library_close(&file);
}

static void test_build_id(void **state)
{
    (void)state;
    char id[2 * FZ_BUILD_ID_SIZE + 1], other[sizeof(id)];
    build_one("gnu_dev_major", NULL, 1, 0);
    read_build_id(id);
    assert_string_equal(id, built.hash);
    build_one("gnu_dev_major", NULL, 2, 0);
    read_build_id(other);
    assert_string_not_equal(id, other);
}

/* A tracer, as perf and bpftrace are. */
struct tracer {
    struct tracepoint point;
    int fd;
    struct perf_event_mmap_page *ring;
};

struct event {
    uint64_t rule, hit;
};

static uint32_t uprobe_type(void)
{
    unsigned type = 0;
    FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
    if (!file || fscanf(file, "%u", &type) != 1)
        type = 0;
    if (file)
        fclose(file);
    return type;
}

/* Skips the test where the kernel has no uprobes or will not have us use them. */
static struct tracer trace(pid_t pid)
{
    struct tracer tracer = {.point = find_tracepoint()};
    struct perf_event_attr attributes = {
        .size = sizeof(attributes),
        .type = uprobe_type(),
        .uprobe_path = (uintptr_t)library_path,
        .probe_offset = tracer.point.nop, /* preload.lds: addresses are offsets */
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_REGS_USER,
        .sample_regs_user = 1ULL << tracer.point.arguments[0] | 1ULL << tracer.point.arguments[1],
    };
    tracer.fd = attributes.type ? (int)syscall(SYS_perf_event_open, &attributes, pid, -1, -1,
                                               PERF_FLAG_FD_CLOEXEC)
                                : -1;
    if (tracer.fd < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        skip();
    }
    tracer.ring = mmap(NULL, 4096 + RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, tracer.fd, 0);
    assert_ptr_not_equal(tracer.ring, MAP_FAILED);
    return tracer;
}

/* Ends it.  Returns how many events there were. */
static unsigned trace_end(struct tracer *tracer, struct event events[EVENTS_MAX])
{
    const char *records = (const char *)tracer->ring + tracer->ring->data_offset;
    unsigned count = 0;
    uint64_t end = __atomic_load_n(&tracer->ring->data_head, __ATOMIC_ACQUIRE);
    bool swapped = tracer->point.arguments[0] > tracer->point.arguments[1];
    assert_true(end <= RING_SIZE);
    for (uint64_t at = 0; at < end;) {
        struct {
            struct perf_event_header header;
            uint64_t abi, values[2]; /* by register's number */
        } record;
        memcpy(&record, records + at, sizeof(record));
        at += record.header.size;
        if (record.header.type != PERF_RECORD_SAMPLE)
            continue;
        assert_int_equal(record.abi, PERF_SAMPLE_REGS_ABI_64);
        assert_true(count < EVENTS_MAX);
        events[count++] = (struct event){record.values[swapped], record.values[!swapped]};
    }
    munmap(tracer->ring, 4096 + RING_SIZE);
    close(tracer->fd);
    return count;
}

static void test_traced(void **state)
{
    (void)state;
    const struct preload_slot slot = {.name = "gnu_dev_major"};
    const struct fz_rule rules[] = {{.first = 2, .every = 3}, {.first = 5}};
    static const struct event expected[] = {{0, 2}, {0, 5}, {1, 5}, {0, 8}};
    build(&slot, 1, rules, 2);
    struct target target = start((char *[]){"/proc/self/exe", "call_ten", NULL});
    struct tracer tracer = trace(target.pid); /* it waits for an answer to its hello */
    serve(&target, NULL, NULL);
    assert_exited(0);
    assert_int_equal(seen.count, 4);
    struct event events[EVENTS_MAX];
    assert_int_equal(trace_end(&tracer, events), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(events[i].rule, expected[i].rule);
        assert_int_equal(events[i].hit, expected[i].hit);
    }
}

static unsigned char read_code(const struct target *target, uint64_t address)
{
    unsigned char byte = 0;
    struct iovec to = {&byte, 1}, from = {(void *)(uintptr_t)address, 1};
    assert_int_equal(process_vm_readv(target->pid, &to, 1, &from, 1, 0), 1);
    return byte;
}

/* As it would be if it had been dumped under a tracer. */
static bool restore_with_breakpoint(struct target *target, const struct notification *notification)
{
    (void)notification;
    char path[64];
    unsigned char byte = BREAKPOINT;
    uint64_t nop = target->seen->hits[0].control - built.control_offset + find_tracepoint().nop;
    if (target->seen->count > 1)
        return false;
    if (read_code(target, nop) == NOP) {
        snprintf(path, sizeof(path), "/proc/%d/mem", target->pid);
        _cleanup_close_ int memory = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(memory, &byte, 1, (off_t)nop), 1);
    }
    assert_int_equal(read_code(target, nop), BREAKPOINT);
    write_generation(target, 1);
    return false;
}

/* Nobody listens for it to re-arm itself: its second hit is the last. */
static void test_dumped_breakpoint(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    struct target target = start((char *[]){"/proc/self/exe", "call_ten", NULL});
    serve(&target, restore_with_breakpoint, NULL);
    assert_exited(0);
    assert_one_hit(1);
}

static void test_dumped_breakpoint_still_traced(void **state)
{
    (void)state;
    build_one("gnu_dev_major", NULL, 1, 1);
    struct target target = start((char *[]){"/proc/self/exe", "call_ten", NULL});
    struct tracer tracer = trace(target.pid);
    serve(&target, restore_with_breakpoint, NULL);
    assert_exited(0);
    assert_one_hit(1);
    struct event events[EVENTS_MAX];
    assert_int_equal(trace_end(&tracer, events), 2);
    assert_int_equal(events[1].hit, 2);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"call_ten", role_call_ten}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_note),
        cmocka_unit_test(test_build_id),
        cmocka_unit_test(test_traced),
        cmocka_unit_test(test_dumped_breakpoint),
        cmocka_unit_test(test_dumped_breakpoint_still_traced),
    };
    return RUN_ROLE_OR_TESTS(argc, argv, roles, tests);
}
