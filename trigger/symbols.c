#include "trigger/symbols.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <limits.h>
#include <string.h>

#include "lib/fd.h"

#define VERSION_HIDDEN 0x8000
#define VERSION_INDEX  0x7fff

static void end_elf(Elf **elf)
{
    if (*elf)
        elf_end(*elf);
}

struct tables {
    Elf *elf;
    Elf_Data *symbols, *versions, *definitions, *needs;
    GElf_Shdr symbol_header, definition_header, need_header;
    size_t count;
};

static void find_tables(Elf *elf, unsigned int symbol_type, struct tables *out)
{
    *out = (struct tables){.elf = elf};
    Elf_Scn *section = NULL;
    while ((section = elf_nextscn(elf, section))) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header))
            continue;
        if (header.sh_type == symbol_type && header.sh_entsize) {
            out->symbols = elf_getdata(section, NULL);
            out->symbol_header = header;
            out->count = header.sh_size / header.sh_entsize;
        } else if (header.sh_type == SHT_GNU_versym) {
            out->versions = elf_getdata(section, NULL);
        } else if (header.sh_type == SHT_GNU_verdef) {
            out->definitions = elf_getdata(section, NULL);
            out->definition_header = header;
        } else if (header.sh_type == SHT_GNU_verneed) {
            out->needs = elf_getdata(section, NULL);
            out->need_header = header;
        }
    }
}

static const char *defined_version(const struct tables *tables, unsigned int index)
{
    int offset = 0;
    for (size_t i = 0; tables->definitions && i < tables->definition_header.sh_info; i++) {
        GElf_Verdef definition;
        GElf_Verdaux name;
        if (!gelf_getverdef(tables->definitions, offset, &definition))
            return NULL;
        if ((definition.vd_ndx & VERSION_INDEX) == index)
            return gelf_getverdaux(tables->definitions, offset + (int)definition.vd_aux, &name)
                       ? elf_strptr(tables->elf, tables->definition_header.sh_link, name.vda_name)
                       : NULL;
        if (!definition.vd_next)
            return NULL;
        offset += (int)definition.vd_next;
    }
    return NULL;
}

static void add_version(const struct tables *tables, size_t number, struct symbol *symbol)
{
    GElf_Versym version;
    symbol->is_default = true;
    if (!tables->versions || !gelf_getversym(tables->versions, (int)number, &version))
        return;
    unsigned int index = version & VERSION_INDEX;
    symbol->is_default = !(version & VERSION_HIDDEN);
    if (index >= 2 && symbol->is_defined)
        symbol->version = defined_version(tables, index);
}

static bool visit_one(const struct tables *tables, size_t number, bool with_versions,
                      bool (*visit)(const struct symbol *, void *), void *context)
{
    GElf_Sym entry;
    if (!gelf_getsym(tables->symbols, (int)number, &entry))
        return true;
    const char *name = elf_strptr(tables->elf, tables->symbol_header.sh_link, entry.st_name);
    if (!name || !*name)
        return true;
    unsigned int type = GELF_ST_TYPE(entry.st_info);
    struct symbol symbol = {.name = name,
                            .is_default = true,
                            .is_defined = entry.st_shndx != SHN_UNDEF,
                            .is_function = type == STT_FUNC || type == STT_GNU_IFUNC,
                            .is_resolver = type == STT_GNU_IFUNC,
                            .value = entry.st_value,
                            .size = entry.st_size};
    if (with_versions)
        add_version(tables, number, &symbol);
    return visit(&symbol, context);
}

/* The descriptor must stay open as long as *out. */
static int open_elf(const char *path, int *fd, Elf **out, struct err *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return err_set(err, errno, "open '%s'", path);
    if (elf_version(EV_CURRENT) == EV_NONE)
        return err_lack(err, "libelf is older than the headers that it was built with");
    *out = elf_begin(*fd, ELF_C_READ_MMAP, NULL);
    if (!*out || elf_kind(*out) != ELF_K_ELF)
        return err_text(err, ENOEXEC, "'%s' is not an ELF file", path);
    return 0;
}

static int visit_table(const char *path, unsigned int symbol_type,
                       bool (*visit)(const struct symbol *, void *), void *context, struct err *err)
{
    _cleanup_close_ int fd = -1;
    _cleanup_(end_elf) Elf *elf = NULL;
    int error = open_elf(path, &fd, &elf, err);
    if (error)
        return error;
    struct tables tables;
    find_tables(elf, symbol_type, &tables);
    for (size_t i = 1; tables.symbols && i < tables.count; i++)
        if (!visit_one(&tables, i, symbol_type == SHT_DYNSYM, visit, context))
            break;
    return 0;
}

int symbols_visit_dynamic(const char *path, bool (*visit)(const struct symbol *, void *),
                          void *context, struct err *err)
{
    return visit_table(path, SHT_DYNSYM, visit, context, err);
}

int symbols_visit_static(const char *path, bool (*visit)(const struct symbol *, void *),
                         void *context, struct err *err)
{
    return visit_table(path, SHT_SYMTAB, visit, context, err);
}

int symbols_find_code(const char *path, uint64_t address, uint64_t *offset, struct err *err)
{
    _cleanup_close_ int fd = -1;
    _cleanup_(end_elf) Elf *elf = NULL;
    int error = open_elf(path, &fd, &elf, err);
    if (error)
        return error;
    size_t count = 0;
    elf_getphdrnum(elf, &count);
    for (size_t i = 0; i < count && i < INT_MAX; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(elf, (int)i, &segment) || segment.p_type != PT_LOAD ||
            !(segment.p_flags & PF_X) || address < segment.p_vaddr ||
            address - segment.p_vaddr >= segment.p_filesz)
            continue;
        *offset = segment.p_offset + (address - segment.p_vaddr);
        return 0;
    }
    return err_text(err, ENOENT, "'%s' has no code at 0x%llx", path, (unsigned long long)address);
}
