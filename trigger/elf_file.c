#include "trigger/elf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

static int open_regular(const char *path, int *out, struct err *err)
{
    struct stat about;
    /* A FIFO would be waited for. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &about) < 0)
        return err_set(err, errno, "open '%s'", path);
    if (!S_ISREG(about.st_mode))
        return err_text(err, ENOEXEC, "'%s' is not an ELF file", path);
    *out = fd_steal(&fd);
    return 0;
}

int elf_file_open(const char *path, struct elf_file *out, struct err *err)
{
    struct elf_file file = ELF_FILE_NONE;
    int error = open_regular(path, &file.fd, err);
    if (error)
        return error;
    if (elf_version(EV_CURRENT) == EV_NONE) {
        elf_file_close(&file);
        return err_lack(err, "libelf is older than the headers that it was built with");
    }
    file.elf = elf_begin(file.fd, ELF_C_READ_MMAP, NULL);
    if (!file.elf || elf_kind(file.elf) != ELF_K_ELF) {
        elf_file_close(&file);
        return err_text(err, ENOEXEC, "'%s' is not an ELF file", path);
    }
    *out = file;
    return 0;
}

void elf_file_close(struct elf_file *file)
{
    if (file->elf)
        elf_end(file->elf);
    fd_close(&file->fd);
    *file = ELF_FILE_NONE;
}

int elf_file_find(const struct elf_file *file, uint64_t address, uint32_t flags, uint64_t *offset)
{
    size_t count = 0;
    elf_getphdrnum(file->elf, &count);
    for (size_t i = 0; i < count && i < INT_MAX; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(file->elf, (int)i, &segment) || segment.p_type != PT_LOAD ||
            (segment.p_flags & flags) != flags || address < segment.p_vaddr ||
            address - segment.p_vaddr >= segment.p_filesz)
            continue;
        *offset = segment.p_offset + (address - segment.p_vaddr);
        return 0;
    }
    return -ENOENT;
}

Elf_Data *elf_file_section(const struct elf_file *file, const char *name, GElf_Shdr *header)
{
    size_t strings;
    if (elf_getshdrstrndx(file->elf, &strings))
        return NULL;
    for (Elf_Scn *section = NULL; (section = elf_nextscn(file->elf, section));) {
        const char *found =
            gelf_getshdr(section, header) ? elf_strptr(file->elf, strings, header->sh_name) : NULL;
        if (found && !strcmp(found, name))
            return header->sh_type == SHT_NOBITS ? NULL : elf_getdata(section, NULL);
    }
    return NULL;
}
