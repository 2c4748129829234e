#include "trigger/functions.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <string.h>

#include "lib/fd.h"
#include "trigger/point.h"
#include "trigger/symbols.h"

static const char *const names[] = {
    "listen",
    "accept",
    "epoll_wait",
    "poll",
    "select",
    "read",
    "recv",
    "recvfrom",
    "recvmsg",
    "nanosleep",
    "clock_nanosleep",
    "sigwait",
    "sigwaitinfo",
    "sigtimedwait",
    "sigsuspend",
    "pause",
    "sleep",
    "usleep",
    "bind",
    "pthread_cond_wait",
    "pthread_cond_timedwait",
    "pthread_join",
    "waitpid",
};
#define NAMES (sizeof(names) / sizeof(names[0]))
_Static_assert(NAMES <= POINTS_FUNCTIONS_MAX, "bpf/points.h");

const char *function_name(unsigned int index)
{
    return index < NAMES ? names[index] : NULL;
}

bool functions_is_libc(const char *path)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    return !strncmp(base, "libc.so", 7) || !strncmp(base, "libc-2", 6) ||
           !strncmp(base, "ld-musl-", 8) || !strncmp(base, "libc.musl-", 10);
}

static void end_elf(Elf **elf)
{
    if (*elf)
        elf_end(*elf);
}

struct segments {
    GElf_Phdr list[16];
    size_t count;
    uint64_t lowest, highest;
};

static int read_segments(const char *path, struct segments *out, struct err *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open '%s'", path);
    elf_version(EV_CURRENT);
    _cleanup_(end_elf) Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
    size_t count = 0;
    if (!elf || elf_getphdrnum(elf, &count) < 0)
        return err_text(err, ENOEXEC, "'%s' is not an ELF file", path);
    *out = (struct segments){.lowest = UINT64_MAX};
    for (size_t i = 0; i < count && out->count < 16; i++) {
        GElf_Phdr *header = &out->list[out->count];
        if (!gelf_getphdr(elf, (int)i, header) || header->p_type != PT_LOAD)
            continue;
        out->lowest = header->p_vaddr < out->lowest ? header->p_vaddr : out->lowest;
        uint64_t end = header->p_vaddr + header->p_memsz;
        out->highest = end > out->highest ? end : out->highest;
        out->count++;
    }
    return out->count ? 0 : err_text(err, ENOEXEC, "'%s' has nothing to load", path);
}

struct search {
    const struct segments *segments;
    struct function_entries *out;
};

static void add_entry(const struct search *search, unsigned int function, uint64_t value)
{
    struct function_entries *out = search->out;
    for (size_t i = 0; i < out->count; i++)
        if (out->list[i].address == value - search->segments->lowest)
            return; /* another name of it */
    for (size_t i = 0; i < search->segments->count; i++) {
        const GElf_Phdr *header = &search->segments->list[i];
        if (!(header->p_flags & PF_X) || value < header->p_vaddr ||
            value - header->p_vaddr >= header->p_filesz || out->count == FUNCTION_ENTRIES_MAX)
            continue;
        out->list[out->count++] = (struct points_entry){
            .function = function,
            .offset = value - header->p_vaddr + header->p_offset,
            .address = value - search->segments->lowest,
            .image_size = search->segments->highest - search->segments->lowest};
        return;
    }
}

/* Of the same function.  Not the checked ones: they end in a jump to the function
 * itself, where they are counted. */
static bool is_named(const char *name, unsigned int function)
{
    const char *others[POINT_ALIAS_MAX + 2];
    if (!strncmp(name, "__", 2))
        return false;
    point_names(names[function], others);
    for (size_t i = 0; others[i]; i++)
        if (!strcmp(name, others[i]))
            return true;
    return false;
}

static bool visit(const struct symbol *symbol, void *context)
{
    const struct search *search = context;
    if (!symbol->is_defined || !symbol->is_function)
        return true;
    for (unsigned int i = 0; i < NAMES; i++)
        if (is_named(symbol->name, i))
            add_entry(search, i, symbol->value);
    return true;
}

int functions_find(const char *library, struct function_entries *out, struct err *err)
{
    struct segments segments;
    int error = read_segments(library, &segments, err);
    if (error)
        return error;
    *out = (struct function_entries){.count = 0};
    struct search search = {.segments = &segments, .out = out};
    error = symbols_visit_dynamic(library, visit, &search, err);
    if (!error && !out->count)
        return err_text(err, ENOENT, "'%s' has none of the functions to look at", library);
    return error;
}
