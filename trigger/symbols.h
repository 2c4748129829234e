/*
 * The symbols of an ELF file (trigger/elf_file.h).
 */
#ifndef FREEZEPOINT_SYMBOLS_H
#define FREEZEPOINT_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct symbol {
    const char *name;
    const char *version; /* "GLIBC_2.2.5", or NULL */
    bool is_default;     /* the version that a reference without one gets */
    bool is_defined;
    bool is_function; /* STT_FUNC or STT_GNU_IFUNC */
    bool is_resolver; /* STT_GNU_IFUNC: `value` is of the function that chooses */
    uint64_t value, size;
};

/* Visits the dynamic symbols, undefined ones too, until `visit` returns false.
 * 0, or -errno: -ENOEXEC where the file is no ELF file. */
int symbols_visit_dynamic(const char *path, bool (*visit)(const struct symbol *, void *),
                          void *context, struct err *err);

/* The same over .symtab, which holds internal functions too where the file is
 * not stripped; versions are absent. */
int symbols_visit_static(const char *path, bool (*visit)(const struct symbol *, void *),
                         void *context, struct err *err);

/* Those of .symtab, .dynsym and .symtab of the separate debug file, where there is one;
 * many are visited more than once.  `visit` ends only the table that it is at. */
int symbols_visit_all(const char *path, bool (*visit)(const struct symbol *, void *), void *context,
                      struct err *err);

#endif
