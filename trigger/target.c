#include "trigger/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "trigger/instruction.h"
#include "trigger/similar.h"
#include "trigger/symbols.h"

#define PLACES_MAX      8
#define INSTRUCTION_MAX 16
#define FUNCTION_MAX    (16 << 20)

/* Functions of one name: static ones of several source files may have it. */
struct search {
    const char *name;
    struct place {
        uint64_t value, size;
        bool is_resolver;
    } places[PLACES_MAX];
    size_t count;
    bool is_data;
    struct similar similar;
};

static bool consider(const struct symbol *symbol, void *context)
{
    struct search *search = context;
    if (!symbol->is_defined)
        return true;
    if (strcmp(symbol->name, search->name) != 0) {
        if (symbol->is_function)
            similar_consider(&search->similar, symbol->name);
        return true;
    }
    search->is_data |= !symbol->is_function;
    for (size_t i = 0; i < search->count; i++)
        if (search->places[i].value == symbol->value)
            return true;
    if (symbol->is_function && search->count < PLACES_MAX)
        search->places[search->count++] =
            (struct place){symbol->value, symbol->size, symbol->is_resolver};
    return true;
}

static int refuse_unknown(const struct point *point, const struct search *search, struct err *err)
{
    char names[SIMILAR_MAX * 140];
    if (search->is_data)
        return err_usage(err, "--at '%s': '%s' is data of '%s', not a function", point->spec,
                         point->function, point->library);
    similar_text(&search->similar, names, sizeof(names));
    return err_usage(err, "--at '%s': '%s' has no symbol '%s'%s%s%s", point->spec, point->library,
                     point->function, names[0] ? "; did you mean " : "", names,
                     names[0] ? "?" : "; a stripped program's code is given by its address, 0x...");
}

static int refuse_ambiguous(const struct point *point, const struct search *search, struct err *err)
{
    char places[PLACES_MAX * 24] = "";
    size_t length = 0;
    for (size_t i = 0; i < search->count; i++)
        length += (size_t)snprintf(places + length, sizeof(places) - length, "%s0x%llx",
                                   i ? ", " : "", (unsigned long long)search->places[i].value);
    return err_usage(err,
                     "--at '%s': '%s' has %zu functions '%s', at %s: give one of these in the "
                     "name's place",
                     point->spec, point->library, search->count, point->function, places);
}

static int judge(const struct point *point, const struct search *search, struct err *err)
{
    const struct place *place = &search->places[0];
    if (search->count == 0)
        return refuse_unknown(point, search, err);
    if (search->count > 1)
        return refuse_ambiguous(point, search, err);
    if (place->is_resolver)
        return err_usage(err,
                         "--at '%s': which code '%s' is, is chosen when the program starts "
                         "(an indirect function): name the variant, see 'nm %s'",
                         point->spec, point->function, point->library);
    if (place->size && point->offset >= place->size)
        return err_usage(err, "--at '%s': '%s' is %llu bytes long", point->spec, point->function,
                         (unsigned long long)place->size);
    return 0;
}

struct covering {
    uint64_t address, start;
};

static bool consider_covering(const struct symbol *symbol, void *context)
{
    struct covering *covering = context;
    bool covers = symbol->is_defined && symbol->is_function && symbol->value <= covering->address &&
                  covering->address - symbol->value < symbol->size;
    if (covers)
        covering->start = symbol->value;
    return !covers;
}

/* *start gets the function that an address is in; itself where that is not known. */
static int find_covering(const char *path, uint64_t address, uint64_t *start, struct err *err)
{
    struct covering covering = {.address = address, .start = address};
    int error = symbols_visit_static(path, consider_covering, &covering, err);
    if (!error && covering.start == address)
        error = symbols_visit_dynamic(path, consider_covering, &covering, err);
    *start = covering.start;
    return error;
}

static int find_address(const struct point *point, uint64_t *address, uint64_t *start,
                        struct err *err)
{
    if (!strncmp(point->function, "0x", 2)) {
        *address = strtoull(point->function, NULL, 16) + point->offset;
        int error = find_covering(point->library, *address, start, err);
        return error ? err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text)) : 0;
    }
    struct search search = {.name = point->function, .similar.wanted = point->function};
    int error = symbols_visit_static(point->library, consider, &search, err);
    if (!error)
        error = symbols_visit_dynamic(point->library, consider, &search, err);
    if (error)
        return err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    error = judge(point, &search, err);
    *start = search.places[0].value;
    *address = *start + point->offset;
    return error;
}

/*
 * Only where an instruction begins.  And not at a 5-byte no-op: the kernel makes a call
 * into a page of its own out of that (6.18, arch/x86/kernel/uprobes.c,
 * arch_uprobe_optimize()), which no image could have.
 */
static int check_code(const struct point *point, const uint8_t *code, size_t size, size_t at,
                      struct err *err)
{
    static const uint8_t nop5[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
    if (!instruction_begins(code, size, at) || !instruction_length(code + at, size - at))
        return err_usage(err,
                         "--at '%s': no instruction begins there; see 'objdump -d %s' for where "
                         "they do",
                         point->spec, point->library);
    if (size - at >= sizeof(nop5) && !memcmp(code + at, nop5, sizeof(nop5)))
        return err_usage(err,
                         "--at '%s': a 5-byte no-op is there, which the kernel does not probe by "
                         "a breakpoint; add 5 to the offset",
                         point->spec);
    return 0;
}

static int check_instruction(const struct point *point, uint64_t start, uint64_t offset,
                             struct target *out, struct err *err)
{
    uint64_t before = offset - start;
    size_t size = before + INSTRUCTION_MAX;
    if (start > offset || before > FUNCTION_MAX)
        return err_usage(err, "--at '%s': the offset is too large", point->spec);
    _cleanup_free_ uint8_t *code = malloc(size);
    _cleanup_close_ int fd = open(point->library, O_RDONLY | O_CLOEXEC);
    if (!code || fd < 0)
        return err_set(err, code ? errno : ENOMEM, "open '%s'", point->library);
    ssize_t n = pread(fd, code, size, (off_t)start);
    if (n < 0 || (size_t)n <= before)
        return err_set(err, n < 0 ? errno : EIO, "read '%s'", point->library);
    struct stat about;
    if (fstat(fd, &about) < 0)
        return err_set(err, errno, "stat '%s'", point->library);
    *out = (struct target){.offset = offset, .inode = about.st_ino, .byte = code[before]};
    return check_code(point, code, (size_t)n, before, err);
}

int target_find(const struct point *point, struct target *out, struct err *err)
{
    uint64_t address = 0, start = 0, offset = 0, start_offset = 0;
    int error = find_address(point, &address, &start, err);
    if (error)
        return error;
    error = symbols_find_code(point->library, address, &offset, err);
    if (!error)
        error = symbols_find_code(point->library, start, &start_offset, err);
    if (error)
        return err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    return check_instruction(point, start_offset, offset, out, err);
}
