/*
 * An ELF file that is open for reading, with libelf (elfutils: packaged everywhere,
 * LGPL/GPL, the reader that perf and systemtap use).  Files are outside input: libelf
 * checks their bounds.
 */
#ifndef FREEZEPOINT_ELF_FILE_H
#define FREEZEPOINT_ELF_FILE_H

#include <gelf.h>
#include <libelf.h>
#include <stdint.h>

#include "lib/err.h"

struct elf_file {
    int fd;
    Elf *elf;
};

#define ELF_FILE_NONE ((struct elf_file){.fd = -1})

/* 0, or -errno: -ENOEXEC where it is no regular file, or none of ELF's. */
int elf_file_open(const char *path, struct elf_file *out, struct err *err);

/* Safe on ELF_FILE_NONE. */
void elf_file_close(struct elf_file *file);

/* Where what is at `address`, as symbols count, is in the file, of a segment that has
 * all these flags (PF_X, PF_W).  -ENOENT where there is none. */
int elf_file_find(const struct elf_file *file, uint64_t address, uint32_t flags, uint64_t *offset);

/* The contents of the section of that name, or NULL; valid while the file is open. */
Elf_Data *elf_file_section(const struct elf_file *file, const char *name, GElf_Shdr *header);

#endif
