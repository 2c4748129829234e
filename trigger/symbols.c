#include "trigger/symbols.h"

#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <limits.h>

#include "lib/fd.h"
#include "trigger/debug_file.h"
#include "trigger/elf_file.h"

#define VERSION_HIDDEN 0x8000
#define VERSION_INDEX  0x7fff

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

static int visit_table(const char *path, unsigned int symbol_type,
                       bool (*visit)(const struct symbol *, void *), void *context, struct err *err)
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    int error = elf_file_open(path, &file, err);
    if (error)
        return error;
    struct tables tables;
    find_tables(file.elf, symbol_type, &tables);
    for (size_t i = 1; tables.symbols && i < tables.count && i < INT_MAX; i++)
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

int symbols_visit_all(const char *path, bool (*visit)(const struct symbol *, void *), void *context,
                      struct err *err)
{
    char debug[PATH_MAX];
    int error = symbols_visit_static(path, visit, context, err);
    if (!error)
        error = symbols_visit_dynamic(path, visit, context, err);
    struct err ignored;
    if (!error && debug_file_find(path, debug))
        symbols_visit_static(debug, visit, context, &ignored);
    return error;
}
