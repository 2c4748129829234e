#include "trigger/target.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "trigger/elf_file.h"
#include "trigger/frame_table.h"
#include "trigger/instruction.h"
#include "trigger/symbol_search.h"
#include "trigger/usdt.h"

#define INSTRUCTION_MAX 16
#define FUNCTION_MAX    (16 << 20)
#define NOP             0x90

static int open_program(const struct point *point, struct elf_file *out, struct stat *about,
                        struct err *err)
{
    int error = elf_file_open(point->library, out, err);
    if (error)
        return err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    GElf_Ehdr header;
    if (!gelf_getehdr(out->elf, &header) || header.e_machine != EM_X86_64 ||
        header.e_ident[EI_CLASS] != ELFCLASS64)
        error = err_usage(err, "--at '%s': '%s' is not for x86_64", point->spec, point->library);
    else if (fstat(out->fd, about) < 0)
        error = err_set(err, errno, "stat '%s'", point->library);
    if (error)
        elf_file_close(out);
    return error;
}

static int find_code(const struct point *point, const struct elf_file *file, uint64_t address,
                     uint64_t *offset, struct err *err)
{
    if (elf_file_find(file, address, PF_X, offset) == 0)
        return 0;
    return err_usage(err, "--at '%s': '%s' has no code at 0x%llx", point->spec, point->library,
                     (unsigned long long)address);
}

/* Where nothing says what an address is in, it is taken for a beginning. */
static int find_start(const struct point *point, const struct elf_file *file, uint64_t address,
                      uint64_t *start, bool *unsure, struct err *err)
{
    bool found = false;
    int error = symbol_search_covering(point->library, address, start, &found, err);
    if (error)
        return err_usage(err, "--at '%s': %s", point->spec, strdupa(err->text));
    *unsure = !found && !frame_table_find(file, address, start);
    if (*unsure)
        *start = address;
    return 0;
}

static int find_address(const struct point *point, const struct elf_file *file, uint64_t *address,
                        uint64_t *start, bool *unsure, struct err *err)
{
    if (!strncmp(point->function, "0x", 2)) {
        *address = strtoull(point->function, NULL, 16) + point->offset;
        return find_start(point, file, *address, start, unsure, err);
    }
    int error = symbol_search(point, start, err);
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

/* From the function's start on. */
static int check_instruction(const struct point *point, const struct elf_file *file, uint64_t start,
                             struct target *target, struct err *err)
{
    uint64_t before = target->offset - start;
    size_t size = before + INSTRUCTION_MAX;
    if (start > target->offset || before > FUNCTION_MAX)
        return err_usage(err, "--at '%s': the offset is too large", point->spec);
    _cleanup_free_ uint8_t *code = malloc(size);
    if (!code)
        return err_set(err, ENOMEM, "--at");
    ssize_t n = pread(file->fd, code, size, (off_t)start);
    if (n < 0 || (size_t)n <= before)
        return err_set(err, n < 0 ? errno : EIO, "read '%s'", point->library);
    target->byte = code[before];
    return check_code(point, code, (size_t)n, before, err);
}

static int find_function(const struct point *point, const struct elf_file *file,
                         struct target *target, struct err *err)
{
    uint64_t address = 0, start = 0, start_offset = 0;
    int error = find_address(point, file, &address, &start, &target->unsure, err);
    if (!error)
        error = find_code(point, file, address, &target->offset, err);
    if (!error)
        error = find_code(point, file, start, &start_offset, err);
    return error ? error : check_instruction(point, file, start_offset, target, err);
}

/* Every tracepoint is a no-op: what a wrong note leads to may be the middle of an
 * instruction, or of data. */
static int find_site(const struct point *point, const struct elf_file *file,
                     const struct usdt_site *site, struct target *target, struct err *err)
{
    int error = find_code(point, file, site->address, &target->offset, err);
    if (error)
        return error;
    if (pread(file->fd, &target->byte, 1, (off_t)target->offset) != 1)
        return err_set(err, errno ? errno : EIO, "read '%s'", point->library);
    if (target->byte != NOP)
        return err_usage(err,
                         "--at '%s': no one-byte no-op is at 0x%llx, where the file says that the "
                         "tracepoint is",
                         point->spec, (unsigned long long)site->address);
    if (site->semaphore && elf_file_find(file, site->semaphore, PF_W, &target->semaphore) < 0)
        return err_usage(err, "--at '%s': the tracepoint's counter at 0x%llx is not in the file",
                         point->spec, (unsigned long long)site->semaphore);
    return 0;
}

static int find_sites(const struct point *point, const struct elf_file *file,
                      const struct usdt_sites *sites, struct targets *out, struct err *err)
{
    out->list = calloc(sites->count, sizeof(*out->list));
    if (!out->list)
        return err_set(err, ENOMEM, "--at");
    int error = 0;
    for (; out->count < sites->count && !error; out->count++)
        error = find_site(point, file, &sites->list[out->count], &out->list[out->count], err);
    return error;
}

static int find_all(const struct point *point, const struct elf_file *file, struct targets *out,
                    struct err *err)
{
    if (point->provider) {
        _cleanup_(usdt_sites_release) struct usdt_sites sites = {NULL};
        int error = usdt_find(point, &sites, err);
        return error ? error : find_sites(point, file, &sites, out, err);
    }
    out->list = calloc(1, sizeof(*out->list));
    out->count = 1;
    return out->list ? find_function(point, file, out->list, err) : err_set(err, ENOMEM, "--at");
}

int target_find(const struct point *point, struct targets *out, struct err *err)
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    struct stat about = {0};
    int error = open_program(point, &file, &about, err);
    if (error)
        return error;
    struct targets found = {NULL};
    error = find_all(point, &file, &found, err);
    for (size_t i = 0; i < found.count && !error; i++) {
        found.list[i].device = about.st_dev;
        found.list[i].inode = about.st_ino;
    }
    if (error)
        targets_release(&found);
    else
        *out = found;
    return error;
}

void targets_release(struct targets *targets)
{
    free(targets->list);
    *targets = (struct targets){NULL};
}
